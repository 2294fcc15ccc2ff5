"""The daemon's listener: wrappers come, units run, the daemon leaves when nobody comes any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol.errors import BurstError
from burst_wrapper import outputs
from burst_wrapper.callers import same_process
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.request import PEER_MAGIC, Request, parse_request, request_size
from burst_wrapper.daemon.services import Services
from burst_wrapper.daemon.unit import Unit

if TYPE_CHECKING:
    from burst_wrapper.daemon.peer import Peer

_HEARTBEAT_S: Final = 2.0
_log: Final = logging.getLogger("burst")


class WrapperProtocol(asyncio.Protocol):
    """One wrapper's connection: bytes until the request is whole, then only its end matters."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._client: Client | None = None
        self._peer_pid = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("socket")
        self._peer_pid, uid = _peer(peer)
        if uid != os.geteuid():
            _log.warning("refused a connection of uid %s", uid)
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._client is not None or self._transport is None:
            return
        self._buffer += data
        if self._buffer[:4] == PEER_MAGIC:
            from burst_wrapper.daemon.peer import Peer  # noqa: PLC0415 - no wrapper needs it

            peer = Peer(self._peer_pid, self._server.welcome)
            self._transport.set_protocol(peer)
            peer.connection_made(self._transport)
            peer.data_received(bytes(self._buffer))
            return
        try:
            size = request_size(bytes(self._buffer[:8]))
            if size is None or len(self._buffer) < size:
                return
            request = parse_request(bytes(self._buffer[:size]))
            # Its own idea of its pid holds in its own pid namespace only; 0 is one we cannot see.
            request = attrs.evolve(request, pid=self._peer_pid)
        except BurstError as error:
            _log.warning("refused a request: %s", error)
            self._transport.abort()
            return
        self._buffer.clear()
        self._client = Client(self._transport, request.pid)
        self._server.begin(self._client, request)

    def pause_writing(self) -> None:
        if self._client is not None:
            self._client.pause()

    def resume_writing(self) -> None:
        if self._client is not None:
            self._client.resume()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if self._client is not None:
            self._client.left()
            self._client.resume()
            self._server.left(self._client)


class Server:
    """Runs units; each output path has one owner at a time."""

    def __init__(
        self,
        services: Services,
        listener: socket.socket,
        idle_exit_s: float,
        unlink: Callable[[], None],
    ) -> None:
        """`unlink` takes the socket's name away while we still listen; it may be asked twice."""
        self._services = services
        self._listener = listener
        self._idle_exit_s = idle_exit_s
        self._unlink = unlink
        self._units: dict[Client, asyncio.Task[None]] = {}
        self._peers: dict[Peer, asyncio.Task[None]] = {}
        self._owners: dict[tuple[bytes, bytes], Client] = {}
        self._swept: set[bytes] = set()
        self._active_s = time.monotonic()
        self._stop = asyncio.Event()
        self._stamp = _code_stamp()

    async def serve(self) -> None:
        """Until told to stop, idle for long, or upgraded on disk; running units are finished."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: WrapperProtocol(self), sock=self._listener, backlog=4096, start_serving=False
        )
        await server.start_serving()
        housekeeping = asyncio.create_task(self._housekeeping())
        try:
            await self._stop.wait()
        finally:
            self._unlink()
            server.close()
            housekeeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await housekeeping
            self._services.calm.hurry()
            running = [*self._units.values(), *self._peers.values()]
            if running:
                await asyncio.wait(running, timeout=600)

    def stop(self) -> None:
        self._stop.set()

    def abandon(self) -> None:
        """Stop at once: running units are cancelled, their wrappers compile at home. What was
        answered is stored all the same: that takes milliseconds, and to make it again seconds."""
        for client, task in self._units.items():
            if not client.answered:
                task.cancel()
        for task in self._peers.values():
            task.cancel()
        self._stop.set()

    def begin(self, client: Client, request: Request) -> None:
        self._active_s = time.monotonic()
        if self._services.cache_is_gone():
            # Its wrapper finds no socket and starts a daemon that begins anew.
            _log.info("the cache folder was removed: ending")
            self._unlink()
            client.leave()
            self.abandon()
            return
        self._units[client] = asyncio.create_task(self._run(client, request))

    def left(self, client: Client) -> None:
        """The wrapper is gone: cancel what still runs for it."""
        task = self._units.get(client)
        if task is not None and not client.answered:
            task.cancel()

    def welcome(self, peer: Peer, fields: list[bytes]) -> None:
        """Somebody who is no wrapper."""
        self._active_s = time.monotonic()
        task = asyncio.create_task(self._services.sessions.serve(peer, fields))
        self._peers[peer] = task
        task.add_done_callback(lambda _: self._parted(peer))

    def _parted(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        self._active_s = time.monotonic()

    async def _run(self, client: Client, request: Request) -> None:
        owner: tuple[bytes, bytes] | None = None
        try:
            unit = Unit(self._services, client, request)
            owner = unit.prepare()
            if owner is None:
                return
            await self._own(owner, client)
            await unit.run()
        except asyncio.CancelledError:
            pass
        except Exception:
            _log.exception("request failed")
            client.local("bug")
        finally:
            if owner is not None and self._owners.get(owner) is client:
                del self._owners[owner]
            self._units.pop(client, None)
            self._active_s = time.monotonic()

    async def _own(self, key: tuple[bytes, bytes], client: Client) -> None:
        """A new call for the same outputs ends the old one and waits until it cannot write."""
        while (old := self._owners.get(key)) is not None and old is not client:
            task = self._units.get(old)
            if old.answered and task is not None and not task.cancelling():
                break  # it writes no more there; what it made is still being stored
            old.abort()
            if task is None:
                break
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(old.gone.wait(), 5)
            if self._owners.get(key) is old:
                del self._owners[key]
        self._owners[key] = client
        out_dir = key[0]
        if out_dir not in self._swept:
            self._swept.add(out_dir)
            outputs.sweep(out_dir)

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            for client in list(self._units):
                client.heartbeat()
            for peer in list(self._peers):
                peer.heartbeat()
            self._services.flush(int(time.time()))
            self._services.servers.look()
            if self._units:
                self._cancel_orphans()
            if self._units or self._peers:
                continue
            idle_s = time.monotonic() - self._active_s
            if self._services.servers.needs_us and _code_stamp() == self._stamp:
                continue  # somebody has to look after it; see `server_keeper`
            if idle_s > self._idle_exit_s or _code_stamp() != self._stamp:
                self._stop.set()

    def _cancel_orphans(self) -> None:
        """A cargo that was killed leaves wrappers behind; nobody wants what they wait for."""
        for client, task in list(self._units.items()):
            if client.answered:
                continue  # the end of a build: what its last units left is still being stored
            caller = self._services.callers.known(client.pid)
            if caller is not None and not same_process(caller):
                client.abort()
                task.cancel()


def _peer(peer: socket.socket) -> tuple[int, int]:
    """Who connected: pid as this process would name it, and uid."""
    data = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


def _code_stamp() -> tuple[int, int] | None:
    """Changes when this installation is upgraded or removed."""
    try:
        info = os.stat(os.path.join(os.path.dirname(__file__), "main.py"))
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_ino)
