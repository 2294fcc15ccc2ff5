"""One store and what belongs to it: caches, states, locks, eviction, and the runs in flight.

All clients that work in this store share it, so equal actions of theirs run once. A run belongs to
nobody: its listeners come and go, and it ends when nobody wants it any more.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from burst_agent import diskfile, evict, locks
from burst_agent.actions import ActionCache
from burst_agent.execute import Execution, Workshop
from burst_agent.incremental import IncrementalStates
from burst_agent.lists import InputLists
from burst_agent.locks import KeyLocks
from burst_agent.materialise import Materialiser
from burst_agent.runs import Event, Hearer, Run
from burst_agent.slots import Slots
from burst_agent.store import BlobStore
from burst_agent.stores import Neighbours
from burst_protocol import messages as m
from burst_protocol.action import ActionResult
from burst_protocol.digest import Digest
from burst_protocol.errors import BurstError

if TYPE_CHECKING:
    from burst_agent.mirror.mirrors import Mirrors
    from burst_agent.programs.rooms import Rooms

AGENT_BUG: Final = "agent-bug"
# Another agent's client may hold a result for long before it accepts it, after the run has ended;
# compiling the same twice is only waste, waiting for ever would be worse.
_PATIENCE_S: Final = 60.0
_NEIGHBOUR_PATIENCE_S: Final = 10.0
"""The same for a client of another store, which downloads and judges what has ended."""
_POLL_S: Final = 0.05
_IDLE_S: Final = 5.0
_PUTS_PER_LOOK: Final = 256
_KEEP_DETACHED_S: Final = 3600.0
"""The end of a detached run waits so long for whoever wants to hear it."""

_log = logging.getLogger("burst.agent")


class Accounts(Protocol):
    """Who counts runs, for this process and for the server's lease."""

    @property
    def slots(self) -> Slots: ...

    def begin(self, request: m.Execute) -> None:
        """Draining if no run may begin any more."""

    def claim(self, run: Run) -> Run:
        """Who executes this action here, of all stores: that run, or the one that does already."""

    def give(self, run: Run) -> None:
        """What it claimed is free again: others find what it made, or execute by themselves."""

    def end(self, request: m.Execute) -> None: ...

    def executed(self) -> None: ...

    def hit(self) -> None: ...


class Place:
    """Open until `close`. Methods of the event loop's thread, but for those that say blocking."""

    def __init__(
        self,
        root: bytes,
        accounts: Accounts,
        limits: evict.Limits,
        others: Callable[[], list[bytes]],
        *,
        local: bool = False,
    ) -> None:
        """Blocking: looks after what a crash may have left. DiskFull, OSError."""
        self.store = BlobStore(root)
        self.cache = ActionCache(self.store, _digests_of)
        self.lists = InputLists(self.store)
        self.materialiser = Materialiser(self.store)
        self.states = IncrementalStates(self.store.root)
        self.neighbours = Neighbours(self.store, self.cache, _digests_of, others)
        self._local = local
        self.users = 0
        """Clients that work here."""
        self.closing: asyncio.TimerHandle | None = None
        self._accounts = accounts
        self._limits = limits
        self._locks = KeyLocks(self.store.root.join(b"run.locks"))
        self._tools: dict[tuple[Digest, bool], bytes] = {}
        self._runs: dict[bytes, Run] = {}
        """Those that a newcomer may join."""
        self._live: set[Run] = set()
        """Those that somebody still needs something of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._look = asyncio.Event()
        self._puts = 0
        self._keeping: asyncio.Task[None] | None = None

    @functools.cached_property
    def mirrors(self) -> Mirrors:
        """Loaded by who needs them: most clients only compile."""
        from burst_agent.mirror.mirrors import Mirrors  # noqa: PLC0415

        return Mirrors(self.store, self.neighbours.bring, local=self._local)

    @functools.cached_property
    def rooms(self) -> Rooms:
        from burst_agent.programs.rooms import Rooms  # noqa: PLC0415 - as `mirrors`

        return Rooms(self.store.root)

    def start(self) -> None:
        """Begins to keep house."""
        self._keeping = asyncio.create_task(self._keep_house())

    @property
    def busy(self) -> bool:
        return bool(self.users or self._live or self._tasks)

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        return set(self._tasks)

    async def close(self) -> None:
        """When nothing runs any more. The last writer's sync can take seconds."""
        for run in tuple(self._live):
            self._forget(run)
            if run.orphaned is not None:
                run.orphaned.cancel()
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait((self._keeping,))
        self._locks.close()
        await asyncio.to_thread(self.store.close)

    def tool(self, digest: Digest | None, *, executable: bool) -> bytes | None:
        """A name of our own for a client's tool: it stays, whatever is evicted. Blocking."""
        if digest is None:
            return None
        known = self._tools.get((digest, executable))
        if known is None:
            # A copy: what happens to the blob later must not happen to what runs everything.
            known = self.store.root.temp_path()
            data = self.store.read(digest)
            with diskfile.disk_errors("making our tools"), open(known, "xb") as file:
                file.write(data)
                os.fchmod(file.fileno(), 0o555 if executable else 0o444)
            self._tools[digest, executable] = known
        return known

    # What is known

    def known(self, request: m.Execute) -> m.Hit | m.Lists | None:
        """What spares the run: a result, or input lists that the client has not tried."""
        hit = self.find(request.id, request.strong_keys)
        if hit is not None:
            return hit
        if request.lists_tried >= 0:
            lists = self.lists.get(request.weak_key)
            if len(lists) > request.lists_tried:
                return m.Lists(request.id, tuple(lists))
        return None

    def known_elsewhere(self, request: m.Execute) -> m.Hit | m.Lists | None:
        """The same with what the neighbours have. Blocking, and may copy."""
        hit = self.find_elsewhere(request.id, request.weak_key, request.strong_keys)
        if hit is not None:
            return hit
        if request.lists_tried >= 0:
            lists = self.all_lists(request.weak_key)
            if len(lists) > request.lists_tried:
                return m.Lists(request.id, tuple(lists))
        return None

    def find(self, request_id: int, strong_keys: tuple[bytes, ...]) -> m.Hit | None:
        for key in strong_keys:
            entry = self.cache.get(key)
            if entry is not None:
                return m.Hit(request_id, key, ActionResult.decode(entry))
        return None

    def find_elsewhere(
        self, request_id: int, weak_key: bytes, strong_keys: tuple[bytes, ...]
    ) -> m.Hit | None:
        """Blocking, and may copy."""
        for key in strong_keys:
            entry = self.neighbours.result(key)
            if entry is not None:
                self._copy_lists(weak_key)
                return m.Hit(request_id, key, ActionResult.decode(entry))
        return None

    def _copy_lists(self, weak_key: bytes) -> None:
        """Without the list that it was made with, nobody who begins anew finds a result."""
        known = self.lists.get(weak_key)
        try:
            for encoded in reversed(self.neighbours.lists(weak_key, known)[len(known) :]):
                self.lists.add(weak_key, encoded)
        except (BurstError, OSError) as error:
            _log.warning("lists not copied: %s", error)

    def all_lists(self, weak_key: bytes) -> list[bytes]:
        return self.neighbours.lists(weak_key, self.lists.get(weak_key))

    def keep(self, message: m.Accept | m.PutResult) -> None:
        """Blocking. DiskFull, BlobMissing."""
        self.cache.put(message.strong_key, message.result.encode())
        self.lists.add(message.weak_key, message.input_list)

    # Runs

    def join(self, request: m.Execute, hearer: Hearer) -> Run | None:
        """An equal run that goes on, or has ended well and can still be had."""
        run = self._runs.get(request.action_key)
        if run is None:
            return None
        if run.ended and self.store.missing(run.output_digests()):
            self._forget(run)  # what it made was lost before anybody kept it
            return None
        run.attach(request, hearer)
        return run

    def begin(self, request: m.Execute, hearer: Hearer, shop: Workshop) -> Run:
        """A new run. Draining: it was not begun."""
        self._accounts.begin(request)
        run = Run(request)
        self._runs[run.key] = run
        self._live.add(run)
        run.attach(request, hearer)
        # Its end is waited for when we stop, even if a Cancel has made the run unknown by then.
        run.task = asyncio.create_task(self._drive(run, attrs.evolve(shop, room=run.room)))
        self._tasks.add(run.task)
        run.task.add_done_callback(functools.partial(self._done, run))
        return run

    def accepted(self, run: Run, key: tuple[int, int]) -> None:
        """What it made is kept: who asks next gets it from there."""
        run.listeners.pop(key, None)
        self._forget(run)
        self._dismiss(run)

    async def let_go(self, run: Run, key: tuple[int, int]) -> None:
        """A listener wants no more of it. Without any, it is ended, and has ended on return."""
        run.listeners.pop(key, None)
        if not run.listeners:
            await self._end(run)

    def orphan(self, run: Run, key: tuple[int, int], after_s: float) -> asyncio.Task[None] | None:
        """A listener's client is gone. Without any, it is ended after a while, if nobody comes back
        for it; a detached one is not."""
        run.listeners.pop(key, None)
        if run.listeners:
            return None
        if run.request.detached:
            if not run.ended:
                return None
            after_s = _KEEP_DETACHED_S
        if after_s > 0 and (run.reusable or not run.ended):
            self._wait_for_heirs(run, after_s)
            return None
        return self._end_soon(run)

    def _wait_for_heirs(self, run: Run, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        run.orphaned = loop.call_later(after_s, self._end_soon, run)

    def _end_soon(self, run: Run) -> asyncio.Task[None]:
        run.orphaned = None
        task = asyncio.create_task(self._end(run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end(self, run: Run) -> None:
        self._forget(run)
        if run.task is not None and not run.task.done():
            run.task.cancel()
            await asyncio.wait((run.task,))
        self._dismiss(run)

    def _done(self, run: Run, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._accounts.end(run.request)
        if not run.listeners and run.orphaned is None:
            if run.request.detached and run.reusable:
                self._wait_for_heirs(run, _KEEP_DETACHED_S)
            else:
                self._forget(run)
                self._dismiss(run)
        if not self._accounts.slots.running:
            self._look.set()

    def _dismiss(self, run: Run) -> None:
        if not run.listeners and (run.task is None or run.task.done()):
            self._live.discard(run)

    def _forget(self, run: Run) -> None:
        """No newcomer joins this run any more."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
        self._accounts.give(run)
        if run.locked:
            self._locks.give(run.key)
            run.locked = False

    async def _drive(self, run: Run, shop: Workshop) -> None:
        """From acceptance to Exited or Failed."""
        slots = self._accounts.slots
        try:
            if not await self._lock_key(run):
                self._forget(run)
                return
            run.announce()
            await slots.acquire(run.request.action.priority)
            self._accounts.executed()
            publish = functools.partial(self._publish, run)
            await Execution(shop, run.request.action, publish, slots.release).run()
        except BurstError as error:
            _log.info("action %s: %s", run.key.hex()[:12], error)
            self._publish(run, m.Failed(0, error.code, error.detail))
        except Exception as error:
            _log.exception("action %s", run.key.hex()[:12])
            self._publish(run, m.Failed(0, AGENT_BUG, f"{type(error).__name__}: {error}"))
        finally:
            if run.marked:
                self._locks.give(locks.running(run.key))

    def _publish(self, run: Run, event: Event) -> None:
        if run.ended:
            _log.warning("after the end of %s: %r", run.key.hex()[:12], event)
            return
        if not run.publish(event):
            self._forget(run)  # before the client can ask again: that must be a new run

    async def _lock_key(self, run: Run) -> bool:
        """Waits while the same runs for another store, or by another agent of this root. False: its
        result answers all."""
        running = locks.running(run.key)
        deadline_s = time.monotonic() + _PATIENCE_S
        elsewhere = False
        while (other := self._accounts.claim(run)) is not run or not self._locks.take(run.key):
            elsewhere = elsewhere or other is not run
            if other is not run and not other.ended:
                deadline_s = time.monotonic() + _NEIGHBOUR_PATIENCE_S
            elif other is run and self._locks.held(running):
                deadline_s = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline_s:
                break
            await asyncio.sleep(_POLL_S)
        else:
            run.locked = True
            run.marked = self._locks.take(running)
        # Also if nobody had it: its result may have been kept since the client was answered.
        await self._answer_from_cache(run, elsewhere=elsewhere)
        return bool(run.listeners) or run.request.detached

    async def _answer_from_cache(self, run: Run, *, elsewhere: bool) -> None:
        for listener in tuple(run.listeners.values()):
            known = await asyncio.to_thread(self.known, listener.request)
            if known is None and elsewhere:
                known = await asyncio.to_thread(self.known_elsewhere, listener.request)
            if known is not None and listener.key in run.listeners:
                del run.listeners[listener.key]
                if isinstance(known, m.Hit):
                    self._accounts.hit()
                listener.hearer.answer(listener, known)

    # The store

    def stored(self, blobs: int) -> None:
        """So many blobs have come: a reason to look whether the store is full."""
        self._puts += blobs
        if self._puts > _PUTS_PER_LOOK:
            self._look.set()

    async def _keep_house(self) -> None:
        """Evicts when there is reason to believe that the store is full, preferably when idle."""
        while True:
            await self._look.wait()
            self._look.clear()
            self._puts = 0
            if not self._accounts.slots.running:
                await asyncio.sleep(_IDLE_S)
            try:
                if await asyncio.to_thread(evict.is_due, self.store, self._limits):
                    await self._evict()
            except (BurstError, OSError) as error:
                _log.warning("eviction: %s", error)

    async def _evict(self) -> None:
        pinned = [digest for run in self._live for digest in run.output_digests()]
        limit = self._limits.limit_bytes
        freed = await asyncio.to_thread(self.states.evict, limit)
        report = await evict.evict_async(self.store, self._limits, pinned=pinned)
        _log.info("evicted %d bytes, and %d of incremental states", report.freed_bytes, freed)


def _digests_of(entry: bytes) -> list[Digest]:
    return ActionResult.decode(entry).digests()
