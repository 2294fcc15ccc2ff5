"""The programs of one client: started, fed, signalled, and ended when it goes.

Nobody can come back to a program, as a new connection knows nothing of the old one's streams. So
one whose client is gone is hung up on and then killed, however long compilers may wait for theirs;
only a detached one goes on, and its output is thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Final, Protocol

from burst_agent.execute import Workshop, finished
from burst_agent.house import House
from burst_agent.place import AGENT_BUG, Place
from burst_agent.programs.keeps import Keeps, Sweeper
from burst_agent.programs.libraries import LacksLibraries
from burst_agent.programs.program import Program
from burst_agent.programs.ways import Ground, Way, prepare
from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.errors import BurstError, Cancelled, RemoteProtocolError

_FAREWELL_S: Final = 1.0
"""Between hanging up and killing."""

_SHARE_PERCENT: Final = 90
"""Of the machine's memory, for a program without a limit of its own."""

_log = logging.getLogger("burst.agent")


class Client(Protocol):
    """The conversation whose programs these are."""

    def send(self, message: m.Message) -> None: ...

    async def missing(self, look: Callable[[], list[Digest]]) -> list[Digest]:
        """What `look` (blocking) finds missing, after everything was tried to get it."""


class ProgramHost:
    """Made with a client's first program. Only for the event loop's thread."""

    def __init__(self, house: House, place: Place, shop: Workshop, client: Client) -> None:
        self._house = house
        self._place = place
        self._shop = shop
        self._client = client
        self._running: dict[int, tuple[Program, asyncio.Task[None]]] = {}
        self._sweeper: Sweeper | None = None

    def __contains__(self, request_id: int) -> bool:
        return request_id in self._running

    async def start(self, request: p.StartProgram) -> None:
        """Says Missing or Lacking, or starts it, which goes on by itself. BurstError."""
        missing = await self._client.missing(functools.partial(self._missing, request))
        if missing:
            self._client.send(m.Missing(request.id, tuple(missing)))
            return
        # Better one program ends with a reason than whatever the kernel picks.
        limit = 0 if self._house.settings.local else _physical_bytes() * _SHARE_PERCENT // 100
        program = Program(request, self._client.send, memory_bytes=limit)
        self._house.begin(request)
        self._house.stay(self._place)
        task = asyncio.create_task(self._drive(program))
        self._house.keep(task)
        self._running[request.id] = (program, task)
        task.add_done_callback(lambda _: self._ended(program))

    def said(self, message: p.Input | p.Credit | p.Resize | p.Signal | p.StopOutput) -> None:
        """Of a running program; of another one: nothing."""
        program, task = self._running.get(message.id, (None, None))
        if program is None or task is None:
            return
        match message:
            case p.Input():
                try:
                    program.input(message.data)
                except RemoteProtocolError as error:
                    self._fail(program, error.code, error.detail)
                    program.abandon()
                    task.cancel()
            case p.Credit():
                program.grant(message.stream, message.size)
            case p.Resize():
                program.resize(message.rows, message.columns)
            case p.Signal():
                program.signal(message.number)
            case p.StopOutput():
                program.stop_output(message.stream)

    async def cancel(self, request_id: int) -> bool:
        """It is gone on return. False if there is none."""
        _, task = self._running.get(request_id, (None, None))
        if task is None:
            return False
        task.cancel()
        await asyncio.wait((task,))
        return True

    async def close(self) -> None:
        """The client is gone, and so are all programs but detached ones on return."""
        ending: set[asyncio.Task[None]] = set()
        for program, task in self._running.values():
            program.abandon()
            if not program.request.detached:
                program.hang_up()
                ending.add(task)
        if ending:
            _, going = await asyncio.wait(ending, timeout=_FAREWELL_S)
            for task in going:
                task.cancel()
            if going:
                await asyncio.wait(going)

    # Inside

    def _missing(self, request: p.StartProgram) -> list[Digest]:
        """Blocking."""
        missing: dict[Digest, None] = {}
        for _, digest in request.trees:
            missing.update(dict.fromkeys(self._shop.materialiser.missing_in_tree(digest)))
        wanted = [digest for _, digest in request.libraries if digest != EMPTY]
        missing.update(dict.fromkeys(self._shop.store.missing(wanted)))
        return list(missing)

    async def _drive(self, program: Program) -> None:
        """From acceptance to ProgramEnded or Failed."""
        request = program.request
        try:
            async with contextlib.AsyncExitStack() as stack:
                way = await self._way(request, stack)
                if request.alone:
                    await self._house.slots.acquire_all()
                    stack.callback(self._house.slots.release_all)
                await program.run(way.command, way.notes)
        except LacksLibraries as lack:
            if not program.abandoned:
                self._client.send(p.Lacking(request.id, lack.names, lack.reason))
        except BurstError as error:
            _log.info("program %d: %s", request.id, error)
            self._fail(program, error.code, error.detail)
        except asyncio.CancelledError:
            self._fail(program, Cancelled.code, "as asked")
            raise
        except Exception as error:
            _log.exception("program %d", request.id)
            self._fail(program, AGENT_BUG, f"{type(error).__name__}: {error}")

    async def _way(self, request: p.StartProgram, stack: contextlib.AsyncExitStack) -> Way:
        """The way in, kept open by `stack` while the program runs."""
        mirrors, settings = self._place.mirrors, self._house.settings
        stack.callback(mirrors.touched, request.mirror)
        stack.enter_context(mirrors.using(request.mirror))
        entry = None
        if not request.shares_network or request.services:
            entry = await self._house.network.enter(request.mirror, request.services)
            stack.push_async_callback(entry.leave)
        ours = (self._place.store.root.path, settings.root, settings.volumes)
        ground = Ground(
            self._shop,
            mirrors,
            self._place.rooms,
            tuple(dict.fromkeys(path for path in ours if path is not None)),
            settings.local,
        )
        if request.keeps:
            stack.push_async_callback(self._sweep)  # when nothing of it is held any more
        held = stack.enter_context(contextlib.ExitStack())
        return await finished(functools.partial(prepare, request, ground, entry, held))

    async def _sweep(self) -> None:
        if self._sweeper is None:
            self._sweeper = Sweeper(Keeps(self._place.store))
        swept = await finished(self._sweeper.sweep_if_due)
        if swept.freed_bytes:
            _log.info("swept target directories: %s", swept)

    def _fail(self, program: Program, code: str, detail: str) -> None:
        if not program.abandoned:
            self._client.send(m.Failed(program.request.id, code, detail))

    def _ended(self, program: Program) -> None:
        self._running.pop(program.request.id, None)
        self._house.end(program.request)
        self._house.leave(self._place)


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
