"""What a wrapper sends: one request, then it only listens. See `hot` for the other end."""

from __future__ import annotations

from typing import Final

import attrs

from burst_protocol.errors import RemoteProtocolError

MAGIC: Final = b"BRS1"
PEER_MAGIC: Final = b"BRS2"
"""Of those who are no wrappers; see `home_wire`."""
MAX_BYTES: Final = 64 * 1024 * 1024
_FIELDS: Final = 6


@attrs.frozen
class Request:
    """argv from rustc on, and where, under which umask and environment it was called."""

    version: bytes
    pid: int
    umask: int
    cwd: bytes
    argv: tuple[bytes, ...]
    environ: bytes


def request_size(head: bytes) -> int | None:
    """Length of the whole request in bytes, once its first eight are there."""
    if len(head) < 8:
        return None
    if head[:4] != MAGIC:
        raise RemoteProtocolError("not a wrapper")
    size = int.from_bytes(head[4:8], "little")
    if size > MAX_BYTES:
        raise RemoteProtocolError(f"request of {size} bytes")
    return size + 8


def parse_request(data: bytes) -> Request:
    """`data` is exactly one request; RemoteProtocolError if it is not."""
    fields: list[bytes] = []
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        field = data[at + 4 : at + 4 + length]
        if len(field) != length or at + 4 > len(data):
            raise RemoteProtocolError("a request that ends early")
        fields.append(field)
        at += 4 + length
    if len(fields) != _FIELDS:
        raise RemoteProtocolError(f"a request with {len(fields)} fields")
    version, pid, umask, cwd, argv, environ = fields
    try:
        return Request(
            version, int(pid), int(umask, 8) & 0o777, cwd, tuple(argv.split(b"\0")), environ
        )
    except ValueError as error:
        raise RemoteProtocolError(f"a request with odd numbers: {error}") from error
