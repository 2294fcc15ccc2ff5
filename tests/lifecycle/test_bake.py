"""Baking an image, against a cloud in memory with virtual time; and decisions about images."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import attrs
import pytest

from bakes import NEWER, RECIPE, Said, bake, baked
from burst_lifecycle import images, labels
from burst_lifecycle.baking.job import Wish
from burst_lifecycle.books import add_up
from burst_lifecycle.cloud.model import Image, ImageState, Kind, Server, ServerState
from burst_lifecycle.errors import Busy, OverBudget, ServerProblem
from burst_lifecycle.events import Created, Deleted, How, Ready
from burst_lifecycle.images import Speed, Step
from burst_lifecycle.pricing import cost_of
from lifecycles import Machine, fresh
from memory_bill import settled
from memory_cloud import TYPES


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    """Whatever went wrong: what it cost is in the ledger, as the cloud charges it."""
    with settled():
        yield


def held(machine: Machine, kind: Kind) -> list[int]:
    return sorted(machine.account.held[kind])


def test_a_bake() -> None:
    """From nothing to a current image that was booted once; nothing else is left but the key and
    the firewall."""
    machine, said = fresh(), Said()
    image = asyncio.run(bake(machine.lifecycle, said=said))
    account = machine.account
    (kept,) = account.held[Kind.IMAGE].values()
    assert kept.id == image.id
    assert kept.labels[labels.STAGE] == images.CURRENT
    assert kept.labels[labels.RECIPE] == RECIPE.fingerprint
    assert int(kept.labels[labels.EXPIRES]) > account.world.now_s + 5 * 365 * 86400
    assert not held(machine, Kind.SERVER)
    assert not held(machine, Kind.PRIMARY_IP)
    assert bytes(said.log) == b"== 20-packages\n"
    # Both kinds of boots were measured on the way.
    ready = [event for event in machine.ledger.events if isinstance(event, Ready)]
    assert [event.image for event in ready] == [images.STOCK, RECIPE.fingerprint]
    assert all(event.boot_s is not None and event.boot_s > 0 for event in ready)
    # What `audit` says of its servers.
    ends = [one.reason for one in machine.ledger.events if isinstance(one, Deleted)]
    assert ends.count("its bake is over") >= 1
    assert not any("boot deadline" in end for end in ends)


def test_its_size_is_in_the_ledger_from_its_birth() -> None:
    """As the bill has it, which knows the size at the end only."""
    machine = fresh()
    image = baked(machine)
    books = add_up(machine.ledger.events)
    (thing,) = [thing for thing in books.open if thing.kind is Kind.IMAGE]
    assert thing.id == image.id
    assert thing.size_gb == Decimal("2.5")
    hour = cost_of(thing, (thing.created_s or 0) + 60)
    assert hour.eur == Decimal("2.5") * Decimal("0.0143") / 744
    assert not hour.at_least


def test_the_next_server_boots_from_it() -> None:
    machine = fresh()
    machine.wishes = attrs.evolve(machine.wishes, recipe=RECIPE.fingerprint)
    image = baked(machine)
    booted = asyncio.run(machine.lifecycle.up("test"))
    assert booted.server.image_id == image.id
    last = [event for event in machine.ledger.events if isinstance(event, Ready)][-1]
    assert last.image == RECIPE.fingerprint


def test_another_version_boots_from_stock() -> None:
    machine = fresh()
    machine.wishes = attrs.evolve(machine.wishes, recipe="0123456789abcdef")
    baked(machine)
    assert asyncio.run(machine.lifecycle.up("test")).server.image_id == 1


def test_a_slower_image_is_not_used() -> None:
    machine = fresh()
    machine.wishes = attrs.evolve(machine.wishes, recipe=RECIPE.fingerprint)
    baked(machine)
    for _ in range(5):
        machine.ledger.events += [
            ready(RECIPE.fingerprint, 200, machine.account.world.now_s),
            ready(images.STOCK, 30, machine.account.world.now_s),
        ]
    assert asyncio.run(machine.lifecycle.up("test")).server.image_id == 1
    # No such servers ever were.
    machine.ledger.events = [one for one in machine.ledger.events if getattr(one, "id", 0) != 1]


def test_a_new_recipe_replaces_the_old_image() -> None:
    machine = fresh()
    old = baked(machine)
    new = baked(machine, NEWER)
    assert old.id != new.id
    assert held(machine, Kind.IMAGE) == [new.id]


def test_a_failed_recipe_leaves_no_server() -> None:
    """And says what the recipe said last."""
    machine = fresh()
    machine.account.recipe_works = False
    with pytest.raises(ServerProblem, match="no such package"):
        baked(machine)
    assert not held(machine, Kind.SERVER)
    assert not held(machine, Kind.IMAGE)


def test_a_failed_server_may_be_kept() -> None:
    """Until its expiry; the next bake carries on with it."""
    machine = fresh()
    machine.account.recipe_works = False
    with pytest.raises(ServerProblem):
        asyncio.run(bake(machine.lifecycle, wish=Wish(keep_server=True)))
    (server,) = held(machine, Kind.SERVER)
    machine.account.recipe_works = True
    baked(machine)
    gone = [number for kind, number, _ in machine.account.deleted if kind is Kind.SERVER]
    assert len(gone) == 2, "one to bake on, one to verify"
    assert gone[0] == server


def test_an_off_is_no_success() -> None:
    """A server that went off by itself during the recipe gives no image."""
    machine = fresh()

    def power_cut(name: str) -> None:
        if name == "after ssh recipe":
            (server,) = held(machine, Kind.SERVER)
            box = machine.account.boxes[server]
            box.disk.recipe = ""
            box.shut_down()
            machine.account.change(server, ServerState.OFF)
            machine.hook = lambda _name: None
            raise SystemExit

    machine.hook = power_cut
    with pytest.raises(SystemExit):
        baked(machine)
    image = baked(machine)
    assert machine.account.baked[image.id].recipe == RECIPE.fingerprint


def test_an_image_that_does_not_work_is_deleted() -> None:
    """Its agent does not answer after a boot."""
    machine = fresh()

    def break_it(name: str) -> None:
        if name == "after create image":
            for one in machine.account.baked.values():
                one.agent = False

    machine.hook = break_it
    with pytest.raises(ServerProblem, match="does not work"):
        baked(machine)
    assert not held(machine, Kind.IMAGE)
    assert not held(machine, Kind.SERVER)


def test_two_machines_of_an_owner() -> None:
    """The second one is told; the first goes on."""
    machine = fresh()
    second = attrs.evolve(machine, number=2, address="198.51.100.8")
    seen: list[BaseException] = []

    def meanwhile(name: str) -> None:
        if name == "after ssh recipe" and not seen:
            seen.append(SystemExit())
            raise SystemExit

    machine.hook = meanwhile
    with pytest.raises(SystemExit):
        baked(machine)
    with pytest.raises(Busy, match="another machine"):
        baked(second)
    assert images.is_current(baked(machine))


def test_beside_a_build_server() -> None:
    """A bake takes no server that builds, nor the other way round."""
    machine = fresh()
    booted = asyncio.run(machine.lifecycle.up("test"))
    baked(machine)
    assert held(machine, Kind.SERVER) == [booted.server.id]


def test_the_price_limit_holds() -> None:
    machine = fresh()
    machine.wishes = attrs.evolve(machine.wishes, max_eur_per_hour=Decimal("0.001"))
    with pytest.raises(OverBudget):
        baked(machine)


# -- decisions -----------------------------------------------------------------------------------


def ready(image: str, boot_s: float, at_s: float = 1.0, how: How = How.COLD) -> Ready:
    return Ready(at_s=at_s, id=1, how=how, took_s=boot_s, boot_s=boot_s, image=image)


@pytest.mark.parametrize(
    ("baked_s", "stock_s", "pays"),
    [
        ([], [], True),
        ([100], [], True),
        ([], [10], True),
        ([30], [30], True),
        ([37], [30], True),
        ([38], [30], False),
        ([300, 20, 20], [30], True),
        ([20, 300, 300], [30], False),
    ],
)
def test_whether_an_image_pays(baked_s: list[float], stock_s: list[float], pays: bool) -> None:
    """Medians; a quarter slower is still good; what was not measured gets its chance."""
    events = [ready("r", seconds, at) for at, seconds in enumerate(baked_s)]
    events += [ready("stock", seconds, at) for at, seconds in enumerate(stock_s)]
    events += [ready("other", 1000), ready("r", 1000, how=How.WARM), ready("", 1)]
    assert images.speed(events, "r").pays is pays


def test_only_the_last_five_boots_count() -> None:
    events = [ready("r", 500, 0)] * 9 + [ready("r", 20, at) for at in range(1, 6)]
    assert images.speed(events, "r") == Speed(20, None)


def test_the_smallest_disk_that_will_do() -> None:
    plan = images.bake_plan(
        TYPES, ("fsn1", "nbg1"), architecture="x86", max_eur_per_hour=Decimal(2), wanted=("ccx43",)
    )
    assert [(one.type, one.location) for one in plan.candidates] == [
        ("cx23", "fsn1"),
        ("cx23", "nbg1"),
        ("ccx43", "fsn1"),
        ("ccx43", "nbg1"),
    ]
    arm = images.bake_plan(TYPES, ("fsn1",), architecture="arm", max_eur_per_hour=Decimal(2))
    assert [one.type for one in arm.candidates] == ["cax41"]
    named = images.bake_plan(
        TYPES, ("fsn1",), architecture="x86", max_eur_per_hour=Decimal(2), only="ccx53"
    )
    assert [one.type for one in named.candidates] == ["ccx53"]


NOW_S = 1000.0


def image(number: int, stage: str = "current", **changes: object) -> Image:
    told = {
        labels.MARK: "1",
        labels.OWNER: "alice",
        labels.ROLE: "image",
        labels.OPERATION: f"op{number}",
        labels.EXPIRES: "5000",
        labels.RECIPE: "r",
        labels.STAGE: stage,
    }
    made = Image(number, "", told, float(number), ImageState.AVAILABLE, False, "x86", 40)
    return attrs.evolve(made, **changes)  # type: ignore[arg-type]


def server(number: int, stage: str = "", state: ServerState = ServerState.RUNNING) -> Server:
    told = {
        labels.MARK: "1",
        labels.OWNER: "alice",
        labels.ROLE: "bake",
        labels.OPERATION: f"{number:032x}",
        labels.EXPIRES: "5000",
        labels.BOOT_BY: "5000",
        labels.CLIENT: "me",
        labels.RECIPE: "r",
        **({labels.STAGE: stage} if stage else {}),
    }
    return Server(number, f"s{number}", told, 0, state, "cx23", "fsn1", image_id=7)


OFF = ServerState.OFF
OF_9 = {labels.OPERATION: images.image_operation(server(9))}
CREATING = image(7, "candidate", state=ImageState.CREATING, size_gb=None)


def relabelled(one: Image, **changes: str) -> Image:
    return attrs.evolve(one, labels={**one.labels, **changes})


@pytest.mark.parametrize(
    ("servers", "found", "step"),
    [
        ([], [], Step.CREATE),
        ([], [image(7)], Step.CREATE),
        ([server(9)], [], Step.INSTALL),
        ([server(9, state=OFF)], [], Step.INSTALL),
        ([server(9, "baked")], [], Step.CLEAN),
        ([server(9, "baked", OFF)], [], Step.DROP_SERVER),
        ([server(9, "clean")], [], Step.SHUT_DOWN),
        ([server(9, "clean", ServerState.STOPPING)], [], Step.WAIT),
        ([server(9, "clean", OFF)], [], Step.SNAPSHOT),
        ([server(9, "clean", OFF)], [relabelled(CREATING, **OF_9)], Step.AWAIT_IMAGE),
        (
            [server(9, "clean", OFF)],
            [relabelled(image(7, "candidate"), **OF_9)],
            Step.DROP_SERVER,
        ),
        (
            [server(9, "clean", OFF)],
            [image(7, "candidate", state=ImageState.UNAVAILABLE)],
            Step.DROP_IMAGE,
        ),
        (
            [],
            [
                relabelled(image(7, "candidate"), **OF_9),
                relabelled(image(8, "candidate"), **OF_9),
            ],
            Step.DROP_IMAGE,
        ),
        ([], [image(7, "candidate")], Step.CREATE_VERIFIER),
        ([], [relabelled(image(7, "candidate"), **{labels.EXPIRES: "900"})], Step.CREATE),
        ([], [relabelled(image(7, "candidate"), **{labels.RECIPE: "x"})], Step.CREATE),
        ([server(9, "verify")], [image(7, "candidate")], Step.VERIFY),
        ([server(9, "verify")], [image(7)], Step.PRUNE),
        ([server(9, "verify")], [], Step.DROP_SERVER),
        ([server(8), server(9)], [], Step.DROP_SERVER),
    ],
)
def test_the_next_step(servers: list[Server], found: list[Image], step: Step) -> None:
    """By labels alone."""
    told = images.next_step(
        servers,
        found,
        owner="alice",
        client="me",
        recipe="r",
        architecture="x86",
        now_s=NOW_S,
    )
    assert told.step is step


def test_what_is_outdated() -> None:
    """Only ours; the newest current ones stay, and candidates whose time is not over."""
    young, old = image(9, "candidate"), relabelled(image(3, "candidate"), **{labels.EXPIRES: "900"})
    arm = image(4, architecture="arm")
    theirs = relabelled(image(2), **{labels.OWNER: "bob"})
    system = image(1, system=True)
    everything = [image(5), image(6), image(7), young, old, arm, theirs, system]
    for keep, wanted in ((1, {5, 6, 3}), (2, {5, 3}), (0, {5, 6, 7, 3, 4})):
        found = images.outdated(everything, "alice", keep, NOW_S)
        assert {one.id for one in found} == wanted


def test_created_has_the_rate() -> None:
    """From the first moment: a bake that is never finished costs, too."""
    machine = fresh()
    baked(machine)
    made = [
        event
        for event in machine.ledger.events
        if isinstance(event, Created) and event.kind is Kind.IMAGE
    ]
    assert made[0].eur_per_gb_month == Decimal("0.0143")
    assert made[0].size_gb is None
