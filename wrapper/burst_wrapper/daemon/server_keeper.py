"""Looks after the server of one project: finds it, boots it, reaches its agent, reaps it.

Everything here that asks a cloud runs in tasks of its own; a unit only ever looks at what they
found. What is to be said while plain cargo runs becomes a notice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from burst_lifecycle.assembly import Request, open_lifecycle, renew_token
from burst_lifecycle.books import add_up
from burst_lifecycle.boot import Booted
from burst_lifecycle.cloud.model import Kind, ServerState
from burst_lifecycle.decision import (
    Ask,
    Course,
    Decision,
    Reason,
    Situation,
    Threshold,
    Work,
    decide,
    words,
)
from burst_lifecycle.errors import Unauthorized
from burst_lifecycle.notices import Level, Notice, Notices
from burst_lifecycle.places import Places
from burst_lifecycle.pricing import Amount, cost_of, total
from burst_lifecycle.project import Project
from burst_lifecycle.remote.install import ServiceInstaller
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.settings import Hetzner
from burst_protocol.errors import BurstError, Draining, EnvironmentProblem
from burst_wrapper.config import Config
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.offers import offer, wanted
from burst_wrapper.daemon.own_server import OwnServer
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.daemon.remote import Host, NotYet
from burst_wrapper.daemon.server_records import Records
from burst_wrapper.daemon.server_rounds import REAP_S, Rounds
from burst_wrapper.daemon.servers import Build, Made
from burst_wrapper.daemon.sleep_watch import SleepWatch
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.forecast import Forecast

_LOOK_S: Final = 60.0
"""A server that was not there is looked for again after this time, while units come."""
_COME_BY_S: Final = 900.0
"""Builds that need no server look for one that bills for nothing this often at most."""
_GRACE_S: Final = 5.0

_log: Final = logging.getLogger("burst")
_COARSE_S: Final = 2.0


class Keeper:
    def __init__(
        self,
        project: Project,
        cache_dir: bytes,
        tools: Tools,
        made: dict[bytes, Made],
        home: Callable[[], Executor | None],
        *,
        rounds: Rounds | None = None,
    ) -> None:
        """`rounds`: shared by all keepers of a daemon."""
        self._project = project
        self._cache_dir = cache_dir
        self._tools = tools
        self._made = made
        self._home = home
        self._rounds = rounds or Rounds()
        self._hetzner: Hetzner | None = None
        self._lifecycle: Lifecycle | None = None
        self._closing = contextlib.AsyncExitStack()
        self._opening = asyncio.Lock()
        self._host: Host | None = None
        self._booted: Booted | None = None
        """What `_host` leads to."""
        self._equipped = False
        """Whether this project's volume is there, or cannot be."""
        self._joined_s: dict[bool, float] = {}
        """When it was tried to bring the volume there; with a new one, and without."""
        self._former: list[Host] = []
        """Units may still be running over their connections."""
        self._looked_s = -_LOOK_S
        self._came_by_s = -_COME_BY_S
        self._looking: asyncio.Task[None] | None = None
        self._booting: asyncio.Task[None] | None = None
        self._joining: asyncio.Task[None] | None = None
        self._reaping: asyncio.Task[None] | None = None
        self._offering: asyncio.Task[None] | None = None
        self._greeting: asyncio.Task[None] | None = None
        """Reaches a server for offers, if nobody else does."""
        self._greeted: Host | None = None
        self._closing_host: asyncio.Task[None] | None = None
        self._failure: BurstError | None = None
        """Why there is no server, last."""
        self._exists = False
        self._records = Records(project)
        self._sleep_watch = SleepWatch(self.before_sleep)
        self.decision: Decision | None = None
        """The last one, for whoever asks why."""

    # -- units -------------------------------------------------------------------------------

    async def executor(
        self,
        config: Config,
        plan: Plan,
        left: Forecast,
        *,
        metadata_only: bool,
        required: bool,
    ) -> Executor:
        """See `Servers.executor`."""
        hetzner = config.hetzner
        assert hetzner is not None
        await self._configure(hetzner)
        if self._host is None:
            self._look_around(config)
            if required or hetzner.wait:
                await _settled(self._looking)
        if self._host is None:
            ask = Ask.UP if required else Ask.UNITS
            self._decide(config, hetzner, left, metadata_only=metadata_only, ask=ask)
        elif not self._equipped:
            # Another project booted it. It is there anyway, so there is nothing to decide about a
            # boot; but what only checks makes no volume that bills for a week.
            self._join_later(config, make=not metadata_only or hetzner.boot_for_check)
        if self._host is None and (required or (hetzner.wait and self._booting is not None)):
            await _settled(self._booting)
        host = self._host
        if host is None:
            raise self._why_not()
        try:
            executor = await host.get(config, plan.platform, None, required=required)
        except NotYet:
            raise
        except BurstError as error:
            self._lost(error)
            raise
        self._begin_offers(executor)
        return executor

    async def connected(
        self, config: Config, note: Callable[[str], None], keep_alive_s: int | None
    ) -> Executor:
        """See `Servers.connected`."""
        hetzner = config.hetzner
        assert hetzner is not None
        await self._configure(hetzner)
        if self._host is None:
            self._look_around(config)
            await _settled(self._looking)
        if self._host is None:
            nothing = Forecast(0, 0, 0, 0)
            self._decide(config, hetzner, nothing, metadata_only=False, ask=Ask.VERB)
        elif not self._equipped:
            self._join_later(config, make=True)
        if self._host is None and self._booting is not None:
            note("a server boots")
            await _settled(self._booting)
        elif not self._equipped and self._joining is not None:
            note("the project's volume is brought to the server")
            await _settled(self._joining)
        if self._host is None:
            raise self._why_not()
        if keep_alive_s != -1:
            note("telling the server how long it stays")
            lifecycle = await self._open(config)
            idle_s = hetzner.hard_end_s if keep_alive_s is None else float(keep_alive_s)
            await lifecycle.extend(keep_alive_s=idle_s)
        try:
            return await self._host.connected(config, None)
        except BurstError as error:
            self._lost(error)
            raise

    @property
    def server_name(self) -> str:
        """Of the one that is there; empty if none is known."""
        return "" if self._host is None else self._host.name

    @property
    def state(self) -> str:
        """See `Servers.state`."""
        if self._host is not None:
            return self._host.state
        return "boots" if self._booting is not None else ""

    async def cost(self, since_s: float) -> str:
        """See `Servers.cost`. Hours are paid when they begin: a second run within one is free."""
        if self._lifecycle is None:
            return ""
        context = self._lifecycle.context
        offset_s = context.cloud.offset_s or 0.0
        begin_s, end_s = since_s + offset_s, time.time() + offset_s
        spent = []
        history = await asyncio.to_thread(context.ledger.read)
        for thing in add_up(history.events).billing():
            if thing.kind not in (Kind.SERVER, Kind.PRIMARY_IP):
                continue
            whole = cost_of(thing, end_s)
            before = Amount()
            # The API's times are whole seconds, and our idea of its clock is as coarse.
            if thing.created_s is not None and thing.created_s < begin_s - _COARSE_S:
                before = cost_of(thing, begin_s)
            spent.append(Amount(whole.eur - before.eur, whole.at_least))
        amount = total(spent)
        return f"{amount.eur:.4f}" if spent else ""

    def drained(self, error: Draining) -> None:
        """A unit was refused: this server is about to go, and takes nothing any more."""
        if self._host is not None:
            self._lost(error)

    def _decide(
        self,
        config: Config,
        hetzner: Hetzner,
        left: Forecast,
        *,
        metadata_only: bool,
        ask: Ask,
    ) -> None:
        if self._looking is not None and not self._looking.done():
            return  # first it must be known what there is
        lifecycle = self._lifecycle
        decision = decide(
            Work(
                ask=ask,
                unit_s=(left.left_s,),
                metadata_only=metadata_only,
            ),
            Situation(
                configured=hetzner.max_eur_per_hour is not None,
                trusted=not config.untrusted,
                home_cores=os.cpu_count() or 1,
                running=False,
                booting=self._booting is not None,
                retry_in_s=0.0 if lifecycle is None else lifecycle.retry_in_s,
            ),
            Threshold(hetzner.boot_after_s, hetzner.boot_for_check),
        )
        self.decision = decision
        if decision.course is Course.BOOT and self._booting is None:
            _log.info("a server is booted: %s; %s", decision.reason.value, left.text)
            self._booting = self._task(self._boot(config, f"{decision.reason.value}: {left.text}"))

    def _why_not(self) -> BurstError:
        if self._booting is not None:
            return NotYet("it boots", host="the server")
        if self._looking is not None and not self._looking.done():
            return NotYet("it is looked for", host="the server")
        if self._failure is not None:
            return self._failure
        decision = self.decision or Decision(Course.HOME, Reason.NOTHING_TO_DO)
        hetzner, lifecycle = self._hetzner or Hetzner(), self._lifecycle
        threshold = Threshold(hetzner.boot_after_s, hetzner.boot_for_check)
        return NoServer(words(decision, threshold, lifecycle.retry_in_s if lifecycle else 0.0))

    # -- the cloud ---------------------------------------------------------------------------

    async def _configure(self, hetzner: Hetzner) -> None:
        """A changed configuration is another lifecycle; servers keep their labels."""
        if self._hetzner != hetzner and self._lifecycle is not None:
            await self.close()
            self._closing = contextlib.AsyncExitStack()
        self._hetzner = hetzner

    async def _open(self, config: Config) -> Lifecycle:
        async with self._opening:
            if self._lifecycle is None:
                request = self._request(config)
                lifecycle = await self._closing.enter_async_context(open_lifecycle(request))
                lifecycle.watched = True
                self._lifecycle = self._records.lifecycle = lifecycle
            return self._lifecycle

    def _request(self, config: Config) -> Request:
        return Request(
            settings=config,
            places=Places.of(),
            environ=dict(os.environ),
            daemon=True,
            project=self._project,
        )

    async def _refused(self, config: Config, error: Exception) -> None:
        """Our token was: somebody may have put another one in its place. The next try uses it."""
        if not isinstance(error, Unauthorized) or self._lifecycle is None:
            return
        try:
            if await renew_token(self._lifecycle, self._request(config)):
                _log.info("another token is used from now on")
        except (BurstError, OSError) as problem:
            _log.warning("no other token: %s", problem)

    def _look_around(self, config: Config) -> None:
        if self._looking is not None or self._booting is not None:
            return
        if time.monotonic() - self._looked_s < _LOOK_S:
            return
        self._looked_s = time.monotonic()
        self._looking = self._task(self._look(config))

    async def _look(self, config: Config) -> None:
        """Is there a server that works? Nothing is changed for it."""
        try:
            lifecycle = await self._open(config)
            booted = await lifecycle.current()
            if booted is not None:
                self._found(config, booted)
            else:
                await self._come_by(lifecycle)
        except (BurstError, OSError) as error:
            self._failed(error)
            await self._refused(config, error)
        finally:
            self._looking = None

    async def _come_by(self, lifecycle: Lifecycle) -> None:
        """Somebody must: a server that has turned itself off bills like one that works."""
        if time.monotonic() - self._came_by_s < _COME_BY_S:
            return
        self._came_by_s = time.monotonic()
        report = await lifecycle.reaper.remove(await lifecycle.reaper.overdue())
        for verdict in report.done:
            _log.info("deleted %s: %s", verdict.resource.name, verdict.reason)

    def _join_later(self, config: Config, *, make: bool) -> None:
        """Units go on there meanwhile, with a store on the server's own disk."""
        if self._joining is not None and not self._joining.done():
            return
        if time.monotonic() - self._joined_s.get(make, -_LOOK_S) < _LOOK_S:
            return
        self._joined_s[make] = time.monotonic()
        self._joining = self._task(self._join(config, make=make))

    async def _join(self, config: Config, *, make: bool) -> None:
        try:
            booted = await (await self._open(config)).join(make_volume=make)
        except (BurstError, OSError) as error:
            _log.warning("the project's volume is not brought to the server: %s", error)
            return
        if booted is None or self._host is None:
            return  # it has gone in between
        if booted.store.passing:
            return  # it is tried again
        if make or booted.store.volume_id is not None:
            self._found(config, booted, equipped=True)

    async def _boot(self, config: Config, reason: str) -> None:
        self._exists = True
        self._begin_reaping(config)
        try:
            self._found(config, await (await self._open(config)).up(reason))
        except (BurstError, OSError) as error:
            self._failed(error)
            await self._refused(config, error)
        finally:
            self._booting = None

    def _found(self, config: Config, booted: Booted, *, equipped: bool = False) -> None:
        lifecycle = self._lifecycle
        assert lifecycle is not None
        ssh, installer = lifecycle.context.ssh, lifecycle.context.agent
        assert isinstance(ssh, PinnedSsh)
        assert isinstance(installer, ServiceInstaller)
        self._failure = None
        self._exists = True
        store = booted.store
        known = store.volume_id is not None or (booted.how is not None and not store.passing)
        self._equipped = equipped or known
        if self._host is not None:
            self._former.append(self._host)
        if self._offering is not None:
            self._offering.cancel()  # it goes to the former one
            self._offering = None
        self._booted = booted
        self._host = Host(OwnServer(booted, ssh, installer), self._cache_dir, self._tools)
        self._host.on_notice = lambda text: _tell(config, text)
        self._records.attached(booted.server.id)
        self._begin_reaping(config)
        _log.info("server %s is used (%s)", booted.server.name, booted.server.type)
        self._greet(config)

    def _failed(self, error: BurstError | OSError) -> None:
        self._failure = error if isinstance(error, BurstError) else EnvironmentProblem(str(error))
        _log.warning("no server: %s", self._failure)

    def _lost(self, error: BurstError) -> None:
        """Its connection, or it: look for it anew soon. One that drains is not ours any more."""
        host, self._host = self._host, None
        self._records.detached()
        self._failure = error
        self._looked_s = time.monotonic() - (0.0 if isinstance(error, Draining) else _LOOK_S)
        if host is not None:
            self._closing_host = self._task(host.close())

    # -- records -----------------------------------------------------------------------------

    def ended(self, build: Build) -> None:
        """A build is over: what `audit` knows of it."""
        self._records.ended(build)

    # -- reaping -----------------------------------------------------------------------------

    @property
    def needs_us(self) -> bool:
        return self._exists or self._booting is not None

    def _begin_reaping(self, config: Config) -> None:
        self._sleep_watch.start()
        if self._reaping is None or self._reaping.done():
            self._reaping = self._task(self._reap_for_ever(config))

    async def _reap_for_ever(self, config: Config) -> None:
        while self._exists:
            await asyncio.sleep(REAP_S)
            await self._reap_once(config)
        self._sleep_watch.stop()

    async def _reap_once(self, config: Config) -> None:
        self._records.note()
        try:
            lifecycle = await self._open(config)
            await self._records.share(self._booted)
            async with self._rounds.turn(lifecycle):
                servers = self._rounds.lately(lifecycle)
                if servers is None:
                    servers = await self._round(lifecycle)
        except (BurstError, OSError) as error:
            _log.warning("not reaped: %s", error)
            await self._refused(config, error)
            return
        self._exists = servers or self._booting is not None
        if not servers and self._host is not None:
            self._lost(Draining("it was deleted"))
        self._greet(config)

    async def _round(self, lifecycle: Lifecycle) -> bool:
        """Whether there are servers of ours after it."""
        await lifecycle.reap()
        status = await lifecycle.status(ask=False)
        mine = [verdict.resource for verdict in status.of_owner()]
        exists = any(getattr(one, "state", None) in set(ServerState) for one in mine)
        self._rounds.made(lifecycle, exists=exists)
        return exists

    async def before_sleep(self) -> None:
        """Nobody can come by while this machine sleeps: what is idle goes now."""
        if self._lifecycle is None or not self._exists:
            return
        with contextlib.suppress(BurstError, OSError, TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._records.share(self._booted)
                await self._lifecycle.down()

    # -- offers ------------------------------------------------------------------------------

    def _begin_offers(self, executor: Executor) -> None:
        if self._offering is not None and not self._offering.done():
            return
        if next(wanted(self._made, executor), None) is not None:
            home = self._home()
            if home is not None:
                self._offering = self._task(offer(self._made, home, executor))

    def _greet(self, config: Config) -> None:
        """Offers do not wait for the next unit."""
        host = self._host
        if host is None or not self._made:
            return
        if self._greeting is None or self._greeting.done() or host is not self._greeted:
            self._greeted = host
            self._greeting = self._task(self._offer_now(config, host))

    async def _offer_now(self, config: Config, host: Host) -> None:
        """The build may be over before its server, or volume, is there: no unit comes then."""
        try:
            executor = await host.connected(config, None)
        except BurstError as error:
            _log.info("%s is offered nothing yet: %s", host.name, error)
        else:
            self._begin_offers(executor)

    # -- life --------------------------------------------------------------------------------

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(_log_failure)
        return task

    async def close(self) -> None:
        self._sleep_watch.stop()
        with contextlib.suppress(BurstError, TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await self._records.share(self._booted)
        await self._records.close()
        tasks = (
            self._looking,
            self._booting,
            self._joining,
            self._reaping,
            self._greeting,
            self._offering,
        )
        for task in tasks:
            if task is not None:
                task.cancel()
        for task in tasks:
            if task is not None:
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
        for host in (self._host, *self._former):
            if host is not None:
                await host.close()
        self._host = None
        self._former.clear()
        await self._closing.aclose()
        self._lifecycle = self._records.lifecycle = None


class NoServer(EnvironmentProblem):
    """{detail}"""

    code = "no-server"
    hint = "units run at home; `burst-admin up` boots one"


async def _settled(task: Awaitable[None] | None) -> None:
    if task is not None:
        await asyncio.shield(task)


def _tell(config: Config, text: str) -> None:
    notices = Notices(Places.of().cloud, config.notify)
    notices.post(Notice(text, key="server", level=Level.WARNING))


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("looking after a server failed", exc_info=error)
