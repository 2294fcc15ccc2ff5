"""The cloud's own time: what `created`, action timestamps and the bill are made of.

API time = real time x scale + offset, all in seconds. A test moves it by `advance`, stands it still
with scale 0, or has it a day away from home's clock with `offset_s`.
"""

from __future__ import annotations

import datetime as dt
import threading
import time
from typing import Final

UTC: Final = dt.UTC


class Clock:
    """Thread-safe. `now` is seconds since the epoch in API time; it never runs backwards, except by
    a negative `advance`."""

    def __init__(self, *, offset_s: float = 0.0, scale: float = 1.0) -> None:
        self._lock = threading.Lock()
        self._scale = scale
        self._base = time.time() + offset_s
        self._since = time.monotonic()

    def now(self) -> float:
        with self._lock:
            return self._now()

    def _now(self) -> float:
        return self._base + (time.monotonic() - self._since) * self._scale

    @property
    def scale(self) -> float:
        return self._scale

    @scale.setter
    def scale(self, scale: float) -> None:
        with self._lock:
            self._base, self._since = self._now(), time.monotonic()
            self._scale = scale

    def advance(self, seconds: float) -> None:
        """Time passes at once."""
        with self._lock:
            self._base += seconds

    def set(self, now: float) -> None:
        """Seconds since the epoch."""
        with self._lock:
            self._base, self._since = now, time.monotonic()

    def real_seconds(self, seconds: float) -> float:
        """How long one waits for that much API time. Infinite if time stands still."""
        return seconds / self._scale if self._scale > 0 else float("inf")


def stamp(seconds: float) -> str:
    """As the API writes times: RFC 3339 in UTC, whole seconds, `Z`."""
    return dt.datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
