"""Resolve a path as the kernel does and remember everything it went through.

A sandbox that holds the remembered entries, and nothing else, resolves the same path to the same
file: every link of a chain is an entry (`/usr/bin/cc`, `/etc/alternatives/cc`, `/lib` of a merged
`/usr`), and so is a folder that is only passed on the way to its `..`.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAX_LINKS: Final = 40
"""The kernel's own limit (path_resolution(7))."""

Kind = Literal["file", "symlink", "directory"]


@attrs.frozen(order=True)
class CapturedEntry:
    """One thing that must exist in the sandbox, at the path it has at home."""

    path: bytes
    """Absolute, free of `.`, `..` and links: the physical place of the entry."""
    kind: Kind
    target: bytes = b""
    """What a symlink says, unchanged; empty for the other kinds."""


@attrs.frozen
class Walk:
    """`entries` in the order met, the final file or folder last; `real` is its physical path."""

    real: bytes
    entries: tuple[CapturedEntry, ...]

    @property
    def links(self) -> tuple[CapturedEntry, ...]:
        return tuple(entry for entry in self.entries if entry.kind == "symlink")


def walk(path: bytes) -> Walk:
    """Follow an absolute path. OSError where the kernel would give one, or for odd file types."""
    if not path.startswith(b"/"):
        raise FileNotFoundError(path)
    todo = path.split(b"/")[::-1]
    here = b""
    links = 0
    found: dict[bytes, CapturedEntry] = {}
    while todo:
        name = todo.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            if here:
                found.setdefault(here, CapturedEntry(here, "directory"))
            here = here.rpartition(b"/")[0]
            continue
        candidate = here + b"/" + name
        mode = os.lstat(candidate).st_mode
        if stat.S_ISLNK(mode):
            links += 1
            if links > _MAX_LINKS:
                raise OSError(40, "too many levels of symbolic links", path)
            target = os.readlink(candidate)
            found.setdefault(candidate, CapturedEntry(candidate, "symlink", target))
            if target.startswith(b"/"):
                here = b""
            todo.extend(target.split(b"/")[::-1])
        elif stat.S_ISDIR(mode):
            here = candidate
        elif not stat.S_ISREG(mode):
            raise OSError(22, "neither a file, a folder nor a link", candidate)
        elif any(rest not in (b"", b".") for rest in todo):
            raise NotADirectoryError(20, "not a directory", candidate)
        else:
            found.pop(candidate, None)
            found[candidate] = CapturedEntry(candidate, "file")
            return Walk(candidate, tuple(found.values()))
    found.pop(here, None)
    found[here] = CapturedEntry(here or b"/", "directory")
    return Walk(here or b"/", tuple(found.values()))


def tidy(entries: Iterable[CapturedEntry]) -> tuple[CapturedEntry, ...]:
    """Sorted by path, each path once, without the folders that another entry implies anyway."""
    by_path: dict[bytes, CapturedEntry] = {}
    for entry in entries:
        by_path.setdefault(entry.path, entry)
    implied: set[bytes] = {b"/"}
    for path in by_path:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in implied:
            implied.add(parent)
            parent = parent.rpartition(b"/")[0]
    return tuple(
        entry
        for path, entry in sorted(by_path.items())
        if entry.kind != "directory" or path not in implied
    )
