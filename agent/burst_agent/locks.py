"""Locks between agents of one root, and nothing else to tidy up after a kill."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import Final

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""`struct flock` of fcntl(2) on 64-bit Linux."""


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


def running(key: bytes) -> bytes:
    """The lock that is held while a run with that key goes on, besides the key's own, which is held
    until its result is kept or given up."""
    return bytes(byte ^ 0x5A for byte in key)


class KeyLocks:
    """Locks on keys, each one byte of one file: nothing is made and removed for every run.

    Of this process as a whole (open file description locks, fcntl(2)): whoever shares the object
    must not take a key twice.
    """

    def __init__(self, path: bytes) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, key: bytes) -> bool:
        """False while another agent has it. OSError if the file system has no locks."""
        try:
            self._set(fcntl.F_WRLCK, key)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def held(self, key: bytes) -> bool:
        """Whether another agent has it."""
        asked = self._record(fcntl.F_WRLCK, key)
        answer = fcntl.fcntl(self._fd, fcntl.F_OFD_GETLK, asked)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK

    def give(self, key: bytes) -> None:
        with contextlib.suppress(OSError):
            self._set(fcntl.F_UNLCK, key)

    def close(self) -> None:
        """Gives up all."""
        os.close(self._fd)

    def _set(self, kind: int, key: bytes) -> None:
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, self._record(kind, key))

    @staticmethod
    def _record(kind: int, key: bytes) -> bytes:
        # Two keys on one byte would only make one of them wait.
        start = int.from_bytes(key[:7], "little")
        return _FLOCK.pack(kind, os.SEEK_SET, start, 1, 0)
