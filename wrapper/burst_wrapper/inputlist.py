"""Input lists: what earlier runs under one weak key were seen to use, and the strong key.

A list names things, not their contents: files, names that were absent, things that merely exist,
directory listings, variables. The strong key is the weak key and what those things are now.

Lists of units that target directories share name what lies in there relative to it: `./debug/x`.
All other paths are absolute.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from burst_protocol.digest import KeyHasher
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack, unpack
from burst_wrapper.statcache import StatCache

FILE: Final = 0
ABSENT: Final = 1
PRESENT: Final = 2
LISTING: Final = 3
VARIABLE: Final = 4
LINK: Final = 5
"""What a link says and where the path ends, whatever lies there."""
ANSWER: Final = 6
"""What cargo says when it is asked for the workspace of that manifest. Only who asks it can tell:
without a value pinned, such a list finds nothing."""

NOTHING: Final = b"absent"
SOME_FILE: Final = b"file"
SOME_DIRECTORY: Final = b"directory"

_FORMAT: Final = 1
_UNSET: Final = b"unset"


@attrs.frozen
class InputList:
    """(kind, path or name) pairs, sorted: equal sets are equal lists."""

    entries: tuple[tuple[int, bytes], ...]

    @classmethod
    def of(cls, entries: Iterable[tuple[int, bytes]]) -> InputList:
        return cls(tuple(sorted(set(entries))))

    def encode(self) -> bytes:
        return pack([_FORMAT, [[kind, name] for kind, name in self.entries]])

    @classmethod
    def decode(cls, data: bytes) -> InputList | None:
        """None for what we cannot read: it is then no list at all."""
        try:
            value: Any = unpack(data)
            version, entries = value
            if version != _FORMAT:
                return None
            decoded = tuple((kind, name) for kind, name in entries)
        except (RemoteProtocolError, TypeError, ValueError):
            return None
        return cls(decoded) if all(_is_entry(kind, name) for kind, name in decoded) else None

    @property
    def has_answer(self) -> bool:
        """Looked at once per list and question to an agent: the highest kind comes last."""
        return bool(self.entries) and self.entries[-1][0] == ANSWER

    def files(self) -> list[bytes]:
        return [name for kind, name in self.entries if kind == FILE]

    def neutral(self, base: bytes) -> InputList:
        """What lies in `base` named relative to it."""
        inside = base + b"/"
        return InputList.of(
            (kind, b"." + name[len(base) :])
            if kind != VARIABLE and (name == base or name.startswith(inside))
            else (kind, name)
            for kind, name in self.entries
        )

    def at(self, base: bytes) -> InputList:
        """The opposite of `neutral`, for any base."""
        return InputList.of((kind, _at(kind, name, base)) for kind, name in self.entries)

    def names(self, kind: int) -> list[bytes]:
        return [name for entry_kind, name in self.entries if entry_kind == kind]


def _at(kind: int, name: bytes, base: bytes) -> bytes:
    return base + name[1:] if kind != VARIABLE and name.startswith(b".") else name


def _is_entry(kind: object, name: object) -> bool:
    """Something that can be looked up: a list may come from an agent."""
    return (
        type(kind) is int
        and FILE <= kind <= ANSWER
        and type(name) is bytes
        and name != b""
        and b"\0" not in name
    )


class World:
    """What the things named by a list are right now."""

    def __init__(self, stats: StatCache, env: Mapping[bytes, bytes]) -> None:
        self._stats = stats
        self._env = env
        self._seen: dict[tuple[int, bytes], bytes] = {}

    def pin(self, kind: int, name: bytes, value: bytes) -> None:
        """What a run was shown counts, not what lies there now."""
        self._seen[kind, name] = value

    def value(self, kind: int, name: bytes) -> bytes:
        known = self._seen.get((kind, name))
        if known is None:
            known = self._look(kind, name)
            self._seen[kind, name] = known
        return known

    def _look(self, kind: int, name: bytes) -> bytes:
        if kind == FILE:
            try:
                info = os.stat(name)
            except OSError:
                return b""
            state = self._stats.digest_of(name, info)
            if state is None:
                return b"directory" if stat.S_ISDIR(info.st_mode) else b"odd"
            return state.digest.hash
        if kind in (ABSENT, PRESENT):
            try:
                mode = os.stat(name).st_mode
            except OSError:
                return NOTHING
            return SOME_DIRECTORY if stat.S_ISDIR(mode) else SOME_FILE
        if kind == LISTING:
            return listing(name)
        if kind == LINK:
            return link(name)
        if kind == ANSWER:
            return b""
        value = self._env.get(name)
        return _UNSET if value is None else b"=" + value


def listing(path: bytes) -> bytes:
    """Digest of the names in a directory; empty if there is none."""
    try:
        return names_key(os.listdir(path))
    except OSError:
        return b""


def link(path: bytes) -> bytes:
    """The text of a link, if it is one, and the physical place."""
    try:
        text = os.readlink(path)
    except OSError:
        text = b""
    return text + b"\0" + os.path.realpath(path)


def names_key(names: Iterable[bytes]) -> bytes:
    """Digest of a directory's names."""
    hasher = KeyHasher(b"listing")
    hasher.add(*sorted(names))
    return hasher.key()


def strong_key(weak_key: bytes, inputs: InputList, world: World, base: bytes) -> bytes:
    """The weak key, and what every listed thing is; relative names are looked up in `base`."""
    hasher = KeyHasher(b"burst strong 1")
    fields = [weak_key]
    for kind, name in inputs.entries:
        fields.append(bytes((kind,)))
        fields.append(name)
        fields.append(world.value(kind, _at(kind, name, base)))
    hasher.add(*fields)
    return hasher.key()


def variant(strong: bytes, stderr_args: bytes | None, target_dir: bytes | None) -> bytes:
    """The key of a result that is not for everybody with this strong key.

    Results whose stderr holds diagnostics depend on the arguments that shape stderr; results
    whose bytes mention the target directory belong to that directory.
    """
    if stderr_args is None and target_dir is None:
        return strong
    hasher = KeyHasher(b"burst variant 1")
    hasher.add(
        strong,
        b"-" if stderr_args is None else b"=" + stderr_args,
        b"-" if target_dir is None else b"=" + target_dir,
    )
    return hasher.key()
