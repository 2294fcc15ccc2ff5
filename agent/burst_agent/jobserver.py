"""A GNU make jobserver for all rustcs of this agent: its threads are hardly more than its slots.

Every running action holds one token (`take`); rustc reads more for its code generation threads and
writes them back. A rustc that is killed takes its tokens with it, so the pool is filled up again
whenever nothing runs. Protocol: GNU make manual, "POSIX Jobserver Interaction"; rustc and cargo use
the `jobserver` crate, which looks at CARGO_MAKEFLAGS first.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

_TOKEN: Final = b"+"
# Away from the small numbers that launchers and shells like to use for themselves.
_FIRST_FD: Final = 100


class Jobserver:
    """A pipe full of tokens. The descriptors must be inherited under their own numbers."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        ends = os.pipe()
        self.read_fd, self.write_fd = (
            fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD) for end in ends
        )
        for end in ends:
            os.close(end)
        # An open of our own: O_NONBLOCK on a shared description would change it for rustc, too.
        self.own_fd = os.open(
            f"/proc/self/fd/{self.read_fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )
        os.write(self.write_fd, _TOKEN * tokens)

    @property
    def environment(self) -> tuple[bytes, bytes]:
        """What cargo sets for rustc, too: nothing that a macro sees differs in name from home."""
        ends = b"%d,%d" % (self.read_fd, self.write_fd)
        return b"CARGO_MAKEFLAGS", b"-j --jobserver-fds=%s --jobserver-auth=%s" % (ends, ends)

    @property
    def fds(self) -> tuple[int, int]:
        return self.read_fd, self.write_fd

    def take(self) -> bool:
        """One token, without waiting; False if all are in use."""
        try:
            return bool(os.read(self.own_fd, 1))
        except BlockingIOError:
            return False

    def give(self) -> None:
        os.write(self.write_fd, _TOKEN)

    def refill(self) -> None:
        """Only while nothing runs: makes the pool whole again, whatever the dead took or added."""
        while True:
            try:
                if not os.read(self.own_fd, 4096):
                    break
            except BlockingIOError:
                break
        os.write(self.write_fd, _TOKEN * self.tokens)

    def close(self) -> None:
        for fd in (self.own_fd, self.read_fd, self.write_fd):
            os.close(fd)
