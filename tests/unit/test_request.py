"""burst_wrapper.daemon.request: what a wrapper says first, byte by byte."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.errors import RemoteProtocolError
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.request import MAX_BYTES, Request, parse_request, request_size
from burst_wrapper.daemon.server import Server, WrapperProtocol

words = st.binary(max_size=8).filter(lambda word: b"\0" not in word)


def packed(*fields: bytes) -> bytes:
    body = b"".join(len(field).to_bytes(4, "little") + field for field in fields)
    return b"BRS1" + len(body).to_bytes(4, "little") + body


SOUND = (b"1", b"4711", b"22", b"/cwd", b"rustc\0-vV", b"A=1\0B=2\0")


@given(words, st.integers(0, 2**22), st.integers(0, 0o777), words, st.lists(words, min_size=1))
def test_every_request_is_read_as_it_was_meant(
    version: bytes, pid: int, umask: int, cwd: bytes, argv: list[bytes]
) -> None:
    """As `hot` packs it; arguments may be empty, the environment holds anything."""
    environ = b"X=\xff\0LANG=C\0"
    fields = (version, b"%d" % pid, b"%o" % umask, cwd, b"\0".join(argv), environ)
    data = packed(*fields)
    assert request_size(data[:8]) == len(data)
    assert parse_request(data) == Request(version, pid, umask, cwd, tuple(argv), environ)


@pytest.mark.parametrize("head", [b"", b"B", b"BRS1", b"BRS1\1\0\0"])
def test_a_head_that_is_not_whole_says_nothing_yet(head: bytes) -> None:
    """More may come."""
    assert request_size(head) is None


@pytest.mark.parametrize("head", [b"GET / HT", b"BRS2\0\0\0\0", bytes(8)])
def test_somebody_else_on_our_socket(head: bytes) -> None:
    """Refused after eight bytes."""
    with pytest.raises(RemoteProtocolError, match="not a wrapper"):
        request_size(head)


def test_a_request_beyond_the_limit() -> None:
    """Nothing of it is buffered."""
    with pytest.raises(RemoteProtocolError, match="bytes"):
        request_size(b"BRS1" + (MAX_BYTES + 1).to_bytes(4, "little"))
    assert request_size(b"BRS1" + MAX_BYTES.to_bytes(4, "little")) == MAX_BYTES + 8


@pytest.mark.parametrize(
    "fields",
    [
        (),
        SOUND[:-1],
        (*SOUND, b"more"),
        (b"1", b"pid", *SOUND[2:]),
        (b"1", b"", *SOUND[2:]),
        (b"1", b"9" * 5000, *SOUND[2:]),
        (b"1", b"1", b"99", *SOUND[3:]),
        (b"1", b"1", b"", *SOUND[3:]),
    ],
)
def test_fields_that_are_none(fields: tuple[bytes, ...]) -> None:
    """Too few, too many, or no numbers where numbers belong."""
    with pytest.raises(RemoteProtocolError):
        parse_request(packed(*fields))


@given(st.integers(8, len(packed(*SOUND)) - 1))
def test_a_request_that_ends_early(length: int) -> None:
    """At any byte."""
    with pytest.raises(RemoteProtocolError):
        parse_request(packed(*SOUND)[:length])


@given(st.binary(max_size=80))
def test_random_bytes(data: bytes) -> None:
    """A protocol error, whatever they are."""
    try:
        parse_request(b"BRS1" + len(data).to_bytes(4, "little") + data)
    except RemoteProtocolError:
        pass
    else:
        pytest.fail("six sound fields by chance")


def test_an_umask_is_permissions_only() -> None:
    """Other bits do not exist."""
    assert parse_request(packed(b"1", b"1", b"7022", *SOUND[3:])).umask == 0o022


class _Heard:
    """Stands for the server: keeps who asked what."""

    def __init__(self) -> None:
        self.begun: asyncio.Future[tuple[Client, Request]] = asyncio.Future()

    def begin(self, client: Client, request: Request) -> None:
        self.begun.set_result((client, request))

    def left(self, client: Client) -> None:
        pass


def test_the_kernel_says_who_asks() -> None:
    """A wrapper in a pid namespace of its own names a pid that is some other process here; its
    cargo would be looked for there, and a unit ended when that process ends."""

    async def scenario() -> tuple[Client, Request]:
        heard = _Heard()
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: WrapperProtocol(cast("Server", heard)), ours
        )
        theirs.sendall(packed(*SOUND))
        begun = await heard.begun
        transport.close()
        theirs.close()
        return begun

    client, request = asyncio.run(scenario())
    assert request.pid == client.pid == os.getpid() != 4711
