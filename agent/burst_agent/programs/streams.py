"""Bytes between a descriptor and the peer, never more of them under way than the peer has room for.

Whoever receives a stream grants credit for it; both sides begin with WINDOW_BYTES. Only for the
event loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from burst_protocol.errors import RemoteProtocolError
from burst_protocol.programs import WINDOW_BYTES

PIECE_BYTES: Final = 64 * 1024


class Outflow:
    """Sends what a descriptor says, and at its end an empty piece. Owns the descriptor."""

    def __init__(self, fd: int, send: Callable[[bytes], None]) -> None:
        self.moves = 0
        """So many pieces were read: whether anything still moves."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._send = send
        self._credit = WINDOW_BYTES
        self._dropping = False
        self._reading = False
        self._done: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._resume()

    def grant(self, size: int) -> None:
        self._credit += max(0, size)
        self._resume()

    def drop(self) -> None:
        """Nobody listens any more: what comes is read and thrown away."""
        self._dropping = True
        self._resume()

    async def done(self) -> None:
        """When the descriptor is at its end, or was closed. May be cancelled."""
        await asyncio.shield(self._done)

    @property
    def ended(self) -> bool:
        return self._done.done()

    @property
    def waits_for_credit(self) -> bool:
        return self._credit <= 0 and not self._dropping

    def close(self) -> None:
        """The end, whatever the descriptor would still say."""
        if self._done.done():
            return
        self._pause()
        os.close(self._fd)
        self._done.set_result(None)
        if not self._dropping:
            self._send(b"")

    def _resume(self) -> None:
        if not self._reading and not self._done.done() and (self._credit > 0 or self._dropping):
            self._loop.add_reader(self._fd, self._readable)
            self._reading = True

    def _pause(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._fd)
            self._reading = False

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, PIECE_BYTES if self._dropping else self._room())
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            self.close()
            return
        self.moves += 1
        if self._dropping:
            return
        self._credit -= len(data)
        if self._credit <= 0:
            self._pause()
        self._send(data)

    def _room(self) -> int:
        return min(PIECE_BYTES, self._credit)


class Inflow:
    """Writes what the peer sends into a descriptor, and says how much was taken. Owns it.

    A reader that is gone takes everything: what is written to it is lost at home, too.
    """

    def __init__(self, fd: int, took: Callable[[int], None], *, end_mark: bytes = b"") -> None:
        """`end_mark` is written at the end instead of closing: a terminal's end of file."""
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._took = took
        self._end_mark = end_mark
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._ending = False
        self._broken = False
        self._writing = False
        os.set_blocking(fd, False)

    def put(self, data: bytes) -> None:
        """Empty: the end. RemoteProtocolError if the peer sends more than it was granted."""
        if self._ending or self._fd < 0:
            self._took(len(data))
            return
        if not data:
            self._ending = True
        elif self._queued_bytes + len(data) > WINDOW_BYTES:
            raise RemoteProtocolError("more input than there is room for")
        if data:
            self._queue.append(data)
            self._queued_bytes += len(data)
        if not self._writing:
            self._write()

    def close(self) -> None:
        """At once, whatever is queued."""
        self._watch(wanted=False)
        self._queue.clear()
        self._queued_bytes = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self) -> None:
        while self._queue:
            data = self._queue.popleft()
            self._queued_bytes -= len(data)
            try:
                size = len(data) if self._broken else os.write(self._fd, data)
            except BlockingIOError:
                size = 0
            except OSError:  # EPIPE, EIO
                self._broken = True
                size = len(data)
            if size:
                self._took(size)
            if size < len(data):
                self._queue.appendleft(data[size:])
                self._queued_bytes += len(data) - size
                self._watch(wanted=True)
                return
        self._watch(wanted=False)
        if self._ending and not self._end_mark:
            self.close()
        elif self._ending:
            with contextlib.suppress(OSError):
                os.write(self._fd, self._end_mark)

    def _watch(self, *, wanted: bool) -> None:
        if wanted == self._writing:
            return
        if wanted:
            self._loop.add_writer(self._fd, self._write)
        else:
            with contextlib.suppress(OSError):
                self._loop.remove_writer(self._fd)
        self._writing = wanted
