"""The networks of all mirrors of an agent, made when first entered, ended some time after the last
program has left."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from burst_agent.network import outgoing, users
from burst_agent.network.entry import SHARED, Entry
from burst_agent.network.namespace import LOG, Namespace, Wish, tail
from burst_agent.network.services import SERVICES
from burst_agent.network.services.running import DEADLINE_S, Running
from burst_protocol.errors import (
    BurstError,
    DiskFull,
    NobodyListens,
    RemoteProtocolError,
    SandboxUnavailable,
    ServiceUnavailable,
)

LINGER_S: Final = 60.0
"""An empty network stays for so long: the next test program finds its services running."""
KEPT_S: Final = 14 * 24 * 3600.0
"""Data of services that nobody asked for since is removed."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,100}")
_ROUTE_S: Final = 5.0
_ROUTE_POLL_S: Final = 0.02
_CONNECT_S: Final = 10.0
_LOOPBACKS: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_log = logging.getLogger("burst.agent")


@attrs.define(eq=False)
class _Mirror:
    """One mirror's network."""

    name: str
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    """Held while it is made, given services, or ended."""
    users: int = 0
    lingering: asyncio.TimerHandle | None = None
    namespace: Namespace | None = None
    shared: str = ""
    """Why there is no namespace: programs share the machine's network."""
    notes: tuple[str, ...] = ()
    resolv_conf: bytes = b""
    folder: bytes = b""
    folder_lock: int = -1
    services: dict[str, Running] = attrs.field(factory=dict)


class Network:
    """Made and used in the event loop of the agent, in its main thread."""

    def __init__(
        self,
        folder: bytes,
        *,
        hidden: tuple[bytes, ...] = (),
        linger_s: float = LINGER_S,
        deadline_s: float = DEADLINE_S,
        way_out: Callable[[], outgoing.WayOut | None] = outgoing.find,
    ) -> None:
        """`folder`: where services keep their data, on a fast local disk. Made when needed.
        `hidden`: folders of ours that services do not see. `deadline_s`: of a service's start."""
        self._folder = folder
        self._hidden = hidden
        self._linger_s = linger_s
        self._deadline_s = deadline_s
        self._way_out = way_out
        self._mirrors: dict[str, _Mirror] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tidied = False

    async def enter(self, mirror: str, services: tuple[str, ...]) -> Entry:
        """A way in, with these services (`postgresql`, `mysql`, `redis`) answering.

        ServiceUnavailable, whose message names the Debian package if that is what lacks; DiskFull.
        """
        if not _NAME.fullmatch(mirror):
            raise RemoteProtocolError(f"mirror name {mirror!r}")
        unknown = [name for name in services if name not in SERVICES]
        if unknown:
            raise RemoteProtocolError(f"no service {unknown[0]!r}")
        net = self._mirrors.setdefault(mirror, _Mirror(mirror))
        net.users += 1
        if net.lingering is not None:
            net.lingering.cancel()
            net.lingering = None
        try:
            async with net.lock:
                await self._open(net)
                namespace = net.namespace
                if namespace is None:
                    if services:
                        raise ServiceUnavailable(f"{services[0]}: {net.shared}")
                    return Entry(SHARED, SHARED, net.notes, b"", self._leaver(net))
                await self._serve(net, namespace, services)
        except BaseException:
            self._left(net)
            raise
        return Entry(
            namespace.user_fd,
            namespace.net_fd,
            net.notes,
            net.resolv_conf,
            self._leaver(net),
        )

    async def connect(self, mirror: str, port: int) -> socket.socket:
        """A connected, non-blocking socket to that port of the mirror's loopback.

        NobodyListens if nothing does, or if no program of that mirror runs.
        """
        if not 0 < port < 1 << 16:
            raise NobodyListens(f"{port} is no port")
        net = self._mirrors.get(mirror)
        if net is None or (net.namespace is None and not net.shared):
            raise NobodyListens(f"no program of this project runs: port {port} is closed")
        problem: OSError | None = None
        for family, address in _LOOPBACKS:
            try:
                return await self._dial(net, family, address, port)
            except TimeoutError as error:
                raise NobodyListens(f"port {port} does not answer") from error
            except ServiceUnavailable as error:
                raise NobodyListens(f"port {port}: {error.detail}") from error
            except OSError as error:
                problem = problem or error
        assert problem is not None
        if problem.errno == errno.ECONNREFUSED:
            raise NobodyListens(f"no program of this project listens on port {port}")
        raise NobodyListens(f"port {port}: {problem.strerror}")

    async def close(self) -> None:
        """Ends all services and networks; nothing is left."""
        for net in self._mirrors.values():
            if net.lingering is not None:
                net.lingering.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        endings = [asyncio.ensure_future(self._end(net)) for net in self._mirrors.values()]
        if endings:
            await asyncio.wait(endings)
        self._mirrors.clear()

    # Making one

    async def _open(self, net: _Mirror) -> None:
        """Sees to it that there is a network that works, or a reason why not."""
        if net.namespace is not None:
            if net.namespace.alive:
                return
            _log.warning("the network of %s has ended by itself", net.name)
            await self._end(net)
        user = users.current()
        try:
            await asyncio.to_thread(self._take_folder, net)
        except OSError as error:
            raise DiskFull(f"{os.fsdecode(self._folder)}: {error.strerror}") from error
        way_out = self._way_out()
        programs = {} if way_out is None else dict(way_out.programs)
        for service in SERVICES.values():
            if service.renamed and (installed := service.find()) is not None:
                programs |= {name: installed[name] for name in service.renamed}
        wish = Wish(
            folder=net.folder,
            user=user,
            files=users.files(user),
            programs=programs,
            out=() if way_out is None else way_out.argv,
            lock=net.folder_lock,
            hidden=(*users.private_folders(), *self._hidden),
        )
        try:
            namespace = await Namespace.open(wish)
        except SandboxUnavailable as error:
            _log.warning("%s", error)
            net.shared = error.detail
            net.notes = (f"programs share that machine's network: {error.detail}",)
            return
        net.namespace, net.shared = namespace, ""
        net.notes, net.resolv_conf = await self._outside(net, namespace, way_out)

    async def _outside(
        self, net: _Mirror, namespace: Namespace, way_out: outgoing.WayOut | None
    ) -> tuple[tuple[str, ...], bytes]:
        """Notes and resolv.conf, when there is a way out or none will be."""
        if way_out is None or namespace.out is None:
            return (outgoing.NO_PROGRAM,), b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROUTE_S):
                while not namespace.out.ended.done():
                    if await namespace.routed():
                        return (), way_out.resolv_conf
                    await asyncio.sleep(_ROUTE_POLL_S)
        said = tail(os.path.join(net.folder, LOG.encode()))
        return (outgoing.failure(way_out.name, said),), b""

    def _take_folder(self, net: _Mirror) -> None:
        """A folder that no other agent works in, locked. Blocking; OSError."""
        if net.folder_lock >= 0:
            return
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        if not self._tidied:
            self._tidied = True
            self._tidy()
        for number in range(1000):
            name = net.name if not number else f"{net.name}.{number}"
            folder = os.path.join(self._folder, name.encode())
            os.makedirs(folder, mode=0o700, exist_ok=True)
            lock = os.open(os.path.join(folder, b"lock"), os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                continue
            except BaseException:
                os.close(lock)
                raise
            os.utime(folder)
            # Services of another user come through it; it is in a folder that nobody else enters.
            os.chmod(folder, 0o711)  # noqa: S103 - see above
            net.folder, net.folder_lock = folder, lock
            return
        raise OSError(errno.EBUSY, "a thousand agents use it")

    def _tidy(self) -> None:
        """Removes what nobody has used for long."""
        with os.scandir(self._folder) as entries:
            old = [e.path for e in entries if time.time() - e.stat().st_mtime > KEPT_S]
        for folder in old:
            with contextlib.suppress(OSError):
                lock = os.open(os.path.join(folder, b"lock"), os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder)
                finally:
                    os.close(lock)

    # Services

    async def _serve(self, net: _Mirror, namespace: Namespace, services: tuple[str, ...]) -> None:
        async def dial(port: int) -> socket.socket:
            return await self._dial(net, socket.AF_INET, "127.0.0.1", port)

        starts: list[asyncio.Task[None]] = []
        for name in dict.fromkeys(services):
            running = net.services.get(name)
            if running is None or not running.alive:
                running = Running(
                    SERVICES[name],
                    namespace,
                    dial,
                    net.folder,
                    users.current(),
                    self._deadline_s,
                )
                net.services[name] = running
                starts.append(asyncio.ensure_future(running.start()))
        if not starts:
            return
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.wait(starts)
            raise
        finally:
            for name in services:
                if not net.services[name].alive:
                    del net.services[name]

    async def _dial(self, net: _Mirror, family: int, address: str, port: int) -> socket.socket:
        """OSError, TimeoutError; ServiceUnavailable if the network is gone."""
        if net.namespace is None:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
        else:
            sock = await net.namespace.socket(family)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    # Ending one

    def _leaver(self, net: _Mirror) -> Callable[[], Awaitable[None]]:
        async def leave() -> None:
            self._left(net)

        return leave

    def _left(self, net: _Mirror) -> None:
        net.users -= 1
        if not net.users and self._mirrors.get(net.name) is net:
            loop = asyncio.get_running_loop()
            net.lingering = loop.call_later(self._linger_s, self._end_later, net)

    def _end_later(self, net: _Mirror) -> None:
        net.lingering = None
        task = asyncio.ensure_future(self._end_unused(net))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_unused(self, net: _Mirror) -> None:
        async with net.lock:
            if not net.users:
                await self._end(net)
                if not net.users:
                    self._mirrors.pop(net.name, None)

    async def _end(self, net: _Mirror) -> None:
        """Services in good order, then everything."""
        services, net.services = net.services, {}
        namespace, net.namespace = net.namespace, None
        try:
            if services and namespace is not None and namespace.alive:
                await asyncio.wait(
                    [asyncio.ensure_future(running.stop()) for running in services.values()]
                )
        finally:
            try:
                if namespace is not None:
                    await namespace.close()
            except BurstError as error:
                _log.warning("ending the network of %s: %s", net.name, error)
            finally:
                if net.folder_lock >= 0:
                    os.close(net.folder_lock)
                    net.folder_lock = -1
