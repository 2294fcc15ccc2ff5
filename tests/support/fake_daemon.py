"""A daemon that says what a test tells it to say: the other end of `burst_wrapper.hot`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from attrs import define, field

from fake_listener import FakeListener


def frame(tag: bytes, payload: bytes = b"") -> bytes:
    return tag + len(payload).to_bytes(4, "little") + payload


def exit_frame(status: int) -> bytes:
    return frame(b"X", status.to_bytes(4, "little", signed=True))


@define
class Request:
    """What the wrapper sent, field by field."""

    version: bytes
    pid: int
    umask: int
    cwd: bytes
    argv: list[bytes]
    environ: bytes

    @classmethod
    def read(cls, connection: socket.socket) -> Request:
        with connection.makefile("rb") as stream:
            assert stream.read(4) == b"BRS1"
            body = stream.read(int.from_bytes(stream.read(4), "little"))
        fields = []
        while body:
            end = 4 + int.from_bytes(body[:4], "little")
            fields.append(body[4:end])
            body = body[end:]
        version, pid, umask, cwd, argv, environ = fields
        return cls(version, int(pid), int(umask, 8), cwd, argv.split(b"\0"), environ)

    def variables(self) -> dict[bytes, bytes]:
        entries = [entry.partition(b"=") for entry in self.environ.split(b"\0") if entry]
        return {name: value for name, _, value in entries}


Answer = bytes | Callable[[socket.socket, Request], None]


@define
class FakeDaemon(FakeListener):
    """Answers the connections in order; the last answer is repeated."""

    answers: list[Answer] = field(factory=lambda: [exit_frame(0)])
    requests: list[Request] = field(factory=list)

    def talk(self, connection: socket.socket) -> None:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        request = Request.read(connection)
        self.requests.append(request)
        if isinstance(answer, bytes):
            connection.sendall(answer)
        else:
            answer(connection, request)


@pytest.fixture
def fake_daemon(home: object) -> Iterator[FakeDaemon]:
    """A daemon at the socket this test's wrappers connect to."""
    daemon = FakeDaemon()
    daemon.start()
    yield daemon
    daemon.stop()
