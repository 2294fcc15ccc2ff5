"""Mirrors for tests: trees from plain values, and what lies in a mirror as plain values."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import attrs

from burst_agent.mirror.mirrors import Mirrors
from burst_agent.store import BlobStore
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.programs import AskChanges, ChangedFile, Fetched, Mirrored, SyncMirror
from burst_protocol.tree import TreeBuilder


@attrs.frozen
class X:
    """An executable file with these bytes."""

    data: bytes


@attrs.frozen
class L:
    """A symbolic link."""

    target: bytes


Entry = bytes | X | L | None
"""A file's bytes; None: a folder."""
Tree = Mapping[bytes, Entry]
"""By relative path; folders that only hold others need not be named."""


def build(tree: Tree, blobs: dict[Digest, bytes]) -> Digest:
    """The tree's digest; all bytes of it are put into `blobs`."""
    builder = TreeBuilder()
    for path, entry in tree.items():
        if entry is None:
            builder.directory(path)
        elif isinstance(entry, L):
            builder.symlink(path, entry.target)
        else:
            data = entry.data if isinstance(entry, X) else entry
            digest = Digest.of(data)
            blobs[digest] = data
            builder.file(path, digest, executable=isinstance(entry, X))
    return builder.build(blobs)


def read_tree(top: bytes) -> dict[bytes, Entry]:
    """What lies below, by relative path, every folder named."""
    found: dict[bytes, Entry] = {}
    for folder, folders, files in os.walk(top):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            relative = os.path.relpath(path, top)
            if stat.S_ISLNK(info.st_mode):
                found[relative] = L(os.readlink(path))
            elif stat.S_ISDIR(info.st_mode):
                found[relative] = None
            else:
                data = Path(os.fsdecode(path)).read_bytes()
                found[relative] = X(data) if info.st_mode & 0o111 else data
    return found


def with_folders(tree: Tree) -> dict[bytes, Entry]:
    """As `read_tree` tells it."""
    full: dict[bytes, Entry] = dict(tree)
    for path in tree:
        while path := os.path.dirname(path):
            full.setdefault(path, None)
    return full


class Lab:
    """One mirror in one store, without a connection."""

    def __init__(self, root: Path, name: str = "proj", *, top: bytes = b"/home/u/proj") -> None:
        self.name = name
        self.top = top
        self.store = BlobStore(os.fsencode(root))
        self.mirrors = Mirrors(self.store, list)
        self.asked: list[Digest] = []

    def close(self) -> None:
        self.store.close()

    @property
    def folder(self) -> Path:
        """Where the project lies in the mirror."""
        return Path(os.fsdecode(self.mirrors.folder(self.name, self.top)))

    @property
    def beside(self) -> Path:
        """Where the mirror's own files lie."""
        return Path(os.fsdecode(self.store.root.join(b"mirrors", self.name.encode())))

    def sync(self, tree: Tree, *, also: Mapping[bytes, Tree] | None = None) -> Mirrored:
        """As home does it: what is missing is sent until nothing is."""
        blobs: dict[Digest, bytes] = {}
        roots = [(self.top, build(tree, blobs))]
        roots += [(path, build(other, blobs)) for path, other in (also or {}).items()]
        for _ in range(100):
            answer = asyncio.run(self.mirrors.sync(SyncMirror(1, self.name, tuple(roots))))
            if isinstance(answer, Mirrored):
                return answer
            assert isinstance(answer, m.Missing)
            for digest in answer.digests:
                self.asked.append(digest)
                self.store.put_bytes(blobs[digest])
        raise AssertionError("always something missing")

    def tree(self) -> dict[bytes, Entry]:
        return read_tree(os.fsencode(self.folder))

    def changes(self, *patterns: str) -> dict[bytes, ChangedFile]:
        """By path relative to the project."""
        question = AskChanges(1, self.name, (self.top,), patterns or ("*",))
        answer = asyncio.run(self.mirrors.changes(question))
        return {file.path[len(self.top) + 1 :]: file for file in answer.files}

    def fetched(self, *files: ChangedFile) -> None:
        asyncio.run(self.mirrors.fetched(Fetched(self.name, files)))
