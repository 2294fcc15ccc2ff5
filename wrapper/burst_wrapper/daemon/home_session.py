"""One session: where its programs run, what of it lies there, what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.digest import Digest
from burst_protocol.errors import BurstError, RemoteRequired
from burst_wrapper import home_wire as w
from burst_wrapper import stubs
from burst_wrapper.argv import RustcCall
from burst_wrapper.config import Config, config_path, load_for
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.daemon.tally import Tally

if TYPE_CHECKING:
    from burst_wrapper.daemon.programs import ProgramRequest
    from burst_wrapper.daemon.services import Services

Note = Callable[[str], None]
_AT_HOME: Final = "programs of this session run on this machine"


class HomeSession:
    """As units and programs see it. `open` comes first, `close` last."""

    def __init__(self, services: Services, request: w.SessionRequest) -> None:
        self.id = secrets.token_hex(8)
        self.request = request
        self.tally = Tally()
        self.environ = dict(request.environ)
        self._services = services
        self._notes: dict[str, None] = {}
        self._config = Config()
        self._executor: Executor | None = None
        """Where programs run; None: at home."""
        self._away = False
        self._host = ""
        self._lock = asyncio.Lock()
        self._generation = 1
        self._synced: tuple[Executor, int] | None = None

    # -- beginning -------------------------------------------------------------------------------

    async def open(self, note: Note) -> w.SessionInfo:
        """Choose the executor, reach it, bring the mirror up to date. BurstError only where a host
        that cannot be had is an error: under BURST_REQUIRE_REMOTE."""
        request = self.request
        root = request.workspace_root
        self._config = await asyncio.to_thread(load_for, config_path(), root)
        self._host = (
            request.host or os.fsdecode(self.environ.get(b"BURST_HOST", b"")) or self._config.host
        )
        if request.executes and (self._host or self._config.hetzner is not None):
            try:
                self._executor = await self._connect(note)
                self._away = True
                await self._begin_there(self._executor, note)
            except BurstError as error:
                if self._required:
                    raise RemoteRequired(str(error)) from error
                self._away = False
                self._executor = None
                self.note(f"{error}; programs run on this machine", error.hint)
        return self._info()

    def _info(self) -> w.SessionInfo:
        request, executor = self.request, self._executor
        if executor is None:
            return w.SessionInfo(self.id, "home", "home", request.target_dir, self.notes)
        return w.SessionInfo(self.id, "remote", executor.name, self.target_dir, self.notes)

    @property
    def target_dir(self) -> bytes:
        """Where cargo builds to."""
        plain = self.request.target_dir
        return os.path.join(plain, stubs.FOLDER) if self._away else plain

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
        return await services.servers.connected(
            os.fsdecode(self.request.workspace_root), self._config, note
        )

    async def _begin_there(self, executor: Executor, note: Note) -> None:
        note(f"looking at what lies on {executor.name}")
        await self._remove_orphans(executor)

    async def _remove_orphans(self, executor: Executor) -> None:
        """Stubs whose program is not there any more: cargo makes it again."""
        found = await asyncio.to_thread(list, stubs.find(self.target_dir))
        if not found:
            return
        link = executor.link
        digests = tuple(dict.fromkeys(digest for _, digest in found))
        answer = await link.ask(p.AskMissing(link.new_id(), digests))
        gone = set(answer.digests) if isinstance(answer, m.Missing) else set()
        for path, digest in found:
            if digest in gone:
                with contextlib.suppress(OSError):
                    os.unlink(path)

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

    def unit_ended(self) -> None:
        """Files in the target directory may be new."""
        self._generation += 1

    # -- programs --------------------------------------------------------------------------------

    @property
    def why_here(self) -> str:
        """Why programs run at home; empty if they do not."""
        return "" if self._away else _AT_HOME

    async def prepared(self, program: ProgramRequest) -> Executor:
        """The executor, with the mirror as it is at home now. BurstError."""
        del program
        async with self._lock:
            executor = self._executor
            if executor is None or not executor.usable:
                executor = self._executor = await self._connect(lambda _: None)
            generation = self._generation
            if self._synced != (executor, generation):
                self._synced = (executor, generation)
            return executor

    def start_program(self, identity: int, program: ProgramRequest) -> p.StartProgram:
        """But for its environment."""
        request = self.request
        return p.StartProgram(
            id=identity,
            mirror=self.mirror,
            argv=program.argv,
            env=(),
            cwd=program.cwd,
            terminals=program.terminals,
            rows=program.rows,
            columns=program.columns,
            trees=(),
            libraries=(),
            services=request.services,
            memory_bytes=0,
            wall_s=0,
            alone=request.alone,
            shares_network=False,
            prolongs=True,
            detached=request.detach,
        )

    @property
    def mirror(self) -> str:
        """Its name there."""
        return Digest.of(self.request.workspace_root).hex[:16]

    def sources(self, executor: Executor) -> list[Sources]:
        """Where the bytes of what a program needs are at home."""
        del executor
        return []

    async def with_libraries(
        self,
        executor: Executor,
        start: p.StartProgram,
        lacking: p.Lacking,
        program: ProgramRequest,
    ) -> p.StartProgram:
        """The same with what of home's libraries it lacks there."""
        del executor, lacking, program
        return attrs.evolve(start)

    # -- end -------------------------------------------------------------------------------------

    def progress(self) -> w.Progress:
        return self.tally.progress(self._server_state)

    @property
    def _server_state(self) -> str:
        if not self._away:
            return ""
        return "ready" if self._executor is not None and self._executor.usable else "lost"

    async def close(self, note: Note) -> w.Summary:
        """Fetch what programs wrote, and sum up."""
        del note
        tally = self.tally
        return w.Summary(
            self.progress(),
            tally.wall_ms,
            tally.saved_ms,
            notes=self.notes,
            programs=tally.programs,
        )
