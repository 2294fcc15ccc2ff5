"""What the agent answers: one client, many requests, each with its own task.

Nothing that happens inside a request ends the connection: what we foresaw becomes Failed with the
code of its error, what we did not becomes Failed(agent-bug) and a traceback in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from burst_agent import sandbox
from burst_agent.connection import Connection
from burst_agent.execute import Workshop, missing_inputs
from burst_agent.house import STOP_S, House, end_all
from burst_agent.place import AGENT_BUG, Place
from burst_agent.runs import Event, Listener, Run
from burst_agent.uploads import Uploads
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    BlobMissing,
    BurstError,
    Cancelled,
    DiskFull,
    RemoteProtocolError,
    SandboxUnavailable,
)
from burst_protocol.layout import blob_path
from burst_protocol.messages import Message

if TYPE_CHECKING:
    from burst_agent.network.connect import Connections
    from burst_agent.programs.host import ProgramHost
    from burst_protocol import programs as p

_LAUNCHER_NAMES: Final = {"burst-sandbox": "namespaces"}
"""In the words of the protocol: what it does, not which program does it."""
_NO_STORE: Final = (m.Ping, m.Pong, m.OpenStore)

_log = logging.getLogger("burst.agent")


class Conversation:
    """One client of the house. Its store is opened with the first message that needs one."""

    def __init__(self, house: House, connection: Connection) -> None:
        self.number = 0
        self._house = house
        self._settings = house.settings
        self._connection = connection
        self._outbox = connection.outbox
        self._opened: tuple[Place, Uploads, Workshop] | None = None
        self._prolongs = True
        """Whether what the client asked last was to keep a server."""
        self._listening: dict[int, Run] = {}
        self._connections: Connections | None = None
        self._hosted: ProgramHost | None = None
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping: set[asyncio.Task[None]] = set()
        """Of these, who write down a result that this client has."""

    async def serve(self) -> None:
        """Until the peer ends, misbehaves or says Shutdown. Leaves nothing behind that its client
        did not want to go on."""
        writing = asyncio.create_task(self._write())
        reading = asyncio.create_task(self._read())
        watching = asyncio.create_task(self._watch())
        try:
            await asyncio.wait((writing, reading, watching), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            watching.cancel()
            await asyncio.wait((reading, watching))
            await self._stop()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outbox.flush(), 1)
            writing.cancel()
            await asyncio.wait((writing,))
            await self._connection.close()

    # What runs and the house tell us

    def deliver(self, listener: Listener, event: m.Started | Event) -> None:
        self._outbox.send(event)
        if isinstance(event, m.Output) and listener.request.push:
            self._send_blob(listener.id, event.file.digest)

    def answer(self, listener: Listener, known: m.Hit | m.Lists) -> None:
        self._listening.pop(listener.id, None)
        self._outbox.send(known)

    async def room(self) -> None:
        await self._outbox.room()

    def notice(self, text: str) -> None:
        self._outbox.send(m.Notice(text))

    def send(self, message: Message) -> None:
        self._outbox.send(message)

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
        try:
            self.number = self._house.enter(self)
        except BurstError as error:
            self._fail(0, error)
            return
        async for message in self._connection.messages(lambda text: _log.info("%s", text)):
            if isinstance(message, m.Shutdown):
                return
            if self._opened is None and not isinstance(message, _NO_STORE):
                try:
                    await self._open("")
                except (BurstError, OSError) as error:
                    self._fail(0, error if isinstance(error, BurstError) else DiskFull(str(error)))
                    return
            await self._dispatch(message)

    async def _open(self, volume: str) -> Place:
        place = await self._house.open(volume)
        shop = Workshop(
            store=place.store,
            materialiser=place.materialiser,
            states=place.states,
            jobserver=self._house.jobserver,
            local=self._settings.local,
            room=self.room,
        )
        self._opened = (place, Uploads(place.store, self._fail), shop)
        return place

    @property
    def _place(self) -> Place:
        assert self._opened is not None
        return self._opened[0]

    @property
    def _uploads(self) -> Uploads:
        assert self._opened is not None
        return self._opened[1]

    @property
    def _shop(self) -> Workshop:
        assert self._opened is not None
        return self._opened[2]

    async def _dispatch(self, message: Message) -> None:
        match message:
            case m.Ping():
                self._outbox.send(m.Pong(message.token))
            case m.OpenStore():
                await self._guard(message.id, self._open_store(message))
            case m.PutBlobs():
                self._moves(len(message.blobs))
                await self._uploads.blobs(message)
            case m.BlobChunk():
                self._moves(int(message.last))
                await self._uploads.chunk(message)
            case m.PutFiles():
                self._moves(len(message.files))
                if self._settings.local:
                    self._uploads.files(message)
                else:
                    self._fail(message.id, RemoteProtocolError("PutFiles to another machine"))
            case m.Lookup():
                self._prolongs = message.prolongs
                self._moves(0)
                self._request(message.id, self._lookup(message))
            case m.Execute():
                self._prolongs = message.prolongs
                self._request(message.id, self._execute(message))
            case m.UseTools():
                self._request(message.id, self._use_tools(message))
            case m.Fetch():
                self._moves(0)
                self._request(message.id, self._fetch(message))
            case m.Cancel():
                self._spawn(message.id, self._cancel(message.id))
            case m.Release():
                self._spawn(message.id, self._release(message.id))
            case m.Accept():
                self._spawn(message.id, self._accept(message), keeps=True)
            case m.PutResult():
                self._spawn(0, self._put_result(message), keeps=True)
            case m.AskStatus():
                self._outbox.send(self._house.status(message.id, self._place))
            case _:
                self._dispatch_program(message)

    def _dispatch_program(self, message: p.ProgramMessage | m.CoreMessage) -> None:
        from burst_protocol import programs as p  # noqa: PLC0415 - most clients start none

        match message:
            case p.AskMissing():
                self._request(message.id, self._ask_missing(message))
            case p.SyncMirror():
                self._moves(0)
                self._request(message.id, self._sync_mirror(message))
            case p.AskChanges():
                self._moves(0)
                self._request(message.id, self._ask_changes(message))
            case p.Fetched():
                self._spawn(0, self._place.mirrors.fetched(message))
            case p.StartProgram():
                self._prolongs = message.prolongs
                self._request(message.id, self._start_program(message))
            case p.Connect():
                self._request(message.id, self._connect(message))
            case p.Input() | p.Credit() if self._connections and message.id in self._connections:
                self._connections.said(message)
            case p.Input() | p.Credit() | p.Resize() | p.Signal() | p.StopOutput():
                if self._hosted is not None:
                    self._hosted.said(message)
            case _:
                pass

    def _moves(self, blobs: int) -> None:
        """The client does something, and sends so many blobs with it."""
        if self._prolongs:
            self._house.active()
        if blobs:
            self._place.stored(blobs)

    def _request(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        """A task that Cancel can find."""
        hosted = self._hosted is not None and request_id in self._hosted
        if request_id in self._requests or request_id in self._listening or hosted:
            work.close()
            _log.warning("request %d came twice", request_id)
            return
        self._spawn(request_id, work, cancellable=True)

    def _spawn(
        self,
        request_id: int,
        work: Coroutine[Any, Any, None],
        *,
        cancellable: bool = False,
        keeps: bool = False,
    ) -> None:
        """`keeps`: it writes down what this client may ask for next."""
        task = asyncio.create_task(self._guard(request_id, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if cancellable:
            self._requests[request_id] = task
            task.add_done_callback(lambda _: self._requests.pop(request_id, None))
        if keeps:
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

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

    async def _open_store(self, message: m.OpenStore) -> None:
        if self._opened is not None:
            raise RemoteProtocolError("a store is open already")
        place = await self._open(message.volume)
        self._outbox.send(m.Opened(message.id, place.store.root.path))

    async def _use_tools(self, message: m.UseTools) -> None:
        await self._uploads.settled()
        place, tool = self._place, self._place.tool
        helper = await asyncio.to_thread(tool, message.sandbox, executable=True)
        observer = await asyncio.to_thread(tool, message.observer, executable=False)
        launcher: sandbox.Launcher | None = None
        name = reason = ""
        try:
            choice = await sandbox.choose_launcher(helper, allow_plain=self._settings.local)
        except SandboxUnavailable as error:
            reason = error.detail
        else:
            launcher, reason = choice.launcher, "; ".join(choice.refused)
            name = _LAUNCHER_NAMES.get(launcher.name, launcher.name)
        self._shop.launcher, self._shop.observer = launcher, observer
        self._shop.helper = helper
        observed = observer is not None
        _log.info("launcher %r (%s), observer: %s", name, reason, observed)
        self._outbox.send(
            m.Ready(
                id=message.id,
                launcher=name,
                reason=reason,
                observer=observed,
                slots=self._settings.slots,
                store_root=place.store.root.path,
                arch=os.uname().machine,
            )
        )

    async def _lookup(self, message: m.Lookup) -> None:
        place = self._place
        while self._keeping:  # what this client gave us before it asks
            await asyncio.wait(tuple(self._keeping))
        # 0.1 ms of small files: less than a thread costs.
        answer: m.Hit | m.Lists | None = place.find(message.id, message.strong_keys)
        if answer is None and place.neighbours.roots():
            answer = await asyncio.to_thread(
                place.find_elsewhere, message.id, message.weak_key, message.strong_keys
            )
        if isinstance(answer, m.Hit):
            self._house.hit()
            if message.push:
                for digest in dict.fromkeys(answer.result.digests()):
                    self._send_blob(message.id, digest)
        self._outbox.send(answer or m.Lists(message.id, tuple(place.all_lists(message.weak_key))))

    async def _execute(self, request: m.Execute) -> None:
        place = self._place
        known = place.known(request)  # as quick as `_lookup`
        if known is None and place.neighbours.roots():
            known = await asyncio.to_thread(place.known_elsewhere, request)
        if known is not None:
            if isinstance(known, m.Hit):
                self._house.hit()
            self._outbox.send(known)
            return
        if self._join(request):
            return
        shop = self._shop
        if shop.launcher is None:
            raise SandboxUnavailable("nothing can be run here")
        missing = await self.missing(lambda: missing_inputs(shop, request.action))
        if missing:
            self._outbox.send(m.Missing(request.id, tuple(missing)))
            return
        if self._join(request):
            return
        self._listening[request.id] = place.begin(request, self, shop)

    async def missing(self, look: Callable[[], list[Digest]]) -> list[Digest]:
        """What `look` (blocking) finds missing, and neither an upload nor a neighbour brings."""
        missing = await asyncio.to_thread(look)
        if missing:
            # What others are sending is waited for only if it could be what is missing here.
            await self._uploads.settled()
            missing = await asyncio.to_thread(self._nowhere, look)
        return missing

    def _nowhere(self, look: Callable[[], list[Digest]]) -> list[Digest]:
        """What neither we nor a neighbour has. Blocking, and may copy."""
        while True:
            missing = look()
            nowhere = self._place.neighbours.bring(missing)
            if len(nowhere) == len(missing):
                return missing
            # A folder that has come can name more that is missing.

    async def _start_program(self, request: p.StartProgram) -> None:
        from burst_agent.programs.host import ProgramHost  # noqa: PLC0415 - most clients start none

        if self._hosted is None:
            self._hosted = ProgramHost(self._house, self._place, self._shop, self)
        await self._hosted.start(request)

    def _join(self, request: m.Execute) -> bool:
        run = self._place.join(request, self)
        if run is None:
            return False
        self._listening[request.id] = run
        return True

    async def _fetch(self, message: m.Fetch) -> None:
        store = self._place.store
        if not await asyncio.to_thread(store.has, message.digest):
            await self._uploads.settled()
            if not await asyncio.to_thread(store.has, message.digest):
                bring = self._place.neighbours.bring
                if await asyncio.to_thread(bring, (message.digest,)):
                    raise BlobMissing(str(message.digest))
        self._send_blob(message.id, message.digest)

    async def _ask_missing(self, message: p.AskMissing) -> None:
        await self._uploads.settled()
        place = self._place
        missing = await asyncio.to_thread(place.store.missing, message.digests)
        if missing:
            missing = await asyncio.to_thread(place.neighbours.bring, missing)
        self._outbox.send(m.Missing(message.id, tuple(missing)))

    async def _sync_mirror(self, message: p.SyncMirror) -> None:
        await self._uploads.settled()
        self._outbox.send(await self._place.mirrors.sync(message))

    async def _ask_changes(self, message: p.AskChanges) -> None:
        if message.mirror.startswith("driver/"):
            # Only who has a cargo run here needs it.
            from burst_agent.programs.keeps import Keeps  # noqa: PLC0415

            keeps = Keeps(self._place.store)
            self._outbox.send(await asyncio.to_thread(keeps.changes, message))
            return
        self._outbox.send(await self._place.mirrors.changes(message))

    async def _connect(self, message: p.Connect) -> None:
        if self._connections is None:
            from burst_agent.network.connect import Connections  # noqa: PLC0415 - few need it

            self._connections = Connections(lambda: self._house.network, self._outbox.send)
        await self._connections.serve(message)

    def _send_blob(self, request_id: int, digest: Digest) -> None:
        path = blob_path(self._place.store.root.path, digest)
        compress = not self._settings.local
        self._outbox.send_blob(request_id, digest, path, compress=compress)

    # Runs

    async def _accept(self, message: m.Accept) -> None:
        run = self._listening.pop(message.id, None)
        try:
            await self._keep(message)
        finally:
            if run is not None:
                self._place.accepted(run, (self.number, message.id))

    async def _put_result(self, message: m.PutResult) -> None:
        await self._uploads.settled()
        await self._keep(message)

    async def _keep(self, message: m.Accept | m.PutResult) -> None:
        try:
            await asyncio.to_thread(self._place.keep, message)
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
        going = not run.ended
        await self._place.let_go(run, (self.number, request_id))
        return going

    async def _cancel(self, request_id: int) -> None:
        request = self._requests.get(request_id)
        if request is not None and request_id not in self._listening:
            request.cancel()
            await asyncio.wait((request,))
            going = True
        else:
            going = False
        if self._hosted is not None and await self._hosted.cancel(request_id):
            return  # it has said so itself
        if await self._let_go(request_id) or going:
            self._fail(request_id, Cancelled("as asked"))

    async def _stop(self) -> None:
        """Ends what was for this client alone; runs may wait for it to come back.

        What it gave us is written down first: who says goodbye right after it, or is cut off, does
        not take it back, and to make it again costs seconds.
        """
        if self._keeping:
            await asyncio.wait(set(self._keeping), timeout=STOP_S)
        await end_all(set(self._tasks))
        if self._hosted is not None:
            await self._hosted.close()
        if self._opened is not None:
            place = self._place
            orphan_s = self._settings.orphan_s
            ending = {
                place.orphan(run, (self.number, request_id), orphan_s)
                for request_id, run in self._listening.items()
            }
            self._listening.clear()
            tasks = {task for task in ending if task is not None}
            if tasks:
                await asyncio.wait(tasks)
            await self._uploads.close()
            self._house.leave(place)
        self._house.exit(self)
