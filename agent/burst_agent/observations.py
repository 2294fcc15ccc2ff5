"""From the observer's log to what the client must judge: only news, only what could matter.

Left out is what the sandbox makes itself (its /proc, /dev and /tmp, the out-dir) and what was found
in places that the action calls quiet: their bytes are in the digest as a whole. What was looked for
and *not* found is an input wherever it was looked for, but in quiet directories that are inputs
themselves: their digest says what is not there, too.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from burst_agent import observe
from burst_agent.observe import Op
from burst_protocol.action import ASK, KIND_DIRECTORY, Access, Action, Observation

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
    Op.ASK: ASK,
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
    _reader: observe.LogReader = attrs.field(init=False)
    _log: bytearray = attrs.field(factory=bytearray, init=False)
    """Whole, because who started which program is only known from all of it."""
    _fed_bytes: int = attrs.field(default=0, init=False)
    _seen: int = attrs.field(default=0, init=False)
    _accesses: set[Access] = attrs.field(factory=set, init=False)
    _names: set[bytes] = attrs.field(factory=set, init=False)
    _programs: set[bytes] = attrs.field(factory=set, init=False)
    _own_tmp: set[bytes] = attrs.field(factory=set, init=False)
    _kept_tmp: frozenset[bytes] = attrs.field(init=False)
    _hidden: _Places = attrs.field(init=False)
    _quiet: _Places = attrs.field(init=False)
    _ways: frozenset[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        action = self.action
        hidden = [action.out_dir, b"/proc", b"/dev", *self.private]
        if action.incremental is not None:
            hidden.append(action.incremental.path)
        self._hidden = _Places.of(observe.normalised(folder) for folder in hidden)
        self._quiet = _Places.of(action.quiet)
        # The sandbox's /dev is not wholly its own: see `_is_hidden`.
        private = tuple(place for place in self._hidden.prefixes if place != b"/dev/")
        quiet = frozenset(action.quiet)
        whole = tuple(
            given.path.rstrip(b"/") + b"/"
            for given in action.inputs
            if given.kind == KIND_DIRECTORY and given.path in quiet
        )
        self._reader = observe.LogReader(self._quiet.prefixes, private, whole)
        self._ways = frozenset(_above(action.quiet))
        # A workspace below /tmp is no temporary file of the compiler.
        places = [action.cwd, action.out_dir, *action.directories]
        places += [given.path for given in action.inputs]
        self._kept_tmp = frozenset(_top(place) for place in places if below(place, b"/tmp"))
        self._own_tmp.add(b"/tmp")

    def report(self, log_path: bytes | None, *, last: bool) -> Observation:
        """Blocking. All that came since the last call; without a log: incomplete."""
        if log_path is not None and len(self._log) <= MAX_LOG_BYTES:
            with open(log_path, "rb", buffering=0) as file:
                # Not "up to the limit": that much would be made room for.
                new = os.fstat(file.fileno()).st_size - len(self._log)
                file.seek(len(self._log))
                self._log += file.read(max(0, min(new, MAX_LOG_BYTES + 1 - len(self._log))))
        too_long = len(self._log) > MAX_LOG_BYTES
        # What comes after the last NUL is being written.
        end = len(self._log) if last else self._log.rfind(b"\0") + 1
        self._reader.feed(bytes(self._log[self._fed_bytes : end]))
        self._fed_bytes = end
        fresh = list(itertools.islice(self._reader.accesses, self._seen, None))
        self._seen += len(fresh)
        accesses = list(self._wanted(fresh))
        names = [read.name for read in self._reader.env_reads if read.name not in self._names]
        names = list(dict.fromkeys(names))
        self._names.update(names)
        programs = [program for program in self._foreign(end) if program not in self._programs]
        self._programs.update(programs)
        return Observation(
            complete=log_path is not None and not self._reader.gap() and not too_long,
            accesses=tuple(accesses),
            env_names=tuple(name for name in names if name not in _OURS),
            programs=tuple(programs),
            network=bool(self._reader.network),
        )

    def _foreign(self, end: int) -> list[bytes]:
        if not self._reader.programs:
            return []  # nearly every run that does not link
        return foreign_programs(bytes(self._log[:end]), self.action.programs)

    def _wanted(self, fresh: list[observe.Access]) -> Iterator[Access]:
        self._own_tmp |= {
            _top(access.path)
            for access in fresh
            if access.path.startswith(b"/tmp/")
            and access.op is not Op.ASK
            and not access.absent
            and (self.isolated or access.op is Op.CHANGE)
        } - self._kept_tmp
        for access in fresh:
            if access.op is Op.ASK:
                yield Access(ASK, access.path, not access.absent)
                continue
            if not access.path.startswith(b"/"):
                continue  # a library by name: what it was found as is a path of its own
            path = observe.normalised(access.path)
            found = not access.absent
            if found and not access.write and self._quiet.cover(path):
                continue
            if self._is_hidden(path):
                continue
            if path.startswith(b"/tmp") and _top(path) in self._own_tmp:
                continue
            if found and not access.write and access.op is not Op.LIST and path in self._ways:
                continue  # on the way to something that is there for all to see
            if b"/../" in access.path and not self._quiet.cover(path):
                path = access.path  # whether a link came before the `..` is for the client to see
            word = "write" if access.write and access.op is Op.OPEN else _WORDS[access.op]
            wanted = Access(word, path, found)
            if wanted not in self._accesses:
                self._accesses.add(wanted)
                yield wanted

    def _is_hidden(self, path: bytes) -> bool:
        # Whoever has a project in memory has it there; the sandbox's own is empty.
        if path.startswith(b"/dev/shm/"):
            return any(below(path, f) for f in self._hidden.exact if f != b"/dev")
        return self._hidden.cover(path)


@attrs.frozen
class _Places:
    """Directories, ready for the question whether a path is one of them or below one."""

    exact: frozenset[bytes]
    prefixes: tuple[bytes, ...]

    @classmethod
    def of(cls, folders: Iterable[bytes]) -> _Places:
        exact = frozenset(folders)
        return cls(exact, tuple(folder.rstrip(b"/") + b"/" for folder in exact))

    def cover(self, path: bytes) -> bool:
        return path.startswith(self.prefixes) or path in self.exact


def _above(paths: Iterable[bytes]) -> Iterator[bytes]:
    """All directories that lead to them."""
    yield b"/"
    for path in paths:
        folder = os.path.dirname(path)
        while len(folder) > 1:
            yield folder
            folder = os.path.dirname(folder)


def _top(path: bytes) -> bytes:
    """`/tmp/x` of `/tmp/x/y`."""
    return b"/".join(path.split(b"/", 3)[:3])


def foreign_programs(log: bytes, allowed: tuple[bytes, ...]) -> list[bytes]:
    """Programs that neither are allowed nor were started by one that is (cc starts collect2, that
    starts ld). Where the parent is not known, the program counts as foreign. An attempt counts as
    much: what is not here may be there at home."""
    if b"\0X" not in log and b"\0S" not in log:
        return []  # nearly every run that does not link
    parents: dict[bytes, bytes] = {}
    starts: dict[tuple[bytes, bytes], bool] = {}
    for record in log.split(b"\0")[:-1]:
        head, _, text = record.partition(b" ")
        kind = head[:1]
        if kind == b"H":
            pid, parent = (*text.split(b" ", 2), b"", b"")[:2]
            parents.setdefault(pid, parent)
        elif kind in {b"X", b"S"}:
            pid, _, path = text.partition(b" ")
            starts[pid, path] = head[2:] == b"0"
        elif kind == b"x":
            pid, _, path = text.partition(b" ")
            starts[pid, path] = False
    names = {os.path.basename(path) for path in allowed}
    trusted = {
        pid
        for (pid, path), done in starts.items()
        if done and pid != b"0" and (path in allowed or (b"/" not in path and path in names))
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
