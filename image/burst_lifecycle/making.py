"""A new server, wherever one is to be had: plan, search, create, until its create has ended.

Nothing is asked for before its operation is in the ledger and its expiry in its labels, and nothing
while another machine of the owner has the turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle import (
    access,
    budget,
    creation,
    firewall,
    hostkey,
    labels,
    placement,
    records,
    removal,
    userdata,
    volumes,
)
from burst_lifecycle.budget import Tariff
from burst_lifecycle.cloud.model import (
    Image,
    ImageState,
    Inventory,
    Kind,
    PrimaryIp,
    Server,
    ServerSpec,
)
from burst_lifecycle.context import Context
from burst_lifecycle.errors import (
    ActionFailed,
    Busy,
    CloudProblem,
    NoCapacity,
    NotFound,
    OverBudget,
    QuotaExceeded,
)
from burst_lifecycle.guard import Guard
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Candidate
from burst_lifecycle.pricing import Rate
from burst_lifecycle.turn import Turn
from burst_protocol.errors import ConfigError

_CREATE_S: Final = 900.0


@attrs.frozen
class _Made:
    server: Server
    actions: tuple[int, ...]
    claim: Claim


@attrs.define(eq=False)
class Maker:
    """One search."""

    context: Context
    guard: Guard
    _addresses: set[int] = attrs.field(factory=set)

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
                await self._finish(made, tariff)
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
    ) -> _Made:
        context, cloud, wishes = self.context, self.context.cloud, self.context.wishes
        host_key = hostkey.HostKey(*context.new_host_key())
        now_s = held.now_s()
        claim = Claim(
            owner=wishes.owner,
            role=Role.BUILD,
            operation=labels.new_operation(),
            expires_s=int(now_s + wishes.hard_end_s),
            project=wishes.project,
        )
        told = claim.labels(
            **{
                labels.BOOT_BY: str(int(now_s + wishes.boot_deadline_s)),
                labels.PIN: host_key.pin,
                labels.CLIENT: context.key.client,
                **({labels.RECIPE: wishes.recipe} if wishes.recipe else {}),
            }
        )
        user_data = userdata.render(
            host_key,
            keys.public_keys,
            userdata.Deadlines(int(wishes.keep_alive_s), int(wishes.hard_end_s)),
            context.server_files,
        )
        server, actions = await creation.create_with_actions(
            context,
            Kind.SERVER,
            claim,
            lambda name: cloud.create_server(
                ServerSpec(
                    name=name,
                    type=candidate.type,
                    location=candidate.location,
                    image_id=image.id,
                    ssh_key_ids=keys.ids,
                    firewall_ids=(firewall_id,),
                    labels=told,
                    user_data=user_data,
                )
            ),
            location=candidate.location,
            rate=Rate(candidate.eur_per_hour, candidate.eur_per_month),
        )
        return _Made(server, actions, claim)

    async def _finish(self, made: _Made, tariff: Tariff) -> None:
        """Until its create has ended. ActionFailed: it is there, and no good."""
        cloud = self.context.cloud
        await self._label_addresses(made.server, made.claim, tariff)
        try:
            await cloud.wait(made.actions, _CREATE_S)
        except NotFound as error:
            raise ActionFailed("it was gone", what="creating a server") from error
        server = await cloud.server(made.server.id)
        await self._label_addresses(server, made.claim, tariff)

    async def _label_addresses(self, server: Server, claim: Claim, tariff: Tariff) -> None:
        """They come with the server and go with it; should they stay, they are found."""
        context = self.context
        for address_id, version in ((server.ipv4_id, 4), (server.ipv6_id, 6)):
            if address_id is None or address_id in self._addresses:
                continue
            found = PrimaryIp(
                id=address_id,
                name="",
                labels=claim.labels(),
                created_s=server.created_s,
                address="",
                version=version,
                location=server.location,
                assignee_id=server.id,
                auto_delete=True,
            )
            rate = Rate.of_ipv4(tariff.prices, server.location) if version == 4 else records.FREE
            await context.ledger.record(records.created(context, Kind.PRIMARY_IP, found, rate))
            try:
                with context.effect("label the address"):
                    await context.cloud.set_labels(Kind.PRIMARY_IP, address_id, claim.labels())
            except (Busy, NotFound):
                continue  # the reaper labels it: it finds it by its server
            self._addresses.add(address_id)

    async def _image(self, images: Sequence[Image]) -> Image:
        context, wishes = self.context, self.context.wishes
        baked = choose_image(images, wishes.owner, wishes.recipe, wishes.architecture)
        return baked or await context.cloud.system_image(wishes.stock_image, wishes.architecture)


def choose_image(
    images: Sequence[Image], owner: str, recipe: str, architecture: str
) -> Image | None:
    """The newest current one of that recipe; None: boot the stock image."""
    mine = [
        image
        for image in images
        if (claim := Claim.of(image.labels)) is not None
        and claim.owner == owner
        and claim.role is Role.IMAGE
        and image.labels.get(labels.STAGE) == "current"
        and image.labels.get(labels.RECIPE, "") == recipe
        and image.state is ImageState.AVAILABLE
        and image.architecture == architecture
        and not image.system
    ]
    return max(mine, key=lambda image: (image.created_s, image.id), default=None)
