"""One session: what its units and programs have in common, and what came of it."""

from __future__ import annotations

import asyncio
import math
import os
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from burst_protocol import programs as p
from burst_protocol.errors import ToolchainProblem
from burst_wrapper import home_wire as w
from burst_wrapper.argv import RustcCall
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.forwards import Forwards
from burst_wrapper.daemon.program_needs import ProgramNeeds
from burst_wrapper.daemon.session_files import fetch_kept, fetch_written, patterns_of
from burst_wrapper.daemon.session_ground import Note, SessionGround
from burst_wrapper.daemon.tally import Tally
from burst_wrapper.driver.surroundings import ONLINE, TOOLCHAIN

if TYPE_CHECKING:
    from burst_wrapper.daemon.programs import Program, ProgramRequest
    from burst_wrapper.daemon.services import Services

_GRACE_S: Final = 10.0
"""Of programs that are left when cargo has gone; nextest's own."""


class HomeSession:
    """As units and programs see it. `open` comes first, `close` last."""

    def __init__(self, services: Services, request: w.SessionRequest) -> None:
        self.id = secrets.token_hex(8)
        self.request = request
        self.tally = Tally()
        self.programs: set[Program] = set()
        """Under way, but for detached ones: with the session they end."""
        self.needs = ProgramNeeds(services.stats)
        self._services = services
        self._notes: dict[str, None] = {}
        self._ground = SessionGround(services, request, self.tally, self.note)
        self._forwards: Forwards | None = None

    # -- beginning -------------------------------------------------------------------------------

    async def open(self, note: Note) -> w.SessionInfo:
        """BurstError: see `SessionGround.choose`."""
        await self._ground.choose(note)
        if self.request.forwards:
            await self._forward()
        return self._info()

    def _info(self) -> w.SessionInfo:
        ground = self._ground
        if not ground.away:
            return w.SessionInfo(self.id, "home", "home", self.request.target_dir, self.notes)
        executor = ground.executor
        ready = None if executor is None else executor.link.ready
        root = b"" if ready is None else ready.store_root
        return w.SessionInfo(
            self.id, "remote", ground.name, ground.target_dir, self.notes, store_root=root
        )

    @property
    def host(self) -> str:
        """That the user named for this session; empty: as without one."""
        return self.request.host

    async def _forward(self) -> None:
        ground = self._ground
        if ground.mirror is None or ground.shares_network:
            self._forwards = Forwards()
        else:
            self._forwards = Forwards(ground.mirror.name, ground.reached)
        await self._forwards.listen(self.request.forwards)

    # -- notes -----------------------------------------------------------------------------------

    def note(self, *texts: str) -> None:
        """For the user, at the end; each once."""
        self._notes.update(dict.fromkeys(text for text in texts if text))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    # -- units -----------------------------------------------------------------------------------

    def leaves(self, call: RustcCall, out_dir: bytes) -> bool:
        """Whether this unit's program is left where it is linked: one that cargo starts by the
        runner. Build scripts are started by cargo itself, and libraries are loaded at home."""
        if not self._ground.away or not call.links or call.is_build_script:
            return False
        if not call.is_test and call.crate_types not in ((b"bin",), ()):
            return False
        return out_dir.startswith(self._ground.target_dir + b"/")

    def is_patient(self) -> bool:
        """See `SessionGround`."""
        return self._ground.is_patient()

    def unit_ended(self, read: Iterable[bytes]) -> None:
        """Files in the target directory may be new; these were read, as far as that is known."""
        self._ground.generation += 1
        if self.request.executes:
            self._services.mirrors.saw(self.request.workspace_root, read)

    # -- programs --------------------------------------------------------------------------------

    async def prepared(self) -> Executor | None:
        """See `SessionGround`. BurstError."""
        return await self._ground.prepared()

    @property
    def brings_doctests(self) -> bool:
        """They are linked at home, and only need to run elsewhere if services are there."""
        return bool(self.request.services) and self._ground.mirror is not None

    def start_program(self, identity: int, program: ProgramRequest) -> p.StartProgram:
        """But for its environment. Blocking: it may hash the program."""
        request, ground = self.request, self._ground
        return p.StartProgram(
            id=identity,
            mirror="" if ground.mirror is None else ground.mirror.name,
            argv=program.argv,
            env=(),
            cwd=program.cwd,
            terminals=program.terminals,
            rows=program.rows,
            columns=program.columns,
            trees=self.needs.alone_in_its_folder(program, self._shown) if ground.away else (),
            libraries=self.needs.libraries,
            services=request.services,
            memory_bytes=0 if request.drives else int(ground.config.program_memory_gb * 1e9),
            wall_s=0 if request.drives else math.ceil(ground.config.program_wall_s),
            alone=request.alone,
            shares_network=ground.shares_network
            or (request.drives and program.environ.get(ONLINE) == b"1"),
            prolongs=True,
            detached=request.detach,
            keeps=self._keeps,
        )

    async def with_toolchain(
        self, start: p.StartProgram, program: ProgramRequest
    ) -> p.StartProgram:
        """With home's own toolchain, if the runner says so or the project's tests start cargo.
        ToolchainProblem for the first."""
        if self.request.drives:
            folder = program.environ.get(TOOLCHAIN)
            return await self.needs.with_toolchain(start, folder) if folder else start
        if not self._ground.away:
            return start
        environ = {**dict(self.request.environ), **program.environ}
        try:
            return await self.needs.with_cargo(start, self.request.workspace_root, environ)
        except ToolchainProblem as error:
            self.note(str(error))
            return start

    @property
    def _shown(self) -> tuple[bytes, ...]:
        """Folders that the mirror has."""
        return (self.request.workspace_root, self._ground.target_dir, *self.request.roots)

    @property
    def _keeps(self) -> tuple[tuple[bytes, str], ...]:
        mirror = self._ground.mirror
        if not self.request.drives or mirror is None:
            return ()
        return ((os.path.normpath(self.request.target_dir), mirror.name),)

    # -- end -------------------------------------------------------------------------------------

    def progress(self) -> w.Progress:
        return self.tally.progress(self._ground.server_state)

    async def close(self, note: Note) -> w.Summary:
        """Fetch what programs wrote, and sum up. BurstError if that could not come back."""
        fetched: tuple[bytes, ...] = ()
        conflicts: tuple[bytes, ...] = ()
        await self._ground.give_up_waiting()
        patterns = patterns_of(self.request)
        if self._ground.away and self.tally.programs and patterns:
            note("looking for what programs wrote")
            fetched, conflicts = await fetch_written(self._ground, patterns, self.tally, self.note)
        # Before the end is told: then its ports are free.
        await self._close_forwards()
        tally = self.tally
        return w.Summary(
            self.progress(),
            tally.wall_ms,
            tally.saved_ms,
            cost_eur=await self._ground.cost(),
            fetched=fetched,
            conflicts=conflicts,
            notes=self.notes,
            programs=tally.programs,
        )

    async def fetch_kept(self, wanted: w.KeptRequest) -> w.KeptFiles:
        """Of the target directory that a cargo there has. BurstError."""
        return await fetch_kept(self._ground, wanted, self._services.stats, self.tally)

    async def leave(self) -> None:
        """However it ended: nothing of it stays."""
        await self._ground.give_up_waiting()
        await self._close_forwards()

    def end_programs(self) -> None:
        """Whoever wanted them is gone."""
        for program in tuple(self.programs):
            program.end()

    async def programs_ended(self, note: Note, gone: asyncio.Event) -> None:
        """Whoever started them has ended, by an interrupt, say, which they may ignore or still be
        tidying up after. `gone`: nobody waits here any more."""
        if not self.programs:
            return
        note("for a program to end; Ctrl-C ends it")
        left = asyncio.ensure_future(gone.wait())
        ended = asyncio.gather(*(program.ended.wait() for program in self.programs))
        try:
            first = asyncio.FIRST_COMPLETED
            await asyncio.wait((left, ended), timeout=_GRACE_S, return_when=first)
        finally:
            left.cancel()
            ended.cancel()
        self.end_programs()

    async def _close_forwards(self) -> None:
        if self._forwards is not None:
            self.note(*self._forwards.failures)
            await self._forwards.close()
            self._forwards = None
