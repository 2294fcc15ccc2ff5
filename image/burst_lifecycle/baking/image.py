"""The image of a bake: asked for once, waited for, booted once, current; what it replaces goes."""

from __future__ import annotations

from typing import Final

import attrs

from burst_lifecycle import creation, images, labels, records, removal
from burst_lifecycle.baking.job import POLL_S, Job
from burst_lifecycle.baking.kitchen import require_marker
from burst_lifecycle.baking.servers import IMAGE_S, BakeServers
from burst_lifecycle.cloud.model import Image, ImageState, Kind, Server, ServerState
from burst_lifecycle.context import HOUR_S
from burst_lifecycle.errors import ActionFailed, Busy, DeadlinePassed, NotFound, ServerProblem
from burst_lifecycle.events import Resized
from burst_lifecycle.host import Host
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.pricing import Rate
from burst_protocol.errors import HostKeyProblem, LinkLost, Unreachable

_CANDIDATE_S: Final = 24 * HOUR_S
_CURRENT_S: Final = 10 * 365 * 24 * HOUR_S
_AGENT_S: Final = 180.0
_IMAGE_POLL_S: Final = 5.0


@attrs.define(eq=False)
class BakedImages:
    """Of one bake."""

    job: Job
    servers: BakeServers
    _recorded: set[int] = attrs.field(factory=set, init=False)

    async def look(self) -> tuple[Image, ...]:
        """All of the owner's. Sizes that are known by now are written down."""
        context = self.job.context
        found = await context.cloud.find(
            Kind.IMAGE, labels.selector(context.wishes.owner, role=str(Role.IMAGE))
        )
        mine = tuple(one for one in found if isinstance(one, Image))
        for image in mine:
            await self._record_size(image)
        return mine

    async def snapshot(self, server: Server) -> None:
        """Asked for once: its operation is known before, and while one is made the server is
        locked. What was asked for twice all the same is found and deleted."""
        context, cloud = self.job.context, self.job.context.cloud
        fresh = await cloud.server(server.id)
        if fresh.state is not ServerState.OFF:
            raise Busy("it is not off", what=f"server {server.name}")
        operation = images.image_operation(server)
        found = await cloud.find(Kind.IMAGE, labels.selector(context.wishes.owner, op=operation))
        if found:
            return  # the list was late
        claim = Claim(
            owner=context.wishes.owner,
            role=Role.IMAGE,
            operation=operation,
            expires_s=int(cloud.now_s() + _CANDIDATE_S),
        )
        told = claim.labels(
            **{labels.RECIPE: self.job.recipe.fingerprint, labels.STAGE: images.CANDIDATE}
        )
        rate = Rate.of_image(await cloud.prices())
        self.job.tell("making the image")
        try:
            await creation.create(
                context,
                Kind.IMAGE,
                claim,
                lambda name: cloud.create_image(server.id, name, told),
                rate=rate,
            )
        except (Busy, ActionFailed) as error:
            # One is being made already, or the cloud failed: the next look tells.
            await context.time.sleep(_IMAGE_POLL_S)
            self.job.again("snapshot", error)

    async def await_image(self, image: Image) -> None:
        """DeadlinePassed if it takes too long."""
        context, cloud = self.job.context, self.job.context.cloud
        give_up_s = image.created_s + IMAGE_S
        while image.state is ImageState.CREATING:
            if cloud.now_s() > give_up_s:
                raise DeadlinePassed(f"not within {IMAGE_S:g} s", what=f"image {image.id}")
            await context.time.sleep(_IMAGE_POLL_S)
            try:
                image = await cloud.image(image.id)
            except NotFound as error:
                self.job.again("image", error)  # it failed, so its server is asked again
                return

    async def _record_size(self, image: Image) -> None:
        """It bills from its birth, by a size that is known at its end only."""
        context = self.job.context
        if image.id in self._recorded or image.size_gb is None:
            return
        self._recorded.add(image.id)
        if image.labels.get(labels.STAGE) != images.CANDIDATE:
            return
        rate = Rate.of_image(await context.cloud.prices())
        await context.ledger.record(
            records.created(context, Kind.IMAGE, image, rate),
            Resized(
                at_s=context.cloud.now_s(),
                id=image.id,
                size_gb=image.size_gb,
                kind=Kind.IMAGE,
                endpoint=context.account.endpoint,
            ),
        )
        self.job.tell(f"image {image.id}: {image.size_gb} GB")

    async def verify_or_end(self, server: Server, image: Image) -> None:
        """An image that does not work is deleted: ServerProblem."""
        try:
            await self._verify(server, image)
        except (ServerProblem, HostKeyProblem) as error:
            # The image first: without it a server that stays says nothing any more.
            await self.job.guard.delete_image(image.id)
            if not self.job.wish.keep_server:
                await removal.abandon(self.job.context, self.job.guard, server)
            raise ServerProblem(
                f"the image that it was booted from does not work, so it is deleted: {error}",
                what=server.name,
            ) from error
        except (Unreachable, LinkLost) as error:
            self.job.again("verify", error)

    async def _verify(self, server: Server, image: Image) -> None:
        """Its own agent answers; nothing is brought."""
        context, cloud = self.job.context, self.job.context.cloud
        host = await self.servers.reach(server)
        await require_marker(self.job, host, server)
        await self._agent_answers(host)
        await self.servers.record_boot(server, self.job.recipe.fingerprint)
        fresh = await cloud.image(image.id)
        told = labels.merged(
            fresh.labels,
            **{
                labels.STAGE: images.CURRENT,
                labels.EXPIRES: str(int(cloud.now_s() + _CURRENT_S)),
            },
        )
        with context.effect("label current"):
            await cloud.set_labels(Kind.IMAGE, image.id, told)
        self.job.tell(f"image {image.id} works")

    async def _agent_answers(self, host: Host) -> None:
        give_up_s = self.job.context.time.monotonic() + _AGENT_S
        while True:
            try:
                await host.lease()
            except ServerProblem:
                if self.job.context.time.monotonic() > give_up_s:
                    raise
            else:
                return
            await self.job.context.time.sleep(POLL_S)

    async def prune(self, server: Server, image: Image) -> Image:
        """What it replaces; at last the server: while that is there, there is more to do."""
        context, wishes = self.job.context, self.job.context.wishes
        mine = [one for one in await self.look() if one.architecture == image.architecture]
        for old in images.outdated(mine, wishes.owner, 1, context.cloud.now_s()):
            if old.id != image.id:
                self.job.tell(f"image {old.id} goes: {image.id} replaces it")
                await self.job.guard.delete_image(old.id)
        await removal.abandon(context, self.job.guard, server)
        return image
