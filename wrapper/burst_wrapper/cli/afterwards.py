"""What every `cargo burst` command says after its own business, on stderr.

Notices that wait, once; what stands in a configuration and has no effect, or waits for trust; that
something bills and nobody comes by. Whoever has none of these pays for some `stat` calls, and for
reading a short file of notices that were shown.
"""

from __future__ import annotations

import json
import os

from burst_lifecycle.folders import ancestors
from burst_protocol.errors import BurstError
from burst_wrapper import paths

_PROJECT_FILE = b".config/burst.toml"
"""As `settings.PROJECT_FILE`, which takes a while to import."""


def say(*, configuration: bool = True) -> BurstError | None:
    """All of it; an error if something bills that nobody here can end. `configuration` False: the
    command has failed for that very reason."""
    environ = dict(os.environb)
    try:
        cwd = os.getcwdb()
    except OSError:  # deleted under us
        cwd = b"/"
    cloud = paths.state_dir(environ) + b"/cloud"
    if notices_wait(cloud + b"/notices.jsonl"):
        _notices(cwd)
    if configuration and _configured(environ, cwd):
        _remarks(cwd)
    return _billing(cwd) if _has_bytes(cloud + b"/ledger.jsonl") else None


def notices_wait(path: bytes) -> bool:
    """Whether any notice was never shown; `notices.Notices.pending` without its imports."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except OSError:
        return False
    waiting: set[str] = set()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            if isinstance(entry.get("shown"), list):
                waiting.difference_update(one for one in entry["shown"] if isinstance(one, str))
            elif isinstance(entry.get("id"), str):
                waiting.add(entry["id"])
    return bool(waiting)


def _notices(cwd: bytes) -> None:
    from burst_lifecycle.admin import reminders  # noqa: PLC0415 - most have nothing to hear
    from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415

    reminders.before(Desk(cwd=os.fsdecode(cwd)))


def _configured(environ: dict[bytes, bytes], cwd: bytes) -> bool:
    """Whether any configuration is there: the user's, or a project's around this folder."""
    if _has_bytes(paths.config_dir(environ) + b"/config.toml"):
        return True
    around = ancestors(os.path.realpath(cwd))
    return any(_has_bytes(os.path.join(folder, _PROJECT_FILE)) for folder in around)


def _remarks(cwd: bytes) -> None:
    from burst_lifecycle.places import Places  # noqa: PLC0415
    from burst_lifecycle.remarks import remarks  # noqa: PLC0415

    if remarks(Places.of(), os.fsdecode(cwd)):
        from burst_lifecycle.admin import reminders  # noqa: PLC0415
        from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415

        reminders.configuration(Desk(cwd=os.fsdecode(cwd)))


def _billing(cwd: bytes) -> BurstError | None:
    from burst_lifecycle.admin import reminders  # noqa: PLC0415
    from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415

    return reminders.without_asking(Desk(cwd=os.fsdecode(cwd)))


def _has_bytes(path: bytes) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False
