"""The last words of a verb, on stderr, in the form of cargo's own."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from burst_wrapper.home_wire import Progress, Summary

_COLUMN: Final = 12
"""cargo's words of status end here."""
_LISTED: Final = 8
WAIT_S: Final = 2.0


def sentence(summary: Summary, executor: str) -> str:
    """What ran where, what it saved, what it cost; empty if there is nothing to say."""
    progress = summary.progress
    parts = [part for part in (units(progress, executor), _programs(summary, executor)) if part]
    if executor != "home" and progress.bytes_up + progress.bytes_down >= 1000:
        parts.append(f"{size(progress.bytes_up)} sent, {size(progress.bytes_down)} received")
    if summary.saved_ms >= 1000:
        parts.append(f"about {seconds(summary.saved_ms)} saved")
    if summary.cost_eur.strip("0."):  # within an hour that is paid, a verb costs nothing
        parts.append(f"€{summary.cost_eur}")
    return "; ".join(parts)


def units(progress: Progress, executor: str) -> str:
    """`12 hits, 3 compiled on build.example, 1 here`."""
    parts = []
    if progress.hits:
        parts.append(f"{progress.hits} {'hit' if progress.hits == 1 else 'hits'}")
    if progress.units_remote:
        parts.append(f"{progress.units_remote} compiled on {executor}")
    if progress.local:
        compiled = "" if progress.units_remote else "compiled "
        parts.append(f"{progress.local} {compiled}here")
    return ", ".join(parts)


def _programs(summary: Summary, executor: str) -> str:
    if not summary.programs:
        return ""
    word = "program" if summary.programs == 1 else "programs"
    return f"{summary.programs} {word} run on {executor}"


def size(number: int) -> str:
    """Bytes for people."""
    if number < 1000:
        return f"{number} B"
    if number < 1_000_000:
        return f"{number / 1000:.1f} kB"
    if number < 1_000_000_000:
        return f"{number / 1_000_000:.1f} MB"
    return f"{number / 1_000_000_000:.1f} GB"


def seconds(milliseconds: int) -> str:
    """`24 s`, `3 min 10 s`."""
    whole = round(milliseconds / 1000)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Voice:
    """Lines of ours on stderr, painted as cargo's are. `quiet`: only warnings and errors."""

    def __init__(
        self, environ: Mapping[bytes, bytes], *, color: str = "", quiet: bool = False
    ) -> None:
        self._quiet = quiet
        self._painted = _painted(environ, color)

    def status(self, word: str, text: str) -> None:
        """`       Burst 12 hits`, as cargo's `    Finished …`."""
        if text and not self._quiet:
            self._write(f"{self._paint('1;32', word.rjust(_COLUMN))} {text}")

    def note(self, text: str) -> None:
        if not self._quiet:
            self._write(f"{self._paint('1', 'note:')} {text}")

    def progress(self, text: str) -> None:
        """What is being waited for: for whoever sits before a terminal and waits, too."""
        if os.isatty(2):
            self.note(text)

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """Gives a function for what is being waited for. It is said only if it takes a while."""
        lock = threading.Lock()
        due = False
        latest = ""

        def say() -> None:
            nonlocal due
            with lock:
                due = True
                self.status("Waiting", latest)

        def note(text: str) -> None:
            nonlocal latest
            with lock:
                latest = text
                if due:
                    self.status("Waiting", text)

        timer = threading.Timer(WAIT_S, say)
        timer.daemon = True
        timer.start()
        try:
            yield note
        finally:
            timer.cancel()

    def warning(self, text: str) -> None:
        self._write(f"{self._paint('1;33', 'warning:')} {text}")

    def hint(self, text: str) -> None:
        self._write(f"{self._paint('1;36', 'hint:')} {text}")

    def files(self, what: str, paths: Iterable[bytes], root: bytes) -> None:
        """At most some of them by name, relative to the project."""
        names = [_relative(path, root) for path in paths]
        for name in names[:_LISTED]:
            self.status(what, name)
        if len(names) > _LISTED:
            self.status(what, f"and {len(names) - _LISTED} more")

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._painted else text

    def _write(self, line: str) -> None:
        data = (line + "\n").encode("utf-8", "backslashreplace")
        sys.stderr.flush()
        try:
            os.write(2, data)  # in one piece: others write to the same terminal
        except OSError:
            return


def _painted(environ: Mapping[bytes, bytes], color: str) -> bool:
    """cargo's own rules (`--color`, CARGO_TERM_COLOR), then NO_COLOR and the terminal."""
    wish = color or environ.get(b"CARGO_TERM_COLOR", b"").decode("ascii", "replace")
    if wish in ("always", "never"):
        return wish == "always"
    return os.isatty(2) and not environ.get(b"NO_COLOR") and environ.get(b"TERM") != b"dumb"


def _relative(path: bytes, root: bytes) -> str:
    name = path.removeprefix(root.rstrip(b"/") + b"/")
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
