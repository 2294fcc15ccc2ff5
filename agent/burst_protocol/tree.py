"""Directories as values: what a tree's digest covers, and nothing else.

A Directory is a blob; its digest names the whole tree below it (REAPI's `Directory`, flattened
into three sorted lists). Names are single path components; the encoding is canonical, so that equal
trees have equal digests.
"""

from __future__ import annotations

import operator
from typing import Any, Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack, unpack

_FORMAT: Final = 1
_NAME: Final = operator.attrgetter("name")


def valid_name(name: object) -> bool:
    """One path component: not empty, not `.` or `..`, no slash, no NUL."""
    return (
        isinstance(name, bytes)
        and name not in (b"", b".", b"..")
        and b"/" not in name
        and b"\0" not in name
    )


@attrs.frozen(order=True)
class FileNode:
    name: bytes
    digest: Digest
    executable: bool


@attrs.frozen(order=True)
class DirectoryNode:
    name: bytes
    digest: Digest


@attrs.frozen(order=True)
class SymlinkNode:
    name: bytes
    target: bytes


@attrs.frozen
class Directory:
    files: tuple[FileNode, ...] = ()
    directories: tuple[DirectoryNode, ...] = ()
    symlinks: tuple[SymlinkNode, ...] = ()

    def encode(self) -> bytes:
        """Canonical bytes: names sorted, so that equal trees are equal blobs."""
        return pack(
            [
                _FORMAT,
                [[n.name, n.digest.packed(), n.executable] for n in sorted(self.files, key=_NAME)],
                [[n.name, n.digest.packed()] for n in sorted(self.directories, key=_NAME)],
                [[n.name, n.target] for n in sorted(self.symlinks, key=_NAME)],
            ]
        )

    @classmethod
    def decode(cls, data: bytes) -> Directory:
        """RemoteProtocolError for anything that `encode` cannot have written."""
        try:
            value: Any = unpack(data)
            version, files, directories, symlinks = value
            if version != _FORMAT:
                raise ValueError(f"directory format {version!r}")
            decoded = cls(
                tuple(FileNode(n, Digest.unpacked(d), bool(x)) for n, d, x in files),
                tuple(DirectoryNode(n, Digest.unpacked(d)) for n, d in directories),
                tuple(SymlinkNode(n, t) for n, t in symlinks),
            )
        except (ValueError, TypeError) as error:
            raise RemoteProtocolError(f"not a directory: {error}") from error
        names = [node.name for node in decoded.files]
        names += [node.name for node in decoded.directories]
        names += [node.name for node in decoded.symlinks]
        if not all(valid_name(name) for name in names) or len(set(names)) != len(names):
            raise RemoteProtocolError("a directory with impossible names")
        for link in decoded.symlinks:
            if type(link.target) is not bytes or not link.target or b"\0" in link.target:
                raise RemoteProtocolError("a directory with an impossible symlink")
        if decoded.encode() != data:
            # Equal trees have equal digests only while there is one way to write each.
            raise RemoteProtocolError("a directory that is not in its canonical form")
        return decoded


class TreeBuilder:
    """Collects entries by relative path and yields Directory blobs, deepest first."""

    def __init__(self) -> None:
        self._files: dict[bytes, FileNode] = {}
        self._symlinks: dict[bytes, SymlinkNode] = {}
        self._children: dict[bytes, TreeBuilder] = {}
        self._fixed: dict[bytes, Digest] = {}

    def _parent(self, path: bytes) -> tuple[TreeBuilder, bytes]:
        *folders, name = [part for part in path.split(b"/") if part]
        node = self
        for folder in folders:
            node = node._children.setdefault(folder, TreeBuilder())
        return node, name

    def file(self, path: bytes, digest: Digest, *, executable: bool) -> None:
        node, name = self._parent(path)
        node._files[name] = FileNode(name, digest, executable)

    def symlink(self, path: bytes, target: bytes) -> None:
        node, name = self._parent(path)
        node._symlinks[name] = SymlinkNode(name, target)

    def directory(self, path: bytes) -> None:
        """An empty directory, or one that gets entries later."""
        node, name = self._parent(path)
        node._children.setdefault(name, TreeBuilder())

    def subtree(self, path: bytes, digest: Digest) -> None:
        """A directory already known by its digest."""
        node, name = self._parent(path)
        node._fixed[name] = digest

    def build(self, blobs: dict[Digest, bytes]) -> Digest:
        """The root's digest; every Directory blob met is put into `blobs`."""
        directories = [DirectoryNode(name, digest) for name, digest in self._fixed.items()]
        directories += [
            DirectoryNode(name, child.build(blobs)) for name, child in self._children.items()
        ]
        data = Directory(
            tuple(self._files.values()), tuple(directories), tuple(self._symlinks.values())
        ).encode()
        digest = Digest.of(data)
        blobs[digest] = data
        return digest
