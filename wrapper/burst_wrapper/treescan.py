"""Directories at home as trees: what is in them, by digest.

A package's tree leaves out what is not the package: `.git`, cargo's target directories (they carry
CACHEDIR.TAG), nested packages. Everything else is in, tracked or not, because a macro or
`include_str!` may read it. Very large files are left out; one that is really read is learned.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from burst_protocol.digest import Digest, KeyHasher
from burst_protocol.tree import Directory, DirectoryNode, FileNode, SymlinkNode
from burst_wrapper.statcache import StatCache

LARGE_FILE_BYTES: Final = 16 * 1024 * 1024
MAX_FILES: Final = 50_000

Signature = tuple[int, int, int, int, int]
"""mode, inode, size, mtime and ctime (ns)."""


@attrs.define
class Tree:
    """A scanned directory: its digest, the Directory blobs below it, and where files' bytes are."""

    root: bytes
    digest: Digest
    blobs: dict[Digest, bytes]
    files: Mapping[bytes, Digest]
    """Absolute path to digest, for every regular file shown."""
    directories: dict[bytes, frozenset[bytes]]
    """Absolute path to the names shown in it."""
    hidden: dict[bytes, tuple[bytes, ...]]
    """Directories that show fewer names than home's, and which names are left out."""
    links: dict[bytes, bytes]
    """Absolute path to what the symbolic link there says."""
    size_bytes: int
    _paths: dict[Digest, bytes] | None = None

    def path_of(self, digest: Digest) -> bytes | None:
        """A file with these bytes. None in an outline, which does not know its files' digests."""
        if isinstance(self.files, Outlined):
            return None
        if self._paths is None:
            self._paths = {found: path for path, found in self.files.items()}
        return self._paths.get(digest)


CHANGED: Final = Digest(b"\0" * 32, 0)
"""In place of the digest of a file that is not what it was when it was outlined."""


class Outlined(Mapping[bytes, Digest]):
    """Files by their stats; the few that are asked for are hashed then."""

    def __init__(self, stats: StatCache) -> None:
        self._stats = stats
        self.signatures: dict[bytes, Signature] = {}

    def __getitem__(self, path: bytes) -> Digest:
        expected = self.signatures[path]
        try:
            info = os.stat(path, follow_symlinks=False)
        except OSError:
            return CHANGED
        if _signature(info) != expected:
            return CHANGED
        state = self._stats.digest_of(path, info)
        return CHANGED if state is None else state.digest

    def __contains__(self, path: object) -> bool:
        return path in self.signatures

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.signatures)

    def __len__(self) -> int:
        return len(self.signatures)


class TooLarge(Exception):
    """More files, or deeper directories, than a package should have."""


class TreeScanner:
    def __init__(self, stats: StatCache) -> None:
        self._stats = stats

    def package(self, root: bytes) -> Tree:
        """A package directory. TooLarge beyond MAX_FILES."""
        return self._scan(root, package=True)

    def whole(self, root: bytes) -> Tree:
        """Everything below `root`, for OUT_DIR and learned directories."""
        return self._scan(root, package=False)

    def outline(self, root: bytes) -> Tree:
        """As `whole`, but by stats alone: for trees that are shown where they lie.

        Its digest tells states of this one place apart and is no identity elsewhere; most files of
        a package are never read by the compiler, and hashing them is the dearest part of a cold
        build.
        """
        files = Outlined(self._stats)
        tree = Tree(root, CHANGED, {}, files, {}, {}, {}, 0)
        hasher = KeyHasher(b"outline")
        todo = [root]
        while todo:
            folder = todo.pop()
            shown: list[bytes] = []
            fields = [folder]
            try:
                entries = sorted(os.scandir(folder), key=_name)
            except OSError:
                entries = []
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISLNK(info.st_mode):
                        tree.links[entry.path] = os.readlink(entry.path)
                except OSError:
                    continue
                shown.append(entry.name)
                signature = _signature(info)
                fields += [entry.name, repr(signature).encode()]
                if stat.S_ISDIR(info.st_mode):
                    todo.append(entry.path)
                elif stat.S_ISREG(info.st_mode):
                    files.signatures[entry.path] = signature
                    tree.size_bytes += info.st_size
            hasher.add(*fields)
            tree.directories[folder] = frozenset(shown)
            if len(files.signatures) > MAX_FILES:
                raise TooLarge
        tree.digest = Digest(hasher.key(), 0)
        return tree

    def _scan(self, root: bytes, *, package: bool) -> Tree:
        files: dict[bytes, Digest] = {}
        tree = Tree(root, CHANGED, {}, files, {}, {}, {}, 0)
        try:
            tree.digest = self._directory(root, tree, files, package=package, top=True)
        except RecursionError as error:
            raise TooLarge from error
        return tree

    def _directory(
        self, path: bytes, tree: Tree, found: dict[bytes, Digest], *, package: bool, top: bool
    ) -> Digest:
        files: list[FileNode] = []
        directories: list[DirectoryNode] = []
        symlinks: list[SymlinkNode] = []
        shown: list[bytes] = []
        hidden: list[bytes] = []
        try:
            entries = sorted(os.scandir(path), key=_name)
        except OSError:
            entries = []
        for entry in entries:
            child = path + b"/" + entry.name
            try:
                if entry.is_symlink():
                    target = os.readlink(child)
                    symlinks.append(SymlinkNode(entry.name, target))
                    tree.links[child] = target
                elif entry.is_dir(follow_symlinks=False):
                    if package and _foreign(child, entry.name, top=top):
                        hidden.append(entry.name)
                        continue
                    digest = self._directory(child, tree, found, package=package, top=False)
                    directories.append(DirectoryNode(entry.name, digest))
                else:
                    node = self._file(entry, child, tree, found, package=package)
                    if node is None:
                        hidden.append(entry.name)
                        continue
                    files.append(node)
            except OSError:
                continue  # gone since it was listed: an editor's temporary file
            shown.append(entry.name)
        data = Directory(tuple(files), tuple(directories), tuple(symlinks)).encode()
        digest = Digest.of(data)
        tree.blobs[digest] = data
        tree.directories[path] = frozenset(shown)
        if hidden:
            tree.hidden[path] = tuple(hidden)
        return digest

    def _file(
        self,
        entry: os.DirEntry[bytes],
        path: bytes,
        tree: Tree,
        found: dict[bytes, Digest],
        *,
        package: bool,
    ) -> FileNode | None:
        """None for what is not shown: odd files, unreadable ones, very large ones."""
        info = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode) or (package and info.st_size > LARGE_FILE_BYTES):
            return None
        state = self._stats.digest_of(path, info)
        if state is None:
            return None
        found[path] = state.digest
        tree.size_bytes += state.digest.size_bytes
        if len(found) > MAX_FILES:
            raise TooLarge
        return FileNode(entry.name, state.digest, state.executable)


def _signature(info: os.stat_result) -> Signature:
    return (info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name


def _foreign(path: bytes, name: bytes, *, top: bool) -> bool:
    """Whether a directory in a package is not the package's."""
    if name == b".git":
        return True
    if top and name == b"target":
        return True
    return os.path.exists(path + b"/CACHEDIR.TAG") or os.path.exists(path + b"/Cargo.toml")
