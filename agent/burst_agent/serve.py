"""What the agent answers: one client, many requests, each with its own task.

Nothing that happens inside a request ends the connection: what we foresaw becomes Failed with the
code of its error, what we did not becomes Failed(agent-bug) and a traceback in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, Final

import attrs

from burst_agent import diskfile, evict, sandbox
from burst_agent.actions import ActionCache
from burst_agent.connection import Connection
from burst_agent.execute import Execution, Workshop, missing_inputs
from burst_agent.incremental import IncrementalStates
from burst_agent.jobserver import Jobserver
from burst_agent.lists import InputLists
from burst_agent.locks import KeyLocks
from burst_agent.materialise import Materialiser
from burst_agent.runs import Event, Listener, Run
from burst_agent.slots import Slots
from burst_agent.store import BlobStore
from burst_agent.uploads import Uploads
from burst_protocol import messages as m
from burst_protocol.action import ActionResult
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    BlobMissing,
    BurstError,
    Cancelled,
    RemoteProtocolError,
    SandboxUnavailable,
)
from burst_protocol.layout import blob_path
from burst_protocol.messages import Message

AGENT_BUG: Final = "agent-bug"
_LAUNCHER_NAMES: Final = {"burst-sandbox": "namespaces"}
"""In the words of the protocol: what it does, not which program does it."""
# Another agent's client may hold a result for long before it accepts it; compiling the same twice
# is only waste, waiting for ever would be worse.
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.05
_STOP_S: Final = 30.0
_STUCK: Final = 70
_PUTS_PER_LOOK: Final = 256
_IDLE_S: Final = 5.0

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


class Agent:
    """One connection's worth of service."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings = settings
        self._connection = connection
        self._outbox = connection.outbox
        self._store = BlobStore(settings.root)
        self._cache = ActionCache(self._store, _digests_of)
        self._lists = InputLists(self._store)
        self._jobserver = Jobserver(settings.slots)
        self._slots = Slots(settings.slots, self._jobserver)
        self._workshop = Workshop(
            store=self._store,
            materialiser=Materialiser(self._store),
            states=IncrementalStates(self._store.root),
            jobserver=self._jobserver,
            local=settings.local,
            room=self._outbox.room,
        )
        self._uploads = Uploads(self._store, self._fail)
        self._limits = evict.Limits(limit_bytes=settings.store_limit_bytes)
        self._runs: dict[bytes, Run] = {}
        self._listening: dict[int, Run] = {}
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._locks = KeyLocks(self._store.root.join(b"run.locks"))
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_at_store = asyncio.Event()
        self._looked_at = 0
        self._executed = 0
        self._hits = 0

    async def serve(self) -> None:
        """Until the peer ends, misbehaves or says Shutdown. Leaves no process behind."""
        writing = asyncio.create_task(self._write())
        keeping = asyncio.create_task(self._keep_house())
        reading = asyncio.create_task(self._read())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((writing, reading, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, keeping, watching):
                task.cancel()
            await self._stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outbox.flush(), 1)
            writing.cancel()
            await asyncio.wait((writing, reading, keeping, watching))
            await self._connection.close()
            self._slots.close()
            self._jobserver.close()
            self._locks.close()
            await asyncio.to_thread(self._store.close)

    # The connection

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except ConnectionError as error:
            _log.info("the client is gone: %s", error)

    async def _watch(self) -> None:
        """Ends when the client is silent: a network that is gone ends no connection."""
        patience_s = self._settings.patience_s
        while patience_s:
            await asyncio.sleep(patience_s / 4)
            silent_s = time.monotonic() - self._connection.heard_s
            if silent_s > patience_s:
                _log.info("nothing heard from the client for %.0f s", silent_s)
                return
            if silent_s > patience_s / 5:
                self._outbox.send(m.Ping(0))
        await asyncio.Event().wait()

    async def _read(self) -> None:
        async for message in self._connection.messages(lambda text: _log.info("%s", text)):
            if isinstance(message, m.Shutdown):
                return
            await self._dispatch(message)

    async def _dispatch(self, message: Message) -> None:
        match message:
            case m.Ping():
                self._outbox.send(m.Pong(message.token))
            case m.PutBlobs():
                await self._uploads.blobs(message)
            case m.BlobChunk():
                await self._uploads.chunk(message)
            case m.PutFiles():
                if self._settings.local:
                    self._uploads.files(message)
                else:
                    self._fail(message.id, RemoteProtocolError("PutFiles to another machine"))
            case m.Lookup():
                self._request(message.id, self._lookup(message))
            case m.Execute():
                self._request(message.id, self._execute(message))
            case m.UseTools():
                self._request(message.id, self._use_tools(message))
            case m.Fetch():
                self._request(message.id, self._fetch(message))
            case m.Cancel():
                self._spawn(message.id, self._cancel(message.id))
            case m.Release():
                self._spawn(message.id, self._release(message.id))
            case m.Accept():
                self._spawn(message.id, self._accept(message))
            case m.PutResult():
                self._spawn(0, self._put_result(message))
            case m.AskStatus():
                self._status(message.id)
            case _:
                pass
        if self._uploads.stored - self._looked_at > _PUTS_PER_LOOK:
            self._look_at_store.set()

    def _request(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        """A task that Cancel can find."""
        if request_id in self._requests or request_id in self._listening:
            work.close()
            _log.warning("request %d came twice", request_id)
            return
        self._spawn(request_id, work, cancellable=True)

    def _spawn(
        self, request_id: int, work: Coroutine[Any, Any, None], *, cancellable: bool = False
    ) -> None:
        task = asyncio.create_task(self._guard(request_id, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if cancellable:
            self._requests[request_id] = task
            task.add_done_callback(lambda _: self._requests.pop(request_id, None))

    async def _guard(self, request_id: int, work: Awaitable[None]) -> None:
        try:
            await work
        except BurstError as error:
            self._fail(request_id, error)
        except Exception as error:
            _log.exception("request %d", request_id)
            self._outbox.send(m.Failed(request_id, AGENT_BUG, f"{type(error).__name__}: {error}"))

    def _fail(self, request_id: int, error: BurstError) -> None:
        _log.info("request %d: %s", request_id, error)
        self._outbox.send(m.Failed(request_id, error.code, error.detail))

    # Answers

    async def _use_tools(self, message: m.UseTools) -> None:
        await self._uploads.settled()
        tools = self._workshop
        helper = await asyncio.to_thread(self._tool, message.sandbox, executable=True)
        tools.observer = await asyncio.to_thread(self._tool, message.observer, executable=False)
        name = reason = ""
        try:
            choice = await sandbox.choose_launcher(helper, allow_plain=self._settings.local)
        except SandboxUnavailable as error:
            tools.launcher, reason = None, error.detail
        else:
            tools.launcher, reason = choice.launcher, "; ".join(choice.refused)
            name = _LAUNCHER_NAMES.get(choice.launcher.name, choice.launcher.name)
        observed = tools.observer is not None
        _log.info("launcher %r (%s), observer: %s", name, reason, observed)
        self._outbox.send(
            m.Ready(
                id=message.id,
                launcher=name,
                reason=reason,
                observer=observed,
                slots=self._settings.slots,
                store_root=self._store.root.path,
                arch=os.uname().machine,
            )
        )

    def _tool(self, digest: Digest | None, *, executable: bool) -> bytes | None:
        """A name of our own for the tool: it stays, whatever is evicted."""
        if digest is None:
            return None
        # A copy: what happens to the blob later must not happen to what runs everything.
        path = self._store.root.temp_path()
        data = self._store.read(digest)
        with diskfile.disk_errors("making our tools"), open(path, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o555 if executable else 0o444)
        return path

    async def _lookup(self, message: m.Lookup) -> None:
        # 0.1 ms of small files: less than a thread costs.
        answer = self._look_up(message)
        if isinstance(answer, m.Hit):
            self._hits += 1
            if message.push:
                for digest in dict.fromkeys(answer.result.digests()):
                    self._send_blob(message.id, digest)
        self._outbox.send(answer)

    def _look_up(self, message: m.Lookup) -> m.Hit | m.Lists:
        hit = self._find(message.id, message.strong_keys)
        return hit or m.Lists(message.id, tuple(self._lists.get(message.weak_key)))

    def _find(self, request_id: int, strong_keys: tuple[bytes, ...]) -> m.Hit | None:
        for key in strong_keys:
            entry = self._cache.get(key)
            if entry is not None:
                return m.Hit(request_id, key, ActionResult.decode(entry))
        return None

    def _known(self, request: m.Execute) -> m.Hit | m.Lists | None:
        hit = self._find(request.id, request.strong_keys)
        if hit is not None:
            return hit
        if request.lists_tried >= 0:
            lists = self._lists.get(request.weak_key)
            if len(lists) > request.lists_tried:
                return m.Lists(request.id, tuple(lists))
        return None

    async def _execute(self, request: m.Execute) -> None:
        known = self._known(request)  # as quick as `_lookup`
        if known is not None:
            self._hits += isinstance(known, m.Hit)
            self._outbox.send(known)
            return
        if self._join(request):
            return
        if self._workshop.launcher is None:
            raise SandboxUnavailable("nothing can be run here")
        missing = await asyncio.to_thread(missing_inputs, self._workshop, request.action)
        if missing:
            # What others are sending is waited for only if it could be what is missing here.
            await self._uploads.settled()
            missing = await asyncio.to_thread(missing_inputs, self._workshop, request.action)
        if missing:
            self._outbox.send(m.Missing(request.id, tuple(missing)))
            return
        if self._join(request):
            return
        run = Run(request, self._deliver)
        self._runs[run.key] = run
        self._listen(run, request)
        # Its end is waited for when we stop, even if a Cancel has made the run unknown by then.
        run.task = asyncio.create_task(self._drive(run))
        self._tasks.add(run.task)
        run.task.add_done_callback(self._tasks.discard)

    def _join(self, request: m.Execute) -> bool:
        run = self._runs.get(request.action_key)
        if run is None:
            return False
        if run.ended and self._store.missing(run.output_digests()):
            self._forget(run)  # what it made was lost before anybody kept it
            return False
        self._listen(run, request)
        return True

    def _listen(self, run: Run, request: m.Execute) -> None:
        self._listening[request.id] = run
        run.attach(request)

    def _deliver(self, listener: Listener, event: m.Started | Event) -> None:
        self._outbox.send(event)
        if isinstance(event, m.Output) and listener.request.push:
            self._send_blob(listener.id, event.file.digest)

    async def _fetch(self, message: m.Fetch) -> None:
        if not await asyncio.to_thread(self._store.has, message.digest):
            await self._uploads.settled()
            if not await asyncio.to_thread(self._store.has, message.digest):
                raise BlobMissing(str(message.digest))
        self._send_blob(message.id, message.digest)

    def _send_blob(self, request_id: int, digest: Digest) -> None:
        path = blob_path(self._store.root.path, digest)
        compress = not self._settings.local
        self._outbox.send_blob(request_id, digest, path, compress=compress)

    def _status(self, request_id: int) -> None:
        usage = self._store.root.usage()
        self._outbox.send(
            m.Status(
                id=request_id,
                running=self._slots.running,
                queued=self._slots.queued,
                store_bytes=0 if usage is None else usage[0],
                executed=self._executed,
                hits=self._hits,
            )
        )

    # Runs

    async def _drive(self, run: Run) -> None:
        """From acceptance to Exited or Failed."""
        try:
            if not await self._lock_key(run):
                self._forget(run)
                return
            run.announce()
            await self._slots.acquire(run.request.action.priority)
            self._executed += 1
            publish = functools.partial(self._publish, run)
            action = run.request.action
            await Execution(self._workshop, action, publish, self._slots.release).run()
        except BurstError as error:
            _log.info("action %s: %s", run.key.hex()[:12], error)
            self._publish(run, m.Failed(0, error.code, error.detail))
        except Exception as error:
            _log.exception("action %s", run.key.hex()[:12])
            self._publish(run, m.Failed(0, AGENT_BUG, f"{type(error).__name__}: {error}"))
        if not self._slots.running:
            self._look_at_store.set()

    def _publish(self, run: Run, event: Event) -> None:
        if run.ended:
            _log.warning("after the end of %s: %r", run.key.hex()[:12], event)
            return
        if not run.publish(event):
            self._forget(run)  # before the client can ask again: that must be a new run

    async def _lock_key(self, run: Run) -> bool:
        """Waits while another agent of this root runs the same. False: its result answers all."""
        deadline_s = time.monotonic() + _PATIENCE_S
        waited = False
        while True:
            if self._locks.take(run.key):
                run.locked = True
                break
            if time.monotonic() > deadline_s:
                break
            waited = True
            await asyncio.sleep(_POLL_S)
        if waited:
            await self._answer_from_cache(run)
        return bool(run.listeners)

    async def _answer_from_cache(self, run: Run) -> None:
        for listener in tuple(run.listeners.values()):
            known = await asyncio.to_thread(self._known, listener.request)
            if known is not None and listener.id in run.listeners:
                del run.listeners[listener.id]
                self._hits += isinstance(known, m.Hit)
                self._listening.pop(listener.id, None)
                self._outbox.send(known)

    def _forget(self, run: Run) -> None:
        """No newcomer joins this run any more."""
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
        if run.locked:
            self._locks.give(run.key)
            run.locked = False

    async def _accept(self, message: m.Accept) -> None:
        run = self._listening.pop(message.id, None)
        if run is not None:
            run.listeners.pop(message.id, None)
        try:
            await self._keep(message)
        finally:
            if run is not None:
                self._forget(run)

    async def _put_result(self, message: m.PutResult) -> None:
        await self._uploads.settled()
        await self._keep(message)

    async def _keep(self, message: m.Accept | m.PutResult) -> None:
        def store_both() -> None:
            self._cache.put(message.strong_key, message.result.encode())
            self._lists.add(message.weak_key, message.input_list)

        try:
            await asyncio.to_thread(store_both)
        except BurstError as error:
            # Nobody waits for an answer: the result is used, only not kept.
            _log.warning("result not kept: %s", error)

    async def _release(self, request_id: int) -> None:
        await self._let_go(request_id)

    async def _let_go(self, request_id: int) -> bool:
        """Detaches a listener; whether a run was still going on for it."""
        self._outbox.forget(request_id)
        run = self._listening.pop(request_id, None)
        if run is None:
            return False
        run.listeners.pop(request_id, None)
        going = not run.ended
        if not run.listeners:
            self._forget(run)
            if run.task is not None and not run.task.done():
                run.task.cancel()
                await asyncio.wait((run.task,))
        return going

    async def _cancel(self, request_id: int) -> None:
        request = self._requests.get(request_id)
        if request is not None and request_id not in self._listening:
            request.cancel()
            await asyncio.wait((request,))
            going = True
        else:
            going = False
        if await self._let_go(request_id) or going:
            self._fail(request_id, Cancelled("as asked"))

    async def _stop(self) -> None:
        """Ends everything that runs; the sandboxes first."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=_STOP_S)
            if stuck:
                # A disk that does not answer, say. The sandboxes die with us in any case, and an
                # agent that nobody talks to must not stay.
                _log.error("%d tasks do not end", len(stuck))
                os._exit(_STUCK)
        for run in tuple(self._runs.values()):
            self._forget(run)
        await self._uploads.close()

    # The store

    async def _keep_house(self) -> None:
        """Evicts when there is reason to believe that the store is full, preferably when idle."""
        while True:
            await self._look_at_store.wait()
            self._look_at_store.clear()
            self._looked_at = self._uploads.stored
            if not self._slots.running:
                await asyncio.sleep(_IDLE_S)
            try:
                if await asyncio.to_thread(evict.is_due, self._store, self._limits):
                    await self._evict()
            except (BurstError, OSError) as error:
                _log.warning("eviction: %s", error)

    async def _evict(self) -> None:
        pinned = [digest for run in self._listening.values() for digest in run.output_digests()]
        limit = self._limits.limit_bytes
        freed = await asyncio.to_thread(self._workshop.states.evict, limit)
        report = await evict.evict_async(self._store, self._limits, pinned=pinned)
        _log.info("evicted %d bytes, and %d of incremental states", report.freed_bytes, freed)


def _digests_of(entry: bytes) -> list[Digest]:
    return ActionResult.decode(entry).digests()
