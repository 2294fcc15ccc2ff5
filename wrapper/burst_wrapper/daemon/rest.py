"""When a host that failed is tried again: pure.

One that was there a moment ago mostly is back in a moment: a laptop has changed its network, a
machine reboots. A build that takes longer than that shall have it again, so such a host is dialled
by itself, soon and often; for ten minutes, then as seldom as one that was never reached.
"""

from __future__ import annotations

from typing import Final

from burst_protocol.errors import AgentGone, BurstError, LinkLost, Unreachable

_REST_S: Final = 20.0
_REST_MAX_S: Final = 600.0
"""Of a host that was not reached: doubling from the first to the second."""
_SOON_S: Final = 1.0
_SOON_MAX_S: Final = 20.0
"""Of one that was lost, likewise."""
_HOPE_S: Final = 600.0
_STEADY_S: Final = 60.0
"""A connection that lasted so long says that the next one will last, too."""
# Not what asking again makes worse: a refused login, another host key, a server that drains.
_PASSING: Final = (LinkLost, AgentGone, Unreachable)


class Rest:
    """Of one host. All times are the caller's monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self._next_s = _REST_S
        self._since_s = 0.0
        self._hope_until_s: float | None = None
        """None before the first loss."""

    def reached(self, now_s: float) -> None:
        """It is there, and ready."""
        self._since_s = now_s
        self.until_s = now_s
        if self._hope_until_s is None:
            self._next_s = _SOON_S

    def lost(self, now_s: float) -> None:
        """It was there, and is not any more; `failed` says why."""
        steady = now_s - self._since_s >= _STEADY_S
        if steady:
            self._next_s = _SOON_S
        if steady or self._hope_until_s is None:
            self._hope_until_s = now_s + _HOPE_S

    def failed(self, error: BurstError, now_s: float) -> bool:
        """It rests `until_s`. Whether it is then to be tried whoever asks."""
        soon = now_s < (self._hope_until_s or 0.0) and isinstance(error, _PASSING)
        pause_s = self._next_s if soon else max(self._next_s, _REST_S)
        self.until_s = now_s + pause_s
        self._next_s = min(2 * pause_s, _SOON_MAX_S if soon else _REST_MAX_S)
        return soon
