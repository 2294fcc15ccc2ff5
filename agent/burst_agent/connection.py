"""One client: bytes in, messages out, and the order of what we write.

Small messages never wait behind large files: blobs travel in pieces, and between two pieces all
small messages go first. Only what belongs to one id keeps its order: a Stderr line that announces a
pushed file waits behind the pieces of that file, because the daemon needs the file before the line.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import attrs

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, RemoteProtocolError, VersionMismatch
from burst_protocol.framing import CHUNK_BYTES
from burst_protocol.messages import Message
from burst_protocol.session import Session, State

_READ_BYTES: Final = 256 * 1024
_BATCH_BYTES: Final = 256 * 1024
_QUEUE_BYTES: Final = 8 * 1024 * 1024
_TRANSPORT_BYTES: Final = 256 * 1024
# Chunks that packing made no smaller, before a blob counts as incompressible.
_PATIENCE: Final = 2


@attrs.define
class _Transfer:
    """A blob on its way out, read piece by piece when its turn comes."""

    id: int
    digest: Digest
    path: bytes
    compress: bool
    sent_bytes: int = 0
    poor_chunks: int = 0
    done: bool = False
    unwanted: bool = False
    fd: int = -1

    def next_chunk(self) -> m.BlobChunk:
        """Blocking. BlobMissing if the file is gone or short, OSError if it cannot be read."""
        if self.fd < 0:
            try:
                self.fd = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                raise BlobMissing(str(self.digest)) from None
        data = os.pread(self.fd, CHUNK_BYTES, self.sent_bytes)
        self.sent_bytes += len(data)
        self.done = self.sent_bytes >= self.digest.size_bytes
        if not data and not self.done:
            raise BlobMissing(f"{self.digest} has {self.sent_bytes} bytes")
        packing = codec.RAW
        if self.compress and self.poor_chunks < _PATIENCE:
            packing, data = codec.compress(data)
            if packing == codec.RAW:
                self.poor_chunks += 1
        return m.BlobChunk(self.id, self.digest, packing, data, self.done)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Outbox:
    """What waits to be written. All methods belong to the event loop's thread."""

    def __init__(self, session: Session, writer: asyncio.StreamWriter) -> None:
        self._session = session
        self._writer = writer
        self._small: deque[bytes] = deque()
        self._lanes: dict[int, deque[_Transfer | bytes]] = {}
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._queued_bytes = 0
        self._closed = False

    def send(self, message: Message) -> None:
        """Queues it: at once, or behind the blobs of its id. After the end: nothing."""
        if self._closed or self._session.state is State.CLOSED:
            return
        data = self._session.send(message)
        lane = self._lanes.get(getattr(message, "id", -1))
        if lane is None:
            self._small.append(data)
        else:
            lane.append(data)
        self._grew(len(data))

    def send_blob(self, request_id: int, digest: Digest, path: bytes, *, compress: bool) -> None:
        """Queues a blob's pieces; Failed follows if it turns out to be missing."""
        if self._closed:
            return
        lane = self._lanes.setdefault(request_id, deque())
        lane.append(_Transfer(request_id, digest, path, compress))
        self._wake.set()

    def forget(self, request_id: int) -> None:
        """Nobody wants the queued pieces of this id any more."""
        for item in self._lanes.get(request_id, ()):
            if isinstance(item, _Transfer):
                item.unwanted = True

    async def room(self) -> None:
        """Waits until the peer has read enough for producers to go on."""
        await self._room.wait()

    async def run(self) -> None:
        """Writes until cancelled, closed or the peer is gone (ConnectionError)."""
        try:
            while not self._closed:
                if self._small:
                    await self._write_small()
                elif self._lanes:
                    await self._write_from_lane()
                else:
                    self._wake.clear()
                    await self._wake.wait()
        finally:
            self.close()

    async def flush(self) -> None:
        """Writes what is queued as small messages: the last words before the end."""
        with contextlib.suppress(ConnectionError):
            await self._write_small()

    def close(self) -> None:
        self._closed = True
        for lane in self._lanes.values():
            for item in lane:
                if isinstance(item, _Transfer):
                    item.close()
        self._lanes.clear()
        self._small.clear()
        self._room.set()
        self._wake.set()

    async def _write_small(self) -> None:
        batch: list[bytes] = []
        size = 0
        while self._small and size < _BATCH_BYTES:
            data = self._small.popleft()
            batch.append(data)
            size += len(data)
        if batch:
            self._writer.writelines(batch)
            self._shrank(size)
            await self._writer.drain()

    async def _write_from_lane(self) -> None:
        request_id, lane = next(iter(self._lanes.items()))
        item = lane[0]
        if isinstance(item, bytes):
            data = item
            self._shrank(len(data))
            lane.popleft()
        else:
            data = await self._piece(item)
            if item.done or item.unwanted:
                item.close()
                lane.popleft()
        # To the end of the row, so that all ids get their share; gone when empty, and only now:
        # what was queued for this id before had to stay behind `data`.
        if self._lanes.pop(request_id, None) is None:
            return  # closed meanwhile
        while self._small:
            await self._write_small()
        if lane:
            self._lanes[request_id] = lane
        self._writer.write(data)
        await self._writer.drain()

    async def _piece(self, transfer: _Transfer) -> bytes:
        if transfer.unwanted:
            return b""
        try:
            chunk: Message = await asyncio.to_thread(transfer.next_chunk)
        except BlobMissing as error:
            transfer.done = True
            chunk = m.Failed(transfer.id, error.code, error.detail)
        except OSError as error:
            transfer.done = True
            chunk = m.Failed(transfer.id, BlobMissing.code, f"{transfer.digest}: {error.strerror}")
        return b"" if self._session.state is State.CLOSED else self._session.send(chunk)

    def _grew(self, size: int) -> None:
        self._queued_bytes += size
        if self._queued_bytes > _QUEUE_BYTES:
            self._room.clear()
        self._wake.set()

    def _shrank(self, size: int) -> None:
        self._queued_bytes -= size
        if self._queued_bytes <= _QUEUE_BYTES // 2:
            self._room.set()


@attrs.define
class Connection:
    """A session over two streams."""

    session: Session
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    outbox: Outbox
    heard_s: float = attrs.field(factory=time.monotonic)
    """When the peer said something last (monotonic)."""

    @classmethod
    def over(
        cls, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Connection:
        writer.transport.set_write_buffer_limits(high=_TRANSPORT_BYTES)
        writer.write(session.hello())
        return cls(session, reader, writer, Outbox(session, writer))

    async def messages(self, log: Callable[[str], None]) -> AsyncIterator[Message]:
        """What the peer says, until it ends or misbehaves; both end the iteration."""
        while True:
            try:
                data = await self.reader.read(_READ_BYTES)
            except ConnectionError as error:
                log(f"connection: {error}")
                return
            if not data:
                return
            self.heard_s = time.monotonic()
            try:
                received = self.session.receive(data)
            except (RemoteProtocolError, VersionMismatch) as error:
                log(str(error))
                return
            for message in received:
                yield message

    async def close(self) -> None:
        self.session.close()
        self.outbox.close()
        self.writer.close()
        with contextlib.suppress(ConnectionError, TimeoutError, OSError):
            await asyncio.wait_for(self.writer.wait_closed(), 1)


async def open_socket(fd: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over an inherited, connected socket. OSError if `fd` is none."""
    sock = socket.socket(fileno=fd)
    os.set_inheritable(fd, False)
    return await over_socket(sock)


async def over_socket(
    sock: socket.socket,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over a connected socket, which then belongs to them."""
    sock.setblocking(False)
    return await asyncio.open_connection(sock=sock, limit=_READ_BYTES)


async def open_stdio() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Streams over stdin and stdout, which then belong to the protocol alone.

    Both are moved away from 0 and 1: a stray print would otherwise end up between two frames, and a
    child that reads stdin would eat some.
    """
    loop = asyncio.get_running_loop()
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    if os.fstat(source).st_ino == os.fstat(sink).st_ino and stat.S_ISSOCK(os.fstat(sink).st_mode):
        os.close(sink)
        return await open_socket(source)
    reader = asyncio.StreamReader(_READ_BYTES, loop)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(source, "rb", 0)
    )
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), loop=loop),
        os.fdopen(sink, "wb", 0),
    )
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)
