"""One remote command, or one socket there, as a byte stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Final, cast

import asyncssh

from burst_lifecycle.remote.ssh.policy import reason
from burst_protocol.errors import AgentGone, BurstError, LinkLost

if TYPE_CHECKING:
    from burst_lifecycle.remote.ssh.wire import Wire

_STATUS_WAIT_S: Final = 1.0
_READ_HIGH_BYTES: Final = 4 * 1024 * 1024
_READ_LOW_BYTES: Final = 1024 * 1024
_STDERR_RING_BYTES: Final = 64 * 1024


class AgentChannel(asyncssh.SSHClientSession[bytes]):
    """stdin and stdout of one remote command as a byte stream; stderr goes into a bounded ring."""

    def __init__(self, host: str, wire: Wire | None) -> None:
        self.host = host
        self._wire = wire
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: deque[bytes] = deque()
        self._size_bytes = 0
        self._reading_paused = False
        self._writing_paused = False
        self._eof = False
        self._closed = False
        self._error: BurstError | None = None
        self._readable: asyncio.Future[None] | None = None
        self._writable: list[asyncio.Future[None]] = []
        self._stderr = bytearray()

    # Called by us

    async def read(self, limit_bytes: int) -> bytes:
        """Up to `limit_bytes`, at least one; b"" at the end. LinkLost if the link broke.

        One reader at a time.
        """
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._eof or self._closed:
                return b""
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        parts: list[bytes] = []
        room = limit_bytes
        while self._chunks and room > 0:
            chunk = self._chunks.popleft()
            if len(chunk) > room:
                self._chunks.appendleft(chunk[room:])
                chunk = chunk[:room]
            room -= len(chunk)
            parts.append(chunk)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._size_bytes -= len(data)
        if self._reading_paused and self._size_bytes <= _READ_LOW_BYTES and self._channel:
            self._reading_paused = False
            self._channel.resume_reading()
        return data

    async def read_exactly(self, size_bytes: int) -> bytes:
        """All of that many bytes. AgentGone if the remote command ended before."""
        parts = bytearray()
        while len(parts) < size_bytes:
            data = await self.read(size_bytes - len(parts))
            if not data:
                raise AgentGone(await self.ending())
            parts += data
        return bytes(parts)

    def unread(self, data: bytes) -> None:
        """Put back what was read too much: the next read begins with it."""
        if data:
            self._chunks.appendleft(data)
            self._size_bytes += len(data)

    def write(self, data: bytes) -> None:
        """Queue bytes; `drain` waits for room and tells errors."""
        if self._channel is not None and not self._closed:
            with contextlib.suppress(OSError):  # closed by the peer a moment ago: drain says so
                self._channel.write(data)

    async def drain(self) -> None:
        """Wait until the peer took enough. LinkLost or AgentGone if it never will."""
        while self._writing_paused and not self._closed:
            waiter = asyncio.get_running_loop().create_future()
            self._writable.append(waiter)
            try:
                await waiter
            finally:
                self._writable.remove(waiter)
        if self._wire is not None and not self._closed:
            await self._wire.writable.wait()
        if self._error is not None:
            raise self._error
        if self._closed or self._channel is None or self._channel.is_closing():
            raise AgentGone(await self.ending())

    def write_eof(self) -> None:
        """Close the command's stdin; its output can still be read."""
        if self._channel is not None and not self._closed:
            self._channel.write_eof()

    def close(self) -> None:
        """Give the channel up; what was not read is dropped. sshd then hangs up on the command."""
        if self._channel is not None and not self._closed:
            self._channel.abort()

    async def wait_closed(self) -> None:
        """Until the channel is closed, by whichever side or fault."""
        if self._channel is not None:
            await self._channel.wait_closed()

    @property
    def exit_status(self) -> int | None:
        """Of the remote command: negative for a signal, None while unknown."""
        get = getattr(self._channel, "get_returncode", None)  # a socket's channel has none
        return None if get is None else get()

    @property
    def stderr_tail(self) -> bytes:
        """The last 64 KiB the command wrote to stderr: for our log only."""
        return bytes(self._stderr)

    async def ending(self) -> str:
        """How the command ended, for messages; its status may come a moment after its output."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATUS_WAIT_S):
                await self.wait_closed()
        status = self.exit_status
        return "it closed its output" if status is None else f"it exited with status {status}"

    # Called by asyncssh

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype == asyncssh.EXTENDED_DATA_STDERR:
            self._stderr += data
            if len(self._stderr) > _STDERR_RING_BYTES:
                del self._stderr[:-_STDERR_RING_BYTES]
            return
        self._chunks.append(data)
        self._size_bytes += len(data)
        if not self._reading_paused and self._size_bytes > _READ_HIGH_BYTES and self._channel:
            self._reading_paused = True
            self._channel.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake_reader()
        return True  # keep the writing half open until we close it

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        if exc is not None:
            self._error = LinkLost(reason(exc), host=self.host)
        self._wake_reader()
        self._wake_writers()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done():
            self._readable.set_result(None)

    def _wake_writers(self) -> None:
        for waiter in self._writable:
            if not waiter.done():
                waiter.set_result(None)


class OverSocket(asyncssh.SSHUNIXSession[bytes]):
    """A forwarded socket's events, for a channel that looks like a command's."""

    def __init__(self, channel: AgentChannel) -> None:
        self._to = channel

    def connection_made(self, chan: asyncssh.SSHUNIXChannel[bytes]) -> None:
        # What we use of a channel is the same for both kinds.
        self._to.connection_made(cast("asyncssh.SSHClientChannel[bytes]", chan))

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        self._to.data_received(data, datatype)

    def eof_received(self) -> bool:
        return self._to.eof_received()

    def pause_writing(self) -> None:
        self._to.pause_writing()

    def resume_writing(self) -> None:
        self._to.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._to.connection_lost(exc)
