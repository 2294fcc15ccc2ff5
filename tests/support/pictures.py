"""A terminal that a test can look at: a real pty, and pyte (a VT102) that draws what comes out."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyte

ROWS, COLUMNS = 16, 80


class Screen:
    """What stands on it now, and all that was written to it."""

    def __init__(self, rows: int = ROWS, columns: int = COLUMNS) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""

    def feed(self, data: bytes) -> None:
        self.written += data
        self._stream.feed(data)

    @property
    def lines(self) -> list[str]:
        """All rows, right-stripped."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def last(self) -> str:
        return self.lines[-1]

    @property
    def text(self) -> list[str]:
        """Also what has scrolled away; without empty lines."""
        history = (
            "".join(row[column].data for column in range(self.screen.columns)).rstrip()
            for row in self.screen.history.top
        )
        return [line for line in (*history, *self.lines) if line]


def run(
    argv: Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    seen: Callable[[Screen, int], object] = lambda _screen, _master: None,
) -> tuple[int, Screen]:
    """A command with the terminal as its own; `seen` is called after whatever it writes, with the
    screen and the terminal's other end. Gives the exit code (-N: a signal)."""
    pid, master = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
        os.chdir(cwd)
        os.execve(argv[0], list(argv), dict(env))
    screen = Screen()
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not data:
                break
            screen.feed(data)
            seen(screen, master)
    finally:
        os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen
