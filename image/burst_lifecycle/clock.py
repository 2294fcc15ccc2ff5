"""API time: what expiry labels, paid hours and bills are made of.

Home's clock may be a day off and be set in the middle of everything; the API's is the one that
bills. So API time is anchored to a clock that only runs forward and through suspend
(CLOCK_BOOTTIME), by the start of our own actions, or until there was one by the answers' Date.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from typing import Final

import attrs

LARGE_S: Final = 300.0
_HALF_SECOND: Final = 0.5
"""The API's times are whole seconds, cut off."""
_DRIFT: Final = 1e-4
"""Of a clock that nobody disciplines: 0.36 s an hour."""
_ACTION_COUNTS_S: Final = 3600.0


class Standing(enum.Enum):
    """How home's clock stands to the API's. Nothing that holds data is deleted automatically unless
    GOOD."""

    UNKNOWN = "unknown"
    GOOD = "good"
    LARGE = "large"
    """More than five minutes apart: one of the two is wrong, and we do not know which."""


def boot_time() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@attrs.frozen
class _Anchor:
    api_s: float
    steady_s: float
    error_s: float
    own_action: bool

    def at(self, steady_s: float) -> float:
        return self.api_s + steady_s - self.steady_s

    def error_at(self, steady_s: float) -> float:
        return self.error_s + abs(steady_s - self.steady_s) * _DRIFT


@attrs.define
class ApiClock:
    """Not thread-safe: told and asked in the event loop only."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = boot_time
    _anchor: _Anchor | None = attrs.field(default=None, init=False)

    def heard(self, api_s: float, begun: float, ended: float, *, own_action: bool) -> None:
        """An answer to a request that we sent at `begun` and read by `ended` (both `steady`) names
        that time: an own action's start, or else its Date."""
        middle, reach = (begun + ended) / 2, max(0.0, ended - begun) / 2
        new = _Anchor(api_s + _HALF_SECOND, middle, reach + _HALF_SECOND, own_action)
        old = self._anchor
        if old is None or self._better(new, old):
            self._anchor = new

    @staticmethod
    def _better(new: _Anchor, old: _Anchor) -> bool:
        if old.own_action and not new.own_action:
            return new.steady_s - old.steady_s > _ACTION_COUNTS_S
        if new.own_action and not old.own_action:
            return True
        error_s = old.error_at(new.steady_s)
        apart_s = abs(old.at(new.steady_s) - new.api_s)
        return new.error_s <= error_s or apart_s > error_s + new.error_s

    @property
    def offset_s(self) -> float | None:
        """API time minus home's wall clock now; None as long as no answer was heard."""
        if self._anchor is None:
            return None
        return self._anchor.at(self.steady()) - self.wall()

    def now_s(self) -> float:
        """API time, or home's until it is known."""
        if self._anchor is None:
            return self.wall()
        return self._anchor.at(self.steady())

    @property
    def standing(self) -> Standing:
        return standing(self.offset_s)


def standing(offset_s: float | None) -> Standing:
    """Of any port's `offset_s`."""
    if offset_s is None:
        return Standing.UNKNOWN
    return Standing.GOOD if abs(offset_s) <= LARGE_S else Standing.LARGE
