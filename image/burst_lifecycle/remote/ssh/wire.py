"""The byte stream below a connection: TCP or a ProxyCommand, with little in its queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

_NEXT_ADDRESS_S: Final = 0.25
"""After which a name's next address is tried beside the one that has not answered (RFC 8305,
section 5). `ssh` waits for each in turn; where IPv6 is a black hole that would take all the time
that a login has."""
_QUEUE_BYTES: Final = 128 * 1024


class Wire(asyncio.Protocol):
    """The TCP connection below everything, with little in its queue.

    asyncssh writes as much as the server's windows allow (2 MiB per channel), and all of it would
    wait in one queue: on an upload of 2 Mbit/s a keepalive or a small request would come 8 s late,
    and a busy link would be given up for silent. So whoever sends much waits in `drain` until the
    queue is short, here and in the kernel (TCP_NOTSENT_LOWAT).
    """

    def __init__(
        self, inner: asyncio.Protocol, process: subprocess.Popen[bytes] | None = None
    ) -> None:
        """`process`: a ProxyCommand, leader of a process group, which ends with the connection."""
        self._inner = inner
        self._process = process
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(_QUEUE_BYTES)
        sock: socket.socket = transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _QUEUE_BYTES)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.writable.set()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._inner.connection_lost(exc)


@attrs.define
class Dialer:
    """Looks to asyncssh like a connection to tunnel through; connects over TCP, or by a
    ProxyCommand, with a Wire.

    asyncssh's own way to start a ProxyCommand knows no shell, takes what the command says on stderr
    for the server's words, and the end of stderr for the end.
    """

    family: int
    local_address: tuple[str, int] | None
    command: list[str] | None
    wire: Wire | None = None

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        process: subprocess.Popen[bytes] | None = None

        def make() -> Wire:
            self.wire = Wire(factory(), process)
            return self.wire

        loop = asyncio.get_running_loop()
        if self.command is None:
            transport, wire = await loop.create_connection(
                make,
                host,
                port,
                family=self.family,
                local_addr=self.local_address,
                happy_eyeballs_delay=_NEXT_ADDRESS_S,
            )
            return transport, wire._inner
        ours, process = _start(self.command)  # here: a thread's would be lost when cancelled
        transport, wire = await loop.create_connection(make, sock=ours)
        return transport, wire._inner


def _start(command: list[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """A ProxyCommand, and its stdin and stdout as one socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
    return ours, process


def in_shell(command: str | None, agent_path: str | None) -> list[str] | None:
    """As ssh runs a ProxyCommand: by `exec` in a shell, for `~`, quotes and redirections
    (ssh_config(5)). The ssh agent may be another one than the daemon was started with."""
    if command is None:
        return None
    script = f"exec {command}"
    if agent_path:
        script = f"SSH_AUTH_SOCK={shlex.quote(agent_path)}; export SSH_AUTH_SOCK; {script}"
    return ["/bin/sh", "-c", script]
