"""The servers of a bake: the one that the recipe runs on, and the one that boots its image once.

Each has its dead man armed and an expiry, as all servers have. They never get ready: until their
expiry they are let alone, after that anybody's reap removes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    budget,
    firewall,
    images,
    labels,
    newserver,
    placement,
    removal,
    userdata,
)
from burst_lifecycle.baking.job import POLL_S, Job
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import Image, Kind, Server
from burst_lifecycle.errors import (
    ActionFailed,
    CloudProblem,
    NoCapacity,
    NotFound,
    OverBudget,
    QuotaExceeded,
)
from burst_lifecycle.events import How, Ready
from burst_lifecycle.host import Host
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Plan
from burst_lifecycle.turn import TURN_S, Turn, TurnTaken, turn
from burst_protocol.errors import ConfigError

RECIPE_S: Final = 3600.0
IMAGE_S: Final = 3600.0
"""Snapshots of 20 GB took up to an hour (terraform-provider-hcloud #312)."""
_BAKE_S: Final = RECIPE_S + IMAGE_S + 900
"""All of a bake server's life."""
_VERIFY_S: Final = 3600.0
"""Booting a fresh snapshot may take minutes, or many."""
_KEEP_ALIVE_S: Final = 900


@attrs.define(eq=False)
class BakeServers:
    """Of one bake."""

    job: Job
    _made: dict[int, float] = attrs.field(factory=dict, init=False)
    """Servers that this process made, and when (monotonic)."""
    _seen_s: dict[int, float] = attrs.field(factory=dict, init=False)
    """When it saw them first (API time)."""

    async def look(self) -> tuple[Server, ...]:
        """Those of bakes that are there, of all machines of the owner."""
        context, cloud = self.job.context, self.job.context.cloud
        owner = context.wishes.owner
        servers = {
            one.id: one
            for one in await cloud.find(Kind.SERVER, labels.selector(owner, role=str(Role.BAKE)))
            if isinstance(one, Server)
        }
        for server_id in self._made:
            # Lists lag behind creates for a moment.
            if server_id not in servers:
                try:
                    servers[server_id] = await cloud.server(server_id)
                except NotFound:
                    continue
        if servers and cloud.offset_s is None:
            await self.job.guard.learn_time(min(servers))
        for server_id in servers:
            self._seen_s.setdefault(server_id, cloud.now_s())
        return tuple(servers.values())

    async def create(
        self, image: Image | None, still_wanted: Callable[[], Awaitable[bool]]
    ) -> None:
        """To bake on, or to boot `image` once. `still_wanted` is asked in this machine's turn.

        OverBudget, ConfigError, NoCapacity, …
        """
        context, wishes = self.job.context, self.job.context.wishes
        everything = await context.cloud.inventory(labels.selector(wishes.owner))
        tariff = Tariff(await context.cloud.server_types(), await context.cloud.prices())
        plan = images.bake_plan(
            tariff.types,
            (self.job.wish.location,) if self.job.wish.location else wishes.locations,
            architecture=wishes.architecture,
            max_eur_per_hour=wishes.max_eur_per_hour,
            wanted=() if self.job.wish.server_type else wishes.server_types,
            only=self.job.wish.server_type if image is None else "",
            least_gb=0 if image is None else image.disk_gb,
        )
        if wishes.budget_eur_per_month is not None:
            history = await asyncio.to_thread(context.ledger.read)
            now_s = context.cloud.now_s()
            plan = budget.affordable(
                plan,
                everything,
                wishes.owner,
                tariff,
                budget_eur=wishes.budget_eur_per_month,
                already_eur=budget.spent(history.events, now_s),
                now_s=now_s,
                new_volume_gb=0,
            )
        if not plan.candidates:
            if any(one.money for one in plan.refused):
                raise OverBudget(plan.why_nothing())
            raise ConfigError(plan.why_nothing(), path="server_type, location")
        give_up_s = context.time.monotonic() + wishes.boot_deadline_s + TURN_S
        while True:
            try:
                # A boot of this machine has the first; one of another machine the second.
                async with context.lock(), turn(context, self.job.guard) as held:
                    if await still_wanted():
                        await self._search(plan, tariff, image, held)
                    return
            except TurnTaken:
                if context.time.monotonic() > give_up_s:
                    raise
            await context.time.sleep(POLL_S)

    async def _search(self, plan: Plan, tariff: Tariff, image: Image | None, held: Turn) -> None:
        context, wishes = self.job.context, self.job.context.wishes
        keys = await access.owner_keys(context)
        wall = await firewall.of_owner(context)
        source = image or await context.cloud.system_image(wishes.stock_image, wishes.architecture)
        last: CloudProblem | None = None
        search = placement.Search(plan)
        for candidate in search:
            await held.extend()
            began_s = context.time.monotonic()
            order = self._order(source, keys, wall.id, held.now_s(), verify=image is not None)
            try:
                made = await newserver.create(context, candidate, order)
            except (NoCapacity, QuotaExceeded) as error:
                last = error
                search.failed(candidate, error)
                continue
            verb = "baking" if image is None else f"booting image {source.id}"
            self.job.tell(
                f"{verb} on {made.server.name}, {candidate.type} in {candidate.location}, "
                f"€{candidate.eur_per_hour:.4f} an hour"
            )
            try:
                await newserver.finish(context, made, tariff)
            except ActionFailed as error:
                last = error
                await removal.abandon(context, self.job.guard, made.server)
                continue
            self._made[made.server.id] = began_s
            return
        if last is not None:
            raise last
        raise NoCapacity(plan.why_nothing(), what="a server")

    def _order(
        self,
        source: Image,
        keys: access.OwnerKeys,
        firewall_id: int,
        now_s: float,
        *,
        verify: bool,
    ) -> newserver.Order:
        life_s = _VERIFY_S if verify else _BAKE_S
        claim = Claim(
            owner=self.job.context.wishes.owner,
            role=Role.BAKE,
            operation=labels.new_operation(),
            expires_s=int(now_s + life_s),
        )
        stage = {labels.STAGE: images.VERIFY} if verify else {}
        return newserver.Order(
            claim=claim,
            image=source,
            keys=keys,
            firewall_id=firewall_id,
            # It never gets ready: until then it is let alone, after that it goes, whatever it is.
            boot_by_s=now_s + life_s,
            deadlines=userdata.Deadlines(_KEEP_ALIVE_S, int(life_s)),
            more={labels.RECIPE: self.job.recipe.fingerprint, **stage},
        )

    async def reach(self, server: Server) -> Host:
        """The first time, or again."""
        context = self.job.context
        host = await newserver.wait_for_ssh(
            context, self.job.guard, server, began_s=self._seen_s[server.id]
        )
        claim = Claim.of(server.labels)
        until_s = claim.expires_s if claim else context.cloud.now_s() + _BAKE_S
        await newserver.narrow(context, server, host, until_s)
        return host

    async def label(self, server: Server, stage: str) -> None:
        fresh = await self.job.context.cloud.server(server.id)
        told = labels.merged(fresh.labels, **{labels.STAGE: stage})
        with self.job.context.effect(f"label {stage}"):
            await self.job.context.cloud.set_labels(Kind.SERVER, server.id, told)

    async def record_boot(self, server: Server, image: str) -> None:
        """How long it took, if all of it was seen by this process."""
        began_s = self._made.pop(server.id, None)
        if began_s is not None:
            took_s = self.job.context.time.monotonic() - began_s
            await self.job.context.ledger.record(
                Ready(
                    at_s=self.job.context.cloud.now_s(),
                    id=server.id,
                    how=How.COLD,
                    took_s=took_s,
                    boot_s=took_s,
                    image=image,
                )
            )
