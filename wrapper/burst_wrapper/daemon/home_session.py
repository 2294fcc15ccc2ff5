"""One session: where its programs run, what of it lies there, what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from burst_lifecycle.places import Places
from burst_protocol import programs as p
from burst_protocol.digest import Digest
from burst_protocol.errors import BurstError, LinkLost, RemoteRequired
from burst_wrapper import home_wire as w
from burst_wrapper import stubs
from burst_wrapper.argv import RustcCall
from burst_wrapper.config import Config, config_path, load_for
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.forwards import Forwards
from burst_wrapper.daemon.orphans import Orphans
from burst_wrapper.daemon.program_needs import ProgramNeeds
from burst_wrapper.daemon.tally import Tally
from burst_wrapper.driver.errors import NobodyDrives
from burst_wrapper.driver.kept import fetch_kept
from burst_wrapper.driver.surroundings import ONLINE, TOOLCHAIN
from burst_wrapper.mirror import answers, weight
from burst_wrapper.mirror.mirror import DEFAULT_FETCH, Mirror
from burst_wrapper.mirror.snapshot import Project

if TYPE_CHECKING:
    from burst_wrapper.daemon.programs import ProgramRequest
    from burst_wrapper.daemon.services import Services

Note = Callable[[str], None]
_PATIENCE_S: Final = 2.0
_ANSWERS_S: Final = 3.0
"""A server that is there has answered by then. cargo does not wait for one that boots."""


class HomeSession:
    """As units and programs see it. `open` comes first, `close` last."""

    def __init__(self, services: Services, request: w.SessionRequest) -> None:
        self.id = secrets.token_hex(8)
        self.request = request
        self.tally = Tally()
        self.environ = dict(request.environ)
        self.needs = ProgramNeeds(services.stats)
        self._services = services
        self._notes: dict[str, None] = {}
        self._config = Config()
        self._executor: Executor | None = None
        """Where programs run; None: the runner itself becomes them."""
        self._away = False
        """They run on another machine."""
        self._host = ""
        self._mirror: Mirror | None = None
        self._arriving: asyncio.Task[None] | None = None
        """Until a server of our own is there, or is known not to come."""
        self._orphans = Orphans()
        self._forwards: Forwards | None = None
        self._lock = asyncio.Lock()
        self._generation = 1
        self._synced: tuple[Executor, int] | None = None
        self._began_s = time.time()
        self._patient_until_s = 0.0

    # -- beginning -------------------------------------------------------------------------------

    async def open(self, note: Note) -> w.SessionInfo:
        """Choose the executor, reach it, bring the mirror up to date.

        A host that cannot be had is a note, and under BURST_REQUIRE_REMOTE an error. What the user
        has to decide is an error, too: BurstError.
        """
        request = self.request
        self._config = await asyncio.to_thread(
            load_for, config_path(), request.workspace_root, self.environ
        )
        self._host = (
            request.host or os.fsdecode(self.environ.get(b"BURST_HOST", b"")) or self._config.host
        )
        if request.drives:
            await self._drive(note)
        elif request.executes:
            await self._choose(note)
        if request.forwards:
            await self._forward()
        return self._info()

    async def _choose(self, note: Note) -> None:
        if self._host:
            await self._go(note)
        elif self._config.hetzner is not None:
            await self._go_soon(note)
        if not self._away:
            await self._stay(note)

    async def _go(self, note: Note) -> None:
        """To the other machine, or not at all: a note. BurstError if the user decides, or if only
        another machine will do."""
        try:
            executor = await self._connect(note)
        except BurstError as error:
            # Also what a user could decide, like a price that is over the limit: home will do.
            self._is_home_after(error)
            return
        try:
            await self._begin_on(executor, note, away=True)
        except BurstError as error:
            self._is_home()
            if not error.fallback:
                raise
            self._is_home_after(error)

    def _is_home(self) -> None:
        """Programs run on this machine."""
        self._away = False
        self._executor = self._mirror = None

    def _is_home_after(self, error: BurstError) -> None:
        """RemoteRequired if that will not do."""
        self._is_home()
        if self._required:
            raise RemoteRequired(str(error)) from error
        self.note(f"{error}; programs run on this machine", error.hint)

    async def _go_soon(self, note: Note) -> None:
        """The same with a server of our own, which may have to boot. cargo begins meanwhile: units
        are compiled at home and move over, and the first program waits."""
        waiting = True

        def tell(text: str) -> None:
            if waiting:
                note(text)

        async def arrive() -> None:
            try:
                await self._go(tell)
            finally:
                if not self._away:
                    # What it would have run is linked again, here, the next time.
                    await self._orphans.find_all(self.burst_target)
            if not waiting and not self._away:
                await self._stay(tell)

        self._arriving = asyncio.create_task(arrive())
        await asyncio.wait((self._arriving,), timeout=_ANSWERS_S)
        if self._arriving.done():
            task, self._arriving = self._arriving, None
            await task
            return
        waiting = False
        self._away = True
        self._mirror = await self._of_project()

    async def _arrived(self) -> None:
        """What it came to. BurstError where nothing but a server will do."""
        if self._arriving is not None:
            await asyncio.shield(self._arriving)

    async def _stay(self, note: Note) -> None:
        if self.request.services or self.request.alone:
            # In a network of their own, or while nothing is compiled: the agent beside us starts
            # them, not the runner.
            await self._begin_on(await self._services.embedded.get(), note, away=False)

    async def _of_project(self) -> Mirror:
        return await asyncio.to_thread(self._services.mirrors.of, self.request.workspace_root)

    async def _drive(self, note: Note) -> None:
        """Cargo itself runs there: without another machine there is nothing to do."""
        if not self._host and self._config.hetzner is None:
            raise NobodyDrives
        files = self.request.files
        if files:
            self._services.mirrors.saw(self.request.workspace_root, files)
        await self._begin_on(await self._connect(note), note, away=True)

    async def _begin_on(self, executor: Executor, note: Note, *, away: bool) -> None:
        self._away = away
        self._mirror = await self._of_project()
        if away and not self.request.drives:
            note(f"looking at what lies on {executor.name}")
            await self._orphans.find(self.target_dir, executor)
            if self._arriving is None:
                self._orphans.remove()
        note(f"bringing the project to {executor.name}")
        await self._sync(executor)
        self._executor = executor

    def _info(self) -> w.SessionInfo:
        request, executor = self.request, self._executor
        if not self._away:
            return w.SessionInfo(self.id, "home", "home", request.target_dir, self.notes)
        ready = None if executor is None else executor.link.ready
        root = b"" if ready is None else ready.store_root
        if executor is None:
            found = self._services.servers.server_name(os.fsdecode(request.workspace_root))
            name = found or "a server that boots"
        else:
            name = executor.name
        return w.SessionInfo(self.id, "remote", name, self.target_dir, self.notes, store_root=root)

    @property
    def target_dir(self) -> bytes:
        """Where cargo builds to."""
        return self.burst_target if self._leaves_programs else self.request.target_dir

    @property
    def burst_target(self) -> bytes:
        """Where it builds what stays elsewhere."""
        return os.path.join(self.request.target_dir, stubs.FOLDER)

    @property
    def _leaves_programs(self) -> bool:
        """A cargo here builds what stays there."""
        return self._away and not self.request.drives

    @property
    def host(self) -> str:
        """That the user named for this session; empty: as without one."""
        return self.request.host

    async def _connect(self, note: Note) -> Executor:
        services = self._services
        if self._host:
            note(f"connecting to {self._host}")
            auth_sock = self.environ.get(b"SSH_AUTH_SOCK")
            return await services.remotes.connected(
                self._host, self._config, None if auth_sock is None else os.fsdecode(auth_sock)
            )
        note("looking for the server")
        request = self.request
        return await services.servers.connected(
            os.fsdecode(request.workspace_root),
            self._config,
            note,
            keep_alive_s=request.keep_alive_s if request.reap else None,
        )

    async def _sync(self, executor: Executor) -> None:
        """The mirror as home is now; nothing where it is so already."""
        generation = self._generation
        if self._mirror is None or self._synced == (executor, generation):
            return
        allowance = weight.UNLIMITED if self.request.yes else weight.USUAL
        synced = await self._mirror.sync(executor, self._project, allowance)
        self.tally.bytes_up += synced.bytes_sent
        self._synced = (executor, generation)
        if synced.secrets:
            names = ", ".join(sorted(os.path.basename(os.fsdecode(p)) for p in synced.secrets)[:5])
            self.note(f"kept at home, as they look like secrets: {names} (`unexclude` sends them)")

    @property
    def _project(self) -> Project:
        request, config = self.request, self._config
        said = answers.load(Places.of(self.environ), request.workspace_root)
        return Project(
            workspace_root=request.workspace_root,
            target_dir=request.target_dir,
            burst_target=self.target_dir if self._leaves_programs else b"",
            more_roots=request.roots,
            exclude=(*config.exclude, *said.exclude),
            unexclude=config.unexclude,
            environ=self.environ,
            umask=request.umask,
        )

    async def _forward(self) -> None:
        if self._mirror is None or self._at_home:
            self._forwards = Forwards()
        else:
            self._forwards = Forwards(self._mirror.name, self._reached)
        await self._forwards.listen(self.request.forwards)

    @property
    def _required(self) -> bool:
        return self.environ.get(b"BURST_REQUIRE_REMOTE", b"") not in (b"", b"0")

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
        if not self._away or not call.links or call.is_build_script:
            return False
        if not call.is_test and call.crate_types not in ((b"bin",), ()):
            return False
        return out_dir.startswith(self.target_dir + b"/")

    def is_patient(self) -> bool:
        """Whether a unit may still wait for a host that is not ready: all of them together for a
        moment, in which one that has the toolchain says so."""
        if not self._away or self._executor is None:
            return False
        now_s = time.monotonic()
        self._patient_until_s = self._patient_until_s or now_s + _PATIENCE_S
        return now_s < self._patient_until_s

    def unit_ended(self, read: Iterable[bytes]) -> None:
        """Files in the target directory may be new; these were read, as far as that is known."""
        self._generation += 1
        if self.request.executes:
            self._services.mirrors.saw(self.request.workspace_root, read)

    # -- programs --------------------------------------------------------------------------------

    async def prepared(self) -> Executor | None:
        """The executor, with the mirror as it is at home now. None: the runner itself becomes the
        program. Waits for a server that boots. BurstError."""
        await self._arrived()
        if self._mirror is None or self._executor is None:
            return None
        async with self._lock:
            executor = await self._reached()
            await self._sync(executor)
            return executor

    async def _reached(self) -> Executor:
        """Its connection may have been lost since: it is made again."""
        await self._arrived()
        executor = self._executor
        if executor is None:
            raise LinkLost("there is none", host="the server")
        if not executor.usable:
            if self._away:
                executor = await self._connect(lambda _: None)
            else:
                executor = await self._services.embedded.get()
            self._executor = executor
        return executor

    @property
    def _at_home(self) -> bool:
        """Programs are in this machine's own network: nothing but a bench that is alone here."""
        return not self._away and not self.request.services

    @property
    def brings_doctests(self) -> bool:
        """They are linked at home, and only need to run elsewhere if services are there."""
        return bool(self.request.services) and self._mirror is not None

    def start_program(self, identity: int, program: ProgramRequest) -> p.StartProgram:
        """But for its environment. Blocking: it may hash the program."""
        request = self.request
        return p.StartProgram(
            id=identity,
            mirror="" if self._mirror is None else self._mirror.name,
            argv=program.argv,
            env=(),
            cwd=program.cwd,
            terminals=program.terminals,
            rows=program.rows,
            columns=program.columns,
            trees=self.needs.alone_in_its_folder(program, self._shown) if self._away else (),
            libraries=self.needs.libraries,
            services=request.services,
            memory_bytes=0 if request.drives else int(self._config.program_memory_gb * 1e9),
            wall_s=0 if request.drives else math.ceil(self._config.program_wall_s),
            alone=request.alone,
            shares_network=self._at_home
            or (request.drives and program.environ.get(ONLINE) == b"1"),
            prolongs=True,
            detached=request.detach,
            keeps=self._keeps,
        )

    async def with_toolchain(
        self, start: p.StartProgram, program: ProgramRequest
    ) -> p.StartProgram:
        """With home's own toolchain, if the runner says so. ToolchainProblem."""
        folder = program.environ.get(TOOLCHAIN) if self.request.drives else None
        if not folder:
            return start
        return await self.needs.with_toolchain(start, folder)

    @property
    def _shown(self) -> tuple[bytes, ...]:
        """Folders that the mirror has."""
        return (self.request.workspace_root, self.target_dir, *self.request.roots)

    @property
    def _keeps(self) -> tuple[tuple[bytes, str], ...]:
        if not self.request.drives or self._mirror is None:
            return ()
        return ((os.path.normpath(self.request.target_dir), self._mirror.name),)

    # -- end -------------------------------------------------------------------------------------

    def progress(self) -> w.Progress:
        return self.tally.progress(self._server_state)

    @property
    def _server_state(self) -> str:
        if self._away and self._executor is not None:
            return "ready" if self._executor.usable else "lost"
        if self._host:
            return self._services.remotes.state(self._host)
        if self._config.hetzner is not None:
            return self._services.servers.state(os.fsdecode(self.request.workspace_root))
        return ""

    async def close(self, note: Note) -> w.Summary:
        """Fetch what programs wrote, and sum up. BurstError if that could not come back."""
        fetched: tuple[bytes, ...] = ()
        conflicts: tuple[bytes, ...] = ()
        await self._give_up_waiting()
        if self._away and self.tally.programs and self._patterns:
            note("looking for what programs wrote")
            fetched, conflicts = await self._fetch()
        # Before the end is told: then its ports are free.
        await self._close_forwards()
        tally = self.tally
        return w.Summary(
            self.progress(),
            tally.wall_ms,
            tally.saved_ms,
            cost_eur=await self._cost(),
            fetched=fetched,
            conflicts=conflicts,
            notes=self.notes,
            programs=tally.programs,
        )

    async def _give_up_waiting(self) -> None:
        """No program needs the server any more. It boots on: the next command has it."""
        task, self._arriving = self._arriving, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BurstError):
                await task
        self._orphans.remove()

    async def fetch_kept(self, wanted: w.KeptRequest) -> w.KeptFiles:
        """Of the target directory that a cargo there has. BurstError."""
        mirror, executor = self._mirror, self._executor
        if mirror is None or executor is None or not self._away:
            return w.KeptFiles()
        if not executor.usable:
            raise executor.link.gone or LinkLost("it ended", host=executor.name)
        received = executor.link.received_bytes
        stats = self._services.stats

        def digest_of(path: bytes) -> Digest | None:
            state = stats.digest(path)
            return None if state is None else state.digest

        written = await fetch_kept(executor, mirror.name, wanted, digest_of)
        self.tally.bytes_down += executor.link.received_bytes - received
        return w.KeptFiles(written)

    async def _fetch(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        mirror, executor = self._mirror, self._executor
        if mirror is None or executor is None:
            return (), ()
        if not executor.usable:
            raise executor.link.gone or LinkLost("it ended", host=executor.name)
        back = await mirror.fetch(executor, self._project, self._patterns)
        self.tally.bytes_down += back.bytes_received
        for conflict in back.conflicts:
            if conflict.kept:
                self.note(f"what came instead lies in {os.fsdecode(back.conflicts_folder)}")
            else:
                name = weight.printable(os.fsdecode(conflict.path))
                self.note(f"{name} was not taken: {conflict.reason}")
        return back.files, tuple(conflict.path for conflict in back.conflicts if conflict.kept)

    @property
    def _patterns(self) -> tuple[str, ...]:
        """What comes back of the project's folders; a lock file in any case, as cargo writes it."""
        request = self.request
        usual = () if request.no_fetch else (*DEFAULT_FETCH, *request.fetch)
        return (*usual, "**/Cargo.lock") if request.drives else usual

    async def _cost(self) -> str:
        if self._host or not self._away:
            return ""
        root = os.fsdecode(self.request.workspace_root)
        return await self._services.servers.cost(root, self._began_s)

    async def leave(self) -> None:
        """However it ended: nothing of it stays."""
        await self._give_up_waiting()
        await self._close_forwards()

    async def _close_forwards(self) -> None:
        if self._forwards is not None:
            self.note(*self._forwards.failures)
            await self._forwards.close()
            self._forwards = None
