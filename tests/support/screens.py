"""A person at a terminal: a process in a session of its own, on a pty, in the foreground."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

PATIENCE_S = 60.0


@define
class Screen:
    """The terminal's other end, and who sits in it."""

    master: int
    pid: int
    shown: bytes = b""
    status: int | None = field(default=None)

    @classmethod
    @contextmanager
    def open(
        cls,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path | str = "/",
        *,
        rows: int = 24,
        columns: int = 80,
    ) -> Iterator[Screen]:
        words = [os.fspath(word) for word in argv]
        pid, master = pty.fork()
        if not pid:
            try:
                os.chdir(cwd)
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
                os.execvpe(words[0], words, dict(env))
            finally:
                os._exit(127)
        screen = cls(master, pid)
        try:
            yield screen
        finally:
            if screen.status is None:
                os.kill(pid, signal.SIGKILL)
                os.kill(pid, signal.SIGCONT)
                os.waitpid(pid, 0)
            os.close(master)

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def until(self, text: bytes) -> bytes:
        """What was shown up to and with this; AssertionError if it does not come."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            assert self._read(deadline), (text, self.shown)
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def _read(self, deadline: float) -> bool:
        """Whether more came."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.master], [], [], left)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        self.shown += data
        return bool(data)

    def end(self) -> int:
        """Its exit code when it has ended, negative for a signal."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def mode(self) -> list[object]:
        """The terminal's settings; they outlive who made them while somebody holds it."""
        return termios.tcgetattr(self.master)

    def cooked(self) -> bool:
        flags = termios.tcgetattr(self.master)[3]
        return bool(flags & termios.ICANON) and bool(flags & termios.ECHO)
