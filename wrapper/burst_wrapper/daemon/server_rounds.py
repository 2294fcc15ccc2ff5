"""Who reaps when: the keepers of several projects look after the same servers."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from burst_lifecycle.session import Lifecycle

REAP_S: Final = 60.0
"""While there are servers, so often."""


class Rounds:
    """Of one daemon, for all of its keepers."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], tuple[float, bool]] = {}
        self._turns: dict[tuple[str, str], asyncio.Lock] = {}

    def turn(self, lifecycle: Lifecycle) -> asyncio.Lock:
        """Held while one of them makes a round."""
        return self._turns.setdefault(_whose(lifecycle), asyncio.Lock())

    def lately(self, lifecycle: Lifecycle) -> bool | None:
        """Whether servers were there in a round that another has just made; None: make one."""
        at_s, exists = self._last.get(_whose(lifecycle), (-REAP_S, False))
        return exists if time.monotonic() - at_s < REAP_S / 2 else None

    def made(self, lifecycle: Lifecycle, *, exists: bool) -> None:
        self._last[_whose(lifecycle)] = time.monotonic(), exists


def _whose(lifecycle: Lifecycle) -> tuple[str, str]:
    """Servers of one owner under one token are the same, whichever project asks."""
    context = lifecycle.context
    return f"{context.account.endpoint} {context.account.token}", context.wishes.owner
