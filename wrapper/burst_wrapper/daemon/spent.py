"""Where the wall time of one build went: every moment belongs to one part."""

from __future__ import annotations

import time
from collections.abc import Callable


class Spent:
    """Counts what runs. While anything runs elsewhere the moment is remote, else it is home's."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._since_s = now_s()
        self._away: set[object] = set()
        self.remote_s = 0.0
        self.home_s = 0.0

    def away(self, unit: object) -> None:
        """It runs on another machine from now on."""
        self._count()
        self._away.add(unit)

    def over(self, unit: object) -> None:
        """It does not, any more or at all."""
        self._count()
        self._away.discard(unit)

    def _count(self) -> None:
        now_s = self._now_s()
        if self._away:
            self.remote_s += now_s - self._since_s
        else:
            self.home_s += now_s - self._since_s
        self._since_s = now_s
