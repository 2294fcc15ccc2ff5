"""The terminal of a program that runs elsewhere: its mode, its size, what was switched on it.

Loaded by `runner`, by its path, and as light; `termios` only where there is a terminal.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIGCONT, SIGTSTP, SIGWINCH = 18, 20, 28
FORWARDED = (1, 2, 3, 10, 12, 15)
"""Signals that a program gets instead of its stand-in: HUP, INT, QUIT, USR1, USR2, TERM."""


class Terminal:
    """Our stdin's mode: raw while the program has it, and as it was however we end.

    A child of ours waits for that: it puts the mode back if we are killed.
    """

    def __init__(self) -> None:
        import termios  # noqa: PLC0415 - see the module's docstring

        self._termios = termios
        self._before: list[Any] = termios.tcgetattr(0)
        self._raw = False
        self._guard = -1
        self._alive = -1
        self.interrupt: bytes = self._before[6][termios.VINTR]

    def is_ours(self) -> bool:
        """Whether we are in the foreground."""
        try:
            return posix.tcgetpgrp(0) == posix.getpgrp()
        except OSError:
            return True  # not our controlling terminal: nobody takes it away

    def take(self) -> None:
        """In the background nothing happens: SIGCONT tells when that is over. Nor where another
        stand-in has it: nextest lists several executables at once, and the last one to leave would
        put back what the first one made of it."""
        if self._raw or not self.is_ours():
            return
        termios = self._termios
        try:
            before = termios.tcgetattr(0)
            mode: list[Any] = [*before[:6], list(before[6])]
            mode[0] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
            )  # fmt: skip
            mode[1] &= ~termios.OPOST
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(
                termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
            )
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            if mode[:4] == before[:4]:
                return
            self._before = before
            if self._guard < 0:
                self._start_guard()
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
            self._raw = True
        except termios.error:
            pass  # it hung up

    def give_back(self) -> None:
        if not self._raw:
            return
        self._raw = False
        try:
            self._termios.tcsetattr(0, self._termios.TCSADRAIN, self._before)
        except self._termios.error:
            pass

    def leave(self) -> None:
        self.give_back()
        if self._guard > 0:
            try:
                posix.write(self._alive, b"k")
                posix.waitpid(self._guard, 0)
            except OSError:
                pass
            self._guard = -1

    def _start_guard(self) -> None:
        waits, self._alive = posix.pipe()
        self._guard = posix.fork()
        if self._guard:
            posix.close(waits)
            return
        try:
            # A session of its own: no terminal stops it, and who ends our group does not end it.
            posix.setsid()
            signals = sys.modules["_signal"]
            signals.set_wakeup_fd(-1)
            for number in (*FORWARDED, SIGCONT, SIGTSTP, SIGWINCH):
                signals.signal(number, signals.SIG_IGN)
            # It must hold nobody's pipe, and not our connection.
            for name in posix.listdir("/proc/self/fd"):
                if int(name) not in (0, waits):
                    try:
                        posix.close(int(name))
                    except OSError:
                        pass
            if not posix.read(waits, 1):
                self._termios.tcsetattr(0, self._termios.TCSADRAIN, self._before)
        finally:
            posix._exit(0)


class Modes:
    """Which of a terminal's private modes a program has switched: alternate screen, mouse …

    Only put back when a program's end is not known: one that ends has done so, or wanted them.
    """

    KEPT = (1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004)

    def __init__(self) -> None:
        self._on: dict[int, None] = {}
        self._hidden = False
        self._tail = b""

    def saw(self, data: bytes) -> None:
        data = self._tail + data
        at = data.find(b"\x1b[?")
        while at >= 0:
            end = at + 3
            while end < len(data) and data[end] in b"0123456789;":
                end += 1
            if end == len(data):
                break
            for number in data[at + 3 : end].split(b";"):
                if data[end] in b"hl" and number.isdigit():
                    self._switch(int(number), data[end] == ord("h"))
            at = data.find(b"\x1b[?", end)
        self._tail = data[at:][:64] if at >= 0 else data[-2:]

    def _switch(self, number: int, on: bool) -> None:
        if number == 25:
            self._hidden = not on
        elif number in self.KEPT:
            if on:
                self._on[number] = None
            else:
                self._on.pop(number, None)

    def undo(self) -> bytes:
        """Empty if there is nothing to put back."""
        text = b"".join([b"\x1b[?%dl" % number for number in self._on])
        if self._hidden:
            text += b"\x1b[?25h"
        return text + b"\x1b[0m" if text else b""


def is_terminal(fd: int) -> bool:
    try:
        return posix.isatty(fd)
    except OSError:
        return False


def size(terminals: int) -> tuple[int, int]:
    """Rows and columns of whichever is a terminal; 24 and 80 if none knows."""
    for fd in (1, 2, 0):
        if terminals & (1 << fd):
            try:
                columns, rows = posix.get_terminal_size(fd)
            except OSError:
                continue
            if rows and columns:
                return rows, columns
    return 24, 80
