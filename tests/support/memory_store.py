"""The blob store as a dict: the model the real one is compared with, and a fast stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterable

from burst_agent.store import blob_missing
from burst_protocol.digest import Digest
from burst_protocol.errors import DigestMismatch


class MemoryStore:
    """The part of BlobStore's interface that has no paths into the store."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        return digest in self.blobs

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        return [one for one in dict.fromkeys(digests) if one not in self.blobs]

    def read(self, digest: Digest) -> bytes:
        if digest not in self.blobs:
            raise blob_missing([digest])
        return self.blobs[digest]

    def verify(self, digest: Digest) -> bool:
        return digest in self.blobs

    def put_bytes(self, data: bytes, digest: Digest | None = None) -> Digest:
        actual = Digest.of(data)
        if digest not in (None, actual):
            raise DigestMismatch(str(digest))
        self.blobs[actual] = data
        return actual

    def put_file(self, path: bytes, digest: Digest | None = None, *, move: bool = False) -> Digest:
        with open(path, "rb") as file:
            data = file.read()
        if digest is None or digest not in self.blobs:
            digest = self.put_bytes(data, digest)
        if move:
            os.unlink(path)
        return digest

    def quarantine(self, digest: Digest) -> None:
        self.blobs.pop(digest, None)
