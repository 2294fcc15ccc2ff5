"""Baking an image: steps that find by labels what there is, so each may be the last of a process.

A server with the smallest disk, from the stock image, with its dead man armed and an expiry as all
servers have; the recipe over ssh, its log as it comes; the marker read over ssh, for an `off` says
nothing; identity taken away; off; the snapshot, a candidate with an expiry; the server away; one
boot of the candidate, whose own agent must answer; current; what it replaces away.
"""

from __future__ import annotations

from typing import Final

import attrs

from burst_lifecycle import images, removal
from burst_lifecycle.baking.image import BakedImages
from burst_lifecycle.baking.job import POLL_S, Job
from burst_lifecycle.baking.kitchen import Kitchen
from burst_lifecycle.baking.servers import BakeServers
from burst_lifecycle.cloud.model import Image
from burst_lifecycle.errors import Busy, ServerProblem
from burst_lifecycle.images import Next, Step

_ROUNDS: Final = 60


@attrs.define(eq=False)
class Baker:
    """Takes one step after the other."""

    job: Job
    _servers: BakeServers = attrs.field(init=False)
    _images: BakedImages = attrs.field(init=False)
    _kitchen: Kitchen = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._servers = BakeServers(self.job)
        self._images = BakedImages(self.job, self._servers)
        self._kitchen = Kitchen(self.job, self._servers)

    async def run(self) -> Image:
        """The new current image. ServerProblem with why if there is none.

        Errors of the cloud or the link leave what there is, with its expiry: the next run carries
        on. What the recipe or the image is to blame for is removed first.
        """
        async with self.job.context.bake_lock():
            for _ in range(_ROUNDS):
                found = await self._look()
                done = await self._do(found)
                if done is not None:
                    return done
        raise ServerProblem("keeps changing; no image was made", what="of a bake")

    async def _look(self) -> Next:
        job, wishes = self.job, self.job.context.wishes
        servers = await self._servers.look()
        return images.next_step(
            servers,
            await self._images.look(),
            owner=wishes.owner,
            client=job.context.key.client,
            recipe=job.recipe.fingerprint,
            architecture=wishes.architecture,
            now_s=job.context.cloud.now_s(),
        )

    async def _wants_server(self) -> bool:
        return (await self._look()).step in {Step.CREATE, Step.CREATE_VERIFIER}

    async def _do(self, found: Next) -> Image | None:
        job, context = self.job, self.job.context
        server, image = found.server, found.image
        match found.step:
            case Step.OTHERS:
                assert server is not None
                raise Busy(f"another machine of yours bakes on {server.name}", what="baking")
            case Step.WAIT:
                await context.time.sleep(POLL_S)
            case Step.CREATE:
                await self._servers.create(None, self._wants_server)
            case Step.CREATE_VERIFIER:
                await self._servers.create(image, self._wants_server)
            case Step.DROP_SERVER:
                assert server is not None
                job.tell(f"server {server.name} goes: {found.why}")
                await removal.abandon(context, job.guard, server)
            case Step.DROP_IMAGE:
                assert image is not None
                job.tell(f"image {image.id} goes: {found.why}")
                await job.guard.delete_image(image.id)
            case Step.INSTALL:
                assert server is not None
                await self._kitchen.install_or_end(server)
            case Step.CLEAN:
                assert server is not None
                await self._kitchen.clean(server)
            case Step.SHUT_DOWN:
                assert server is not None
                job.tell("shutting it down")
                await removal.shut_down(context, server.id)
            case Step.SNAPSHOT:
                assert server is not None
                await self._images.snapshot(server)
            case Step.AWAIT_IMAGE:
                assert image is not None
                await self._images.await_image(image)
            case Step.VERIFY:
                assert server is not None
                assert image is not None
                await self._images.verify_or_end(server, image)
            case Step.PRUNE:
                assert server is not None
                assert image is not None
                return await self._images.prune(server, image)
        return None
