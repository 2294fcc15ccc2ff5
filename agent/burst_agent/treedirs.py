"""The folders below `root/trees`: who uses one, and how one is taken away.

A user holds a shared lock on the tree's own folder (TreeLease), so a tree in use is never removed,
whatever process uses it, and a dead process holds none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from burst_agent import diskfile
from burst_agent.root import StoreRoot, lock_folder
from burst_protocol.digest import Digest

_GONE: Final = b".gone-"


class TreeLease:
    """A laid-out tree that stays as long as this is open. Close it, or use it as a context."""

    def __init__(self, path: bytes, fd: int, *, rested: bool) -> None:
        self.path = path
        self.rested = rested
        """Nobody had used it for an hour: its blobs should be marked as used, too."""
        self._fd = fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def tree_path(root: StoreRoot, digest: Digest) -> bytes:
    return root.join(b"trees", digest.hex.encode())


def lease(root: StoreRoot, digest: Digest) -> TreeLease | None:
    """Takes a tree that is there already, and notes the use (hourly); None if there is none."""
    path = tree_path(root, digest)
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)  # waits for a rename at most
            status = os.fstat(fd)
            if os.stat(path).st_ino == status.st_ino:
                now_ns = root.now_ns()
                rested = abs(now_ns - status.st_atime_ns) > diskfile.TOUCH_INTERVAL_NS
                if rested:
                    os.utime(fd, ns=(now_ns, diskfile.FIXED_MTIME_NS))
                return TreeLease(path, fd, rested=rested)
        except FileNotFoundError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # replaced between open and lock


def names(root: StoreRoot) -> list[bytes]:
    """The hex digests of the trees that are laid out."""
    return [name for name in os.listdir(root.join(b"trees")) if not name.startswith(b".")]


def in_use(path: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError), lock_folder(path) as alone:
        return not alone
    return False


def _files(path: bytes) -> Iterator[os.stat_result]:
    """Of every file in the tree; nothing if it vanishes meanwhile."""
    pending = [path]
    while pending:
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False)


def inodes(path: bytes) -> Iterator[int]:
    """Of every file in the tree."""
    return (status.st_ino for status in _files(path))


def touched(path: bytes) -> bool:
    """Whether a file of the tree was written to since it was stored."""
    return any(status.st_mtime_ns != diskfile.FIXED_MTIME_NS for status in _files(path))


def retire(root: StoreRoot, path: bytes, *, even_in_use: bool = False) -> bool:
    """Takes a tree away; False if it is in use.

    `even_in_use`: it gets no new users; its files go later, with `sweep_gone`.
    """
    gone = root.join(b"trees", _GONE + secrets.token_hex(8).encode())
    with contextlib.suppress(FileNotFoundError):
        with lock_folder(path) as alone:
            if not alone and not even_in_use:
                return False
            # Within one folder: there are read-only trees of earlier versions, which a plain user
            # may not move to another one.
            os.rename(path, gone)
        if alone:
            diskfile.remove_tree(gone)
    return True


def sweep_gone(root: StoreRoot) -> None:
    """Finishes removals that were cut short, or that waited for a user."""
    for name in os.listdir(root.join(b"trees")):
        if not name.startswith(_GONE):
            continue
        path = root.join(b"trees", name)
        with contextlib.suppress(FileNotFoundError), lock_folder(path) as alone:
            if alone:
                diskfile.remove_tree(path)


def drop_showing(root: StoreRoot, inode: int) -> None:
    """Takes away every tree that shows this inode: a damaged blob."""
    for name in names(root):
        path = root.join(b"trees", name)
        if inode in inodes(path):
            retire(root, path, even_in_use=True)
