"""A daemon that runs programs as a test tells it: the other end of `burst_wrapper.runner`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from attrs import define, field

from burst_wrapper import home_wire as w
from fake_listener import FakeListener


def exit_frame(status: int) -> bytes:
    return w.frame(b"X", status.to_bytes(4, "little", signed=True))


BEGUN = w.frame(b"B")


@define
class Runner:
    """One connected runner."""

    connection: socket.socket
    fields: list[bytes]
    received: bytearray = field(factory=bytearray)
    said: list[tuple[bytes, bytes]] = field(factory=list)

    @property
    def argv(self) -> list[bytes]:
        return self.fields[4].split(b"\0")

    @property
    def terminals(self) -> int:
        return int(self.fields[6])

    def tell(self, *frames: bytes) -> None:
        self.connection.sendall(b"".join(frames))

    def hear(self) -> tuple[bytes, bytes] | None:
        """The next thing it says; None when it has gone."""
        while not self.said:
            data = self.connection.recv(65536)
            if not data:
                return None
            self.received += data
            self.said += w.frames(self.received)
        return self.said.pop(0)

    def hear_input(self, size: int) -> bytes:
        """That many bytes of stdin."""
        data = b""
        while len(data) < size:
            said = self.hear()
            assert said is not None, data
            if said[0] == b"I":
                data += said[1]
        return data

    def hear_a(self, kind: bytes) -> bytes:
        """What comes with the next frame of this kind; others are left out."""
        while True:
            said = self.hear()
            assert said is not None, kind
            if said[0] == kind:
                return said[1]


@define
class FakePrograms(FakeListener):
    """Each connection is a program; `play` is what it does."""

    play: Callable[[Runner], None] = field(default=lambda runner: runner.tell(exit_frame(0)))
    seen: list[Runner] = field(factory=list)
    failures: list[BaseException] = field(factory=list)

    def talk(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        head = connection.recv(8, socket.MSG_WAITALL)
        assert head[:4] == w.MAGIC
        size = int.from_bytes(head[4:], "little")
        body = connection.recv(size, socket.MSG_WAITALL)
        runner = Runner(connection, w.fields_of(body))
        self.seen.append(runner)
        try:
            self.play(runner)
        except BaseException as failure:
            self.failures.append(failure)


@pytest.fixture
def programs(home: object) -> Iterator[FakePrograms]:
    """At the socket that this test's runners connect to."""
    daemon = FakePrograms()
    daemon.start()
    yield daemon
    daemon.stop()
    assert not daemon.failures
