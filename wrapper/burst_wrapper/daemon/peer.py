"""One connection of `cargo burst` or of a runner: an opening, then frames both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from burst_protocol.errors import BurstError
from burst_wrapper import home_wire as w

_log: Final = logging.getLogger("burst")


class Peer(asyncio.Protocol):
    """`opened` is told once, when the opening is whole; from then on `frames` fills."""

    def __init__(self, pid: int, opened: Callable[[Peer, list[bytes]], None]) -> None:
        self.pid = pid
        self.frames: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue()
        """What it says; None when it has gone."""
        self.gone = asyncio.Event()
        self._opened: Callable[[Peer, list[bytes]], None] | None = opened
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # -- asyncio's -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            if self._opened is not None and not self._open():
                return
            for one in w.frames(self._received):
                self.frames.put_nowait(one)
        except BurstError as error:
            _log.warning("refused a connection: %s", error)
            self.abort()

    def _open(self) -> bool:
        if len(self._received) < 8:
            return False
        size = int.from_bytes(self._received[4:8], "little")
        if size > w.MAX_OPENING_BYTES:
            self.abort()
            return False
        if len(self._received) < 8 + size:
            return False
        fields = w.fields_of(bytes(self._received[8 : 8 + size]))
        del self._received[: 8 + size]
        opened, self._opened = self._opened, None
        assert opened is not None
        opened(self, fields)
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.gone.set()
        self._writable.set()
        self.frames.put_nowait(None)

    # -- ours ----------------------------------------------------------------------------------

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Nothing happens if it has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(w.frame(kind, payload))

    async def room(self) -> None:
        """Wait while it reads more slowly than we write."""
        await self._writable.wait()

    def heartbeat(self) -> None:
        if not self.gone.is_set():
            self.send(w.HEARTBEAT)

    def close(self) -> None:
        """What was sent still arrives."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
