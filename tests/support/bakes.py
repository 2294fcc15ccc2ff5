"""A bake over the cloud in memory."""

from __future__ import annotations

import asyncio

import attrs

from burst_lifecycle.bake import Baker
from burst_lifecycle.baking.job import Job, Wish
from burst_lifecycle.cloud.model import Image
from burst_lifecycle.recipe import Recipe
from burst_lifecycle.session import Lifecycle
from lifecycles import Machine

RECIPE = Recipe({"run.sh": b"exit 0\n", "clean.sh": b"echo burst-clean ok\n"})
NEWER = Recipe({"run.sh": b"exit 0 # newer\n", "clean.sh": b"echo burst-clean ok\n"})


@attrs.define
class Said:
    lines: list[str] = attrs.field(factory=list)
    log: bytearray = attrs.field(factory=bytearray)


async def bake(
    lifecycle: Lifecycle,
    recipe: Recipe = RECIPE,
    said: Said | None = None,
    wish: Wish | None = None,
) -> Image:
    """One `image build`."""
    said = said or Said()
    await lifecycle.reconcile()
    job = Job(
        context=lifecycle.context,
        guard=lifecycle.guard,
        recipe=recipe,
        wish=wish or Wish(),
        tell=said.lines.append,
        log=said.log.extend,
    )
    return await Baker(job).run()


def baked(machine: Machine, recipe: Recipe = RECIPE) -> Image:
    """By a process of its own."""
    return asyncio.run(bake(machine.lifecycle, recipe))
