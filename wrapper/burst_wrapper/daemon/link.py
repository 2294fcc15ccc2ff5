"""One agent as the daemon sees it: requests by id over one stream, whatever carries the bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    AgentGone,
    BurstError,
    DiskFull,
    Draining,
    LinkLost,
    RemoteProtocolError,
)
from burst_protocol.messages import Message
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

_READ_BYTES: Final = 256 * 1024
_BUSY: Final = 4
"""Times the patience, for an agent that is seen to be busy: a slow disk may take its time."""


class Stream(Protocol):
    """What carries an agent's frames: a socket pair or an SSH channel."""

    async def read(self, limit: int) -> bytes:
        """Some bytes; empty at the end."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...


class BlobSink(Protocol):
    """Where blobs that the agent sends are put."""

    def chunk(self, message: m.BlobChunk) -> None: ...


class AgentLink:
    """Lives as long as its stream. After `gone` is set every request fails with that error."""

    def __init__(
        self,
        stream: Stream,
        name: str,
        *,
        silence_s: float,
        local: bool,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """`busy`: whether a silent agent is seen to work; then it is waited for longer."""
        self.name = name
        self.local = local
        self.ready: m.Ready | None = None
        self.gone: BurstError | None = None
        self.complaint: m.Failed | None = None
        """The last failure that belongs to no request: something sent could not be stored."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self.on_blob: Callable[[m.BlobChunk], None] | None = None
        self.on_gone: Callable[[], None] | None = None
        """Called once, when `gone` is set."""
        self.on_notice: Callable[[str], None] | None = None
        """What the agent wants the user to know."""
        self._stream = stream
        self._silence_s = silence_s
        self._busy = busy
        self._session = Session(Role.CLIENT, BUILD, os.getpid())
        self._next_id = 1
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._streams: dict[int, asyncio.Queue[Message | None]] = {}
        self._heard_s = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._write_lock = asyncio.Lock()

    # -- life ------------------------------------------------------------------------------

    async def start(self, tools: Callable[[AgentLink], Coroutine[Any, Any, m.UseTools]]) -> m.Ready:
        """Say hello, bring our tools, wait until the agent says how it runs things."""
        self._stream.write(self._session.hello())
        self._tasks.append(asyncio.create_task(self._read_loop(), name=f"read {self.name}"))
        self._tasks.append(asyncio.create_task(self._watch(), name=f"watch {self.name}"))
        answer = await self.ask(await tools(self))
        if not isinstance(answer, m.Ready):
            raise RemoteProtocolError(f"expected Ready, got {type(answer).__name__}")
        self.ready = answer
        return answer

    def new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def fail(self, error: BurstError) -> None:
        """The link is over; everybody who waits gets `error`."""
        if self.gone is not None:
            return
        self.gone = error
        self._session.close()
        for future in self._answers.values():
            if not future.done():
                future.set_exception(error)
        for queue in self._streams.values():
            queue.put_nowait(None)
        self._answers.clear()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        with contextlib.suppress(OSError, RuntimeError):
            self._stream.close()
        if self.on_gone is not None:
            self.on_gone()

    async def close(self) -> None:
        if self.gone is None:
            with contextlib.suppress(BurstError, OSError):
                self.send(m.Shutdown())
                await self._stream.drain()
        self.fail(AgentGone("the link was closed"))
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _read_loop(self) -> None:
        try:
            while True:
                data = await self._stream.read(_READ_BYTES)
                if not data:
                    self.fail(self._farewell())
                    return
                self._heard_s = time.monotonic()
                self.received_bytes += len(data)
                for message in self._session.receive(data):
                    self._dispatch(message)
        except asyncio.CancelledError:
            raise
        except BurstError as error:
            self.fail(error)
        except Exception as error:
            self.fail(LinkLost(f"{type(error).__name__}: {error}", host=self.name))

    def _farewell(self) -> BurstError:
        """Why it hung up, if it said so."""
        if self.complaint is not None and self.complaint.code == Draining.code:
            return Draining(self.complaint.detail)
        return AgentGone(f"{self.name} closed the connection")

    async def _watch(self) -> None:
        """Silence is as bad as an end: pings go out; nothing back means the link is given up."""
        interval_s = min(5.0, self._silence_s / 3)
        looked_s = time.monotonic()
        while True:
            await asyncio.sleep(interval_s)
            now_s = time.monotonic()
            late_s, looked_s = now_s - looked_s - interval_s, now_s
            if late_s > interval_s:  # we were stopped, frozen or starved, and listened to nobody
                self._heard_s = min(now_s, self._heard_s + late_s)
            silent_s = now_s - self._heard_s
            limit_s = self._silence_s
            if silent_s > limit_s and (silent_s > _BUSY * limit_s or not self._busy()):
                self.fail(LinkLost(f"nothing heard for {silent_s:.0f} s", host=self.name))
                return
            if silent_s > interval_s * 0.9:
                with contextlib.suppress(BurstError, OSError):
                    self.send(m.Ping(0))

    def _dispatch(self, message: Message) -> None:
        if isinstance(message, m.BlobChunk):
            if self.on_blob is not None:
                self.on_blob(message)
            queue = self._streams.get(message.id)
            if queue is not None and message.last:
                queue.put_nowait(message)
            return
        if isinstance(message, m.Ping):
            self.send(m.Pong(message.token))
            return
        if isinstance(message, m.Pong):
            return
        if isinstance(message, m.Notice):
            if self.on_notice is not None:
                self.on_notice(message.text)
            return
        identity: int = message.id  # type: ignore[union-attr]
        if identity == 0 and isinstance(message, m.Failed):
            self.complaint = message
            return
        queue = self._streams.get(identity)
        if queue is not None:
            queue.put_nowait(message)
            return
        future = self._answers.pop(identity, None)
        if future is not None and not future.done():
            future.set_result(message)

    # -- speaking --------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Queue a message; the error that ended the link if it is over."""
        if self.gone is not None:
            raise self.gone
        data = self._session.send(message)
        self.sent_bytes += len(data)
        self._stream.write(data)

    async def drain(self) -> None:
        """Wait until the stream takes more (large uploads only)."""
        if self.gone is not None:
            raise self.gone
        await self._stream.drain()

    async def ask(self, message: Message) -> Message:
        """One request, one answer."""
        future, _ = self.begin(message)
        return await future

    def begin(self, message: Message) -> tuple[asyncio.Future[Message], int]:
        """Send a request now: what will be its answer, and the bytes it took on the wire."""
        identity: int = message.id  # type: ignore[union-attr]
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._answers[identity] = future
        future.add_done_callback(lambda _: self._answers.pop(identity, None))
        before = self.sent_bytes
        try:
            self.send(message)
        except BurstError:
            future.cancel()
            raise
        return future, self.sent_bytes - before

    def open_stream(self, identity: int) -> asyncio.Queue[Message | None]:
        """All messages with this id go to the queue; None when the link is over."""
        queue: asyncio.Queue[Message | None] = asyncio.Queue()
        self._streams[identity] = queue
        return queue

    def close_stream(self, identity: int) -> None:
        self._streams.pop(identity, None)

    async def put_blobs(self, blobs: dict[Digest, bytes]) -> None:
        """Small blobs in batches of about half a megabyte."""
        batch: list[tuple[Digest, bytes]] = []
        size = 0
        for digest, data in blobs.items():
            batch.append((digest, data))
            size += len(data)
            if size > 512 * 1024:
                self._send_batch(batch)
                await self.drain()
                batch, size = [], 0
        if batch:
            self._send_batch(batch)

    def _send_batch(self, batch: list[tuple[Digest, bytes]]) -> None:
        pairs = [packed(data, compress=not self.local) for _, data in batch]
        self.send(m.PutBlobs(tuple(digest for digest, _ in batch), tuple(pairs)))


def ended(said: str) -> BurstError:
    """Why an agent is gone, by what it said at its end."""
    return DiskFull(said) if "No space left" in said else AgentGone(said)


def packed(data: bytes, *, compress: bool) -> tuple[int, bytes]:
    """(codec, bytes) for the wire: compressed if that is worth it."""
    return codec.compress(data) if compress else (codec.RAW, data)
