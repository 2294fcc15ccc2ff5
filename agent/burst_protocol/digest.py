"""Digests: BLAKE3-256 and a size. Identity of every blob, tree and action."""

from __future__ import annotations

import os
from typing import Final

import attrs
from blake3 import blake3

HASH_BYTES: Final = 32
PACKED_BYTES: Final = HASH_BYTES + 8
_MMAP_FROM_BYTES: Final = 256 * 1024
_THREADS_FROM_BYTES: Final = 16 * 1024 * 1024
_SHORT: Final = 512
_LENGTHS: Final = tuple(size.to_bytes(8, "little") for size in range(_SHORT))
"""Keys are made of thousands of short fields."""


@attrs.frozen(order=True)
class Digest:
    """BLAKE3-256 of some bytes, and how many they are."""

    hash: bytes
    size_bytes: int

    @classmethod
    def of(cls, data: bytes | memoryview) -> Digest:
        return cls(blake3(data).digest(), len(data))

    @classmethod
    def of_file(cls, path: bytes | str) -> Digest:
        """Digest of a file's bytes; large ones by mmap. OSError if it cannot be read."""
        size = os.stat(path).st_size
        if size >= _MMAP_FROM_BYTES:
            threads = blake3.AUTO if size >= _THREADS_FROM_BYTES else 1
            hasher = blake3(max_threads=threads)
            hasher.update_mmap(os.fsdecode(path))
            # The size is of the bytes hashed: a file that grew meanwhile must not get a wrong pair.
            if os.stat(path).st_size == size:
                return cls(hasher.digest(), size)
        with open(path, "rb") as file:
            data = file.read()
        return cls.of(data)

    @property
    def hex(self) -> str:
        return self.hash.hex()

    def packed(self) -> bytes:
        """40 bytes: hash, then the size as little-endian 64 bit."""
        return self.hash + self.size_bytes.to_bytes(8, "little")

    @classmethod
    def unpacked(cls, data: bytes) -> Digest:
        """Inverse of `packed`; ValueError for anything else, whatever its type."""
        # A list of 40 small numbers would pass for bytes in all that follows.
        if type(data) is not bytes or len(data) != PACKED_BYTES:
            raise ValueError(f"a packed digest is {PACKED_BYTES} bytes")
        return cls(data[:HASH_BYTES], int.from_bytes(data[HASH_BYTES:], "little"))

    def __str__(self) -> str:
        return f"{self.hash.hex()[:12]}/{self.size_bytes}"


EMPTY: Final = Digest.of(b"")


class KeyHasher:
    """BLAKE3 over length-prefixed fields: no two different field lists have one key."""

    def __init__(self, domain: bytes) -> None:
        self._hasher = blake3()
        self.add(domain)

    def add(self, *fields: bytes) -> None:
        parts = [b""] * (2 * len(fields))
        parts[::2] = [
            _LENGTHS[size] if size < _SHORT else size.to_bytes(8, "little")
            for size in map(len, fields)
        ]
        parts[1::2] = fields
        self._hasher.update(b"".join(parts))

    def key(self) -> bytes:
        return self._hasher.digest()
