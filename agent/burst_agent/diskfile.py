"""Files on disk, one level above system calls: copies, hashes, removals, disk-full as an error.

Nothing here knows about blobs. All paths are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Final

from blake3 import blake3

from burst_protocol.digest import Digest
from burst_protocol.errors import DiskFull

# What the sandbox shows must be covered by a digest, and a tree's digest covers no times: so every
# stored file, directory and symlink carries this one mtime (2001-09-09). Last use is the atime.
FIXED_MTIME_NS: Final = 1_000_000_000 * 10**9
# A use is noted at most so often, so that the warm path writes nothing.
TOUCH_INTERVAL_NS: Final = 3600 * 10**9
FILE_MODE: Final = 0o444
EXECUTABLE_MODE: Final = 0o555
# Of a tree's folders: their owner may remove the store with `rm -rf`. Sandboxes show them read-only
# by their mounts.
FOLDER_MODE: Final = 0o755
CHUNK_BYTES: Final = 1 << 20

_FICLONE: Final = 0x40049409  # linux/fs.h: share the extents of another file (btrfs, xfs, bcachefs)
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_FAST_COPY: Final = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
)


@contextlib.contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns "no space" and "over quota" into DiskFull; other OSErrors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise DiskFull(f"{doing}: {error.strerror}") from error
        raise


def write_all(fd: int, data: bytes | memoryview) -> None:
    """os.write until all is written: on a nearly full disk it writes less than asked."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


def copy_bytes(source: int, target: int) -> None:
    """Everything from `source` (at offset 0) to the empty `target`: reflink, in-kernel, by hand."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        pass
    else:
        return
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
    except OSError as error:
        if error.errno not in _NO_FAST_COPY:
            raise
    # Continues where the kernel stopped: both offsets have moved together.
    while chunk := os.read(source, CHUNK_BYTES):
        write_all(target, chunk)


def digest_of_fd(fd: int) -> Digest:
    """Digest of an open file from its start.

    By read, not mmap: a bad sector or a truncation is an error here, but SIGBUS there.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    hasher = blake3()
    size = 0
    # A megabyte of zeros costs more than hashing a small file.
    buffer = bytearray(min(CHUNK_BYTES, os.fstat(fd).st_size + 1))
    view = memoryview(buffer)
    while count := os.readv(fd, [buffer]):
        hasher.update(view[:count])
        size += count
    return Digest(hasher.digest(), size)


def open_regular(path: bytes) -> int:
    """Read-only descriptor of a regular file; OSError EINVAL for anything else, never waits."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def remove_file(path: bytes) -> bool:
    """True if it was there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def remove_tree(path: bytes) -> None:
    """Removes a directory with read-only directories in it (which programs make, and earlier
    versions made); what is gone already is fine."""
    pending = [path]
    emptied: list[bytes] = []
    while pending:
        folder = pending.pop()
        try:
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        remove_file(entry.path)
        except FileNotFoundError:
            continue
        emptied.append(folder)
    for folder in reversed(emptied):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(folder)


def disk_bytes(size_bytes: int) -> int:
    """What a file costs: whole 4 KiB blocks, at least one (its inode, its folder's entry)."""
    return max(size_bytes + 4095, 4096) & ~4095
