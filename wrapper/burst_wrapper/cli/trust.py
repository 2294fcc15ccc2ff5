"""`cargo burst enable --trust` and `disable --trust`: a project's own configuration file.

Shown is the whole file, and trusted are exactly the bytes that were shown.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Final

from burst_lifecycle.admin import text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.here import workspace_here
from burst_lifecycle.admin.parser import Parser
from burst_lifecycle.setting_keys import KEYS, Scope
from burst_lifecycle.settings import PROJECT_FILE, read_project
from burst_lifecycle.trust import Trust
from burst_protocol.errors import ConfigError, UsageError
from burst_wrapper.cli.enable import NoProject

QUESTION: Final = "Do you trust this file?"


class NeedsTrust(UsageError):
    """nothing was changed: there is nobody to ask"""

    hint = "add --yes if you trust what stands above"


class NoProjectFile(ConfigError):
    """{path} does not exist"""

    hint = "a project needs none; see the README for what it may set"


def run(args: Sequence[str], desk: Desk | None = None) -> int:
    """0 if it is trusted now, 1 if the answer was no."""
    parser = _parser("enable", "Show this project's .config/burst.toml and trust exactly that.")
    parser.add_argument("--yes", action="store_true", help="trust it without being asked")
    options = parser.parse_args(list(args))
    return trust(Desk() if desk is None else desk, yes=options.yes)


def run_disable(args: Sequence[str], desk: Desk | None = None) -> int:
    """0."""
    _parser("disable", "Trust this project's .config/burst.toml no longer.").parse_args(list(args))
    desk = Desk() if desk is None else desk
    path = _path(desk)
    Trust(desk.places.state).forget(path)
    desk.out(f"{path} is not trusted")
    return 0


def _parser(verb: str, description: str) -> argparse.ArgumentParser:
    parser = Parser(prog=f"cargo burst {verb} --trust", description=description)
    parser.add_argument("--trust", action="store_true", required=True, help=argparse.SUPPRESS)
    return parser


def trust(desk: Desk, *, yes: bool) -> int:
    """ConfigError, for a file that cannot be used at all."""
    path = _path(desk)
    known = Trust(desk.places.state)
    layer = read_project(os.path.dirname(os.path.dirname(path)), known)
    if not layer.stamp[0]:
        raise NoProjectFile(path=path)
    asked = [
        name for name in (*layer.values, *layer.untrusted) if KEYS[name].scope is Scope.TRUSTED
    ]
    if not asked:
        desk.out(f"{path} asks for nothing that needs trust")
        return 0
    desk.out(f"{path}:", "", *(f"    {line}" for line in shown(layer.content)), "")
    names = text.listing([f"`{name}`" for name in sorted(asked)])
    if not layer.untrusted:
        desk.out(f"it is trusted already: {names}")
        return 0
    desk.out(
        f"With your trust {'this counts' if len(asked) == 1 else 'these count'}: {names}.",
        "That may cost money, within your own `max_eur_per_hour`, or send out variables and files.",
    )
    if not yes:
        if not desk.can_ask:
            raise NeedsTrust
        if not desk.ask(QUESTION):
            desk.say("nothing was changed")
            return 1
    try:
        known.add(path, layer.content)
    except OSError as error:
        raise ConfigError(f"trust cannot be written down: {error.strerror}", path=path) from error
    desk.out("trusted, until a byte of it changes")
    return 0


def shown(content: bytes) -> list[str]:
    """Its lines, with nothing in them that a terminal would act upon or hide."""
    lines = content.decode(errors="backslashreplace").replace("\r\n", "\n").split("\n")
    if lines[-1] == "":
        del lines[-1]
    return [
        "".join(
            char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
            for char in line
        )
        for line in lines
    ]


def _path(desk: Desk) -> str:
    root = workspace_here(desk)
    if root is None:
        raise NoProject(f"cargo finds none in {desk.cwd}")
    return os.path.join(root, PROJECT_FILE)
