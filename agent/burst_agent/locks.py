"""Lock files between agents of one root, and nothing else to tidy up after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import os


def try_lock(path: bytes) -> int | None:
    """A descriptor that holds `path`'s lock, made if need be; None if somebody else holds it.

    The file may be removed by who holds it: a lock on a file without its name counts for nothing,
    so whoever gets one tries again. Closing the descriptor gives the lock up.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.stat(path).st_ino == os.fstat(fd).st_ino:
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except FileNotFoundError:
            pass
        os.close(fd)


def unlock(path: bytes, fd: int) -> None:
    """Gives the lock up and removes its file."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    os.close(fd)
