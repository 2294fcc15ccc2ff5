"""Sending blobs to an agent: each once, whoever asks for it."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import Iterable, Iterator
from typing import Final

from blake3 import blake3

from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing
from burst_protocol.framing import CHUNK_BYTES
from burst_wrapper.daemon.link import AgentLink, packed
from burst_wrapper.daemon.platform import Path, Sources

_SMALL_BYTES: Final = 256 * 1024
_BATCH_BYTES: Final = 512 * 1024
_BATCH_FILES: Final = 400
_LOCAL_BATCH: Final = 400


class Uploader:
    """Per link. Concurrent units that lack the same blob wait for one upload."""

    def __init__(self, link: AgentLink) -> None:
        self._link = link
        self._under_way: dict[Digest, asyncio.Future[None]] = {}

    async def send(self, identity: int, digests: Iterable[Digest], sources: list[Sources]) -> int:
        """Bytes sent for this caller. BlobMissing if home does not have one (any more).

        A file that changed since it was hashed counts as missing: the agent would ask for it for
        ever.
        """
        mine: list[Digest] = []
        others: list[asyncio.Future[None]] = []
        for digest in dict.fromkeys(digests):
            waiting = self._under_way.get(digest)
            if waiting is None:
                mine.append(digest)
                self._under_way[digest] = asyncio.get_running_loop().create_future()
            else:
                others.append(waiting)
        try:
            sent = await self._send(identity, mine, sources)
        finally:
            for digest in mine:
                future = self._under_way.pop(digest)
                if not future.done():
                    future.set_result(None)
        for other in others:
            await asyncio.shield(other)
        return sent

    async def _send(self, identity: int, digests: list[Digest], sources: list[Sources]) -> int:
        memory: dict[Digest, bytes] = {}
        files: list[tuple[Digest, bytes]] = []
        for digest in digests:
            looks = [*(s.find for s in sources), *(s.find_in_trees for s in sources)]
            found = next((found for look in looks if (found := look(digest)) is not None), None)
            if found is None:
                raise BlobMissing(digest.hex)
            if isinstance(found, Path):
                files.append((digest, found.name))
            else:
                memory[digest] = found
        before = self._link.sent_bytes
        await self._link.put_blobs(memory)
        if self._link.local:
            for start in range(0, len(files), _LOCAL_BATCH):
                self._link.send(m.PutFiles(identity, tuple(files[start : start + _LOCAL_BATCH])))
                await self._link.drain()
            return self._link.sent_bytes - before
        sent = self._link.sent_bytes - before
        for batch in _batches(file for file in files if file[0].size_bytes <= _SMALL_BYTES):
            sent += self._flush(await asyncio.to_thread(_read_packed, batch))
            await self._link.drain()
        for digest, path in files:
            if digest.size_bytes > _SMALL_BYTES:
                sent += await self._send_large(identity, digest, path)
        return sent

    def _flush(self, batch: list[tuple[Digest, int, bytes]]) -> int:
        self._link.send(
            m.PutBlobs(
                tuple(digest for digest, _, _ in batch),
                tuple((codec, data) for _, codec, data in batch),
            )
        )
        return sum(len(data) for _, _, data in batch)

    async def _send_large(self, identity: int, digest: Digest, path: bytes) -> int:
        sent = 0
        hasher = blake3()
        try:
            file = await asyncio.to_thread(io.FileIO, path)
        except OSError as error:
            raise BlobMissing(f"{os.fsdecode(path)}: {error.strerror}") from error
        with file:
            left = digest.size_bytes
            while left > 0:
                data = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))
                if not data:
                    raise _changed(path)
                left -= len(data)
                hasher.update(data)
                codec, data = await asyncio.to_thread(packed, data, compress=True)
                self._link.send(m.BlobChunk(identity, digest, codec, data, left == 0))
                sent += len(data)
                await self._link.drain()
        if hasher.digest() != digest.hash:
            raise _changed(path)
        return sent


def _changed(path: bytes) -> BlobMissing:
    return BlobMissing(f"{os.fsdecode(path)} changed meanwhile")


def _batches(files: Iterable[tuple[Digest, bytes]]) -> Iterator[list[tuple[Digest, bytes]]]:
    """Files for one message and one thread's work each."""
    batch: list[tuple[Digest, bytes]] = []
    size = 0
    for digest, path in files:
        batch.append((digest, path))
        size += digest.size_bytes
        if size > _BATCH_BYTES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _read_packed(files: list[tuple[Digest, bytes]]) -> list[tuple[Digest, int, bytes]]:
    found = []
    for digest, path in files:
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise BlobMissing(f"{os.fsdecode(path)}: {error.strerror}") from error
        if Digest.of(data) != digest:
            raise _changed(path)
        found.append((digest, *packed(data, compress=True)))
    return found
