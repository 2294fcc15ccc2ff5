"""A bake that is stopped anywhere is carried on by the next one, and forgotten by nobody.

As `test_crashes.py`, for `image build`: stopped before and after every request and every ssh
command in turn, then followed by another build, or by nothing but reaps.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bakes import NEWER, RECIPE, baked
from burst_lifecycle import images, labels
from burst_lifecycle.cloud.model import Image, Kind, Resource
from burst_lifecycle.errors import Ambiguous, CloudProblem, DeadlinePassed
from burst_protocol.errors import BurstError, LinkLost, Unreachable
from crashes import (
    DAY_S,
    ERRORS,
    Counter,
    Killed,
    foreign_now,
    kill,
    ours,
    places,
    plant_foreign,
    run,
    touch,
)
from lifecycles import Machine, fresh
from memory_bill import settle


def nothing(_machine: Machine) -> None:
    """An empty account."""


def older(machine: Machine) -> None:
    """A current image of an older recipe."""
    baked(machine, NEWER)


SCENARIOS: dict[str, Callable[[Machine], None]] = {"first": nothing, "again": older}


def points(name: str) -> list[str]:
    machine = fresh()
    plant_foreign(machine)
    SCENARIOS[name](machine)
    counter = Counter()
    machine.hook = counter
    baked(machine)
    return counter.names


def stopped_at(
    name: str, at: int, action: Callable[[], None]
) -> tuple[Machine, dict[tuple[Kind, int], Resource]]:
    machine = fresh()
    planted = plant_foreign(machine)
    SCENARIOS[name](machine)
    counter = Counter(at, action)
    machine.hook = counter
    try:
        baked(machine)
    except (Killed, BurstError):
        pass
    finally:
        machine.hook = lambda _name: None
    assert at < len(counter.names)
    return machine, planted


def check(machine: Machine) -> None:
    """At any time: an image with our marker came from a bake that was seen to succeed."""
    account = machine.account
    for image in ours(account, Kind.IMAGE):
        disk = account.baked[image.id]
        assert disk.recipe == image.labels[labels.RECIPE]
        assert disk.agent
        assert not disk.identity
    for one in ours(account, Kind.SERVER):
        assert int(one.labels[labels.EXPIRES]) < account.world.now_s + DAY_S


def one_current(machine: Machine) -> None:
    """Exactly one image, and nothing that bills beside it."""
    (image,) = ours(machine.account, Kind.IMAGE)
    assert image.labels[labels.STAGE] == images.CURRENT
    assert image.labels[labels.RECIPE] == RECIPE.fingerprint
    assert not ours(machine.account, Kind.SERVER, Kind.PRIMARY_IP)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_then_built_again(name: str) -> None:
    """The next build gives one good image, whatever was there."""
    names = points(name)
    assert len(names) > 50
    for at, point in places(names):
        machine, planted = stopped_at(name, at, kill)
        try:
            check(machine)
            baked(machine)
            check(machine)
            one_current(machine)
            assert machine.account.made_images <= 3
            assert foreign_now(machine.account, planted) == planted
            settle(machine)
        except BaseException as error:
            raise AssertionError(f"killed at {at}: {point}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_then_only_reaps(name: str) -> None:
    """Servers go within hours, candidates within two days; a current image stays, as it should."""
    for at, point in places(points(name)):
        machine, planted = stopped_at(name, at, kill)
        try:
            account = machine.account
            account.world.pass_time(4 * 3600)
            report = run(machine.lifecycle.reap())
            assert report.ok, report.failed
            assert not ours(account, Kind.SERVER, Kind.PRIMARY_IP)
            account.world.pass_time(2 * DAY_S)
            run(touch(machine))
            left = ours(account, Kind.IMAGE)
            assert all(one.labels[labels.STAGE] == images.CURRENT for one in left)
            assert len(left) <= 2
            assert foreign_now(account, planted) == planted
            settle(machine)
        except BaseException as error:
            raise AssertionError(f"killed at {at}: {point}") from error


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_error_on_each_call(error: CloudProblem) -> None:
    """Once each, before and (where the answer is lost) after it was done."""
    when = ("before", "after") if isinstance(error, Ambiguous | DeadlinePassed) else ("before",)
    for at, point in places(points("first")):
        first, _, call = point.partition(" ")
        if first in when and not call.startswith("ssh "):
            fails_then_builds(at, point, error)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [LinkLost("x", host="it"), Unreachable("x", host="it")],
    ids=lambda error: type(error).__name__,
)
def test_the_link_breaks_at_each_command(error: BurstError) -> None:
    """Before it ran, or after: nobody knows."""
    for at, point in places(points("first")):
        if " ssh " in point:
            fails_then_builds(at, point, error)


def fails_then_builds(at: int, point: str, error: BurstError) -> None:
    def fail() -> None:
        raise error

    machine, planted = stopped_at("first", at, fail)
    try:
        check(machine)
        stages = [one.labels[labels.STAGE] for one in ours(machine.account, Kind.IMAGE)]
        if images.CURRENT not in stages or ours(machine.account, Kind.SERVER):
            baked(machine)
        one_current(machine)
        assert foreign_now(machine.account, planted) == planted
        settle(machine)
    except BaseException as problem:
        raise AssertionError(f"{type(error).__name__} at {at}: {point}") from problem


def test_a_second_snapshot_is_deleted() -> None:
    """The answer to the first request was lost, and the list did not show it in time."""
    machine = fresh()

    def lose(name: str) -> None:
        if name == "after create image" and machine.account.made_images == 1:
            late.extend(machine.account.held[Kind.IMAGE].values())
            machine.account.held[Kind.IMAGE].clear()
            raise Ambiguous("x", what="it")
        if name == "before create image" and late:
            for one in late:  # there it is, and so is a second one in a moment
                machine.account.held[Kind.IMAGE][one.id] = one
                machine.account.world.pass_time(300)

    late: list[Image] = []
    machine.hook = lose
    baked(machine)
    assert machine.account.made_images == 2
    one_current(machine)
