"""Bytes to frames and back: length, check, payload. No I/O.

A frame is `length: u32 LE`, `check: u32 LE` (low half of XXH3-64 of the payload), payload. The
check finds a broken link early and cheaply; identity is the digests' business.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_intdigest

from burst_protocol.errors import LocalProtocolError, RemoteProtocolError
from burst_protocol.messages import Message, decode, encode

VERSION: Final = 4
"""Of the protocol between daemon and agent. Peers with another number are refused."""

HEADER_BYTES: Final = 8
MAX_FRAME_BYTES: Final = 48 * 1024 * 1024
CHUNK_BYTES: Final = 512 * 1024
"""Blobs travel in pieces of this size, so that a small event never waits behind a large file."""


def frame(message: Message) -> bytes:
    """One message as it goes onto the wire. LocalProtocolError if the peer would refuse it."""
    payload = encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise LocalProtocolError(f"{type(message).__name__} of {len(payload)} bytes")
    check = xxh3_64_intdigest(payload) & 0xFFFFFFFF
    return len(payload).to_bytes(4, "little") + check.to_bytes(4, "little") + payload


class FrameDecoder:
    """Feed bytes in any portions, get messages. O(n) in the bytes fed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages completed by `data`. RemoteProtocolError ends the connection for good."""
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            length = int.from_bytes(buffer[start : start + 4], "little")
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"frame of {length} bytes")
            end = start + HEADER_BYTES + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[start + HEADER_BYTES : end])
            check = int.from_bytes(buffer[start + 4 : start + 8], "little")
            if xxh3_64_intdigest(payload) & 0xFFFFFFFF != check:
                raise RemoteProtocolError("frame check differs")
            messages.append(decode(payload))
            start = end
        if start:
            del buffer[:start]
        return messages

    @property
    def pending_bytes(self) -> int:
        return len(self._buffer)
