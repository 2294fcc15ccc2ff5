"""`-L [local:]remote`: ports on this machine's loopback that lead to a project's network there.

Where programs run in this machine's own network, a port that has another number leads to that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.errors import BurstError, LinkLost, UserError
from burst_wrapper.daemon.attempt import error_of
from burst_wrapper.daemon.executor import Executor

_READ_BYTES: Final = 64 * 1024
_HOST: Final = "127.0.0.1"


class PortTaken(UserError):
    """cannot listen on 127.0.0.1:{port}: {detail}"""

    exit_code = 2
    code = "port-taken"
    hint = "name another port here: `-L other:remote`"


class Forwards:
    """The listeners of one session."""

    def __init__(
        self, mirror: str = "", executor: Callable[[], Awaitable[Executor]] | None = None
    ) -> None:
        """`executor`: the agent to ask, as it is reached at that moment; None: this machine."""
        self._mirror = mirror
        self._executor = executor
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.failures: dict[str, None] = {}
        """Why connections came to nothing."""

    async def listen(self, pairs: tuple[tuple[int, int], ...]) -> None:
        """PortTaken; then none is listened on."""
        try:
            for local, remote in pairs:
                if self._executor is not None or local != remote:
                    await self._listen(local, remote)
        except BaseException:
            await self.close()
            raise

    async def _listen(self, local: int, remote: int) -> None:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._serve(remote, reader, writer))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

        try:
            server = await asyncio.start_server(accepted, _HOST, local, limit=_READ_BYTES)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise PortTaken(reason, port=local) from error
        self._servers.append(server)

    async def _serve(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            if self._executor is None:
                await _join(port, reader, writer)
                return
            await _Connection(await self._executor(), self._mirror, port, reader, writer).run()
        except BurstError as error:
            self.failures[f"port {port}: {error}"] = None
            writer.transport.abort()
        except OSError:
            writer.transport.abort()
        finally:
            writer.close()

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for task in list(self._connections):
            task.cancel()
        for task in list(self._connections):
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _join(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """With a port of this machine. OSError."""
    there, back = await asyncio.open_connection(_HOST, port, limit=_READ_BYTES)
    try:
        await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
    finally:
        back.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_READ_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


class _Connection:
    def __init__(
        self,
        executor: Executor,
        mirror: str,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._link = executor.link
        self._identity = self._link.new_id()
        self._mirror = mirror
        self._port = port
        self._reader = reader
        self._writer = writer
        self._credit = p.WINDOW_BYTES
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Until both ends have said their last. BurstError, OSError."""
        link, identity = self._link, self._identity
        queue = link.open_stream(identity)
        sending: asyncio.Task[None] | None = None
        over = False
        try:
            link.send(p.Connect(identity, self._mirror, self._port))
            while True:
                message = await queue.get()
                if message is None:
                    raise link.gone or LinkLost("it ended", host=link.name)
                match message:
                    case p.Connected():
                        sending = asyncio.create_task(self._send())
                    case p.ProgramOutput():
                        if not message.data:
                            if self._writer.can_write_eof():
                                self._writer.write_eof()
                            if sending is not None:
                                await sending
                            over = True
                            return
                        self._writer.write(message.data)
                        await self._writer.drain()
                        link.send(p.Credit(identity, 1, len(message.data)))
                    case p.Credit():
                        self._credit += message.size
                        self._more.set()
                    case m.Failed():
                        over = True
                        raise error_of(message, link.name)
                    case _:
                        pass
        finally:
            if sending is not None:
                sending.cancel()
            link.close_stream(identity)
            if not over and link.gone is None:
                with contextlib.suppress(BurstError, OSError):
                    link.send(m.Cancel(identity))

    async def _send(self) -> None:
        while True:
            while self._credit <= 0:
                self._more.clear()
                await self._more.wait()
            try:
                data = await self._reader.read(min(_READ_BYTES, self._credit))
            except OSError:
                data = b""
            self._credit -= len(data)
            self._link.send(p.Input(self._identity, data))
            if not data:
                return
