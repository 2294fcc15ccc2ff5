"""Work that nobody waits for waits until nobody waits for anything.

When a unit's wrapper has its answer, what was seen is still to be hashed and written down for later
builds. On a machine that compiles with all its cores that would take a tenth from the units that
cargo waits for; so it is done when they are through, or when somebody asks for that very unit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import attrs

PAUSE_S: Final = 0.05
"""Between two units cargo takes some milliseconds; that is not the end of a build."""
LIMIT: Final = 256
"""So many units may wait; a waiting one holds some tens of kilobytes. The oldest go first."""


@attrs.define(eq=False)
class _Waiting:
    key: bytes
    go: asyncio.Event = attrs.field(factory=asyncio.Event)
    done: asyncio.Event = attrs.field(factory=asyncio.Event)


class Calm:
    """Counts who is waited for, and lets the others have their turns. For one event loop."""

    def __init__(self) -> None:
        self._busy = 0
        self._waiting: dict[_Waiting, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._hurried = False

    def began(self) -> None:
        """Somebody waits for a unit."""
        self._busy += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ended(self) -> None:
        """It was answered, or nobody waits any more. As often as `began`."""
        self._busy -= 1
        self._look()

    def hurry(self) -> None:
        """We end: no more waiting."""
        self._hurried = True
        for waiting in self._waiting:
            waiting.go.set()

    @contextlib.asynccontextmanager
    async def turn(self, key: bytes) -> AsyncIterator[None]:
        """Around what has time. Begins when it is calm, when too much waits, or by `settle`."""
        mine = _Waiting(key)
        self._waiting[mine] = None
        if self._hurried:
            mine.go.set()
        elif sum(not waiting.go.is_set() for waiting in self._waiting) > LIMIT:
            self._release()
        self._look()
        try:
            await mine.go.wait()
            yield
        finally:
            del self._waiting[mine]
            mine.done.set()
            self._look(0)

    async def settle(self, key: bytes) -> None:
        """What waits under this key is done now: somebody wants to know."""
        for waiting in [waiting for waiting in self._waiting if waiting.key == key]:
            waiting.go.set()
            await waiting.done.wait()

    def _look(self, pause_s: float = PAUSE_S) -> None:
        if self._busy == 0 and self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._next)

    def _next(self) -> None:
        """One at a time: a new unit finds us idle soon."""
        self._timer = None
        self._release()

    def _release(self) -> None:
        """The oldest one goes on."""
        for waiting in self._waiting:
            if not waiting.go.is_set():
                waiting.go.set()
                return
