"""Blobs on their way from another machine: written as they come, gone when they are placed."""

from __future__ import annotations

import contextlib
import os
from typing import BinaryIO

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import DiskFull
from burst_protocol.framing import CHUNK_BYTES


class Spool:
    """One directory of partly and wholly received blobs, named by digest."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._open: dict[tuple[int, Digest], BinaryIO] = {}
        self._complete: dict[Digest, int] = {}
        self.received: dict[int, int] = {}
        """Bytes on the wire per request."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                os.unlink(entry.path)

    def path(self, digest: Digest) -> bytes:
        return os.path.join(self._folder, digest.hash.hex().encode())

    def has(self, digest: Digest) -> bool:
        return digest in self._complete

    def chunk(self, message: m.BlobChunk) -> None:
        """Take one piece; the last one makes the blob complete (its digest is checked on use).

        DiskFull, or RemoteProtocolError for what cannot be unpacked: the link ends with it.
        """
        self.received[message.id] = self.received.get(message.id, 0) + len(message.data)
        try:
            self._take(message)
        except OSError as error:
            raise DiskFull(f"{os.fsdecode(self._folder)}: {error.strerror}") from error

    def _take(self, message: m.BlobChunk) -> None:
        key = (message.id, message.digest)
        file = self._open.get(key)
        if file is None:
            file = open(b"%s.%d" % (self.path(message.digest), message.id), "wb")  # noqa: SIM115
            self._open[key] = file
        data = codec.decompress(message.codec, message.data, CHUNK_BYTES)
        file.write(data)
        if message.last:
            file.close()
            del self._open[key]
            if os.stat(file.name).st_size != message.digest.size_bytes:
                # Its beginning came for a request that was over.
                os.unlink(file.name)
                return
            os.replace(file.name, self.path(message.digest))
            self._complete[message.digest] = self._complete.get(message.digest, 0) + 1

    def drop(self, digests: list[Digest]) -> None:
        """These were taken over; the files go when the last user has them."""
        for digest in digests:
            users = self._complete.get(digest, 0)
            if users > 1:
                self._complete[digest] = users - 1
            elif users == 1:
                del self._complete[digest]
                with contextlib.suppress(OSError):
                    os.unlink(self.path(digest))

    def forget(self, identity: int) -> None:
        """The request is over; what came only in part is removed."""
        self.received.pop(identity, None)
        for key in [key for key in self._open if key[0] == identity]:
            file = self._open.pop(key)
            with contextlib.suppress(OSError):  # what is still buffered may find the disk full
                file.close()
            with contextlib.suppress(OSError):
                os.unlink(file.name)
