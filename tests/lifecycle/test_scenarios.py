"""What goes wrong in a life, one by one, against the cloud in memory."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burst_lifecycle import access, hostkey, labels, removal
from burst_lifecycle.cloud.model import Kind, Server, ServerState
from burst_lifecycle.context import HOUR_S
from burst_lifecycle.errors import (
    ActionFailed,
    Busy,
    NoCapacity,
    NotFound,
    NotOurs,
    OverBudget,
    ServerProblem,
)
from burst_lifecycle.events import Resized
from burst_lifecycle.guard import Granted, Ground, VolumeGround
from burst_lifecycle.host import Host
from burst_lifecycle.reaper import Deed
from burst_lifecycle.session import Lifecycle
from burst_protocol.errors import BurstError, ConfigError, HostKeyProblem
from crashes import run, stopped_at
from lifecycles import OWNER, PROJECT, Machine, box_of, fresh, second, the_server, wishes
from memory_bill import settle, settled
from memory_cloud import Account, World
from memory_hosts import Box, Disk, make_key
from tiers import EVERYTHING

DAY_S = 24 * HOUR_S


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    """Whatever went wrong in a life: what it cost is in the ledgers, as the cloud charges it."""
    with settled():
        yield


def up(machine: Machine) -> Any:
    return run(machine.lifecycle.up("test"))


# -- who may delete --------------------------------------------------------------------------------


@attrs.define
class _Client:
    """Begins an action at one of the requests between the question and the deletion."""

    box: Box
    at: int
    count: int = 0
    began: bool = False

    def __call__(self, _name: str) -> None:
        self.count += 1
        if self.count == self.at:
            self.began = self.box.work()


async def _drains(lifecycle: Lifecycle, server: Server) -> bool:
    """As every caller does it; whether it says that the server is gone."""
    context = lifecycle.context
    refusal = await removal.drain(context, lifecycle.guard, server, min_idle_s=0, reason="race")
    return refusal is None


async def _downs(lifecycle: Lifecycle, server: Server) -> bool:
    down = await lifecycle.down()
    assert {one.id for one in down.deleted} <= {server.id}
    return bool(down.deleted)


async def _reaps(lifecycle: Lifecycle, server: Server) -> bool:
    report = await lifecycle.reap()
    assert report.ok, report.failed
    return server.id in {one.resource.id for one in report.done if one.kind is Kind.SERVER}


RACES = 1000


@pytest.mark.parametrize("who", [_drains, _downs, _reaps])
def test_deletion_or_work_never_both(
    who: Callable[[Lifecycle, Server], Coroutine[Any, Any, bool]],
) -> None:
    """Raced at each request in turn: whoever comes first decides, and no action ever runs on a
    server that is deleted."""
    machine = fresh()
    up(machine)
    box = box_of(machine)
    worked = ended = 0
    points = 9
    for round_ in range(RACES):
        server = the_server(machine)
        # It works until the 51st minute of its paid hour, and then looks idle since long.
        box.running = 1
        age_s = machine.account.world.now_s - server.created_s
        machine.account.world.pass_time((3060 - age_s) % HOUR_S)
        box.running = 0
        box.active_s = machine.account.world.now_s - 1200
        lifecycle, _ = machine.start()
        client = _Client(box, round_ % (points + 1))
        machine.hook = client
        says_gone = run(who(lifecycle, server))
        machine.hook = lambda _name: None
        points = max(points, client.count)
        gone = server.id not in machine.account.held[Kind.SERVER]
        assert gone == says_gone
        assert gone != client.began, f"round {round_}: point {client.at} of {client.count}"
        if client.began:
            worked += 1
            assert box.running == 1
            run(machine.lifecycle.extend(hard_end_in_s=12 * HOUR_S))
        else:
            ended += 1
            # What a thousand lives leave behind would be looked through in each of them.
            machine.ledger.events.clear()
            bought = [one for one in machine.account.bought if one.until_s is None]
            machine.account.bought[:] = bought
            for left in (machine.account.boxes, machine.account.deleted, machine.account.born):
                left.clear()
            up(machine)
            box = box_of(machine)
    print(f"{who.__name__}: {RACES} races, {worked} won by the action, {ended} by the deletion")
    assert worked > RACES // 20
    assert ended > RACES // 20


def test_no_ground_no_deletion() -> None:
    """The guard asks again, whatever its caller believes."""
    machine = fresh()
    server = up(machine).server
    lifecycle, _ = machine.start()
    guard = lifecycle.guard
    for ground in Ground:
        with pytest.raises(Busy):
            run(guard.delete_server(server.id, ground))
    with pytest.raises(Busy):
        run(guard.delete_server(server.id, Ground.DRAINED, Granted(server.id + 1)))
    for missing in (labels.MARK, labels.OWNER, labels.OPERATION, labels.EXPIRES, labels.ROLE):
        run(
            lifecycle.context.cloud.set_labels(
                Kind.SERVER, server.id, labels.merged(server.labels, **{missing: None})
            )
        )
        with pytest.raises(NotOurs):
            run(guard.delete_server(server.id, Ground.OFF))
    assert server.id in machine.account.held[Kind.SERVER]
    (volume,) = machine.account.held[Kind.VOLUME].values()
    for why in VolumeGround:
        with pytest.raises(Busy):
            run(guard.delete_volume(volume.id, why))


def test_without_ssh_nobody_guesses() -> None:
    """Idle for hours, and it does not answer: kept until it is off."""
    machine = fresh()
    up(machine)
    box_of(machine).keep_alive_s = 1e9
    machine.account.never_ssh = True
    machine.account.world.pass_time(5 * HOUR_S)
    report = run(machine.lifecycle.reap())
    assert not report.done
    (found,) = [one for one in report.verdicts if one.kind is Kind.SERVER]
    assert found.deed is Deed.KEEP
    assert "ssh" in found.reason
    box_of(machine).keep_alive_s = 300
    machine.account.world.pass_time(HOUR_S)
    assert the_server(machine).state is ServerState.OFF
    assert run(machine.lifecycle.reap()).done
    assert not machine.account.held[Kind.SERVER]


def test_down_leaves_what_works() -> None:
    machine = fresh()
    up(machine)
    box = box_of(machine)
    assert box.work()
    down = run(machine.lifecycle.down())
    assert not down.deleted
    assert "running" in down.refused[0][1]
    assert box.running == 1
    down = run(machine.lifecycle.down(even_if_busy=True))
    assert len(down.deleted) == 1
    assert not machine.account.held[Kind.SERVER]


def test_the_hard_end() -> None:
    """Busy or not; moved by `extend` only, and the dead man is told, too."""
    machine = fresh()
    up(machine)
    box = box_of(machine)
    box.work()
    machine.account.world.pass_time(11 * HOUR_S)
    run(machine.lifecycle.extend(hard_end_in_s=5 * HOUR_S))
    machine.account.world.pass_time(3 * HOUR_S)
    assert box.on
    run(machine.lifecycle.reap())
    assert the_server(machine).state is ServerState.RUNNING
    (address,) = machine.account.held[Kind.PRIMARY_IP].values()
    assert address.labels[labels.EXPIRES] == the_server(machine).labels[labels.EXPIRES]
    machine.account.world.pass_time(3 * HOUR_S)
    assert run(machine.lifecycle.reap()).ok
    assert not machine.account.held[Kind.SERVER]
    with pytest.raises(NotFound):
        run(machine.lifecycle.extend(hard_end_in_s=1))


def test_a_notice_before_the_hard_end() -> None:
    machine = fresh()
    up(machine)
    box_of(machine).work()
    box_of(machine).hard_end_s += HOUR_S
    machine.account.world.pass_time(12 * HOUR_S - 400)
    run(machine.lifecycle.reap())
    assert any(key.startswith("hard-end:") for key in machine.notices.keys)


def test_one_that_does_not_hear_is_turned_off_by_power() -> None:
    """Asked to shut down first, waited for, and only then its power."""
    machine = fresh()
    up(machine)
    box = box_of(machine)
    box.work()
    box.hears_acpi = False
    box.hard_end_s += DAY_S  # a dead man that does not work
    machine.account.never_ssh = True
    machine.account.world.pass_time(12 * HOUR_S + 60)
    lifecycle, cloud = machine.start()
    before_s = machine.account.world.now_s
    assert run(lifecycle.reap()).done
    order = [name for name in cloud.calls if name in {"shutdown", "power_off", "delete servers"}]
    assert order == ["shutdown", "power_off", "delete servers"]
    assert machine.account.world.now_s - before_s >= removal._OFF_WAIT_S
    assert not machine.account.held[Kind.SERVER]


def test_one_that_hears_keeps_its_power() -> None:
    """What it has to write back it writes."""
    machine = fresh()
    up(machine)
    box = box_of(machine)
    box.work()
    box.hard_end_s += DAY_S
    machine.account.never_ssh = True
    machine.account.world.pass_time(12 * HOUR_S + 60)
    lifecycle, cloud = machine.start()
    assert run(lifecycle.reap()).done
    assert "power_off" not in cloud.calls
    assert not box.lost_writes


def test_idle_servers_go_at_once_if_so_wished() -> None:
    """Not at the edge of their paid hour."""
    machine = fresh(wishes=wishes(at_once=True))
    up(machine)
    machine.account.world.pass_time(290)
    assert not run(machine.lifecycle.reap()).done
    machine.account.world.pass_time(60)
    assert run(machine.lifecycle.reap()).done
    assert not machine.account.held[Kind.SERVER]


# -- the month's budget ----------------------------------------------------------------------------


def test_a_budget_that_is_used_up_boots_nothing() -> None:
    """An error with the figures; the month's rent of a volume counts as well."""
    machine = fresh(wishes=wishes(budget_eur_per_month=Decimal("0.3")))
    with pytest.raises(OverBudget, match=r"0\.3"):
        up(machine)
    assert not machine.account.held[Kind.SERVER]
    machine.wishes = attrs.evolve(machine.wishes, budget_eur_per_month=Decimal(8))
    up(machine)
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    # Its hour is spent, and the volume's month is committed: not enough is left for another one.
    machine.wishes = attrs.evolve(machine.wishes, budget_eur_per_month=Decimal("7.5"))
    with pytest.raises(OverBudget):
        up(machine)
    assert not machine.account.held[Kind.SERVER]


def test_the_budget_drains_at_the_edge() -> None:
    """Where the next hour would exceed it; not before, and not what works."""
    machine = fresh()
    up(machine)
    box = box_of(machine)
    box.keep_alive_s = 1e6
    machine.wishes = attrs.evolve(machine.wishes, budget_eur_per_month=Decimal("7.2"))
    machine.account.world.pass_time(40 * 60)
    assert not run(machine.lifecycle.reap()).done
    machine.account.world.pass_time(11 * 60)
    box.work()
    assert not run(machine.lifecycle.reap()).done
    box.running = 0
    (done,) = run(machine.lifecycle.reap()).done
    assert done.reason == "its next hour is over the budget"
    assert not machine.account.held[Kind.SERVER]
    # As rich as it takes, it would have stayed.
    machine.wishes = attrs.evolve(machine.wishes, budget_eur_per_month=Decimal(100))
    up(machine)
    box_of(machine).keep_alive_s = 1e6
    machine.account.world.pass_time(51 * 60)
    assert not run(machine.lifecycle.reap()).done


# -- boots that fail -------------------------------------------------------------------------------


def test_no_capacity_anywhere() -> None:
    """Built at home, told, and nothing left; the next try is not at once."""
    machine = fresh()
    machine.account.no_capacity = {
        (name, place) for name in ("ccx63", "ccx53", "ccx43") for place in ("fsn1", "nbg1")
    }
    lifecycle, cloud = machine.start()
    with pytest.raises(NoCapacity):
        run(lifecycle.up("test"))
    assert cloud.calls.count("create server") == 6
    assert not machine.account.held[Kind.SERVER]
    assert not machine.account.held[Kind.VOLUME]
    assert "no-capacity" in machine.notices.keys
    assert lifecycle.retry_in_s > 0


def test_an_action_that_fails() -> None:
    """What there is of it is deleted; the next candidate is tried."""
    machine = fresh()
    lifecycle, cloud = machine.start()
    cloud.fail_next_create = ActionFailed("boom", what="create_server")
    booted = run(lifecycle.up("test"))
    assert booted.server.location == "nbg1"
    assert len(machine.account.held[Kind.SERVER]) == 1
    assert machine.account.most_servers[OWNER] == 1


def test_it_never_answers() -> None:
    """Deleted at its boot deadline, by the one that waited."""
    machine = fresh()
    machine.account.never_ssh = True
    with pytest.raises(ServerProblem, match="not ready in time"):
        up(machine)
    assert not machine.account.held[Kind.SERVER]
    assert machine.account.world.monotonic() < 1500


def test_a_wrong_host_key() -> None:
    """Tolerated for a moment, as an image may show its old key; then final."""
    machine = fresh()
    machine.account.wrong_key = True
    with pytest.raises(HostKeyProblem):
        up(machine)
    assert 100 < machine.account.world.monotonic() < 400
    assert not machine.account.held[Kind.SERVER]


def test_a_ready_server_with_a_wrong_key_is_left_alone() -> None:
    """Somebody in the middle must not be able to make us delete it."""
    machine = fresh()
    up(machine)
    machine.account.wrong_key = True
    with pytest.raises(HostKeyProblem):
        up(machine)
    assert len(machine.account.held[Kind.SERVER]) == 1


def test_nothing_dearer_than_agreed() -> None:
    machine = fresh(wishes=wishes(max_eur_per_hour=Decimal("0.1")))
    with pytest.raises(OverBudget):
        up(machine)
    assert not machine.account.held[Kind.SERVER]
    machine = fresh(wishes=wishes(server_types=("cax41",)))
    with pytest.raises(ConfigError, match="arm"):
        up(machine)


def test_a_dying_server_is_waited_for() -> None:
    machine = fresh()
    up(machine)
    server = the_server(machine)
    address_id = server.ipv4_id
    assert address_id is not None
    machine.account.change(server.id, ServerState.DELETING)
    seen: list[str] = []

    def watch(name: str) -> None:
        seen.append(name)
        if seen.count("after find servers") == 4:
            machine.account.held[Kind.SERVER].pop(server.id, None)
            machine.account.held[Kind.PRIMARY_IP].pop(address_id, None)
            machine.account.ends(Kind.SERVER, server.id)
            machine.account.ends(Kind.PRIMARY_IP, address_id)

    for volume in list(machine.account.held[Kind.VOLUME].values()):
        machine.account.held[Kind.VOLUME][volume.id] = attrs.evolve(volume, server_id=None)
    machine.hook = watch
    booted = up(machine)
    assert booted.server.id != server.id
    assert machine.account.most_servers[OWNER] == 1


# -- volumes ---------------------------------------------------------------------------------------


def test_a_volume_that_holds_something_else() -> None:
    """Never formatted: marked, told, local disk."""
    machine = fresh()
    booted = up(machine)
    disk = machine.account.disks[booted.store.volume_id]
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    disk.uuid, disk.data = "something else", "precious"
    again = up(machine)
    assert again.store.volume_id is None
    assert disk.data == "precious"
    assert disk.formatted == 1
    (volume,) = machine.account.held[Kind.VOLUME].values()
    assert volume.labels[labels.FILESYSTEM].startswith("bad-")
    assert f"bad-volume:{volume.id}" in machine.notices.keys


def test_a_new_volume_that_is_not_blank() -> None:
    """Its label says new, and there is something on it: not ours to format."""
    machine = fresh()

    def fill(name: str) -> None:
        if name == "before ssh volume format":
            for volume_id in machine.account.held[Kind.VOLUME]:
                machine.account.disks.setdefault(volume_id, _full())

    machine.hook = fill
    assert up(machine).store.volume_id is None
    assert all(disk.formatted == 0 for disk in machine.account.disks.values())


def _full() -> Any:
    return Disk(uuid=None, data="somebody's")


def test_a_volume_that_shall_be_larger() -> None:
    """Enlarged with its file system, once; what is refused, or was stopped in the middle, is told
    or carried on, and the volume is used in any case."""
    machine = fresh()
    account = machine.account
    volume_id = up(machine).store.volume_id
    disk = account.disks[volume_id]

    def boot_with(volume_gb: int) -> Any:
        run(machine.lifecycle.down())
        machine.wishes = attrs.evolve(machine.wishes, volume_gb=volume_gb)
        return up(machine)

    def volume() -> Any:
        return account.held[Kind.VOLUME][volume_id]

    boot_with(150)
    assert (volume().size_gb, disk.grown) == (150, 1)
    assert labels.GROWING not in volume().labels
    sizes = [event.size_gb for event in machine.ledger.events if isinstance(event, Resized)]
    assert sizes == [150]
    boot_with(120)
    assert (volume().size_gb, disk.grown) == (150, 1)

    account.most_gb = 160
    booted = boot_with(200)
    assert booted.store.volume_id == volume_id
    assert volume().size_gb == 150
    assert machine.notices.keys[-1] == f"grow:{volume_id}"

    # Killed right after the cloud had done it: the file system is not forgotten.
    account.most_gb = 10_000
    run(machine.lifecycle.down())
    stopped_at(machine, "after resize_volume", machine.lifecycle.up("test"))
    assert (volume().size_gb, disk.grown) == (200, 1)
    up(machine)
    assert disk.grown == 2
    assert labels.GROWING not in volume().labels


def test_a_device_that_comes_late() -> None:
    machine = fresh()

    def late(name: str) -> None:
        if name == "after attach":
            box_of(machine).device_missing = 2

    machine.hook = late
    booted = up(machine)
    assert booted.store.volume_id is not None


def test_the_location_is_full() -> None:
    """All types where the volume is, then elsewhere without it; never a second one unless asked."""
    machine = fresh()
    up(machine)
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    machine.account.no_capacity = {(name, "fsn1") for name in ("ccx63", "ccx53", "ccx43")}
    booted = up(machine)
    assert booted.server.location == "nbg1"
    assert booted.store.volume_id is None
    assert len(machine.account.held[Kind.VOLUME]) == 1
    assert any(key.startswith("local-disk:") for key in machine.notices.keys)
    machine.wishes = attrs.evolve(machine.wishes, new_volume_elsewhere=True)
    assert up(machine).store.volume_id is not None
    assert len(machine.account.held[Kind.VOLUME]) == 2


def test_the_seventeenth_project() -> None:
    """The least recently used volume that is idle comes off."""
    machine = fresh()
    for number in range(16):
        machine.wishes = attrs.evolve(machine.wishes, project=f"{number:016x}")
        up(machine)
        machine.account.world.pass_time(5)
    box = box_of(machine)
    first, next_one = sorted(box.mounted)[:2]
    box.in_use = {first}
    machine.wishes = attrs.evolve(machine.wishes, project="f" * 16)
    booted = up(machine)
    assert booted.store.volume_id in box.mounted
    assert len(box.mounted) == 16
    assert first in box.mounted
    assert next_one not in box.mounted
    assert not box.lost_writes


def test_a_second_project_joins_the_server_that_is_there() -> None:
    """Its volume is brought there; one is made only for builds that generate code."""
    machine = fresh()
    first = up(machine)
    account = machine.account
    machine.wishes = attrs.evolve(machine.wishes, project="f" * 16)

    def join(*, make_volume: bool) -> Any:
        return run(machine.lifecycle.join(make_volume=make_volume))

    assert join(make_volume=False).store.volume_id is None
    assert len(account.held[Kind.VOLUME]) == 1
    assert not any(key.startswith("local-disk:") for key in machine.notices.keys)
    joined = join(make_volume=True)
    assert joined.how is None
    assert joined.server.id == first.server.id
    assert joined.store.volume_id in box_of(machine).mounted
    assert len(account.held[Kind.VOLUME]) == 2

    # It has one by now: that comes whatever is built.
    run(machine.lifecycle.down())
    machine.wishes = attrs.evolve(machine.wishes, project=PROJECT)
    up(machine)
    machine.wishes = attrs.evolve(machine.wishes, project="f" * 16)
    assert join(make_volume=False).store.volume_id == joined.store.volume_id


def test_who_joins_boots_nothing() -> None:
    """No server, one that is off in its paid hour, one that boots, one that drains."""
    machine = fresh(watched=True)
    account = machine.account

    def join() -> Any:
        return run(machine.lifecycle.join(make_volume=True))

    assert join() is None
    assert account.held[Kind.SERVER] == {}
    up(machine)
    box = box_of(machine)
    box.draining = True
    assert join() is None
    box.draining = False
    box.shut_down()
    account.change(box.server_id, ServerState.OFF)
    assert join() is None
    assert the_server(machine).state is ServerState.OFF
    assert len(account.held[Kind.SERVER]) == 1


def test_a_volume_stuck_to_a_deleted_server() -> None:
    machine = fresh()
    booted = up(machine)
    volume_id = booted.store.volume_id
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    held = machine.account.held[Kind.VOLUME]
    held[volume_id] = attrs.evolve(held[volume_id], server_id=4711)
    assert up(machine).store.volume_id == volume_id


def test_a_volume_that_does_not_come_off_is_brought_later() -> None:
    """Units go on with the server's own disk; that is not how it stays."""
    machine = fresh()
    volume_id = up(machine).store.volume_id
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    held = machine.account.held[Kind.VOLUME]

    def stuck(name: str) -> None:
        if name == "after detach":
            held[volume_id] = attrs.evolve(held[volume_id], server_id=4711)

    held[volume_id] = attrs.evolve(held[volume_id], server_id=4711)
    machine.hook = stuck
    store = up(machine).store
    assert (store.volume_id, store.passing) == (None, True)
    (told,) = [one for one in machine.notices.notices if one.key.startswith("local-disk:")]
    assert "until its volume can be had" in told.text
    machine.hook = lambda _name: None
    joined = run(machine.lifecycle.join(make_volume=True))
    assert joined.store.volume_id == volume_id
    assert volume_id in box_of(machine).mounted


def test_a_device_that_does_not_come_is_no_damage() -> None:
    """The volume is not given up; what really is on it nobody has seen."""
    machine = fresh()

    def late(name: str) -> None:
        if name == "after attach":
            box_of(machine).device_missing = 100

    machine.hook = late
    store = up(machine).store
    assert (store.volume_id, store.passing) == (None, True)
    machine.hook = lambda _name: None
    box_of(machine).device_missing = 0
    assert run(machine.lifecycle.join(make_volume=True)).store.volume_id is not None


def test_after_a_rename() -> None:
    machine = fresh()
    volume_id = up(machine).store.volume_id
    run(machine.lifecycle.adopt_volume(volume_id, "e" * 16))
    machine.wishes = attrs.evolve(machine.wishes, project="e" * 16)
    assert up(machine).store.volume_id == volume_id
    assert len(machine.account.held[Kind.VOLUME]) == 1
    stranger = second(machine, wishes=wishes(owner="bob"))
    with pytest.raises(NotOurs):
        run(stranger.lifecycle.adopt_volume(volume_id, PROJECT))


def test_volumes_outlive_servers_by_their_own_time() -> None:
    machine = fresh()
    up(machine)
    machine.account.world.pass_time(13 * HOUR_S)
    run(machine.lifecycle.reap())
    (volume,) = machine.account.held[Kind.VOLUME].values()
    assert volume.server_id is None
    machine.account.world.pass_time(6.9 * DAY_S)
    lifecycle, cloud = machine.start()
    cloud._acted()
    run(lifecycle.reap())
    assert machine.account.held[Kind.VOLUME]
    machine.account.world.pass_time(0.2 * DAY_S)
    run(lifecycle.reap())
    assert not machine.account.held[Kind.VOLUME]


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error_s", [DAY_S, -DAY_S, 40 * DAY_S])
def test_homes_clock_is_a_day_off(error_s: float) -> None:
    """Labels are right all the same; a busy server stays; volumes are not deleted by it."""
    machine = fresh()
    machine.account.world.home_error_s = error_s
    booted = up(machine)
    now_s = machine.account.world.now_s
    server = the_server(machine)
    assert abs(int(server.labels[labels.EXPIRES]) - now_s - 12 * HOUR_S) < 120
    assert abs(int(server.labels[labels.BOOT_BY]) - now_s - 900) < 120
    box_of(machine).work()
    machine.account.world.pass_time(HOUR_S)
    report = run(machine.lifecycle.reap())
    assert not report.done
    assert up(machine).server.id == booted.server.id
    machine.account.world.pass_time(12 * HOUR_S)
    assert run(machine.lifecycle.reap()).ok
    assert not machine.account.held[Kind.SERVER]
    machine.account.world.pass_time(30 * DAY_S)
    run(machine.lifecycle.reap())
    assert machine.account.held[Kind.VOLUME], "its clock is not to be trusted with data"


# -- more than one ---------------------------------------------------------------------------------


def test_two_machines_of_one_owner() -> None:
    """The second finds the server by its labels, is known to it, and narrows for itself."""
    machine = fresh()
    other = second(machine)
    run(access.owner_keys(other.lifecycle.context))
    first = up(machine)
    found = up(other)
    assert found.server.id == first.server.id
    assert found.how is None
    assert found.login.known_hosts == first.login.known_hosts
    (wall,) = machine.account.held[Kind.FIREWALL].values()
    assert sorted(rule.sources[0] for rule in wall.rules) == ["198.51.100.7/32", "203.0.113.9/32"]


def test_a_machine_that_comes_later() -> None:
    """Its key is registered by its first try; a machine that the server knows lets it in."""
    machine = fresh()
    first = up(machine)
    late = second(machine)
    with pytest.raises(ServerProblem, match="another machine of yours"):
        up(late)
    run(machine.lifecycle.reap())
    assert up(late).server.id == first.server.id


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_two_machines_at_the_same_moment(*, warm: bool) -> None:
    """One is stopped in the middle of its boot, for as long as the other needs for all of its own.

    Longer than a turn lasts, that is: a laptop that was suspended there. One server and one volume
    come of it, though one that was stopped between reading labels and writing them writes over what
    its successor wrote.
    """

    def about_to_boot() -> tuple[Machine, Machine]:
        machine = fresh()
        other = second(machine)
        for one in (machine, other):
            run(access.owner_keys(one.lifecycle.context))
        if warm:
            up(machine)
            machine.account.world.pass_time(3200)  # its dead man turns it off
        return machine, other

    probe, _ = about_to_boot()
    names: list[str] = []
    probe.hook = names.append
    up(probe)
    points = [at for at, name in enumerate(names) if name.startswith("before ")]
    telling = [at for at in points if names[at] == "before label servers"]
    for at in sorted({*telling, *points[:: 1 if EVERYTHING else 5]}):
        machine, other = about_to_boot()
        machine.hook = _Meanwhile(at, other)
        try:
            up(machine)
        except (Busy, ServerProblem):
            machine.hook = lambda _name: None
            up(machine)
        machine.hook = lambda _name: None
        # Stopped between its last look at its turn and the create: seen afterwards, and given up.
        most = 2 if names[at] == "before create server" else 1
        assert machine.account.most_servers[OWNER] <= most, names[at]
        mine = up(machine)
        assert up(other).server.id == mine.server.id
        assert len(machine.account.held[Kind.SERVER]) == 1, names[at]
        assert len(machine.account.held[Kind.VOLUME]) == 1, names[at]


@attrs.define
class _Meanwhile:
    """At one point of a machine's work, all of another's happens."""

    at: int
    other: Machine
    count: int = 0

    def __call__(self, _name: str) -> None:
        self.count += 1
        if self.count != self.at + 1:
            return
        # In a thread: it needs an event loop of its own.
        thread = threading.Thread(target=self._work)
        thread.start()
        thread.join()

    def _work(self) -> None:
        with contextlib.suppress(BurstError):
            up(self.other)


@pytest.mark.parametrize("gives_up", [False, True])
def test_labels_written_back_after_a_suspend(*, gives_up: bool) -> None:
    """Another machine read them in the middle of the boot and writes them after it: the pin from
    before the rotation, not ready, given up. The machine that has seen it ready puts it right."""
    machine = fresh()
    read: list[dict[str, str]] = []

    def watch(name: str) -> None:
        if name == "after ssh hostkey rotate" and not read:
            read.append(dict(the_server(machine).labels))

    machine.hook = watch
    booted = up(machine)
    good = dict(the_server(machine).labels)
    (stale,) = read
    assert stale[labels.PIN] != good[labels.PIN]
    assert labels.READY not in stale
    box_of(machine).work()

    other = second(machine)
    _, cloud = other.start()
    changed = {labels.BOOT_BY: "1"} if gives_up else {}
    told = labels.merged(stale, **changed)
    run(cloud.set_labels(Kind.SERVER, booted.server.id, told))
    machine.account.world.pass_time(2 * HOUR_S)  # the boot's deadline is long over
    assert run(machine.lifecycle.reap()).done == ()
    assert the_server(machine).labels == good
    assert box_of(machine).running == 1


def test_a_later_boot_has_its_own_pin() -> None:
    """What this machine saw of an earlier one never comes back over it."""
    now = {labels.BOOT_BY: "2000", labels.PIN: "new", labels.NEXT_PIN: "newer"}
    assert hostkey.lost(now, "old", "1000") == {}
    assert hostkey.lost(now, "", "2000") == {}
    assert hostkey.lost({}, "old", "1000") == {}
    assert hostkey.lost(now, "newer", "2000")[labels.PIN] == "newer"
    given_up = {labels.BOOT: "2000", labels.BOOT_BY: "500", labels.PIN: "new"}
    assert hostkey.lost(given_up, "old", "1000") == {}
    assert hostkey.lost(given_up, "new", "2000")[labels.READY] == "1"


def test_two_owners_in_one_account() -> None:
    machine = fresh()
    other = second(machine, wishes=wishes(owner="bob"))
    one, two = up(machine), up(other)
    assert one.server.id != two.server.id
    machine.account.world.pass_time(30)
    down = run(machine.lifecycle.down(with_volumes=True))
    assert not down.refused
    left = [server.labels[labels.OWNER] for server in machine.account.held[Kind.SERVER].values()]
    assert left == ["bob"]
    assert len(machine.account.held[Kind.VOLUME]) == 1
    machine.account.world.pass_time(100 * DAY_S)
    run(machine.lifecycle.reap())
    assert machine.account.held[Kind.SERVER], "bob's are bob's"


def test_all_local_state_is_lost() -> None:
    """Key, ledger, everything; the owner was configured: all is found by its labels."""
    machine = fresh()
    up(machine)
    stranger = second(machine)
    status = run(stranger.lifecycle.status(ask=False))
    kinds = {one.kind for one in status.of_owner()}
    assert {Kind.SERVER, Kind.VOLUME, Kind.PRIMARY_IP, Kind.FIREWALL, Kind.SSH_KEY} <= kinds
    down = run(stranger.lifecycle.down(even_if_busy=True, with_volumes=True))
    assert not down.refused
    assert not machine.account.held[Kind.SERVER]
    assert not machine.account.held[Kind.VOLUME]


def test_a_laptop_that_moved() -> None:
    """Its rule is opened again, and narrowed to where it is now."""
    machine = fresh()
    up(machine)
    machine.address = "192.0.2.200"
    booted = up(machine)
    assert booted.how is None
    (wall,) = machine.account.held[Kind.FIREWALL].values()
    assert [rule.sources for rule in wall.rules] == [("192.0.2.200/32",)]


def test_the_dead_man_was_faster() -> None:
    """A build right after its power-off: on again within its hour, else a new one."""
    machine = fresh()
    booted = up(machine)
    machine.account.world.pass_time(3200)
    assert the_server(machine).state is ServerState.OFF
    again = up(machine)
    assert again.server.id == booted.server.id
    assert again.store.volume_id == booted.store.volume_id
    assert machine.account.most_servers[OWNER] == 1


@settings(max_examples=500 if EVERYTHING else 40, deadline=None, derandomize=not EVERYTHING)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("wait"), st.integers(1, 5000)),
            st.tuples(st.sampled_from(["up", "reap", "down", "work", "rest", "other up"])),
        ),
        max_size=14,
    )
)
def test_any_life(moves: list[tuple[Any, ...]]) -> None:
    """Whatever happens in whatever order: one server, one volume, no data lost, no work cut."""
    machine = Machine(Account(World()))
    other = second(machine)
    for one in (machine, other):
        run(access.owner_keys(one.lifecycle.context))
    for move in moves:
        boxes = [box for box in machine.account.boxes.values() if box.on]
        match move:
            case ("wait", seconds):
                machine.account.world.pass_time(seconds)
            case ("up",):
                up(machine)
            case ("other up",):
                up(other)
            case ("reap",):
                run(machine.lifecycle.reap())
            case ("down",):
                run(machine.lifecycle.down())
            case ("work",):
                for box in boxes:
                    box.work()
            case _:
                for box in boxes:
                    box.running = 0
        working = [box for box in machine.account.boxes.values() if box.running and box.on]
        for box in working:
            assert box.server_id in machine.account.held[Kind.SERVER]
        assert machine.account.most_servers.get(OWNER, 0) <= 1
        assert len(machine.account.held[Kind.VOLUME]) <= 1
        assert not any(box.lost_writes for box in machine.account.boxes.values())
    settle(machine, other)


# -- this machine's key ----------------------------------------------------------------------------


def test_the_key_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "ed25519"
    made = access.load_or_make(path, lambda: make_key(9))
    assert made.public_key == make_key(9)[1]
    assert access.load_or_make(path, lambda: make_key(10)) == made
    assert access.default_owner(made) == access.default_owner(made)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        access.load_or_make(path, lambda: make_key(9))
    path.chmod(0o600)
    path.write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match="move it away"):
        access.load_or_make(path, lambda: make_key(9))


def test_a_key_that_somebody_else_registered() -> None:
    """Used, never labelled, never deleted."""
    machine = fresh()
    lifecycle, cloud = machine.start()
    run(cloud.create_ssh_key("mine-by-hand", lifecycle.context.key.public_key, {}))
    up(machine)
    (key,) = machine.account.held[Kind.SSH_KEY].values()
    assert key.labels == {}
    machine.account.world.pass_time(200 * DAY_S)
    run(machine.lifecycle.reap())
    assert machine.account.held[Kind.SSH_KEY]


def test_host_problems_have_words() -> None:
    """A server whose agent does not answer is a ServerProblem, not a traceback."""
    machine = fresh()
    booted = up(machine)
    lifecycle, _ = machine.start()
    login = attrs.evolve(booted.login, user="root")
    host = Host(lifecycle.context.ssh, login, booted.server.id)
    with pytest.raises(ServerProblem, match="burst-agent nonsense"):
        run(host._ask("nonsense"))


def test_a_reaper_with_nothing_but_a_token() -> None:
    """It opens no firewall for a key that nobody knows, and waits for the dead man."""
    machine = fresh()
    up(machine)
    walls = dict(machine.account.held[Kind.FIREWALL])
    stranger = second(machine, number=99)
    assert not run(stranger.lifecycle.reap()).done
    assert machine.account.held[Kind.FIREWALL] == walls
    machine.account.world.pass_time(3500)
    assert run(stranger.lifecycle.reap()).done
    assert not machine.account.held[Kind.SERVER]
