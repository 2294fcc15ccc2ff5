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
    go: asyncio.Event = attrs.field(factory=asyncio.Event)
    done: asyncio.Event = attrs.field(factory=asyncio.Event)


class Calm:
    """Counts who is waited for, and lets the others have their turns. For one event loop."""

    def __init__(self) -> None:
        self._busy = 0
        self._queue: dict[_Waiting, None] = {}
        """Those whose turn has not come, the oldest first."""
        self._keys: dict[bytes, dict[_Waiting, None]] = {}
        """All that have not ended."""
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
        assert self._busy > 0, "somebody ended who had not begun"
        self._busy -= 1
        self._look(PAUSE_S)

    def hurry(self) -> None:
        """We end: no more waiting."""
        self._hurried = True
        while self._queue:
            self._release(next(iter(self._queue)))

    @contextlib.asynccontextmanager
    async def turn(self, key: bytes) -> AsyncIterator[None]:
        """Around what has time. Begins when it is calm, when too much waits, or by `settle`."""
        mine = _Waiting()
        self._queue[mine] = None
        self._keys.setdefault(key, {})[mine] = None
        if self._hurried:
            self._release(mine)
        elif len(self._queue) > LIMIT:
            self._release(next(iter(self._queue)))
        self._look(PAUSE_S)
        try:
            await mine.go.wait()
            yield
        finally:
            self._queue.pop(mine, None)
            same = self._keys[key]
            del same[mine]
            if not same:
                del self._keys[key]
            mine.done.set()
            self._look(0)

    async def settle(self, key: bytes) -> None:
        """What waits under this key is done now: somebody wants to know."""
        for waiting in tuple(self._keys.get(key, ())):
            self._release(waiting)
            await waiting.done.wait()

    def _look(self, pause_s: float) -> None:
        if self._busy == 0 and self._queue and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(pause_s, self._next)

    def _next(self) -> None:
        """One at a time: a new unit finds us idle soon."""
        self._timer = None
        if self._queue:
            self._release(next(iter(self._queue)))

    def _release(self, waiting: _Waiting) -> None:
        self._queue.pop(waiting, None)
        waiting.go.set()
