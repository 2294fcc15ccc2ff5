"""`burst-admin image build|list|prune`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from importlib import import_module
from typing import Final

from burst_lifecycle import labels
from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.down import NeedsYes
from burst_lifecycle.admin.ports import Bake, Bakery, Control
from burst_lifecycle.admin.view import ResourceLine, plain
from burst_lifecycle.cloud.model import Image, Kind
from burst_lifecycle.images import speed
from burst_lifecycle.pricing import Amount, hours_of_month
from burst_lifecycle.recipe import packaged
from burst_protocol.errors import UsageError

SCHEMA: Final = 1
Baker = Callable[[Control, Desk], Bakery]


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0; 1 if a question was answered with no."""
    if options.action == "prune" and options.keep < 0:
        raise UsageError("--keep takes a number from 0")
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    async with desk.control() as control:
        if options.action == "build":
            return await _build(options, desk, control)
        report = await status.gather(desk, control)
        lines = [line for line in report.mine if line.kind == "image"]
        assert desk.seen is not None
        images = {image.id: image for image in desk.seen.images}
        if options.action == "list":
            return _list(options, desk, lines, images)
        return await _prune(options, desk, control, lines, images)


def bakery(control: Control, desk: Desk) -> Bakery:
    """What bakes; a module of its own, so that nobody else loads it."""
    make: Baker = import_module("burst_lifecycle.admin.bakery").bakery
    return make(control, desk)


async def _build(options: argparse.Namespace, desk: Desk, control: Control) -> int:
    wish = Bake(
        server_type=options.server_type,
        location=options.location,
        mirror=options.mirror,
        keep_server=options.keep_server,
    )
    image = await bakery(control, desk).build(wish, desk.say)
    await desk.look(control)
    size = "" if image.size_gb is None else f" ({image.size_gb} GB)"
    desk.out(f"image {image.id}{size} is current: the next server boots from it")
    return 0


def _list(
    options: argparse.Namespace,
    desk: Desk,
    lines: list[ResourceLine],
    images: dict[int, Image],
) -> int:
    if options.json:
        found = [
            {**plain(line), "recipe": images[line.id].labels.get(labels.RECIPE, "")}
            for line in lines
        ]
        desk.document({"schema": SCHEMA, "images": found})
        return 0
    if not lines:
        desk.out("you have no image: servers boot from a stock image")
        return 0
    heads = ["id", "stage", "recipe", "size", "age", "euros", "a month"]
    rows = [
        [
            str(line.id),
            line.state,
            images[line.id].labels.get(labels.RECIPE, "-"),
            line.detail or "-",
            text.duration(line.age_s),
            Amount(line.eur_so_far, not line.exact).text,
            _a_month(line, desk.clock()),
        ]
        for line in lines
    ]
    desk.out(*text.table(heads, rows, right="id,size,age,euros,a month"))
    recipe = packaged().fingerprint
    if any(images[line.id].labels.get(labels.RECIPE) == recipe for line in lines):
        measured = speed(desk.history.events, recipe)
        desk.say(f"recipe {recipe} is this version's: {measured}")
        if not measured.pays:
            desk.say("that is slower, so servers boot from the stock image")
    else:
        desk.say(f"none is of this version's recipe ({recipe}): servers boot from a stock image")
    return 0


async def _prune(
    options: argparse.Namespace,
    desk: Desk,
    control: Control,
    lines: list[ResourceLine],
    images: dict[int, Image],
) -> int:
    mine = [images[line.id] for line in lines]
    outdated = {image.id for image in await bakery(control, desk).outdated(mine, options.keep)}
    doomed = [line for line in lines if line.id in outdated]
    if not doomed:
        desk.out("no image is outdated")
        return 0
    desk.say("this will be deleted:")
    desk.say(*(f"  {_words(line)}" for line in doomed))
    if options.dry_run:
        return 0
    if not options.yes and not desk.can_ask:
        raise NeedsYes
    if not options.yes and not desk.ask("delete it?"):
        desk.say("nothing was deleted")
        return 1
    for line in doomed:
        await control.remove(Kind.IMAGE, line.id, owner=control.owner, force=False)
        desk.out(f"deleted {_words(line)}")
    await desk.look(control)
    return 0


def _a_month(line: ResourceLine, now_s: float) -> str:
    hourly = line.eur_per_hour
    return "?" if hourly is None else Amount(hourly * hours_of_month(now_s)).text


def _words(line: ResourceLine) -> str:
    """Snapshots have no names."""
    more = ", ".join(word for word in (line.state, line.detail) if word)
    return f"image {line.name or line.id} ({more})"
