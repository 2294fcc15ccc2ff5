"""From configuration and token to a `Control`: the real collaborators, put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from burst_lifecycle.admin import here, reaper_unit
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.live import Live
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.assembly import Request, open_lifecycle
from burst_lifecycle.project import find
from burst_lifecycle.setting_keys import TokenSource
from burst_lifecycle.settings import load


@asynccontextmanager
async def connect(desk: Desk) -> AsyncIterator[Control]:
    """NotConfigured, TokenProblem, ConfigError (of the burst key), OSError."""
    hetzner = desk.hetzner
    # With the key lost a new one is made, whose owner has nothing: then all owners are shown.
    owner_known = bool(hetzner.owner) or desk.has_key
    settings, project = desk.settings, None
    root = here.workspace_here(desk) if desk.for_project else None
    if root is not None:
        settings = load(desk.places, root)
        project = find(root)
    request = Request(
        settings=settings,
        places=desk.places,
        environ=desk.environ,
        daemon=False,
        project=project,
    )
    async with open_lifecycle(request) as lifecycle:
        lifecycle.watched = bool(reaper_unit.installed(desk.places))
        yield Live(lifecycle, token_words(hetzner.token), owner_known)


def token_words(source: TokenSource) -> str:
    """Where the token came from, as `token.obtain` chooses for a person's command."""
    if source.file:
        return f"file {source.file}"
    if source.command:
        return f"command {source.command[0]}"
    return "HCLOUD_TOKEN"
