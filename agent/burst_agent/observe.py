"""What a run looked at: reads the log of the observer library (native/observer.c has the format).

The log is written before each observed call returns, so whoever has seen an effect of a run (an
rmeta, a line on stderr) finds in the log all that the run had looked at before. It can therefore be
judged in the middle of a run: `parse` takes any prefix of it.
"""

from __future__ import annotations

import enum
import functools
import os.path
from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs

LOG_VERSION: Final = b"1"
_MISSING: Final = frozenset({2, 20})  # ENOENT, ENOTDIR


class Op(enum.Enum):
    """How a path was used; the values are the log's."""

    OPEN = b"o"
    STAT = b"s"
    ACCESS = b"a"
    LINK = b"l"
    LIST = b"d"
    LIBRARY = b"D"
    CHDIR = b"c"
    CHANGE = b"m"
    ASK = b"Q"
    """Cargo was asked for the workspace of the manifest at this path. Absent: nobody answered."""


_PATH_OPS: Final = {op.value: op for op in Op if op is not Op.ASK}
_REMEMBERED: Final = 10_000
"""Records, or paths, that are likely to come again in the next run."""
_FOUND_BYTES: Final = len(b"o-0 ")
_LOOKS: Final = frozenset(op.value for op in (Op.OPEN, Op.STAT, Op.ACCESS, Op.LINK, Op.LIST))


@attrs.frozen
class Access:
    """One use of a path. `path` is absolute but not normalised: `..` after a link is the kernel's
    to resolve. It is not absolute where the observer could not know the directory."""

    op: Op
    path: bytes
    errno: int
    write: bool

    @property
    def absent(self) -> bool:
        """The run learned that nothing is there."""
        return self.errno in _MISSING


@attrs.frozen
class EnvironmentRead:
    name: bytes
    present: bool


@attrs.frozen
class Program:
    """A start of a program, or an attempt (errno not 0). A bare name was searched along PATH."""

    path: bytes
    errno: int


@attrs.frozen
class Observation:
    """All of a run, or, where `complete` is false, part of it; `gap` says what is not known."""

    complete: bool
    gap: str
    accesses: tuple[Access, ...]
    env_reads: tuple[EnvironmentRead, ...]
    programs: tuple[Program, ...]
    network: tuple[bytes, ...]

    @property
    def env_names(self) -> frozenset[bytes]:
        return frozenset(read.name for read in self.env_reads)


def _fields(record: bytes) -> tuple[bool, int, bytes] | None:
    """Whether it was for writing, errno, and the rest; None if this is no record."""
    head, _, text = record.partition(b" ")
    flag, digits = head[1:2], head[2:]
    if flag not in {b"-", b"w"} or not digits.isdigit():
        return None
    return flag == b"w", int(digits), text


@functools.lru_cache(_REMEMBERED)
def _access(record: bytes) -> Access | None:
    """The use of a path that a record of that kind tells of. Every link looks at the same ones."""
    fields = _fields(record)
    if fields is None:
        return None
    write, errno, path = fields
    return Access(_PATH_OPS[record[:1]], path, errno, write)


@functools.lru_cache(8)
def _idle(quiet: frozenset[bytes], whole: frozenset[bytes]) -> set[bytes]:  # noqa: ARG001 - the key
    """Records of no interest that were met where these places are quiet; filled by readers. Nearly
    all are in every run's log."""
    return set()


class LogReader:
    """Reads a growing log: what was fed once is not looked at again.

    `quiet` are folders (with a final slash) where a look that found something is of no interest:
    much of what a compiler does is looking around in its own toolchain. In `whole` ones nothing is
    missing either: what they hold is known, and so is what they do not. What happens in `private`
    ones is none of the log's business at all.
    """

    def __init__(
        self,
        quiet: tuple[bytes, ...] = (),
        private: tuple[bytes, ...] = (),
        whole: tuple[bytes, ...] = (),
    ) -> None:
        self._quiet = quiet
        self._private = private
        self._whole = whole
        self._idle = _idle(frozenset(quiet), frozenset(whole))
        self.accesses: dict[Access, None] = {}
        self.env_reads: dict[EnvironmentRead, None] = {}
        self.programs: dict[Program, None] = {}
        self.network: dict[bytes, None] = {}
        self._records: set[bytes] = set()
        self._gap = ""
        self._expected: Counter[bytes] = Counter()
        self._hellos: Counter[bytes] = Counter()
        self._started: dict[bytes, bytes] = {}

    def feed(self, log: bytes) -> None:
        """The next whole records. Never raises: what cannot be understood is a gap."""
        records = log.split(b"\0")
        if records.pop():
            self._lacks("the log ends within a record")
        known, idle = self._records, self._idle
        for record in records:
            # The processes of one run look at the same things, and so do all compilers.
            if record in idle or record in known:
                continue
            kind = record[:1]
            if kind in _PATH_OPS:
                known.add(record)
                if self._is_idle(kind, record):
                    continue
            elif kind == b"e":
                known.add(record)
            self._record(record)

    def _is_idle(self, kind: bytes, record: bytes) -> bool:
        start = record.find(b" ") + 1
        if b"/.." in record:
            return False
        if record.startswith(self._private, start):
            return True
        if start != _FOUND_BYTES or kind not in _LOOKS:
            return False
        outcome = record[1:start]
        places = {b"-0 ": self._quiet, b"-2 ": self._whole}.get(outcome, ())
        if not record.startswith(places, start):
            return False
        if len(self._idle) < _REMEMBERED:
            self._idle.add(record)
        return True

    def _lacks(self, gap: str) -> None:
        self._gap = self._gap or gap

    def _record(self, record: bytes) -> None:
        kind = record[:1]
        if kind in _PATH_OPS:
            access = _access(record)
            if access is None:
                self._lacks("a record is not understood")
                return
            if not access.path.startswith(b"/") and access.op is not Op.LIBRARY:
                self._lacks("a path relative to an unknown directory")
            self.accesses[access] = None
            return
        fields = _fields(record)
        if fields is None:
            self._lacks("a record is not understood")
            return
        _, errno, text = fields
        if kind == b"e":
            self.env_reads[EnvironmentRead(text, errno == 0)] = None
        elif kind == b"n":
            self.network[text] = None
        elif kind == b"H":
            self._hello(text)
        elif kind == Op.ASK.value:
            pid, _, path = text.partition(b" ")
            if errno == 0:
                self._expected[pid] += 1
                self._started[pid] = b"who answers for cargo"
            self.accesses[Access(Op.ASK, path, errno, write=False)] = None
        elif kind in {b"X", b"x", b"S"}:
            pid, _, path = text.partition(b" ")
            if kind == b"x":
                self._expected[pid] -= 1  # the attempt before it came to nothing
                self.programs.pop(Program(path, 0), None)
            elif errno == 0:
                self._expected[pid] += 1
                self._started[pid] = path
            self.programs[Program(path, errno)] = None
        else:
            self._lacks("a record is not understood")

    def _hello(self, text: bytes) -> None:
        pid, _parent, version, _exe = (*text.split(b" ", 3), b"", b"", b"")[:4]
        if not self._hellos:
            self._expected[pid] += 1  # the program itself; nobody has announced it
            self._started[pid] = b"the program"
        self._hellos[pid] += 1
        if version != LOG_VERSION:
            self._lacks("an observer of another version")

    def gap(self) -> str:
        """What is not known, as of now; empty if nothing is."""
        if self._gap:
            return self._gap
        if not self._hellos:
            return "the observer was not loaded"
        for pid, count in self._expected.items():
            if self._hellos[pid] < count:
                return f"not observed: {os.fsdecode(self._started[pid])}"
        return ""

    def observation(self) -> Observation:
        gap = self.gap()
        return Observation(
            complete=not gap,
            gap=gap,
            accesses=tuple(self.accesses),
            env_reads=tuple(self.env_reads),
            programs=tuple(self.programs),
            network=tuple(self.network),
        )


def parse(log: bytes) -> Observation:
    """The observation in a log or in a prefix of one. Never raises: what cannot be understood
    makes the observation incomplete."""
    reader = LogReader()
    reader.feed(log)
    return reader.observation()


@attrs.frozen
class Declared:
    """The places a run may look at, because they are in its key: files (also absent ones) by name,
    directories with all that is in them. Absolute and normalised."""

    files: frozenset[bytes] = frozenset()
    directories: frozenset[bytes] = frozenset()

    def covers(self, path: bytes) -> bool:
        """Whether the place, or a directory above it, is declared."""
        if path in self.files or path in self.directories:
            return True
        end = path.rfind(b"/")
        while end > 0:
            if path[:end] in self.directories:
                return True
            end = path.rfind(b"/", 0, end)
        return b"/" in self.directories

    def leads_to(self, path: bytes) -> bool:
        """Whether something declared lies below this directory. Its existence is then no news
        (looking at it on the way down is harmless), its list of names is."""
        prefix = path.rstrip(b"/") + b"/"
        return any(place.startswith(prefix) for place in (*self.files, *self.directories))


@functools.lru_cache(_REMEMBERED)
def normalised(path: bytes) -> bytes:
    """Lexically: `..` is taken back without asking whether a link came before it."""
    odd = b"/../" in path or b"/./" in path or b"//" in path
    odd = odd or path.endswith((b"/", b"/.", b"/.."))
    if odd and path.startswith(b"/"):
        return b"/" + os.path.normpath(path).lstrip(b"/")
    return path  # nearly all


def undeclared(accesses: Iterable[Access], declared: Declared) -> tuple[Access, ...]:
    """Accesses of places that are not declared, each path and kind once, in order.

    Mere looks (stat, access, link) at directories that lead to declared places are left out when
    they found something; lists of them are not.
    """
    found: dict[tuple[bytes, bool, bool], Access] = {}
    known: dict[bytes, bool] = {}
    for access in accesses:
        path = normalised(access.path)
        covered = known.get(path)
        if covered is None:
            covered = known[path] = declared.covers(path)
        if covered:
            continue
        if (
            access.op in {Op.STAT, Op.ACCESS, Op.LINK, Op.CHDIR}
            and not access.errno
            and declared.leads_to(path)
        ):
            continue
        found.setdefault((path, access.write, access.op is Op.LIST), access)
    return tuple(found.values())
