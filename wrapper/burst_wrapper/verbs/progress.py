"""One quiet row at the bottom of the terminal while cargo builds above it.

Cargo draws its bar on the line of the cursor, and whatever it prints scrolls. So the last row is
taken out of what scrolls (DECSTBM, as `apt` does for its bar): cargo's cursor never comes there,
and ours is moved there, written and brought back within one write(2), between two of cargo's. The
row appears only once units are at work, and is gone while none is.

No row where programs take over the terminal (`run`), and none where cargo draws no bar either.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError
from burst_wrapper.verbs.summary import size, units

if TYPE_CHECKING:
    from burst_wrapper.home_wire import Progress

INTERVAL_S: Final = 0.25
QUIET_AFTER: Final = 4
"""So many looks without a unit at work, and the row goes."""
_FEWEST_ROWS: Final = 6
_FEWEST_COLUMNS: Final = 30
_SERVER_WORDS: Final = {
    "boots": "server boots",
    "connecting": "connecting",
    "lost": "connection lost",
}


def wanted(environ: Mapping[bytes, bytes], *, quiet: bool, json: bool, verb: str) -> bool:
    """Whether to show one: as cargo decides about its bar, and the terminal is not a program's."""
    if quiet or json or verb in ("run", "run-local", "run-remote"):
        return False
    if environ.get(b"TERM", b"dumb") == b"dumb" or environ.get(b"CI"):
        return False
    if environ.get(b"CARGO_TERM_PROGRESS_WHEN") == b"never" or not os.isatty(2):
        return False
    try:  # a shell's background job must not write
        return os.tcgetpgrp(2) == os.getpgrp()
    except OSError:
        return False


def text(progress: Progress, executor: str) -> str:
    """What stands in the row."""
    parts = [units(progress, executor)]
    if progress.running:
        parts.append(f"{progress.running} at work")
    if executor != "home" and progress.bytes_up + progress.bytes_down >= 1000:
        parts.append(f"↑ {size(progress.bytes_up)} ↓ {size(progress.bytes_down)}")
    if progress.server in _SERVER_WORDS:
        parts.append(_SERVER_WORDS[progress.server])
    return "burst: " + " · ".join(part for part in parts if part)


class Screen:
    """The escape sequences, for a terminal of some size. Every answer is one write."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    @property
    def fits(self) -> bool:
        return self.rows >= _FEWEST_ROWS and self.columns >= _FEWEST_COLUMNS

    def begin(self, words: str) -> bytes:
        """Make room below the cursor, which stays on its line, and take the last row away."""
        return b"\x1bD\x1b[1A\x1b7\x1b[1;%dr\x1b8" % (self.rows - 1) + self.draw(words)

    def draw(self, words: str) -> bytes:
        row = words[: self.columns - 1].encode("utf-8", "replace")
        return b"\x1b7\x1b[%d;1H\x1b[0m\x1b[2K\x1b[2m%b\x1b[0m\x1b8" % (self.rows, row)

    def end(self) -> bytes:
        return b"\x1b7\x1b[r\x1b[%d;1H\x1b[0m\x1b[2K\x1b8" % self.rows


class Row:
    """Shows the row from a thread of its own, between `start` and `stop`."""

    def __init__(self, ask: Callable[[], Progress], executor: str, fd: int = 2) -> None:
        self._ask, self._executor, self._fd = ask, executor, fd
        self._screen: Screen | None = None
        self._idle = QUIET_AFTER
        self._end = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._before: object = None

    def start(self) -> None:
        """Main thread only: Ctrl-Z must leave a clean terminal behind."""
        self._before = signal.signal(signal.SIGTSTP, self._suspended)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join()
        with self._lock:
            self._hide()
        if self._before is not None:
            signal.signal(signal.SIGTSTP, self._before)  # type: ignore[arg-type]

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while not self._end.wait(INTERVAL_S):
            try:
                progress = self._ask()
            except BurstError:
                progress = None
            with self._lock:
                if progress is None:  # the daemon is gone; cargo compiles by itself
                    self._hide()
                    return
                self.look(progress)

    def look(self, progress: Progress) -> None:
        """Show what is so now."""
        self._idle = 0 if progress.running else self._idle + 1
        if self._idle >= QUIET_AFTER or not (progress.running or units(progress, self._executor)):
            self._hide()
            return
        words = text(progress, self._executor)
        screen = self._size()
        if screen is None or not screen.fits:
            self._hide()
        elif self._screen is None:
            self._screen = screen
            self._write(screen.begin(words))
        elif (screen.rows, screen.columns) != (self._screen.rows, self._screen.columns):
            self._screen = screen  # a terminal forgets its margins when its size changes, or not
            self._write(screen.end() + screen.begin(words))
        else:
            self._write(screen.draw(words))

    def _hide(self) -> None:
        if self._screen is not None:
            self._write(self._screen.end())
            self._screen = None

    def _suspended(self, _number: int, _frame: FrameType | None) -> None:
        if self._lock.acquire(timeout=1):
            try:
                self._hide()
            finally:
                self._lock.release()
        # Its usual action, and not SIGSTOP: where no shell could continue us (a container's first
        # process), the kernel lets it pass.
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._suspended)

    def _size(self) -> Screen | None:
        try:
            size_now = os.get_terminal_size(self._fd)
        except OSError:
            return None
        return Screen(size_now.lines, size_now.columns)

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._fd, data)
