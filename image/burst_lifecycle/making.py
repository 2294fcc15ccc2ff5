"""A new server, wherever one is to be had: plan, search, create, until its create has ended.

Nothing is asked for before its operation is in the ledger and its expiry in its labels, and nothing
while another machine of the owner has the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
    volumes,
)
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import (
    Image,
    Inventory,
)
from burst_lifecycle.context import Context
from burst_lifecycle.errors import (
    ActionFailed,
    CloudProblem,
    NoCapacity,
    OverBudget,
    QuotaExceeded,
)
from burst_lifecycle.guard import Guard
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Candidate
from burst_lifecycle.turn import Turn
from burst_protocol.errors import ConfigError


@attrs.define(eq=False)
class Maker:
    """One search."""

    context: Context
    guard: Guard
    asked_s: float | None = None
    """When the server was asked for (monotonic), once it was."""
    source: str = ""
    """What it is made of: `stock`, or a recipe."""

    async def make(self, held: Turn) -> None:
        """A server, wherever one is to be had."""
        context = self.context
        everything = await context.cloud.inventory(labels.selector(context.wishes.owner))
        tariff = Tariff(await context.cloud.server_types(), await context.cloud.prices())
        await self._search(await self._plan(everything, tariff), everything, tariff, held)

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
        self.asked_s = self.context.time.monotonic()
        self.source = images.STOCK if image.system else image.labels.get(labels.RECIPE, "")
        return await newserver.create(
            self.context,
            candidate,
            newserver.Order(
                claim=claim,
                image=image,
                keys=keys,
                firewall_id=firewall_id,
                boot_by_s=now_s + wishes.boot_deadline_s,
                deadlines=userdata.Deadlines(
                    int(wishes.keep_alive_s),
                    int(wishes.hard_end_s),
                    orphan_s=int(wishes.orphan_s),
                ),
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
