"""Who may run next: slots by cores, by free memory and by the jobserver's tokens."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from burst_agent.jobserver import Jobserver

MEMORY_PER_RUN_BYTES: Final = 1 << 30
SPARE_THREADS: Final = 1
"""Tokens beyond the slots. A rustc that holds one computes nothing in about a tenth of its time:
it reads, writes, or one of its threads waits for another; then a core is idle that a thread of its
neighbour could use. What is gained: `benchmarks/cold_cpu.py`, cores busy."""
# A rustc that has just started does not show in MemAvailable yet.
_YOUNG_S: Final = 3.0
_RETRY_S: Final = 0.25


def default_slots() -> int:
    """The cores this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def available_memory_bytes() -> int:
    """MemAvailable, or what the cgroup leaves if that is less; a huge number if unknown."""
    available = 1 << 62
    try:
        with open("/proc/meminfo", "rb") as file:
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    available = int(line.split()[1]) * 1024
                    break
    except (OSError, ValueError):
        pass
    try:
        with open("/sys/fs/cgroup/memory.max", "rb") as file:
            limit = int(file.read())
        with open("/sys/fs/cgroup/memory.current", "rb") as file:
            return min(available, max(0, limit - int(file.read())))
    except (OSError, ValueError):  # no cgroup of our own, or "max"
        return available


class Slots:
    """A priority queue in front of the cores. Only for the event loop's thread."""

    def __init__(
        self,
        count: int,
        jobserver: Jobserver,
        *,
        memory_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        self.count = count
        self.running = 0
        self._jobserver = jobserver
        self._memory_bytes = memory_bytes
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._for_all: deque[asyncio.Future[None]] = deque()
        self._held = False
        self._numbers = itertools.count()
        self._started_s: list[float] = []
        self._watching = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        return sum(not future.done() for _, _, future in self._queue)

    async def acquire(self, priority: int) -> None:
        """Waits for a slot; higher priorities first, equal ones in order."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (-priority, next(self._numbers), future))
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()  # granted in the same moment
            raise

    def release(self) -> None:
        self.running -= 1
        if self.running:
            self._jobserver.give()
        else:
            self._jobserver.refill()
        self._grant()

    async def acquire_all(self) -> None:
        """Waits until nothing runs; nothing begins from now on until `release_all`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._for_all.append(future)
        self._grant()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release_all()  # granted in the same moment
            else:
                self._grant()  # what waited behind us
            raise

    def release_all(self) -> None:
        self._held = False
        self._grant()

    def close(self) -> None:
        self._watch(wanted=False)
        if self._timer is not None:
            self._timer.cancel()

    def _grant(self) -> None:
        if self._held_for_all():
            self._watch(wanted=False)
            return
        while self._queue:
            if self._queue[0][2].done():
                heapq.heappop(self._queue)
                continue
            if self.running and not self._may_start():
                return
            if not self.running:
                # Whoever is alone may always run: nothing that was lost can stop everything.
                self._jobserver.take()
            self.running += 1
            self._started_s.append(asyncio.get_running_loop().time())
            heapq.heappop(self._queue)[2].set_result(None)
        self._watch(wanted=False)

    def _held_for_all(self) -> bool:
        """Gives everything to who wants all of it, or keeps it for that."""
        while self._for_all and self._for_all[0].done():
            _ = self._for_all.popleft()
        if self._for_all and not self._held and not self.running:
            self._held = True
            self._for_all.popleft().set_result(None)
        return self._held or bool(self._for_all)

    def _may_start(self) -> bool:
        """Takes a token, or arranges to be asked again."""
        if self.running >= self.count:
            self._watch(wanted=False)
            return False
        now_s = asyncio.get_running_loop().time()
        self._started_s = [start for start in self._started_s if now_s - start < _YOUNG_S]
        young = min(len(self._started_s), self.running)
        if self._memory_bytes() < (young + 1) * MEMORY_PER_RUN_BYTES:
            self._watch(wanted=False)
            self._retry_later()
            return False
        if not self._jobserver.take():
            self._watch(wanted=True)
            return False
        return True

    def _watch(self, *, wanted: bool) -> None:
        """Looks at the pipe only while somebody waits for a token and nothing else."""
        if wanted == self._watching:
            return
        loop = asyncio.get_running_loop()
        if wanted:
            loop.add_reader(self._jobserver.own_fd, self._grant)
        else:
            loop.remove_reader(self._jobserver.own_fd)
        self._watching = wanted

    def _retry_later(self) -> None:
        if self._timer is None or self._timer.cancelled():
            self._timer = asyncio.get_running_loop().call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._timer = None
        self._grant()
