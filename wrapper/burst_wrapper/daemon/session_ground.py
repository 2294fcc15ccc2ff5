"""Where the programs of a session run: chosen, reached, and brought up to date.

On another machine, on a server of our own that may have to boot first, beside us under the embedded
agent, or as what the runner itself becomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from burst_lifecycle.places import Places
from burst_protocol.errors import BurstError, LinkLost, RemoteRequired
from burst_wrapper import home_wire as w
from burst_wrapper import stubs
from burst_wrapper.config import Config, config_path, load_for
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.orphans import Orphans
from burst_wrapper.driver.errors import NobodyDrives
from burst_wrapper.mirror import answers, weight
from burst_wrapper.mirror.mirror import Mirror
from burst_wrapper.mirror.snapshot import Project

if TYPE_CHECKING:
    from burst_wrapper.daemon.services import Services
    from burst_wrapper.daemon.tally import Tally

Note = Callable[[str], None]
_PATIENCE_S: Final = 2.0
_ANSWERS_S: Final = 3.0
"""A server that is there has answered by then. cargo does not wait for one that boots."""


class SessionGround:
    """`choose` comes first; `tell` is for what the user reads at the end."""

    def __init__(
        self, services: Services, request: w.SessionRequest, tally: Tally, tell: Callable[..., None]
    ) -> None:
        self.environ = dict(request.environ)
        self.config = Config()
        self.executor: Executor | None = None
        """Where programs run; None: the runner itself becomes them."""
        self.away = False
        """They run on another machine."""
        self.mirror: Mirror | None = None
        self.generation = 1
        """Of the target directory's files: what was synced before is old."""
        self._services = services
        self._request = request
        self._tally = tally
        self._tell = tell
        self._host = ""
        self._arriving: asyncio.Task[None] | None = None
        """Until a server of our own is there, or is known not to come."""
        self._orphans = Orphans()
        self._lock = asyncio.Lock()
        self._synced: tuple[Executor, int] | None = None
        self._began_s = time.time()
        self._patient_until_s = 0.0

    async def choose(self, note: Note) -> None:
        """Choose the executor, reach it, bring the mirror up to date.

        A host that cannot be had is told, and under BURST_REQUIRE_REMOTE an error. What the user
        has to decide is an error, too: BurstError.
        """
        request = self._request
        self.config = await asyncio.to_thread(
            load_for, config_path(), request.workspace_root, self.environ
        )
        self._host = (
            request.host or os.fsdecode(self.environ.get(b"BURST_HOST", b"")) or self.config.host
        )
        if request.drives:
            await self._drive(note)
        elif request.executes:
            await self._choose(note)

    async def _choose(self, note: Note) -> None:
        if self._host:
            await self._go(note)
        elif self.config.hetzner is not None:
            await self._go_soon(note)
        if not self.away:
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
        self.away = False
        self.executor = self.mirror = None

    def _is_home_after(self, error: BurstError) -> None:
        """RemoteRequired if that will not do."""
        self._is_home()
        if self._required:
            raise RemoteRequired(str(error)) from error
        self._tell(f"{error}; programs run on this machine", error.hint)

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
                if not self.away:
                    # What it would have run is linked again, here, the next time.
                    await self._orphans.find_all(self.burst_target)
            if not waiting and not self.away:
                await self._stay(tell)

        self._arriving = asyncio.create_task(arrive())
        await asyncio.wait((self._arriving,), timeout=_ANSWERS_S)
        if self._arriving.done():
            task, self._arriving = self._arriving, None
            await task
            return
        waiting = False
        self.away = True
        self.mirror = await self._of_project()

    async def _arrived(self) -> None:
        """What it came to. BurstError where nothing but a server will do."""
        if self._arriving is not None:
            await asyncio.shield(self._arriving)

    async def _stay(self, note: Note) -> None:
        if self._request.services or self._request.alone or self._request.detach:
            # In a network of their own, while nothing is compiled, or for longer than the runner
            # is there: the agent beside us starts them.
            await self._begin_on(await self._services.embedded.get(), note, away=False)

    async def _of_project(self) -> Mirror:
        return await asyncio.to_thread(self._services.mirrors.of, self._request.workspace_root)

    async def _drive(self, note: Note) -> None:
        """Cargo itself runs there: without another machine there is nothing to do."""
        if not self._host and self.config.hetzner is None:
            raise NobodyDrives
        files = self._request.files
        if files:
            self._services.mirrors.saw(self._request.workspace_root, files)
        await self._begin_on(await self._connect(note), note, away=True)

    async def _begin_on(self, executor: Executor, note: Note, *, away: bool) -> None:
        self.away = away
        self.mirror = await self._of_project()
        if away and not self._request.drives:
            note(f"looking at what lies on {executor.name}")
            await self._orphans.find(self.target_dir, executor)
            if self._arriving is None:
                self._orphans.remove()
        note(f"bringing the project to {executor.name}")
        await self._sync(executor)
        self.executor = executor

    async def _connect(self, note: Note) -> Executor:
        services = self._services
        if self._host:
            note(f"connecting to {self._host}")
            auth_sock = self.environ.get(b"SSH_AUTH_SOCK")
            return await services.remotes.connected(
                self._host, self.config, None if auth_sock is None else os.fsdecode(auth_sock)
            )
        note("looking for the server")
        request = self._request
        return await services.servers.connected(
            os.fsdecode(request.workspace_root),
            self.config,
            note,
            keep_alive_s=request.keep_alive_s if request.reap else None,
        )

    async def _sync(self, executor: Executor) -> None:
        """The mirror as home is now; nothing where it is so already."""
        generation = self.generation
        if self.mirror is None or self._synced == (executor, generation):
            return
        allowance = weight.UNLIMITED if self._request.yes else weight.USUAL
        synced = await self.mirror.sync(executor, self.project, allowance)
        self._tally.bytes_up += synced.bytes_sent
        self._synced = (executor, generation)
        if synced.secrets:
            names = ", ".join(sorted(os.path.basename(os.fsdecode(p)) for p in synced.secrets)[:5])
            self._tell(f"kept at home, as they look like secrets: {names} (`unexclude` sends them)")

    # -- what is known of it ----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Of the other machine, for people."""
        if self.executor is not None:
            return self.executor.name
        found = self._services.servers.server_name(os.fsdecode(self._request.workspace_root))
        return found or "a server that boots"

    @property
    def target_dir(self) -> bytes:
        """Where cargo builds to."""
        return self.burst_target if self._leaves_programs else self._request.target_dir

    @property
    def burst_target(self) -> bytes:
        """Where it builds what stays elsewhere."""
        return os.path.join(self._request.target_dir, stubs.FOLDER)

    @property
    def _leaves_programs(self) -> bool:
        """A cargo here builds what stays there."""
        return self.away and not self._request.drives

    @property
    def shares_network(self) -> bool:
        """Programs are in this machine's own network: nothing but a bench that is alone here."""
        return not self.away and not self._request.services

    @property
    def _required(self) -> bool:
        return self.environ.get(b"BURST_REQUIRE_REMOTE", b"") not in (b"", b"0")

    @property
    def project(self) -> Project:
        request, config = self._request, self.config
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

    @property
    def server_state(self) -> str:
        if self.away and self.executor is not None:
            return "ready" if self.executor.usable else "lost"
        if self._host:
            return self._services.remotes.state(self._host)
        if self.config.hetzner is not None:
            return self._services.servers.state(os.fsdecode(self._request.workspace_root))
        return ""

    async def cost(self) -> str:
        """Of a server of our own, in euros since this session began; else empty."""
        if self._host or not self.away:
            return ""
        root = os.fsdecode(self._request.workspace_root)
        return await self._services.servers.cost(root, self._began_s)

    # -- while it is open -------------------------------------------------------------------------

    def is_patient(self) -> bool:
        """Whether a unit may still wait for a host that is not ready: all of them together for a
        moment, in which one that has the toolchain says so."""
        if not self.away or self.executor is None:
            return False
        now_s = time.monotonic()
        self._patient_until_s = self._patient_until_s or now_s + _PATIENCE_S
        return now_s < self._patient_until_s

    async def prepared(self) -> Executor | None:
        """The executor, with the mirror as it is at home now. None: the runner itself becomes the
        program. Waits for a server that boots. BurstError."""
        await self._arrived()
        if self.mirror is None or self.executor is None:
            return None
        async with self._lock:
            executor = await self.reached()
            await self._sync(executor)
            return executor

    async def reached(self) -> Executor:
        """Its connection may have been lost since: it is made again."""
        await self._arrived()
        executor = self.executor
        if executor is None:
            raise LinkLost("there is none", host="the server")
        if not executor.usable:
            if self.away:
                executor = await self._connect(lambda _: None)
            else:
                executor = await self._services.embedded.get()
            self.executor = executor
        return executor

    async def give_up_waiting(self) -> None:
        """No program needs the server any more. It boots on: the next command has it."""
        task, self._arriving = self._arriving, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, BurstError):
                await task
        self._orphans.remove()
