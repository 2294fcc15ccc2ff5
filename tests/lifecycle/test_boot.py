"""Booting, using and ending servers, against a cloud in memory with virtual time."""

from __future__ import annotations

import asyncio

import attrs

from burst_lifecycle import labels
from burst_lifecycle.cloud.model import Kind, ServerState
from burst_lifecycle.errors import TokenProblem
from burst_lifecycle.events import How
from burst_lifecycle.hostkey import pin
from burst_lifecycle.token import Token
from lifecycles import box_of, fresh


def test_the_first_boot() -> None:
    """From nothing to a server that is ready, with volume, narrowed firewall, rotated key."""
    machine = fresh()
    lifecycle, cloud = machine.start()
    booted = asyncio.run(lifecycle.up("test"))
    account = machine.account
    assert booted.how is How.COLD
    (server,) = account.held[Kind.SERVER].values()
    assert server.labels[labels.READY] == "1"
    assert server.type == "ccx63"
    box = box_of(machine)
    assert server.labels[labels.PIN] == pin(box.host_key) == booted.login.pins[0]
    assert labels.NEXT_PIN not in server.labels
    assert box.host_key != box.config()["ssh_keys"]["ed25519_public"]
    assert booted.login.user == "burst"
    assert booted.login.known_hosts == f"{server.ipv4} {box.host_key}\n".encode()
    (volume,) = account.held[Kind.VOLUME].values()
    assert volume.server_id == server.id
    assert volume.delete_protected
    assert volume.labels[labels.FILESYSTEM].startswith("ready-")
    assert box.mounted == {volume.id}
    assert booted.store.volume_id == volume.id
    (wall,) = account.held[Kind.FIREWALL].values()
    assert [rule.sources for rule in wall.rules] == [("198.51.100.7/32",)]
    (address,) = account.held[Kind.PRIMARY_IP].values()
    assert address.labels[labels.OPERATION] == server.labels[labels.OPERATION]
    assert cloud.offset_s == 0


def test_again_changes_nothing() -> None:
    machine = fresh()
    asyncio.run(machine.lifecycle.up("test"))
    server_ids = set(machine.account.held[Kind.SERVER])
    booted = asyncio.run(machine.lifecycle.up("test"))
    assert booted.how is None
    assert set(machine.account.held[Kind.SERVER]) == server_ids
    assert box_of(machine).boots == 1


def test_idle_at_the_edge() -> None:
    """Not before the 50th minute, then in good order; the volume stays and is used again."""
    machine = fresh()
    asyncio.run(machine.lifecycle.up("test"))
    world, account = machine.account.world, machine.account
    (volume_id,) = account.held[Kind.VOLUME]
    account.disks[volume_id].data = "precious"
    world.pass_time(2000)
    assert not asyncio.run(machine.lifecycle.reap()).done
    (server,) = account.held[Kind.SERVER].values()
    world.pass_time(3010 - (world.now_s - server.created_s))
    report = asyncio.run(machine.lifecycle.reap())
    assert report.ok
    assert not account.held[Kind.SERVER]
    assert not account.held[Kind.PRIMARY_IP]
    booted = asyncio.run(machine.lifecycle.up("test"))
    assert booted.store.volume_id == volume_id
    assert account.disks[volume_id].formatted == 1
    assert not any(box.lost_writes for box in account.boxes.values())


def test_power_on_within_the_hour() -> None:
    machine = fresh(watched=True)
    asyncio.run(machine.lifecycle.up("test"))
    box = box_of(machine)
    box.shut_down()
    machine.account.change(box.server_id, ServerState.OFF)
    assert not asyncio.run(machine.lifecycle.reap()).done
    booted = asyncio.run(machine.lifecycle.up("test"))
    assert booted.how is How.WARM
    assert booted.server.id == box.server_id
    assert box.boots == 2
    assert box.mounted == {booted.store.volume_id}


def test_a_server_that_may_delete_itself() -> None:
    """Told once per boot, over stdin; without the token it is a server like any other."""
    machine = fresh()
    asked = []

    async def token() -> Token:
        asked.append(1)
        if len(asked) > 1:
            raise TokenProblem("it is gone")
        return Token('s3"cret', "https://api.example/v1", "test")

    def up() -> None:
        lifecycle = machine.lifecycle
        lifecycle.context = attrs.evolve(lifecycle.context, self_delete=token)
        asyncio.run(lifecycle.up("test"))

    up()
    box = box_of(machine)
    assert box.secret == (
        f'url = "https://api.example/v1/servers/{box.server_id}"\n'
        'request = "DELETE"\nheader = "Authorization: Bearer s3\\"cret"\n'
    )
    up()
    assert asked == [1]
    machine.account.world.pass_time(30)
    asyncio.run(machine.lifecycle.down())
    up()
    assert box_of(machine).secret == ""
    assert any(key.startswith("self-delete:") for key in machine.notices.keys)
