"""Blobs that come from the client: small ones whole, large ones in pieces, local ones as files.

Nothing here makes the connection wait, except when more bytes are queued than memory is meant for.
`settled` is what makes order matter again: an Execute looks for its inputs only after all that was
sent before it has been stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import attrs

from burst_agent.store import BlobStore, BlobWriter
from burst_protocol import codec as wire_codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BurstError, DigestMismatch, DiskFull, RemoteProtocolError

_QUEUE_BYTES: Final = 64 * 1024 * 1024

Fail = Callable[[int, BurstError], None]


def unpack(codec: int, data: bytes, limit_bytes: int) -> bytes:
    """The plain bytes; DigestMismatch for damage or for more than `limit_bytes`."""
    try:
        return wire_codec.decompress(codec, data, limit_bytes)
    except RemoteProtocolError as error:
        raise DigestMismatch(str(error)) from error


@attrs.define
class _Upload:
    """A large blob on its way in; its pieces are written one after the other."""

    writer: BlobWriter | None = None
    failed: bool = False
    previous: asyncio.Task[None] | None = None


@attrs.define
class Uploads:
    """Everything on its way into the store. Only for the event loop's thread."""

    store: BlobStore
    fail: Fail
    stored: int = 0
    """Blobs that arrived: a reason to look whether the store is full."""
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set)
    _open: dict[tuple[int, Digest], _Upload] = attrs.field(factory=dict)
    _queued_bytes: int = 0
    _room: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def blobs(self, message: m.PutBlobs) -> None:
        if len(message.digests) != len(message.blobs):
            self.fail(0, RemoteProtocolError("as many digests as blobs"))
            return
        size = sum(len(data) for _, data in message.blobs)

        def store_all() -> None:
            for digest, (codec, data) in zip(message.digests, message.blobs, strict=True):
                self.store.put_bytes(unpack(codec, data, digest.size_bytes), digest)

        _ = self._start(0, store_all, size)
        self.stored += len(message.blobs)
        await self._wait_for_room()

    def files(self, message: m.PutFiles) -> None:
        def store_all() -> None:
            for digest, path in message.files:
                try:
                    self.store.put_file(path, digest)
                except FileNotFoundError as error:
                    raise DigestMismatch(f"{digest}: {error.strerror}") from error

        _ = self._start(message.id, store_all, 0)
        self.stored += len(message.files)

    async def chunk(self, message: m.BlobChunk) -> None:
        key = (message.id, message.digest)
        upload = self._open.setdefault(key, _Upload())
        if message.last:
            del self._open[key]
            self.stored += 1

        def write() -> None:
            if upload.failed:
                return
            try:
                if upload.writer is None:
                    upload.writer = self.store.open_writer(message.digest)
                limit = message.digest.size_bytes
                upload.writer.write(unpack(message.codec, message.data, limit))
                if message.last:
                    upload.writer.commit()
            except BaseException:
                upload.failed = True
                if upload.writer is not None:
                    upload.writer.abort()
                raise

        upload.previous = self._start(message.id, write, len(message.data), upload.previous)
        await self._wait_for_room()

    async def settled(self) -> None:
        """All that was completely sent until now is stored, or its failure was reported."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        await self.settled()
        for upload in self._open.values():
            if upload.writer is not None:
                upload.writer.abort()
        self._open.clear()

    def _start(
        self,
        request_id: int,
        work: Callable[[], None],
        size: int,
        after: asyncio.Task[None] | None = None,
    ) -> asyncio.Task[None]:
        self._queued_bytes += size
        task = asyncio.create_task(self._do(request_id, work, size, after))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _do(
        self,
        request_id: int,
        work: Callable[[], None],
        size: int,
        after: asyncio.Task[None] | None,
    ) -> None:
        try:
            if after is not None:
                await asyncio.wait([after])
            await asyncio.to_thread(work)
        except BurstError as error:
            self.fail(request_id, error)
        except OSError as error:
            self.fail(request_id, DiskFull(f"storing a blob: {error}"))
        finally:
            self._queued_bytes -= size
            self._room.set()

    async def _wait_for_room(self) -> None:
        while self._queued_bytes > _QUEUE_BYTES:
            self._room.clear()
            await self._room.wait()
