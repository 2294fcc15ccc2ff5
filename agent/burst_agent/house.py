"""What all clients of one agent process share: slots, jobserver, stores, the lease, notices."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from burst_agent import evict, stores
from burst_agent.jobserver import Jobserver
from burst_agent.lease import BEAT_S, WARN_S, Lease, Share
from burst_agent.place import Place
from burst_agent.runs import Run
from burst_agent.slots import SPARE_THREADS, Slots
from burst_protocol import messages as m
from burst_protocol.errors import BurstError

if TYPE_CHECKING:
    from burst_agent.network.network import Network
    from burst_protocol.programs import StartProgram

STOP_S: Final = 30.0
"""Patience with tasks that shall end: a disk may not answer."""
_STUCK: Final = 70
_NOTICES: Final = 20
_log = logging.getLogger("burst.agent")


@attrs.frozen
class Settings:
    """From the command line."""

    root: bytes
    local: bool
    slots: int
    store_limit_bytes: int
    patience_s: float = 0.0
    """A client that says nothing for so long is gone; 0 for one on this machine, whose end the
    kernel tells us."""
    orphan_s: float = 0.0
    """A run whose last client is gone goes on for so long, in case it comes back."""
    volumes: bytes | None = None
    """Where the owner's volumes are mounted, each in a folder of its own."""
    linger_s: float = 10.0
    """A store that nobody works in is closed after this time: then its volume can leave."""
    lease: str | None = None
    """The folder of this server's lease."""


class Guest(Protocol):
    """A client, as the house knows it."""

    def notice(self, text: str) -> None: ...


class House:
    """Made in the event loop. `open` and `leave` go in pairs; `close` ends all that runs."""

    def __init__(self, settings: Settings) -> None:
        """EnvironmentProblem if there is a lease and it cannot be kept."""
        self.settings = settings
        self._jobserver = Jobserver(settings.slots + SPARE_THREADS)
        self._slots = Slots(settings.slots, self._jobserver)
        self._share = None if settings.lease is None else Share(Lease(settings.lease))
        self._places: dict[bytes, Place] = {}
        self._opening = asyncio.Lock()
        self._guests: set[Guest] = set()
        self._said: deque[tuple[float, str]] = deque(maxlen=_NOTICES)
        self._claims: dict[bytes, Run] = {}
        """Of equal actions in several stores one is executed."""
        self._prolonging = 0
        self._programs: set[asyncio.Task[None]] = set()
        self._uncounted: list[m.Execute | StartProgram] = []
        """Runs that have ended and stand in the lease all the same: it could not be written."""
        self._executed = 0
        self._hits = 0
        self._beating: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._guest_numbers = 0
        self._network: Network | None = None
        if self._share is not None:
            self._beating = asyncio.create_task(self._beat())

    # Clients

    def enter(self, guest: Guest) -> int:
        """A client came; its number. Draining if it must go again."""
        if self._share is not None:
            self._share.attach()
        self._guests.add(guest)
        self._guest_numbers += 1
        for at_s, text in self._said:
            if time.monotonic() - at_s < WARN_S:
                guest.notice(text)
        return self._guest_numbers

    def exit(self, guest: Guest) -> None:
        if guest in self._guests:
            self._guests.discard(guest)
            if self._share is not None:
                with _logged():
                    self._share.detach()

    def active(self) -> None:
        """A client did something that is no run."""
        if self._share is not None:
            self._share.active()

    # Stores

    async def open(self, volume: str = "") -> Place:
        """The store on that volume, or the agent's own. DiskFull, EnvironmentProblem, OSError."""
        root = self.settings.root
        if volume:
            root = stores.volume_store(self.settings.volumes, volume)
        async with self._opening:
            place = self._places.get(root) or await self._open(root)
            if place.closing is not None:
                place.closing.cancel()
                place.closing = None
            place.users += 1
            return place

    async def _open(self, root: bytes) -> Place:
        limits = evict.Limits(limit_bytes=self.settings.store_limit_bytes)
        local = self.settings.local
        opening = asyncio.ensure_future(
            asyncio.to_thread(Place, root, self, limits, self._roots, local=local)
        )
        try:
            place = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The client is gone already; what its thread has opened must not stay open unseen.
            await asyncio.wait((opening,))
            if opening.exception() is None:
                await asyncio.shield(opening.result().close())
            raise
        place.start()
        self._places[root] = place
        return place

    def stay(self, place: Place) -> None:
        """Somebody works there who is no client: a program that may outlive its own."""
        place.users += 1

    def leave(self, place: Place) -> None:
        """One client less works there."""
        place.users -= 1
        self._close_later(place)

    def _close_later(self, place: Place) -> None:
        if not place.users and place.closing is None:
            loop = asyncio.get_running_loop()
            place.closing = loop.call_later(self.settings.linger_s, self._close_now, place)

    def _close_now(self, place: Place) -> None:
        place.closing = None
        task = asyncio.create_task(self._close_unused(place))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_unused(self, place: Place) -> None:
        async with self._opening:
            if place.closing is not None or self._places.get(place.store.root.path) is not place:
                return
            if place.busy:
                self._close_later(place)
                return
            del self._places[place.store.root.path]
            with _logged():
                await place.close()

    def _roots(self) -> list[bytes]:
        return [*stores.mounted(self.settings.volumes), self.settings.root]

    @property
    def network(self) -> Network:
        """Of the programs of all mirrors. Services' data lies on this machine's own disk, never on
        a volume: that is slower, and another server could have it at the same time."""
        if self._network is None:
            from burst_agent.network.network import Network  # noqa: PLC0415 - most agents need none

            root, volumes = self.settings.root, self.settings.volumes
            hidden = (root,) if volumes is None else (root, volumes)
            self._network = Network(os.path.join(root, b"services"), hidden=hidden)
        return self._network

    # Runs

    @property
    def slots(self) -> Slots:
        return self._slots

    @property
    def jobserver(self) -> Jobserver:
        return self._jobserver

    def claim(self, run: Run) -> Run:
        """See `place.Accounts`."""
        return self._claims.setdefault(run.key, run)

    def give(self, run: Run) -> None:
        if self._claims.get(run.key) is run:
            del self._claims[run.key]

    def begin(self, request: m.Execute | StartProgram) -> None:
        """Counts a run that starts. Draining: it must not."""
        if self._share is not None:
            self._share.begin(
                detached=request.detached, prolongs=request.prolongs, name=name_of(request)
            )
        self._prolonging += request.prolongs

    def keep(self, program: asyncio.Task[None]) -> None:
        """A program that goes on; `close` ends it."""
        self._programs.add(program)
        program.add_done_callback(self._programs.discard)

    def end(self, request: m.Execute | StartProgram) -> None:
        self._prolonging -= request.prolongs
        if self._share is not None:
            self._uncounted.append(request)
            self._count_ends()

    def _count_ends(self) -> None:
        share = self._share
        while share is not None and self._uncounted:
            request = self._uncounted[-1]
            try:
                share.end(
                    detached=request.detached, prolongs=request.prolongs, name=name_of(request)
                )
            except BurstError as error:
                _log.warning("%s", error)
                return  # tried again with the next beat
            self._uncounted.pop()

    def executed(self) -> None:
        self._executed += 1

    def hit(self) -> None:
        self._hits += 1

    def status(self, request_id: int, place: Place) -> m.Status:
        usage = place.store.root.usage()
        return m.Status(
            id=request_id,
            running=self._slots.running,
            queued=self._slots.queued,
            store_bytes=0 if usage is None else usage[0],
            executed=self._executed,
            hits=self._hits,
        )

    # Life

    async def _beat(self) -> None:
        share = self._share
        while share is not None:
            await asyncio.sleep(BEAT_S)
            self._count_ends()
            with _logged():
                share.beat(busy=self._prolonging > 0)
                for text in share.news():
                    self._said.append((time.monotonic(), text))
                    for guest in tuple(self._guests):
                        guest.notice(text)

    async def close(self) -> None:
        """Ends everything that runs; the sandboxes first."""
        if self._beating is not None:
            self._beating.cancel()
        tasks = {task for place in self._places.values() for task in place.tasks}
        await end_all(tasks | self._programs)
        if self._network is not None:
            await self._network.close()
        async with self._opening:
            for place in self._places.values():
                if place.closing is not None:
                    place.closing.cancel()
                await place.close()
            self._places.clear()
        if self._closing:
            await asyncio.wait(self._closing)
        self._slots.close()
        self._jobserver.close()
        if self._share is not None:
            self._share.close()


def name_of(request: m.Execute | StartProgram) -> str:
    """What a run is called when people ask: its crate, else its program."""
    argv = request.action.argv if isinstance(request, m.Execute) else request.argv
    for flag, value in itertools.pairwise(argv):
        if flag == b"--crate-name":
            return value.decode(errors="replace")
    return os.path.basename(argv[0]).decode(errors="replace") if argv else ""


async def end_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels them and waits. An agent whose tasks do not end ends itself."""
    for task in tasks:
        task.cancel()
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=STOP_S)
        if stuck:
            # A disk that does not answer, say. The sandboxes die with us in any case, and an
            # agent that nobody talks to must not stay.
            _log.error("%d tasks do not end", len(stuck))
            os._exit(_STUCK)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except (BurstError, OSError) as error:
        _log.warning("%s", error)
