"""From the observer's log to what the client must judge: only news, only what could matter.

Left out is what the sandbox makes itself (its /proc, /dev and /tmp, the out-dir) and what was found
in places that the action calls quiet: their bytes are in the digest as a whole. What was looked for
and *not* found is an input wherever it was looked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

import attrs

from burst_agent import observe
from burst_agent.observe import Op
from burst_protocol.action import Access, Action, Observation

MAX_LOG_BYTES: Final = 64 * 1024 * 1024
_WORDS: Final = {
    Op.OPEN: "open",
    Op.STAT: "stat",
    Op.ACCESS: "access",
    Op.LINK: "readlink",
    Op.LIST: "list",
    Op.LIBRARY: "library",
    Op.CHDIR: "chdir",
    Op.CHANGE: "change",
}
_OURS: Final = frozenset({b"CARGO_MAKEFLAGS", b"MAKEFLAGS", b"MFLAGS", b"LD_PRELOAD"})


def below(path: bytes, folder: bytes) -> bool:
    """Whether `path` is `folder` or lies in it. Both normalised."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


@attrs.define
class Reporter:
    """Turns growing prefixes of one run's log into Observations of what was not yet reported."""

    action: Action
    isolated: bool = True
    """Without a sandbox /tmp is everybody's: only what the run made there is its own."""
    private: tuple[bytes, ...] = ()
    """More prefixes that the sandbox alone has."""
    _accesses: set[Access] = attrs.field(factory=set, init=False)
    _names: set[bytes] = attrs.field(factory=set, init=False)
    _programs: set[bytes] = attrs.field(factory=set, init=False)
    _kept_tmp: frozenset[bytes] = attrs.field(init=False)
    _hidden: tuple[bytes, ...] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        action = self.action
        hidden = [action.out_dir, b"/proc", b"/dev", *self.private]
        if action.incremental is not None:
            hidden.append(action.incremental.path)
        self._hidden = tuple(observe.normalised(folder) for folder in hidden)
        # A workspace below /tmp is no temporary file of the compiler.
        places = [action.cwd, action.out_dir, *action.directories]
        places += [given.path for given in action.inputs]
        self._kept_tmp = frozenset(_top(place) for place in places if below(place, b"/tmp"))

    def report(self, log_path: bytes | None, *, last: bool) -> Observation:
        """Blocking. All that came since the last call; without a log: incomplete."""
        log = b""
        too_long = False
        if log_path is not None:
            with open(log_path, "rb") as file:
                log = file.read(MAX_LOG_BYTES + 1)
            too_long = len(log) > MAX_LOG_BYTES
        if not last:
            log = log[: log.rfind(b"\0") + 1]  # the rest is being written
        seen = observe.parse(log)
        accesses = [access for access in self._wanted(seen) if access not in self._accesses]
        self._accesses.update(accesses)
        names = [n for n in dict.fromkeys(r.name for r in seen.env_reads) if n not in self._names]
        self._names.update(names)
        programs = [
            program
            for program in foreign_programs(log, self.action.programs)
            if program not in self._programs
        ]
        self._programs.update(programs)
        return Observation(
            complete=seen.complete and not too_long,
            accesses=tuple(accesses),
            env_names=tuple(n for n in names if n not in _OURS),
            programs=tuple(programs),
            network=bool(seen.network),
        )

    def _wanted(self, seen: observe.Observation) -> Iterator[Access]:
        own_tmp = {
            _top(access.path)
            for access in seen.accesses
            if not access.absent
            and access.path.startswith(b"/tmp/")
            and (self.isolated or access.op is Op.CHANGE)
        }
        own_tmp -= self._kept_tmp
        own_tmp.add(b"/tmp")
        given: set[Access] = set()
        for access in seen.accesses:
            if not access.path.startswith(b"/"):
                continue  # a library by name: what it was found as is a path of its own
            path = observe.normalised(access.path)
            if self._is_hidden(path) or _top(path) in own_tmp:
                continue
            found = not access.absent
            if found and not access.write:
                if self._is_quiet(path):
                    continue
                # On the way to something that is there for all to see.
                if access.op is not Op.LIST and path == b"/":
                    continue
            if b"/../" in access.path and not self._is_quiet(path):
                path = access.path  # whether a link came before the `..` is for the client to see
            word = "write" if access.write and access.op is Op.OPEN else _WORDS[access.op]
            wanted = Access(word, path, found)
            if wanted not in given:
                given.add(wanted)
                yield wanted

    def _is_hidden(self, path: bytes) -> bool:
        # Whoever has a project in memory has it there; the sandbox's own is empty.
        shared = path.startswith(b"/dev/shm/")
        return any(below(path, f) for f in self._hidden if not (shared and f == b"/dev"))

    def _is_quiet(self, path: bytes) -> bool:
        return any(below(path, folder) for folder in self.action.quiet)


def _top(path: bytes) -> bytes:
    """`/tmp/x` of `/tmp/x/y`."""
    return b"/".join(path.split(b"/", 3)[:3])


def foreign_programs(log: bytes, allowed: tuple[bytes, ...]) -> list[bytes]:
    """Programs that neither are allowed nor were started by one that is (cc starts collect2, that
    starts ld). Where the parent is not known, the program counts as foreign."""
    if b"\0X" not in log and b"\0S" not in log:
        return []  # nearly every run that does not link
    parents: dict[bytes, bytes] = {}
    starts: dict[tuple[bytes, bytes], None] = {}
    for record in log.split(b"\0")[:-1]:
        head, _, text = record.partition(b" ")
        kind = head[:1]
        if kind == b"H":
            pid, parent = (*text.split(b" ", 2), b"", b"")[:2]
            parents.setdefault(pid, parent)
        elif kind in {b"X", b"S"} and head[2:] == b"0":
            pid, _, path = text.partition(b" ")
            starts[pid, path] = None
        elif kind == b"x":
            pid, _, path = text.partition(b" ")
            starts.pop((pid, path), None)
    names = {os.path.basename(path) for path in allowed}
    trusted = {
        pid
        for pid, path in starts
        if pid != b"0" and (path in allowed or (b"/" not in path and path in names))
    }
    foreign: dict[bytes, None] = {}
    for pid, path in starts:
        if path in allowed or (b"/" not in path and path in names):
            continue
        ancestor: bytes | None = pid
        steps = 0
        while ancestor is not None and ancestor not in trusted and steps < len(parents) + 1:
            ancestor = parents.get(ancestor)
            steps += 1
        if ancestor not in trusted:
            foreign[path] = None
    return list(foreign)
