"""Connections into the networks of mirrors, as one client's messages ask for them (`-L`)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from burst_protocol import programs as p
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.messages import Message

_PIECE_BYTES: Final = 64 * 1024
_STREAM: Final = 1
_INPUT: Final = 0


class Dials(Protocol):
    async def connect(self, mirror: str, port: int) -> socket.socket:
        """NobodyListens."""


class Connections:
    """All of one client. Both directions are bounded by what their receiver has credited."""

    def __init__(self, network: Callable[[], Dials], send: Callable[[Message], None]) -> None:
        self._network = network
        self._send = send
        self._open: dict[int, _Pipe] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._open

    async def serve(self, message: p.Connect) -> None:
        """Until both ends have ended their stream; cancelled, both are cut. NobodyListens."""
        sock = await self._network().connect(message.mirror, message.port)
        reader, writer = await asyncio.open_connection(sock=sock, limit=_PIECE_BYTES)
        pipe = _Pipe(message.id, reader, writer, self._send)
        self._open[message.id] = pipe
        try:
            self._send(p.Connected(message.id))
            await pipe.run()
        finally:
            del self._open[message.id]

    def said(self, message: p.Input | p.Credit) -> None:
        """The client's words for one that is open."""
        pipe = self._open.get(message.id)
        if pipe is None:
            return
        if isinstance(message, p.Input):
            pipe.input(message.data)
        elif message.stream == _STREAM:
            pipe.credit(message.size)


class _Pipe:
    """One connection."""

    def __init__(
        self,
        request_id: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        send: Callable[[Message], None],
    ) -> None:
        self._id = request_id
        self._reader = reader
        self._writer = writer
        self._send = send
        self._credit_bytes = p.WINDOW_BYTES
        self._waiting_bytes = 0
        self._inputs: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._excess: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def input(self, data: bytes) -> None:
        self._waiting_bytes += len(data)
        if self._waiting_bytes > p.WINDOW_BYTES:
            if not self._excess.done():
                self._excess.set_exception(RemoteProtocolError("more input than was credited"))
            return
        self._inputs.append(data)
        self._changed.set()

    def credit(self, size: int) -> None:
        self._credit_bytes += size
        self._changed.set()

    async def run(self) -> None:
        both = asyncio.gather(self._read(), self._write())
        try:
            done, _ = await asyncio.wait((both, self._excess), return_when=asyncio.FIRST_COMPLETED)
            for future in done:
                future.result()
            self._writer.close()
        except BaseException:
            self._writer.transport.abort()
            raise
        finally:
            both.cancel()
            self._excess.cancel()
            await asyncio.wait((both,))

    async def _read(self) -> None:
        while True:
            while self._credit_bytes <= 0:
                await self._change()
            try:
                data = await self._reader.read(min(_PIECE_BYTES, self._credit_bytes))
            except OSError:  # reset, say: for a client of TCP that is the end, too
                data = b""
            self._credit_bytes -= len(data)
            self._send(p.ProgramOutput(self._id, _STREAM, data))
            if not data:
                return

    async def _write(self) -> None:
        gone = False
        while True:
            while not self._inputs:
                await self._change()
            data = self._inputs.popleft()
            if not data:
                with contextlib.suppress(OSError):
                    await self._writer.drain()
                    if self._writer.can_write_eof():
                        self._writer.write_eof()
                return
            if not gone:
                try:
                    self._writer.write(data)
                    await self._writer.drain()
                except OSError:
                    gone = True  # and what still comes is dropped: its sender will hear the end
            self._waiting_bytes -= len(data)
            self._send(p.Credit(self._id, _INPUT, len(data)))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
