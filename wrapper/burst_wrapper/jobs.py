"""Donating cargo's tokens while units run elsewhere.

Cargo starts at most `-j` wrappers. A wrapper that waits for another machine uses no core here, so
its token is given back to cargo's own jobserver and cargo starts the next unit. When the unit
ends, cargo returns the token once more: that is our debt. The next remote unit takes it over
instead of donating anew, else it is paid by a read that never waits. At every moment there are as
many tokens too many as units in flight and debts together. A jobserver that cargo inherited from
make is left alone: make counts its tokens.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Final

import attrs

from burst_wrapper.callers import Caller

_AUTH: Final = re.compile(rb"--jobserver-(?:auth|fds)=(?:fifo:(\S+)|(\d+),(\d+))")


@attrs.frozen
class Jobserver:
    """How a process names its jobserver: a fifo's path, or two descriptors."""

    fifo: bytes | None
    read_fd: int
    write_fd: int


def parse_jobserver(env: Mapping[bytes, bytes]) -> Jobserver | None:
    """From CARGO_MAKEFLAGS, MAKEFLAGS or MFLAGS; the last auth wins, as in make."""
    for name in (b"CARGO_MAKEFLAGS", b"MAKEFLAGS", b"MFLAGS"):
        found = _AUTH.findall(env.get(name, b""))
        if found:
            fifo, read_fd, write_fd = found[-1]
            if fifo:
                return Jobserver(fifo, -1, -1)
            return Jobserver(None, int(read_fd), int(write_fd))
    return None


def token_source(env: Mapping[bytes, bytes]) -> bytes:
    """What a wrapper reads a token from before it compiles at home: fd digits or a fifo's path."""
    jobserver = parse_jobserver(env)
    if jobserver is None:
        return b""
    return jobserver.fifo or str(jobserver.read_fd).encode()


@attrs.define
class TokenPool:
    """One cargo's jobserver, opened by ourselves (its flags are not cargo's to suffer from)."""

    fd: int
    debt: int = 0
    donated: int = 0
    """Units in flight whose token we gave back."""
    users: int = 0

    def donate(self) -> bool:
        """A unit starts elsewhere: its token is given back; False if that cannot be done.

        What is owed counts as given: the token that is one too many goes on as this unit's.
        """
        self.settle()
        if self.debt > 0:
            self.debt -= 1
        else:
            try:
                os.write(self.fd, b"|")
            except OSError:
                return False
        self.donated += 1
        return True

    def finished(self) -> None:
        """A unit that had donated has ended: cargo will put its token back a second time."""
        self.donated -= 1
        self.debt += 1

    def reclaimed(self) -> None:
        """A unit that had donated goes on at home, and its wrapper takes a token itself."""
        self.donated -= 1

    def take(self) -> bool:
        """One token for a unit that goes on at home without its wrapper; False if none is free."""
        try:
            return bool(os.read(self.fd, 1))
        except OSError:
            return False

    def settle(self) -> None:
        """Take back what is owed, if it lies there; never waits."""
        while self.debt > 0:
            try:
                token = os.read(self.fd, 1)
            except OSError:
                return
            if not token:
                return
            self.debt -= 1

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class TokenPools:
    """Pools by cargo process; a pool lives as long as one of its wrappers is connected."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, int], TokenPool] = {}
        self._debts: dict[tuple[int, int], int] = {}
        """Of cargos that have no wrapper here just now."""

    def enter(
        self, caller: Caller, wrapper_pid: int, env: Mapping[bytes, bytes]
    ) -> TokenPool | None:
        """The pool of the wrapper's cargo; None where donating would be wrong or impossible."""
        if not caller.is_cargo or caller.environ is None:
            return None
        if parse_jobserver(caller.environ) is not None:
            return None
        key = (caller.pid, caller.start_ticks)
        pool = self._pools.get(key)
        if pool is None:
            jobserver = parse_jobserver(env)
            if jobserver is None:
                return None
            # /proc gives a description of our own: non-blocking for us, unchanged for cargo.
            path = jobserver.fifo or b"/proc/%d/fd/%d" % (wrapper_pid, jobserver.read_fd)
            try:
                fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return None
            pool = TokenPool(fd, self._debts.pop(key, 0))
            self._pools[key] = pool
        pool.users += 1
        return pool

    def leave(self, caller: Caller, pool: TokenPool) -> None:
        """A wrapper is gone; with the last one the pipe is let go, or cargo's make would wait."""
        pool.users -= 1
        pool.settle()
        if pool.users <= 0:
            key = (caller.pid, caller.start_ticks)
            self._pools.pop(key, None)
            pool.close()
            if pool.debt:
                if len(self._debts) > 256:
                    self._debts.clear()
                self._debts[key] = pool.debt
