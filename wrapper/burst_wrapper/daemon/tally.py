"""What one session has used and saved, counted while it runs."""

from __future__ import annotations

import os
import time

from burst_wrapper.home_wire import Progress


class Tally:
    """`saved_ms` is an estimate, and says so where it is shown.

    Without burst, all rustc time of this session would have been spent on this machine's cores, at
    best all of them at once. It is compared with the wall time during which units were under way.
    The rustc time of a hit is what it took whoever compiled it; that of a unit elsewhere is that
    of a machine that may be faster than this one, so that the true figure is rather higher.
    """

    def __init__(self) -> None:
        self.units_remote = 0
        self.hits = 0
        self.local = 0
        self.programs = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._rustc_ms = 0
        self._running: set[object] = set()
        self._busy_s = 0.0
        self._since_s = 0.0
        self.began_s = time.monotonic()

    def begin(self, work: object) -> None:
        """A unit or a program is under way until `end`."""
        if not self._running:
            self._since_s = time.monotonic()
        self._running.add(work)

    def end(self, work: object) -> None:
        if work in self._running:
            self._running.discard(work)
            if not self._running:
                self._busy_s += time.monotonic() - self._since_s

    def unit(
        self, where: str, rustc_ms: int, sent_bytes: int, received_bytes: int, *, away: bool
    ) -> None:
        """As the journal has it: `hit`, `remote`, `local` … `away`: on another machine."""
        if where == "hit":
            self.hits += 1
        elif where == "remote" and away:
            self.units_remote += 1
        elif where in ("local", "remote"):
            self.local += 1
        self._rustc_ms += rustc_ms
        if away:
            self.bytes_up += sent_bytes
            self.bytes_down += received_bytes

    def progress(self, server: str) -> Progress:
        return Progress(
            self.units_remote,
            self.hits,
            self.local,
            len(self._running),
            self.bytes_up,
            self.bytes_down,
            server,
        )

    @property
    def wall_ms(self) -> int:
        return round((time.monotonic() - self.began_s) * 1000)

    @property
    def saved_ms(self) -> int:
        busy_s = self._busy_s
        if self._running:
            busy_s += time.monotonic() - self._since_s
        return max(0, round(self._rustc_ms / (os.cpu_count() or 1) - busy_s * 1000))
