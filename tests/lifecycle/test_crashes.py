"""Whatever command is stopped wherever, the next one carries on, and nothing is forgotten.

Every command is run once to see at which points it can be stopped: before and after every request
and every ssh command. Then it is stopped at each of them in turn, and followed by another `up`, or
by nothing but reaps after all that expires has expired.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from decimal import Decimal
from typing import Any

import attrs
import pytest

from burst_lifecycle import labels
from burst_lifecycle.cloud.model import Kind, ServerState
from burst_lifecycle.context import HOUR_S
from burst_lifecycle.errors import (
    Ambiguous,
    CloudProblem,
    DeadlinePassed,
)
from burst_lifecycle.session import Lifecycle
from burst_protocol.errors import BurstError
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
    stopped_at,
    touch,
)
from lifecycles import OWNER, PROJECT, Machine, box_of, fresh
from memory_bill import settle
from memory_cloud import START_S
from memory_hosts import make_key
from tiers import thorough

# -- scenarios: what is there before, and the command ----------------------------------------------


def nothing(_machine: Machine) -> None:
    """An empty account."""


def ran_before(machine: Machine) -> None:
    """A volume with data, and no server."""
    run(machine.lifecycle.up("before"))
    for disk in machine.account.disks.values():
        disk.data = "precious"
    machine.account.world.pass_time(20)
    assert not run(machine.lifecycle.down()).refused


def is_off(machine: Machine) -> None:
    """The dead man was here, within the paid hour."""
    running(machine)
    box = box_of(machine)
    box.shut_down()
    machine.account.change(box.server_id, ServerState.OFF)


def running(machine: Machine) -> None:
    run(machine.lifecycle.up("before"))
    for disk in machine.account.disks.values():
        disk.data = "precious"


def off_and_old(machine: Machine) -> None:
    """Off, and of another recipe."""
    is_off(machine)
    machine.wishes = attrs.evolve(machine.wishes, recipe="abcdef")


def draining(machine: Machine) -> None:
    """Another machine is about to delete it."""
    running(machine)
    machine.account.world.pass_time(20)
    box_of(machine).draining = True


def stuck(machine: Machine) -> None:
    """It never answered, and its deadline has passed."""
    machine.account.never_ssh = True
    stopped_at(machine, "before ssh true", machine.lifecycle.up("before"))
    machine.account.world.pass_time(1000)
    machine.account.never_ssh = False


def idle_long(machine: Machine) -> None:
    """Time to go."""
    running(machine)
    machine.account.world.pass_time(2900)
    box = box_of(machine)
    box.keep_alive_s = 10_000  # its dead man does not come first
    box.active_s = machine.account.world.now_s - 1000
    machine.account.world.pass_time(200)
    box.keep_alive_s = 300


def busy_at_its_end(machine: Machine) -> None:
    """An action runs for ever."""
    running(machine)
    box_of(machine).work()
    box_of(machine).hard_end_s += 10_000  # a dead man that does not work
    machine.account.world.pass_time(12 * HOUR_S + 60)


async def up(lifecycle: Lifecycle) -> None:
    await lifecycle.up("test")


async def reap(lifecycle: Lifecycle) -> None:
    await lifecycle.reap()


async def down(lifecycle: Lifecycle) -> None:
    await lifecycle.down()


async def down_all(lifecycle: Lifecycle) -> None:
    await lifecycle.down(with_volumes=True, even_if_busy=True)


async def extend(lifecycle: Lifecycle) -> None:
    await lifecycle.extend(hard_end_in_s=2 * HOUR_S, keep_alive_s=600)


Command = Callable[[Lifecycle], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, tuple[Callable[[Machine], None], Command]] = {
    "first up": (nothing, up),
    "up with a volume": (ran_before, up),
    "up from off": (is_off, up),
    "up from an old recipe": (off_and_old, up),
    "up while it drains": (draining, up),
    "up over one that is stuck": (stuck, up),
    "up again": (running, up),
    "reap of an idle one": (idle_long, reap),
    "reap of one that is off": (is_off, reap),
    "reap at the hard end": (busy_at_its_end, reap),
    "reap of one that is stuck": (stuck, reap),
    "down": (running, down),
    "down with everything": (running, down_all),
    "extend": (running, extend),
}
POWER_CUT = {"reap at the hard end", "down with everything"}
"""Where a mounted volume may lose what was not written back: an action runs there for ever."""


# -- what must hold --------------------------------------------------------------------------------


def check(machine: Machine, *, may_cut_power: bool) -> None:
    """At any time."""
    account = machine.account
    assert account.most_servers.get(OWNER, 0) <= 1, "two servers at once"
    mine = [v for v in ours(account, Kind.VOLUME) if v.labels.get(labels.PROJECT) == PROJECT]
    assert len(mine) <= 1, "two volumes of a project"
    for disk in account.disks.values():
        assert disk.formatted <= 1, "formatted again"
    if not may_cut_power:
        for server_id, box in account.boxes.items():
            assert not box.lost_writes, f"power was cut under a mounted volume of {server_id}"
    for kind in (Kind.SERVER, Kind.VOLUME):
        for one in ours(account, kind):
            assert int(one.labels[labels.EXPIRES]) < machine.account.world.now_s + 30 * DAY_S


def check_nothing_left(machine: Machine) -> None:
    """After every expiry, and reaps by a machine that comes by."""
    account = machine.account
    world = account.world
    for box in account.boxes.values():
        if box.server_id in {one.id for one in ours(account, Kind.SERVER)}:
            box.running = 0
    world.pass_time(13 * HOUR_S)
    report = run(machine.lifecycle.reap())
    assert report.ok, report.failed
    assert not ours(account, Kind.SERVER, Kind.PRIMARY_IP)
    left = {one.id: one.labels[labels.EXPIRES] for one in ours(account, Kind.VOLUME)}
    for expires in left.values():
        assert int(expires) <= world.now_s + 8 * DAY_S
    world.pass_time(8 * DAY_S)
    # The offset is learned by acting; a reaper with nothing else to do leaves volumes alone.
    run(touch(machine))
    assert not ours(account, Kind.VOLUME)
    world.pass_time(100 * DAY_S)
    run(machine.lifecycle.reap())
    assert not ours(account)


def killed_at(name: str, at: int, action: Callable[[], None]) -> tuple[Machine, dict[Any, Any]]:
    """A machine whose command was stopped there."""
    before, command = SCENARIOS[name]
    machine = fresh()
    planted = plant_foreign(machine)
    before(machine)
    counter = Counter(at, action)
    machine.hook = counter
    try:
        run(command(machine.lifecycle))
    except (Killed, BurstError):
        pass
    finally:
        machine.hook = lambda _name: None
    assert at < len(counter.names)
    return machine, planted


def points(name: str) -> list[str]:
    """Where that command can be stopped."""
    before, command = SCENARIOS[name]
    machine = fresh()
    plant_foreign(machine)
    before(machine)
    counter = Counter()
    machine.hook = counter
    run(command(machine.lifecycle))
    return counter.names


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_then_up(name: str) -> None:
    """The next `up` gives one good server."""
    names = points(name)
    assert len(names) > 10
    for at, point in places(names):
        machine, planted = killed_at(name, at, kill)
        try:
            booted = run(machine.lifecycle.up("after"))
            assert box_of_ours(machine).mounted == {booted.store.volume_id}
            check(machine, may_cut_power=name in POWER_CUT)
            assert foreign_now(machine.account, planted) == planted
            settle(machine)
        except BaseException as error:
            raise AssertionError(f"killed at {at}: {point}") from error


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere_then_only_reaps(name: str) -> None:
    """Nothing of ours outlives its expiry, nothing of others is touched."""
    for at, point in places(points(name)):
        machine, planted = killed_at(name, at, kill)
        try:
            check(machine, may_cut_power=name in POWER_CUT)
            check_nothing_left(machine)
            found = foreign_now(machine.account, planted)
            assert found == planted
            settle(machine)
        except BaseException as error:
            raise AssertionError(f"killed at {at}: {point}") from error


def box_of_ours(machine: Machine) -> Any:
    (server,) = ours(machine.account, Kind.SERVER)
    return machine.account.boxes[server.id]


@pytest.mark.slow
@pytest.mark.parametrize("name", thorough(["first up", "reap of an idle one"], [*SCENARIOS]))
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_error_on_each_call(name: str, error: CloudProblem) -> None:
    """Once each, before and (where the answer is lost) after it was done."""
    names = points(name)
    when = ("before", "after") if isinstance(error, Ambiguous | DeadlinePassed) else ("before",)
    for at, point in places(names):
        first, _, call = point.partition(" ")
        if first not in when or call.startswith("ssh "):
            continue

        def fail() -> None:
            raise error

        machine, planted = killed_at(name, at, fail)
        try:
            run(machine.lifecycle.up("after"))
            check(machine, may_cut_power=name in POWER_CUT)
            check_nothing_left(machine)
            assert foreign_now(machine.account, planted) == planted
            settle(machine)
        except BaseException as problem:
            raise AssertionError(f"{type(error).__name__} at {at}: {point}") from problem


def test_the_foreign_things_are_there() -> None:
    """So that the tests above can fail."""
    machine = fresh()
    planted = plant_foreign(machine)
    kinds = {kind for kind, _ in planted}
    assert {Kind.SERVER, Kind.VOLUME, Kind.FIREWALL, Kind.SSH_KEY, Kind.PRIMARY_IP} <= kinds
    assert make_key(77)[1] in {
        key.public_key for key in machine.account.held[Kind.SSH_KEY].values()
    }
    assert machine.account.world.now_s >= START_S
    assert machine.wishes.max_eur_per_hour == Decimal(2)
