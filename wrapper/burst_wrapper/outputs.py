"""Output files at home: written under a temporary name, renamed by the wrapper.

The daemon never renames: the wrapper process does, just before it relays the line that announces
the file. A wrapper that was killed cannot rename, so no daemon, however late or hung, can write
into a target directory that a newer build owns.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from typing import Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DigestMismatch, DiskFull, EnvironmentProblem

_FICLONE: Final = 0x40049409
_COPY_BYTES: Final = 64 * 1024 * 1024
_VERIFY_BYTES: Final = 1024 * 1024
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
TEMPORARY: Final = b".burst-"

_counter = itertools.count(1)


@attrs.frozen
class Placed:
    """A finished temporary file and the name it shall get."""

    temporary: bytes
    final: bytes
    digest: Digest
    info: os.stat_result


class Placer:
    """Copies blobs to where cargo wants them, verifying bytes that were not verified before."""

    def __init__(self) -> None:
        self._verified: dict[bytes, tuple[int, int, int, int]] = {}
        self._reflink = True

    def place(
        self,
        blob: bytes,
        digest: Digest,
        final: bytes,
        *,
        executable: bool,
        umask: int,
        mtime_ns: int,
    ) -> Placed:
        """Blocking; call it in a thread for large files.

        BlobMissing if the store lacks the blob, DigestMismatch if its bytes are wrong, DiskFull.
        """
        folder, name = os.path.split(final)
        temporary = b"%s/%s%d-%d-%s" % (folder, TEMPORARY, os.getpid(), next(_counter), name[-80:])
        mode = (0o777 if executable else 0o666) & ~umask
        try:
            source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise BlobMissing(digest.hex) from error
        try:
            self._verify(source, blob, digest)
            info = self._write(source, digest, temporary, mode, mtime_ns)
        finally:
            os.close(source)
        return Placed(temporary, final, digest, info)

    def made(self, blob: bytes, since_ns: int) -> None:
        """The store of this machine says that it just wrote and hashed this blob: once is enough.

        Only of what was written since then; one that it had already may have been damaged since.
        """
        try:
            info = os.stat(blob)
        except OSError:
            return
        if info.st_ctime_ns >= since_ns:
            seen = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
            self._verified[blob] = seen

    def _write(
        self, source: int, digest: Digest, temporary: bytes, mode: int, mtime_ns: int
    ) -> os.stat_result:
        """The finished copy's stat; after an error there is no copy."""
        try:
            target = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except OSError as error:
            raise _disk(error, temporary) from error
        try:
            self._copy(source, target, digest.size_bytes)
            os.fchmod(target, mode)
            os.utime(target, ns=(mtime_ns, mtime_ns))
            info = os.fstat(target)
            if info.st_size != digest.size_bytes:
                raise DigestMismatch(digest.hex)
        except OSError as error:
            _remove(temporary)
            raise _disk(error, temporary) from error
        except BaseException:
            _remove(temporary)
            raise
        else:
            return info
        finally:
            os.close(target)

    def _verify(self, source: int, blob: bytes, digest: Digest) -> None:
        info = os.fstat(source)
        seen = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if self._verified.get(blob) == seen and info.st_size == digest.size_bytes:
            return
        try:
            right = info.st_size == digest.size_bytes and Digest.of_file(blob) == digest
        except OSError as error:
            raise BlobMissing(digest.hex) from error
        if not right:
            with contextlib.suppress(OSError):
                os.utime(blob)  # its store looks again at what was touched
            raise DigestMismatch(digest.hex)
        self._verified[blob] = seen

    def _copy(self, source: int, target: int, size: int) -> None:
        if self._reflink and size:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno in _FULL:
                    raise
                # Not a file system that shares extents; do not ask it again.
                self._reflink = False
            else:
                return
        done = 0
        while done < size:
            try:
                copied = os.copy_file_range(source, target, min(_COPY_BYTES, size - done))
            except OSError as error:
                if error.errno in (*_FULL, errno.EIO):
                    raise
                # Which of many codes says "not here" differs by kernel, file system and seccomp.
                copied = os.sendfile(target, source, done, min(_COPY_BYTES, size - done))
            if copied == 0:
                break
            done += copied


def discard(placed: Placed) -> None:
    """Remove a temporary file that nobody will rename."""
    _remove(placed.temporary)


def sweep(folder: bytes) -> None:
    """Remove temporary files of dead daemons in an out-dir."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(TEMPORARY):
                pid = entry.name[len(TEMPORARY) :].split(b"-", 1)[0]
                if (
                    pid.isdigit()
                    and int(pid) != os.getpid()
                    and not os.path.exists(b"/proc/" + pid)
                ):
                    _remove(entry.path)


def _remove(path: bytes) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _disk(error: OSError, path: bytes) -> EnvironmentProblem:
    if error.errno in _FULL:
        return DiskFull(os.fsdecode(path))
    return EnvironmentProblem(f"{os.fsdecode(path)}: {error.strerror}")
