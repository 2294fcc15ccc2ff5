"""Who calls: the cargo process behind a wrapper, its environment and its jobserver."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from burst_wrapper.environ import parse_environ

_WITH_VALUE: Final = frozenset((b"--config", b"-Z", b"--color", b"-C"))
"""Options of cargo itself, before the verb, whose value is the next word."""


@attrs.frozen
class Caller:
    """A process, told from a later one with the same pid by its start time (clock ticks)."""

    pid: int
    start_ticks: int
    environ: Mapping[bytes, bytes] | None = attrs.field(eq=False)
    name: bytes = attrs.field(eq=False)
    cwd: bytes = attrs.field(default=b"", eq=False)
    """Where cargo was called; empty if that is not to be seen. (rustc itself is called in the
    package's folder.)"""
    arguments: tuple[bytes, ...] = attrs.field(default=(), eq=False)
    """Of cargo, without its own name."""

    @property
    def is_cargo(self) -> bool:
        return self.name == b"cargo"

    @property
    def verb(self) -> bytes:
        """`build`, `check`, an alias …; empty if there is none to be seen."""
        words = iter(self.arguments)
        for word in words:
            if word in _WITH_VALUE:
                next(words, None)
            elif not word.startswith((b"-", b"+")):
                return word
        return b""


class Callers:
    """Remembers cargo processes, because every unit of one build has the same one."""

    def __init__(self) -> None:
        self._known: dict[int, Caller] = {}
        self._by_wrapper: dict[int, Caller] = {}

    def of(self, wrapper_pid: int) -> Caller | None:
        """The parent of the wrapper; None if it is gone or not ours to look at."""
        stat = _stat(wrapper_pid)
        if stat is None:
            return None
        parent_pid = int(stat[1])
        parent = _stat(parent_pid)
        if parent is None or parent_pid < 1:
            return None
        start = int(parent[19])
        known = self._known.get(parent_pid)
        if known is not None and known.start_ticks == start:
            self._by_wrapper[wrapper_pid] = known
            return known
        environ: dict[bytes, bytes] | None = None
        name = cwd = b""
        arguments: tuple[bytes, ...] = ()
        try:
            with open(b"/proc/%d/environ" % parent_pid, "rb") as file:
                environ = parse_environ(file.read())
            with open(b"/proc/%d/comm" % parent_pid, "rb") as file:
                name = file.read().strip()
            with open(b"/proc/%d/cmdline" % parent_pid, "rb") as file:
                arguments = tuple(file.read().split(b"\0")[1:-1])
            cwd = os.readlink(b"/proc/%d/cwd" % parent_pid)
        except OSError:
            pass
        if parent_pid == 1 and name != b"cargo":
            return None  # adopted: its cargo is gone. In a container cargo itself may be the first.
        caller = Caller(parent_pid, start, environ, name, cwd, arguments)
        if len(self._known) > 256:
            self._known.clear()
        if len(self._by_wrapper) > 4096:
            self._by_wrapper.clear()
        self._known[parent_pid] = caller
        self._by_wrapper[wrapper_pid] = caller
        return caller

    def known(self, wrapper_pid: int) -> Caller | None:
        """Whom `of` found for this wrapper."""
        return self._by_wrapper.get(wrapper_pid)


def _stat(pid: int) -> list[bytes] | None:
    """Fields of /proc/PID/stat from the state on; the name before may hold anything."""
    try:
        with open(b"/proc/%d/stat" % pid, "rb") as file:
            data = file.read()
    except OSError:
        return None
    return data[data.rindex(b")") + 2 :].split()


def same_process(caller: Caller) -> bool:
    """Whether that very process still runs."""
    stat = _stat(caller.pid)
    return stat is not None and int(stat[19]) == caller.start_ticks and stat[0] != b"Z"


def nearest_target_dir(out_dir: bytes) -> bytes:
    """cargo's target directory above an out-dir: the one it marked; the out-dir itself if none."""
    folder = out_dir
    for _ in range(8):
        folder = os.path.dirname(folder)
        if len(folder) <= 1:
            break
        if os.path.exists(folder + b"/.rustc_info.json") or os.path.exists(
            folder + b"/CACHEDIR.TAG"
        ):
            return folder
    return out_dir
