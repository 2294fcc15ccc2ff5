"""How a program is run here: in a place made for it, or as this machine is."""

from __future__ import annotations

import contextlib
import os

import attrs

from burst_agent.execute import Workshop
from burst_agent.programs.child import Command
from burst_agent.programs.ports import Mirrors
from burst_agent.sandbox import NativeLauncher, PlainLauncher
from burst_protocol import programs as p
from burst_protocol.errors import ProgramNotStarted


@attrs.frozen
class Way:
    command: Command
    notes: tuple[str, ...]
    """What the user may want to know."""


def prepare(
    request: p.StartProgram, shop: Workshop, mirrors: Mirrors, stack: contextlib.AsyncExitStack
) -> Way:
    """Blocking. `stack` holds what the program needs while it runs. ProgramNotStarted."""
    del stack
    if not request.argv:
        raise ProgramNotStarted("no name")
    cwd = mirrors.folder(request.mirror, request.cwd)
    program = _found(request, mirrors)
    command = Command(program, request.argv, request.env, cwd, helper=_helper(shop))
    return Way(command, ())


def _helper(shop: Workshop) -> bytes | None:
    launcher = shop.launcher
    if isinstance(launcher, NativeLauncher | PlainLauncher):
        return launcher.path
    return None


def _found(request: p.StartProgram, mirrors: Mirrors) -> bytes:
    """The program's file here. A name without a slash is looked up along its own PATH."""
    name = request.argv[0]
    if b"/" in name:
        return mirrors.folder(request.mirror, os.path.join(request.cwd, name))
    for folder in dict(request.env).get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise ProgramNotStarted(f"{os.fsdecode(name)}: not found along its PATH")
