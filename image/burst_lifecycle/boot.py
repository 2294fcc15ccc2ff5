"""A cold boot: small steps, each of which can be repeated after any interruption.

What is there is found by its labels, never by what this process remembers; so the next command of
any machine of the owner carries on where this one was stopped. Nothing is created before its
operation is in the ledger and its expiry in its labels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    budget,
    firewall,
    hostkey,
    images,
    labels,
    newserver,
    placement,
    removal,
    situation,
    userdata,
    volumes,
)
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import (
    Image,
    Inventory,
    Kind,
    Server,
)
from burst_lifecycle.context import Context, Login
from burst_lifecycle.errors import (
    ActionFailed,
    CloudProblem,
    NoCapacity,
    NotFound,
    OverBudget,
    QuotaExceeded,
    ServerProblem,
)
from burst_lifecycle.events import How, Ready
from burst_lifecycle.guard import Ground, Guard, is_booting, is_ready
from burst_lifecycle.host import Host
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Candidate
from burst_lifecycle.situation import Move
from burst_lifecycle.turn import Turn, turn
from burst_protocol.errors import (
    ConfigError,
)

ROUNDS: Final = 40
"""Moves until one is USE: each removal or wait is one."""
_ROTATION_TRIES: Final = 6
_GONE_POLL_S: Final = 3.0


@attrs.frozen
class Booted:
    """A server that works, and how to get at it."""

    server: Server
    login: Login
    """Of user `burst`; its `known_hosts` are complete."""
    store: volumes.Store
    agent: str
    how: How | None
    """None: it ran already."""


@attrs.define(eq=False)
class Boot:
    """One `up`."""

    context: Context
    guard: Guard
    how: How | None = None
    began_s: float = 0.0
    _asked_s: float | None = None
    _source: str = ""
    """What the server was made of, if it was by us."""

    async def run(self) -> Booted:
        """A server that is ready for the project. Raises CloudProblem, ServerProblem, OverBudget, …

        Whatever it raises, what was begun carries its expiry, and the next `run` carries on.
        """
        self.began_s = self.context.time.monotonic()
        async with self.context.lock():
            for _ in range(ROUNDS):
                booted = await self._move(await self._servers(), held=None)
                if booted is not None:
                    return booted
        raise ServerProblem("keeps changing; nothing was created", what="of yours")

    async def _servers(self) -> tuple[Server, ...]:
        context = self.context
        found = await context.cloud.find(
            Kind.SERVER, labels.selector(context.wishes.owner, role=str(Role.BUILD))
        )
        servers = tuple(one for one in found if isinstance(one, Server))
        if servers and context.cloud.offset_s is None:
            # Deadlines in labels are of the API's clock: what home's says may be a day off.
            mine = situation.of_owner(servers, context.wishes.owner)
            if mine:
                await self.guard.learn_time(mine[0].id)
        return servers

    async def _move(self, servers: Sequence[Server], held: Turn | None) -> Booted | None:
        """One move; None: look again."""
        context = self.context
        found = situation.assess(
            servers, context.wishes.owner, context.wishes.recipe, context.cloud.now_s()
        )
        server = found.server
        match found.move:
            case Move.CREATE:
                if held is None:
                    await self._create_in_turn()
                return None
            case Move.USE:
                assert server is not None
                return await self._use(server, servers)
            case Move.POWER_ON:
                assert server is not None
                await self._power_on(server)
                return None
            case Move.REMOVE:
                assert server is not None
                assert found.ground is not None
                if found.ground is Ground.HARD_END:
                    await removal.at_hard_end(context, self.guard, server)
                else:
                    await removal.powered_off(context, self.guard, server, found.ground)
                return None
            case Move.WAIT:
                await context.time.sleep(_GONE_POLL_S)
                return None

    # -- one that is there -------------------------------------------------------------------------

    async def _power_on(self, server: Server) -> None:
        """First the labels: from then on nobody takes `off` for the end of it."""
        context = self.context
        fresh = await context.cloud.server(server.id)
        now_s = context.cloud.now_s()
        if not is_booting(fresh, now_s):
            boot_by = int(now_s + context.wishes.boot_deadline_s)
            told = labels.merged(fresh.labels, **{labels.BOOT_BY: str(boot_by), labels.READY: None})
            with context.effect("label the boot"):
                await context.cloud.set_labels(Kind.SERVER, server.id, told)
        with context.effect("power on"):
            await context.cloud.power_on(server.id)
        self.how = How.WARM

    async def _use(self, server: Server, servers: Sequence[Server]) -> Booted | None:
        context = self.context
        for extra in situation.surplus(
            servers, context.wishes.owner, context.key.client, server.id
        ):
            await removal.abandon(context, self.guard, extra)
        try:
            if is_ready(server):
                host = await removal.reach(context, server)
            else:
                host = await newserver.wait_for_ssh(context, self.guard, server)
        except NotFound:
            return None
        fresh = await context.cloud.server(server.id)
        if is_ready(fresh):
            lease = await host.lease()
            if lease.draining:
                # Somebody is about to delete it. It takes no work any more, so it goes now.
                await removal.drain(
                    context, self.guard, fresh, min_idle_s=0, reason="it drains already"
                )
                return None
        return await self._equip(fresh, host)

    async def _equip(self, server: Server, host: Host) -> Booted:
        """From the first login to `ready`. On a ready one: what this machine and project lack."""
        context, cloud, wishes = self.context, self.context.cloud, self.context.wishes
        claim = Claim.of(server.labels)
        hard_end_s = claim.expires_s if claim else cloud.now_s() + wishes.hard_end_s
        await newserver.narrow(context, server, host, hard_end_s)
        with context.effect("bring the agent"):
            agent = await context.agent.ensure(host.login)
        if not is_ready(server):
            with context.effect("tell its end"):
                await host.extend(
                    hard_end_in_s=hard_end_s - cloud.now_s(),
                    age_s=cloud.now_s() - server.created_s,
                    keep_alive_s=wishes.keep_alive_s,
                )
        store = await volumes.mount_project(context, server, host)
        host = await self._rotate(server.id, host)
        server = await cloud.server(server.id)
        if not is_ready(server):
            told = labels.merged(server.labels, **{labels.READY: "1"})
            with context.effect("label ready"):
                await cloud.set_labels(Kind.SERVER, server.id, told)
            server = attrs.evolve(server, labels=told)
            await context.ledger.record(
                Ready(
                    at_s=cloud.now_s(),
                    id=server.id,
                    how=self.how or How.COLD,
                    took_s=context.time.monotonic() - self.began_s,
                    boot_s=None
                    if self._asked_s is None
                    else context.time.monotonic() - self._asked_s,
                    image=self._source,
                )
            )
        return Booted(server, attrs.evolve(host.login, user="burst"), store, agent, self.how)

    async def _rotate(self, server_id: int, host: Host) -> Host:
        """The key that user data carried is replaced by one that never left the server.

        Both pins are in the labels before the change, so whoever looks meanwhile is right.
        """
        context, cloud = self.context, self.context.cloud
        server = await cloud.server(server_id)
        shown = hostkey.pin(host.login.host_key)
        next_pin = server.labels.get(labels.NEXT_PIN)
        if next_pin is None and is_ready(server):
            return host
        if next_pin is None or shown != next_pin:
            with context.effect("prepare the host key"):
                public = await host.prepare_host_key()
            next_pin = hostkey.pin(public)
            if server.labels.get(labels.NEXT_PIN) != next_pin:
                told = labels.merged(server.labels, **{labels.NEXT_PIN: next_pin})
                with context.effect("label the next pin"):
                    await cloud.set_labels(Kind.SERVER, server_id, told)
            with context.effect("activate the host key"):
                await host.activate_host_key()
            server = await cloud.server(server_id)
            host = await self._shows(server, host, next_pin)
        told = labels.merged(server.labels, **{labels.PIN: next_pin, labels.NEXT_PIN: None})
        with context.effect("label the new pin"):
            await cloud.set_labels(Kind.SERVER, server_id, told)
        login = attrs.evolve(host.login, pins=(next_pin,))
        return Host(context.ssh, login, server_id)

    async def _shows(self, server: Server, host: Host, wanted: str) -> Host:
        """Log in anew until that key is shown."""
        context = self.context
        both = access.login(context, server)
        for _ in range(_ROTATION_TRIES):
            await context.ssh.forget(host.login)
            host = Host(context.ssh, await Host(context.ssh, both, server.id).hello(), server.id)
            if hostkey.pin(host.login.host_key) == wanted:
                return host
            await context.time.sleep(newserver.POLL_S)
        raise ServerProblem("does not show its new host key", what=server.name)

    # -- a new one ---------------------------------------------------------------------------------

    async def _create_in_turn(self) -> None:
        """Only if nobody has made one meanwhile."""
        context, wishes = self.context, self.context.wishes
        everything = await context.cloud.inventory(labels.selector(wishes.owner))
        tariff = Tariff(await context.cloud.server_types(), await context.cloud.prices())
        plan = await self._plan(everything, tariff)
        async with turn(context, self.guard) as held:
            servers = await self._servers()
            found = situation.assess(servers, wishes.owner, wishes.recipe, context.cloud.now_s())
            if found.move is not Move.CREATE:
                return
            await self._search(plan, everything, tariff, held)

    async def _plan(self, everything: Inventory, tariff: Tariff) -> placement.Plan:
        """What may be tried. OverBudget or ConfigError if that is nothing."""
        context, wishes = self.context, self.context.wishes
        mine = volumes.of_project(everything.volumes, wishes.owner, wishes.project)
        good = [volume for volume in mine if volumes.is_good(volume)] if wishes.project else []
        plan = placement.plan(
            wishes.server_types,
            wishes.locations,
            tariff.types,
            architecture=wishes.architecture,
            max_eur_per_hour=wishes.max_eur_per_hour,
            volume_location=good[0].location if good else "",
        )
        if wishes.budget_eur_per_month is not None:
            now_s = context.cloud.now_s()
            history = await asyncio.to_thread(context.ledger.read)
            plan = budget.affordable(
                plan,
                everything,
                wishes.owner,
                tariff,
                budget_eur=wishes.budget_eur_per_month,
                already_eur=budget.spent(history.events, now_s),
                now_s=now_s,
                new_volume_gb=0 if good or not wishes.project else wishes.volume_gb,
            )
        if not plan.candidates:
            if any(one.money for one in plan.refused):
                raise OverBudget(plan.why_nothing())
            raise ConfigError(plan.why_nothing(), path="server_type, location")
        return plan

    async def _search(
        self, plan: placement.Plan, everything: Inventory, tariff: Tariff, held: Turn
    ) -> None:
        context = self.context
        keys = await access.owner_keys(context)
        access_wall = await firewall.of_owner(context)
        image = await self._image(everything.images)
        search = placement.Search(plan)
        last: CloudProblem | None = None
        for candidate in search:
            await held.extend()
            try:
                made = await self._create(candidate, keys, access_wall.id, image, held)
            except (NoCapacity, QuotaExceeded) as error:
                last = error
                search.failed(candidate, error)
                for text in search.notices:
                    context.tell("quota", text)
                search.notices.clear()
                continue
            # From here on there is a server: whatever goes wrong, no other is made beside it.
            try:
                await newserver.finish(context, made, tariff)
            except ActionFailed as error:
                last = error
                await removal.abandon(context, self.guard, made.server)
                continue
            self.how = How.COLD
            return
        if isinstance(last, QuotaExceeded | ActionFailed):
            raise last
        raise NoCapacity(plan.why_nothing() if last is None else last.detail, what="a server")

    async def _create(
        self,
        candidate: Candidate,
        keys: access.OwnerKeys,
        firewall_id: int,
        image: Image,
        held: Turn,
    ) -> newserver.Made:
        wishes, now_s = self.context.wishes, held.now_s()
        claim = Claim(
            owner=wishes.owner,
            role=Role.BUILD,
            operation=labels.new_operation(),
            expires_s=int(now_s + wishes.hard_end_s),
            project=wishes.project,
        )
        self._asked_s = self.context.time.monotonic()
        self._source = images.STOCK if image.system else image.labels.get(labels.RECIPE, "")
        return await newserver.create(
            self.context,
            candidate,
            newserver.Order(
                claim=claim,
                image=image,
                keys=keys,
                firewall_id=firewall_id,
                boot_by_s=now_s + wishes.boot_deadline_s,
                deadlines=userdata.Deadlines(int(wishes.keep_alive_s), int(wishes.hard_end_s)),
                more={labels.RECIPE: wishes.recipe} if wishes.recipe else {},
            ),
        )

    async def _image(self, found: Sequence[Image]) -> Image:
        context, wishes = self.context, self.context.wishes
        baked = images.choose(found, wishes.owner, wishes.recipe, wishes.architecture)
        if baked is not None:
            history = await asyncio.to_thread(context.ledger.read)
            if images.speed(history.events, wishes.recipe).pays:
                return baked
        return await context.cloud.system_image(wishes.stock_image, wishes.architecture)
