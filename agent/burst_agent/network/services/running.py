"""One service in one network: its data, its start with a deadline, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from typing import Final

import attrs

from burst_agent.network.namespace import Child, Command, Namespace, tail
from burst_agent.network.services.service import Dial, Installed, Service
from burst_agent.root import current_boot_id
from burst_protocol.errors import DiskFull, ServiceUnavailable

DEADLINE_S: Final = 60.0
_STOP_S: Final = 8.0
_POLL_S: Final = (0.02, 0.05, 0.1, 0.2)
"""Between two looks at a server that starts; the last one again and again."""
_ENVIRON: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",  # noqa: S108 - of the network's own
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
_MADE: Final = b"made"
"""Marks complete data: who made it, and the boot in which it was last in use, or `clean`. What a
machine's crash may have left half written (nothing is synced) is not believed."""
_LOG: Final = b"log"
_CLEAN: Final = b"clean"

_log = logging.getLogger("burst.agent")


@attrs.define(eq=False)
class Running:
    """`start`, then `stop`; `alive` in between."""

    service: Service
    namespace: Namespace
    dial: Dial
    folder: bytes
    """Of the network, outside."""
    user: int
    deadline_s: float = DEADLINE_S
    _child: Child | None = None

    _ready: bool = False

    @property
    def alive(self) -> bool:
        return self._ready and self._child is not None and not self._child.ended.done()

    async def start(self) -> None:
        """Returns when it answers queries. ServiceUnavailable, DiskFull."""
        service = self.service
        installed = service.find()
        if installed is None:
            raise ServiceUnavailable(
                f"{service.name}: {service.title} is not installed there "
                f"(Debian package {service.package})"
            )
        try:
            async with asyncio.timeout(self.deadline_s):
                kept = await asyncio.to_thread(self._prepare, installed)
                if kept:
                    with contextlib.suppress(ServiceUnavailable):
                        await self._serve(installed)
                        return
                    _log.warning("%s: its data is made anew: %s", service.name, self._said())
                    await asyncio.to_thread(self._wipe)
                await self._make(installed)
                await self._serve(installed)
        except TimeoutError as error:
            raise ServiceUnavailable(
                f"{service.name}: no answer within {self.deadline_s:g} s{self._said()}"
            ) from error
        except OSError as error:
            raise DiskFull(f"data of {service.name}: {error}") from error
        finally:
            if not self._ready:
                await self._abort()

    async def _abort(self) -> None:
        """Ends what was begun: at once, and for the next attempt as if it had never been."""
        child, self._child = self._child, None
        if child is not None and not child.ended.done():
            with contextlib.suppress(ServiceUnavailable, TimeoutError):
                # With all that it has started: it leads a session (`holder`).
                await self.namespace.signal(child, signal.SIGKILL, group=True)
                async with asyncio.timeout(_STOP_S):
                    await asyncio.shield(child.ended)

    async def stop(self) -> None:
        """In good order, as far as it takes no longer than some seconds."""
        child, self._child = self._child, None
        if child is None or child.ended.done():
            return
        with contextlib.suppress(ServiceUnavailable, TimeoutError):
            await self.namespace.signal(child, self.service.stop_signal)
            async with asyncio.timeout(_STOP_S):
                if await asyncio.shield(child.ended) == 0 and self.service.keeps:
                    await asyncio.to_thread(self._mark, _CLEAN)

    # Data

    @property
    def _own(self) -> bytes:
        return os.path.join(self.folder, self.service.name.encode())

    def _prepare(self, installed: Installed) -> bool:
        """A folder with the service's files; whether there is data in it that can be used."""
        try:
            with open(os.path.join(self._own, _MADE), "rb") as file:
                maker, _, boot = file.read().partition(b"\n")
        except OSError:
            maker = boot = b""
        kept = maker == _maker(installed) and boot in (_CLEAN, current_boot_id())
        if not kept:
            self._wipe()
        self._write_files()
        if kept:
            self._mark(current_boot_id())
        return kept

    def _wipe(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._own)
        self._write_files()

    def _write_files(self) -> None:
        os.makedirs(self._own, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self._own, _LOG))
        for name, content in self.service.files.items():
            path = os.path.join(self._own, name.encode())
            with open(path, "w", encoding="ascii") as file:
                file.write(content)
            self._give(path)
        self._give(self._own)

    def _give(self, path: bytes) -> None:
        if self.user:
            os.chown(path, self.user, self.user)

    def _mark(self, boot: bytes) -> None:
        installed = self.service.find()
        path = os.path.join(self._own, _MADE)
        with open(path + b".new", "wb") as file:
            file.write(b"" if installed is None else _maker(installed) + b"\n" + boot)
        os.replace(path + b".new", path)

    # Processes

    async def _make(self, installed: Installed) -> None:
        for command in self.service.initialise(installed):
            child = self._child = await self._start(command)
            status = await asyncio.shield(child.ended)
            if status:
                name = os.path.basename(command.argv[0])
                raise ServiceUnavailable(
                    f"{self.service.name}: `{name}` ended with {status}{self._said()}"
                )
        if self.service.keeps:
            await asyncio.to_thread(self._mark, current_boot_id())

    async def _serve(self, installed: Installed) -> None:
        child = self._child = await self._start(self.service.serve(installed))
        waits = iter(_POLL_S)
        wait_s = 0.0
        while True:
            with contextlib.suppress(OSError, EOFError):
                if await self.service.ready(self.dial):
                    self._ready = True
                    return
            wait_s = next(waits, wait_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await asyncio.shield(child.ended)
            if child.ended.done():
                raise ServiceUnavailable(f"{self.service.name}: it ended{self._said()}")

    async def _start(self, command: Command) -> Child:
        return await self.namespace.start(attrs.evolve(command, env={**_ENVIRON, **command.env}))

    def _said(self) -> str:
        last = tail(os.path.join(self._own, _LOG))
        return f": {last}" if last else ""


def _maker(installed: Installed) -> bytes:
    """Which programs the data is for: another version of them may have another path."""
    return " ".join(sorted(installed.programs.values())).encode("utf-8", "surrogateescape")
