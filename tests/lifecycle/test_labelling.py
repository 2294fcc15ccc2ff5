"""Labels that somebody writes back who has read them long ago, against the cloud in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from burst_lifecycle import access, labels
from burst_lifecycle.cloud.model import Kind, ServerState, Volume
from burst_lifecycle.context import HOUR_S
from burst_lifecycle.errors import Busy
from burst_lifecycle.notices import Notice, Notices
from burst_protocol.errors import HostKeyProblem
from crashes import run, stopped_at
from lifecycles import PROJECT, Machine, box_of, fresh, second, the_server
from memory_bill import settled

OTHER = "e" * 16


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    with settled():
        yield


def the_volume(machine: Machine) -> Volume:
    (volume,) = machine.account.held[Kind.VOLUME].values()
    assert isinstance(volume, Volume)
    return volume


def write_back(machine: Machine, kind: Kind, resource_id: int, found: dict[str, str]) -> None:
    """What a machine does that was suspended since it had read them."""
    held = machine.account.held[kind]
    held[resource_id] = attrs.evolve(held[resource_id], labels=found)


def when(name: str, doing: Callable[[], None]) -> Callable[[str], None]:
    """Once."""
    done: list[str] = []

    def hook(point: str) -> None:
        if point == name and not done:
            done.append(point)
            doing()

    return hook


def test_an_extension_that_is_written_over_at_once() -> None:
    """It is looked at, and made again; of what the other wrote nothing is lost."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    stale = dict(the_server(machine).labels)

    def other_writes() -> None:
        told = {**stale, "burst-other": "1"}
        write_back(machine, Kind.SERVER, the_server(machine).id, told)

    machine.hook = when("after label servers", other_writes)
    run(machine.lifecycle.extend(hard_end_in_s=20 * HOUR_S))
    machine.hook = lambda _name: None
    found = the_server(machine).labels
    assert int(found[labels.EXPIRES]) - machine.account.world.now_s == pytest.approx(
        20 * HOUR_S, abs=60
    )
    assert found["burst-other"] == "1"


def test_an_extension_that_nobody_lets_stand() -> None:
    """Is an error, not a success that is none."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    stale = dict(the_server(machine).labels)

    def hook(point: str) -> None:
        if point == "after label servers":
            write_back(machine, Kind.SERVER, the_server(machine).id, stale)

    machine.hook = hook
    with pytest.raises(Busy, match="others write its labels"):
        run(machine.lifecycle.extend(hard_end_in_s=20 * HOUR_S))
    machine.hook = lambda _name: None


def test_an_extension_that_is_taken_back_later() -> None:
    """The machine that was asked for it puts it right with its next command."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    box_of(machine).work()
    stale = dict(the_server(machine).labels)
    run(machine.lifecycle.extend(hard_end_in_s=20 * HOUR_S))
    wanted = dict(the_server(machine).labels)
    machine.account.world.pass_time(HOUR_S)
    write_back(machine, Kind.SERVER, the_server(machine).id, stale)
    run(machine.lifecycle.reap())
    assert the_server(machine).labels == wanted
    machine.account.world.pass_time(13 * HOUR_S)
    run(machine.lifecycle.reap())
    assert box_of(machine).running == 1


def test_a_later_word_counts() -> None:
    """Another machine's extension, or the end that its owner wants now, is nobody's mistake."""
    machine = fresh()
    other = second(machine)
    run(access.owner_keys(other.lifecycle.context))
    run(machine.lifecycle.up("test"))
    run(machine.lifecycle.extend(hard_end_in_s=20 * HOUR_S))
    first = dict(the_server(machine).labels)
    run(other.lifecycle.extend(hard_end_in_s=5 * HOUR_S))
    later = dict(the_server(machine).labels)
    assert later[labels.EXPIRES] < first[labels.EXPIRES]
    run(machine.lifecycle.reap())
    assert the_server(machine).labels == later
    ended = {**later, labels.EXPIRES: str(int(machine.account.world.now_s) - 1)}
    write_back(machine, Kind.SERVER, the_server(machine).id, ended)
    run(machine.lifecycle.reap())
    assert not machine.account.held[Kind.SERVER]


def test_an_adoption_reads_right_before_it_writes() -> None:
    """What another machine wrote while it was looked whether the project has a volume stays."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    volume = the_volume(machine)

    def other_writes() -> None:
        told = {**the_volume(machine).labels, labels.USED: "4711"}
        write_back(machine, Kind.VOLUME, volume.id, told)

    machine.hook = when("after find volumes", other_writes)
    run(machine.lifecycle.adopt_volume(volume.id, OTHER))
    machine.hook = lambda _name: None
    found = the_volume(machine).labels
    assert (found[labels.PROJECT], found[labels.USED]) == (OTHER, "4711")


def test_an_adoption_that_is_taken_back() -> None:
    """At once, or later; the project finds its volume all the same, and makes no second one."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    volume = the_volume(machine)
    stale = dict(volume.labels)
    machine.hook = when(
        "after label volumes", lambda: write_back(machine, Kind.VOLUME, volume.id, stale)
    )
    run(machine.lifecycle.adopt_volume(volume.id, OTHER))
    machine.hook = lambda _name: None
    assert the_volume(machine).labels[labels.PROJECT] == OTHER
    write_back(machine, Kind.VOLUME, volume.id, {**stale, labels.USED: "4711"})
    machine.wishes = attrs.evolve(machine.wishes, project=OTHER)
    assert run(machine.lifecycle.up("test")).store.volume_id == volume.id
    assert the_volume(machine).labels[labels.USED] != "4711"
    # Back again, from another machine: that is somebody's word, too.
    run(second(machine).lifecycle.adopt_volume(volume.id, PROJECT))
    run(machine.lifecycle.reap())
    assert the_volume(machine).labels[labels.PROJECT] == PROJECT


@pytest.mark.parametrize("gives_up", [False, True])
def test_a_ready_server_is_proved_to_other_machines(*, gives_up: bool) -> None:
    """Its labels are those of a boot that never ended, and the machine that has seen it ready does
    not come by: another one's reaper leaves it, and puts it right."""
    machine = fresh()
    other = second(machine)
    run(other.lifecycle.reap())
    read: list[dict[str, str]] = []
    machine.hook = when(
        "after ssh hostkey rotate", lambda: read.append(dict(the_server(machine).labels))
    )
    server = run(machine.lifecycle.up("test")).server
    machine.hook = lambda _name: None
    good = dict(the_server(machine).labels)
    (stale,) = read
    assert labels.READY not in stale
    assert stale[labels.PIN] != good[labels.PIN]
    box_of(machine).work()
    if gives_up:
        stale = {**stale, labels.BOOT_BY: "1"}
    machine.account.world.pass_time(2 * HOUR_S)
    write_back(machine, Kind.SERVER, server.id, stale)
    # Who only comes by on other business asks nobody but the API.
    come_by = other.lifecycle.reaper
    report = run(come_by.remove(run(come_by.overdue())))
    assert report.done == ()
    assert run(other.lifecycle.reap()).done == ()
    assert the_server(machine).labels == good
    assert box_of(machine).running == 1
    assert not box_of(machine).lost_writes


def test_a_ready_server_keeps_its_key() -> None:
    """Labels that promise another one as well change nothing, and nobody looks for ever."""
    machine = fresh()
    run(machine.lifecycle.up("test"))
    good = dict(the_server(machine).labels)
    key = box_of(machine).host_key
    told = {**good, labels.NEXT_PIN: "A" * 52}
    write_back(machine, Kind.SERVER, the_server(machine).id, told)
    for one in (machine, second(machine)):
        run(access.owner_keys(one.lifecycle.context))
        run(machine.lifecycle.reap())
        assert run(one.lifecycle.up("again")).how is None
    assert box_of(machine).host_key == key
    assert the_server(machine).labels[labels.PIN] == good[labels.PIN]


def test_a_ready_server_is_told_its_end_only() -> None:
    """By who finds that it has another idea of it. How long it waits for work is its booter's."""
    machine = fresh()
    other = second(machine)
    run(access.owner_keys(other.lifecycle.context))
    run(machine.lifecycle.up("test"))
    box = box_of(machine)
    before = (box.keep_alive_s, box.created_s, box.hard_end_s)
    other.wishes = attrs.evolve(other.wishes, keep_alive_s=1)
    box.hard_end_s += HOUR_S
    run(other.lifecycle.up("test"))
    assert (box.keep_alive_s, box.created_s) == before[:2]
    assert box.hard_end_s == pytest.approx(before[2], abs=60)


def test_a_server_that_is_off_goes_whatever_its_labels_say() -> None:
    """Nothing runs on it; it would only bill."""
    machine = fresh()
    server = run(machine.lifecycle.up("test")).server
    stale = labels.merged(the_server(machine).labels, **{labels.READY: None})
    machine.account.world.pass_time(2 * HOUR_S)
    write_back(machine, Kind.SERVER, server.id, stale)
    come_by = second(machine).lifecycle.reaper
    assert [one.resource.id for one in run(come_by.remove(run(come_by.overdue()))).done] == [
        server.id
    ]


def test_the_proof_is_made_up_for() -> None:
    """Killed between `ready` and its proof: the next command proves it."""
    machine = fresh()
    stopped_at(machine, "step before label the proof", machine.lifecycle.up("test"))
    (address,) = machine.account.held[Kind.PRIMARY_IP].values()
    assert labels.READY not in address.labels
    run(second(machine).lifecycle.reap())
    (address,) = machine.account.held[Kind.PRIMARY_IP].values()
    server = the_server(machine)
    assert address.labels[labels.READY] == server.labels[labels.BOOT_BY]
    assert address.labels[labels.PIN] == server.labels[labels.PIN]


def test_the_notice_about_the_local_disk_goes_with_its_reason() -> None:
    """The volume came before anybody read it: there is nothing to say any more."""
    machine = fresh()
    volume_id = run(machine.lifecycle.up("test")).store.volume_id
    machine.account.world.pass_time(30)
    run(machine.lifecycle.down())
    held = machine.account.held[Kind.VOLUME]

    def stuck(point: str) -> None:
        if point == "after detach":
            held[volume_id] = attrs.evolve(held[volume_id], server_id=4711)

    held[volume_id] = attrs.evolve(held[volume_id], server_id=4711)
    machine.hook = stuck
    run(machine.lifecycle.up("test"))
    assert f"local-disk:{PROJECT}" in machine.notices.keys
    machine.hook = lambda _name: None
    assert run(machine.lifecycle.join(make_volume=True)).store.volume_id == volume_id
    assert f"local-disk:{PROJECT}" not in machine.notices.keys


def test_a_withdrawn_notice(tmp_path: Path) -> None:
    """Is not shown; others are, and the same one again if it is so again."""
    notices = Notices(str(tmp_path))
    notices.post(Notice("one", "a"))
    notices.post(Notice("two", "b"))
    notices.withdraw("a")
    notices.withdraw("nothing of the kind")
    assert [notice.key for notice in notices.pending()] == ["b"]
    assert notices.post(Notice("one", "a"))
    assert [notice.key for notice in notices.pending()] == ["b", "a"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_warm_start_is_given_up_soon_after_a_good_boot(*, killed: bool) -> None:
    """Within the deadline of the boot before. What was proved of that boot says nothing of this
    one, to nobody: it goes, by who gave it up, or by who comes by."""
    machine = fresh()
    other = second(machine)
    booted = run(machine.lifecycle.up("test")).server
    account = machine.account
    account.world.pass_time(60)
    box_of(machine).shut_down()
    account.change(booted.id, ServerState.OFF)
    # Who waits less now has a deadline before that of the first boot.
    machine.wishes = attrs.evolve(machine.wishes, boot_deadline_s=400)
    account.wrong_key = True  # for two minutes that is no reason to give it up
    if killed:
        stopped_at(machine, "step after give the boot up", machine.lifecycle.up("test"))
        assert account.world.now_s < int(booted.labels[labels.BOOT_BY])
        assert labels.READY not in the_server(machine).labels
        run(machine.lifecycle.reconcile())
        run(other.lifecycle.reconcile())
        assert labels.READY not in the_server(machine).labels
        run(other.lifecycle.reap())
    else:
        with pytest.raises(HostKeyProblem):
            run(machine.lifecycle.up("test"))
    assert not account.held[Kind.SERVER]
