"""Which image servers boot from, where one is baked, what a bake does next, what is outdated: pure.

All of it follows from labels, so a bake that was stopped anywhere is carried on by the next one.
"""

from __future__ import annotations

import enum
import hashlib
import statistics
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

import attrs

from burst_lifecycle import labels
from burst_lifecycle.cloud.model import Image, ImageState, Server, ServerState, ServerType
from burst_lifecycle.events import Event, How, Ready
from burst_lifecycle.guard import ground_of, ground_words
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.placement import Candidate, Plan, Refused

CANDIDATE: Final = "candidate"
CURRENT: Final = "current"
BAKED: Final = "baked"
"""Stage of a bake's server: its marker was read over ssh."""
CLEAN: Final = "clean"
"""…and nothing is left that makes it this one; nobody can log in."""
VERIFY: Final = "verify"
"""Stage of the server that is booted from a candidate, to see whether it works."""

STOCK: Final = "stock"
"""In the ledger: it was not booted from an image of ours."""
SLOWER: Final = 1.25
"""An image is given up when it boots so many times slower than stock: less is chance, and an image
has what stock lacks (databases, toolchain)."""
_SAMPLES: Final = 5
_MEMORY_GB: Final = 4
"""Installing MySQL needs more than the smallest types have."""


def of_recipe(
    images: Iterable[Image], owner: str, recipe: str, architecture: str
) -> tuple[Image, ...]:
    """Those of ours, the oldest first."""
    mine = [
        image
        for image in _of_owner(images, owner)
        if image.labels.get(labels.RECIPE, "") == recipe and image.architecture == architecture
    ]
    return tuple(sorted(mine, key=lambda image: (image.created_s, image.id)))


def _of_owner(images: Iterable[Image], owner: str) -> list[Image]:
    return [
        image
        for image in images
        if (claim := Claim.of(image.labels)) is not None
        and claim.owner == owner
        and claim.role is Role.IMAGE
        and not image.system
    ]


def choose(images: Sequence[Image], owner: str, recipe: str, architecture: str) -> Image | None:
    """The newest current one of that recipe; None: boot the stock image."""
    good = [
        image
        for image in of_recipe(images, owner, recipe, architecture)
        if is_current(image) and image.state is ImageState.AVAILABLE
    ]
    return good[-1] if good else None


def is_current(image: Image) -> bool:
    return image.labels.get(labels.STAGE) == CURRENT


# -- is it worth it? -------------------------------------------------------------------------------


@attrs.frozen
class Speed:
    """Median seconds from a create to a server that is ready; None: never measured."""

    baked_s: float | None
    stock_s: float | None

    @property
    def pays(self) -> bool:
        """Whether the image is to be used. What was never measured gets its chance."""
        if self.baked_s is None or self.stock_s is None:
            return True
        return self.baked_s <= self.stock_s * SLOWER

    def __str__(self) -> str:
        if self.baked_s is None or self.stock_s is None:
            return "not measured yet"
        return f"ready in {self.baked_s:.0f} s, from a stock image in {self.stock_s:.0f} s"


def speed(events: Iterable[Event], recipe: str) -> Speed:
    """What the ledger knows: the last five cold boots of each kind. A bake measures both."""
    baked: list[tuple[float, float]] = []
    stock: list[tuple[float, float]] = []
    for event in events:
        if isinstance(event, Ready) and event.how is How.COLD and event.boot_s is not None:
            if event.image == STOCK:
                stock.append((event.at_s, event.boot_s))
            elif event.image == recipe and recipe:
                baked.append((event.at_s, event.boot_s))
    return Speed(_median(baked), _median(stock))


def _median(found: list[tuple[float, float]]) -> float | None:
    last = [seconds for _, seconds in sorted(found)[-_SAMPLES:]]
    return statistics.median(last) if last else None


# -- where to bake ---------------------------------------------------------------------------------


def bake_plan(
    types: Sequence[ServerType],
    locations: Sequence[str],
    *,
    architecture: str,
    max_eur_per_hour: Decimal,
    wanted: Sequence[str] = (),
    only: str = "",
    least_gb: int = 0,
) -> Plan:
    """The smallest disk first: an image boots on types whose disk is as large only.

    `wanted`: the types that will boot from it. `only`: a type that the user named. `least_gb`: of
    the image that is to be booted.
    """
    refused: list[Refused] = []
    disks = [one.disk_gb for one in types if one.name in wanted]
    limit_gb = min(disks, default=None)
    usable: list[ServerType] = []
    for one in types:
        if one.architecture != architecture or (only and one.name != only):
            continue
        if one.disk_gb < least_gb:
            continue
        if limit_gb is not None and one.disk_gb > limit_gb:
            why = f"its disk of {one.disk_gb} GB is larger than that of what boots from the image"
            refused.append(Refused(one.name, why))
        elif only or one.memory_gb >= _MEMORY_GB:
            usable.append(one)
    found: list[tuple[bool, int, Decimal, int, Candidate]] = []
    for one in usable:
        for at, place in enumerate(dict.fromkeys(locations)):
            offer = one.offer(place)
            if offer is None or offer.deprecated:
                continue
            eur = offer.hourly.net_eur
            if eur > max_eur_per_hour:
                why = f"{eur:.4f} euros per hour, and {max_eur_per_hour} are the limit"
                refused.append(Refused(f"{one.name} in {place}", why, money=True))
                continue
            what = Candidate(one.name, place, one.cores, eur, offer.monthly.net_eur)
            found.append((not offer.available, one.disk_gb, eur, at, what))
    if not found and not refused:
        refused.append(Refused(only or f"a type for {architecture}", "not offered there"))
    ordered = sorted(found, key=lambda entry: entry[:4])
    return Plan(tuple(entry[4] for entry in ordered), tuple(refused))


# -- what a bake does next -------------------------------------------------------------------------


class Step(enum.Enum):
    CREATE = "make a server to bake on"
    INSTALL = "run the recipe"
    CLEAN = "take its identity away"
    SHUT_DOWN = "shut it down"
    SNAPSHOT = "make the image"
    AWAIT_IMAGE = "wait for the image"
    DROP_IMAGE = "delete an image that is no good"
    DROP_SERVER = "delete a server that has done its part"
    CREATE_VERIFIER = "boot the image once"
    VERIFY = "see whether it works"
    PRUNE = "delete what it replaces"
    WAIT = "wait for a server"
    OTHERS = "another machine of yours bakes"


@attrs.frozen
class Next:
    """With what it is about."""

    step: Step
    server: Server | None = None
    image: Image | None = None
    why: str = ""


def image_operation(server: Server) -> str:
    """The operation of the image that is made of a server: known before, so that whoever comes
    after a lost answer finds it. (Names of images are not unique: asking again makes a second.)"""
    claim = Claim.of(server.labels)
    origin = f"{server.id}" if claim is None else claim.operation
    return hashlib.sha256(f"image of {origin}".encode()).hexdigest()[: len(labels.new_operation())]


_GOING: Final = frozenset({ServerState.DELETING, ServerState.STOPPING, ServerState.MIGRATING})


def next_step(
    servers: Sequence[Server],
    images: Sequence[Image],
    *,
    owner: str,
    client: str,
    recipe: str,
    architecture: str,
    now_s: float,
) -> Next:
    """Of a bake of that recipe by that machine, by what there is."""
    bakes = [
        server
        for server in sorted(servers, key=lambda one: one.id)
        if (claim := Claim.of(server.labels)) is not None
        and claim.owner == owner
        and claim.role is Role.BAKE
    ]
    for server in bakes:
        if server.state in _GOING:
            return Next(Step.WAIT, server)
        ground = ground_of(server, now_s)
        if ground is not None:
            return Next(Step.DROP_SERVER, server, why=ground_words(ground, server))
        if server.labels.get(labels.CLIENT) != client:
            return Next(Step.OTHERS, server)
    mine = of_recipe(images, owner, recipe, architecture)
    for server in bakes:
        if server.labels.get(labels.RECIPE) != recipe:
            return Next(Step.DROP_SERVER, server, why="it is of another recipe")
        if server.labels.get(labels.STAGE) == VERIFY:
            return _verifier(server, mine)
    return _baker(bakes, mine, now_s)


def _verifier(server: Server, mine: Sequence[Image]) -> Next:
    image = next((one for one in mine if one.id == server.image_id), None)
    if image is None:
        return Next(Step.DROP_SERVER, server, why="its image is gone")
    if is_current(image):
        return Next(Step.PRUNE, server, image)
    return Next(Step.VERIFY, server, image)


def _baker(bakes: Sequence[Server], mine: Sequence[Image], now_s: float) -> Next:
    candidates = [
        image
        for image in mine
        if not is_current(image) and (claim := Claim.of(image.labels)) and claim.expires_s > now_s
    ]
    for image in candidates:
        if image.state is ImageState.UNAVAILABLE:
            return Next(Step.DROP_IMAGE, image=image, why="the cloud could not make it")
    # Of one operation there is one: a second was made by asking again.
    seen: dict[str, Image] = {}
    for image in candidates:
        first = seen.setdefault(image.labels[labels.OPERATION], image)
        if first is not image:
            return Next(Step.DROP_IMAGE, image=image, why="it was made twice")
    for image in candidates:
        if image.state is ImageState.CREATING:
            return Next(Step.AWAIT_IMAGE, image=image)
    for server in bakes:
        if image_operation(server) in seen:
            return Next(Step.DROP_SERVER, server, why="its image is made")
    if len(bakes) > 1:
        return Next(Step.DROP_SERVER, bakes[-1], why="one is enough")
    if candidates:
        return Next(Step.CREATE_VERIFIER, image=candidates[-1])
    if not bakes:
        return Next(Step.CREATE)
    (server,) = bakes
    stage = server.labels.get(labels.STAGE, "")
    is_off = server.state is ServerState.OFF
    match stage:
        case "clean":
            return Next(Step.SNAPSHOT if is_off else Step.SHUT_DOWN, server)
        case "baked":
            if is_off:
                return Next(Step.DROP_SERVER, server, why="it went off before it was clean")
            return Next(Step.CLEAN, server)
        case _:
            return Next(Step.INSTALL, server)


# -- what is not needed any more -------------------------------------------------------------------


def outdated(images: Sequence[Image], owner: str, keep: int, now_s: float) -> tuple[Image, ...]:
    """All but the newest `keep` current ones of each architecture, candidates that are young, and
    what is not wholly ours."""
    mine = sorted(_of_owner(images, owner), key=lambda one: (-one.created_s, -one.id))
    kept: dict[str, int] = {}
    found: list[Image] = []
    for image in mine:
        if is_current(image):
            count = kept.get(image.architecture, 0)
            kept[image.architecture] = count + 1
            if count >= keep:
                found.append(image)
        else:
            claim = Claim.of(image.labels)
            if claim is not None and claim.expires_s <= now_s:
                found.append(image)
    return tuple(found)
