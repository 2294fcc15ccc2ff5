"""POST /servers: what a create refers to, quota, capacity, and what begins with it."""

from __future__ import annotations

import secrets
from typing import Any, Final

from . import catalogue, errors, validate
from .actions import Action
from .addresses import create_address
from .catalogue import find_location
from .clock import stamp
from .exchange import Answer, Request
from .firewalls import apply_to_server
from .images import find_image
from .machines import Spec
from .model import Firewall, PrimaryIp, Server, SshKey, Volume
from .servers import power_on, show, went_off
from .volumes import attach
from .world import World

Json = dict[str, Any]
FIREWALLS_MAX: Final = 5
VOLUMES_MAX: Final = 16


def create_server(request: Request) -> Answer:
    """In this order: the body, the name, what it refers to, quota, capacity. Then it exists."""
    world, project = request.world, request.project
    given = validate.fields(
        request.body,
        {
            "name": validate.server_name,
            "server_type": validate.id_or_name,
            "image": validate.id_or_name,
        },
        {
            "location": validate.id_or_name,
            "ssh_keys": validate.list_of(validate.id_or_name),
            "volumes": validate.list_of(validate.integer),
            "firewalls": validate.list_of(_firewall),
            "networks": validate.list_of(validate.integer),
            "user_data": validate.user_data,
            "labels": validate.labels,
            "automount": validate.boolean,
            "start_after_create": validate.boolean,
            "placement_group": validate.integer,
            "public_net": _public_net,
        },
    )
    for absent in ("networks", "placement_group"):
        if given.get(absent):
            raise errors.ApiError(500, "server_error", f"the local cloud has no {absent}")
    world.unique(Server, project, given["name"])
    kind = find_type(world, given["server_type"])
    image = find_image(world, project, given["image"], kind.architecture)
    keys = [_find_key(world, project, key) for key in given.get("ssh_keys", [])]
    volumes = [_find_volume(world, project, ident) for ident in given.get("volumes", [])]
    if len(volumes) > VOLUMES_MAX:
        raise errors.invalid_input("volumes", f"at most {VOLUMES_MAX}")
    firewalls = [world.get(Firewall, project, ident) for ident in given.get("firewalls", [])]
    if len(firewalls) > FIREWALLS_MAX:
        raise errors.invalid_input("firewalls", f"at most {FIREWALLS_MAX}")
    location = _location(world, given, kind, volumes)
    addresses = _addresses(world, project, given.get("public_net", {}), location)
    if image.disk_size > kind.disk:
        raise errors.invalid_input("image", "disk is bigger than the server type's")
    fresh = sum(entry == "new" for entry in addresses.values())
    dedicated = kind.cores if kind.cpu_type == "dedicated" else 0
    world.check_quota(
        project,
        {
            "servers": 1,
            "cores": kind.cores,
            "dedicated_cores": dedicated,
            "primary_ips": fresh,
        },
    )
    _take_capacity(world, kind, location)

    now = world.clock.now()
    server = Server(
        id=world.next_id(),
        project=project,
        name=given["name"],
        labels=given.get("labels", {}),
        created=now,
        type=kind,
        location=location,
        image=image,
        disk_size=kind.disk,
        status="initializing",
        user_data=given.get("user_data"),
        ssh_keys=[key.public_key for key in keys],
        volumes=[],
    )
    world.add(server)
    world.bill_from_birth(server, kind.name, location.name)
    ipv4 = None
    for family, entry in addresses.items():
        fresh_one = entry == "new"
        address = (
            create_address(world, project, family, location, assignee=server.id)
            if fresh_one
            else entry
        )
        address.assignee = server.id
        ipv4 = address.ip if family == "ipv4" else ipv4
    password = None if keys else secrets.token_urlsafe(12)
    quirks = frozenset(world.quirks.pop(0)) if world.quirks else frozenset()
    spec = Spec(
        server.id,
        server.name,
        location.name,
        ipv4,
        server.user_data,
        tuple(server.ssh_keys),
        image.layer,
        quirks,
        password,
    )
    server.machine = world.backend.machine(spec, lambda: went_off(world, server))
    start = given.get("start_after_create", True)
    return _born(world, server, volumes, firewalls, start=start, password=password)


def _born(
    world: World,
    server: Server,
    volumes: list[Volume],
    firewalls: list[Firewall],
    *,
    start: bool,
    password: str | None,
) -> Answer:
    def created() -> None:
        server.status = "starting" if start else "off"

    def failed() -> None:
        server.status = "off"

    action = world.act(
        server, "create_server", world.timings.create_server, finish=created, undo=failed
    )
    following: list[Action] = []
    last = action
    for volume in volumes:
        last = attach(world, volume, server, after=last)
        following.append(last)
    if start:
        last = power_on(world, server, after=last)
        following.append(last)
    following += [apply_to_server(world, firewall, server, after=action) for firewall in firewalls]
    now = world.clock.now()
    body = {
        "server": show(world, server),
        "action": action.json(now),
        "next_actions": [entry.json(now) for entry in following],
        "root_password": password,
    }
    return Answer(201, body)


# what a create refers to


def find_type(world: World, wanted: str) -> catalogue.ServerType:
    for kind in catalogue.SERVER_TYPES:
        if wanted in {kind.name, str(kind.id)}:
            end = kind.unavailable_after
            if end is not None and stamp(world.clock.now()) >= end:
                raise errors.unprocessable("invalid_server_type", "server type is deprecated")
            return kind
    raise errors.invalid_input("server_type", "server type not found")


def _location(
    world: World, given: Json, kind: catalogue.ServerType, volumes: list[Volume]
) -> catalogue.Location:
    """The one asked for, else the volumes', else the first with the type."""
    wanted = given.get("location")
    if wanted is None:
        names = [volume.location.name for volume in volumes] or list(kind.locations)
        wanted = names[0]
    location = find_location(wanted)
    if location.name not in kind.locations:
        raise errors.invalid_input("location", "unsupported location for server type")
    for volume in volumes:
        if volume.location != location:
            raise errors.invalid_input("volumes", "volume must be in the server's location")
    return location


def _take_capacity(world: World, kind: catalogue.ServerType, location: catalogue.Location) -> None:
    place = (kind.name, location.name)
    left = world.capacity.get(place)
    if left is None:
        return
    if left <= 0:
        raise errors.resource_unavailable()
    world.capacity[place] = left - 1


def _find_key(world: World, project: str, wanted: str) -> SshKey:
    for key in world.of(SshKey, project):
        if wanted in {key.name, str(key.id)}:
            return key
    raise errors.invalid_input("ssh_keys", f"SSH key {wanted!r} not found")


def _find_volume(world: World, project: str, ident: int) -> Volume:
    volume = world.get(Volume, project, ident)
    world.check_unlocked(("volume", ident))
    if volume.server is not None:
        raise errors.unprocessable("volume_already_attached", "volume is already attached")
    return volume


def _firewall(name: str, value: Any) -> int:
    if not isinstance(value, dict):
        raise errors.invalid_input(name, "must be an object")
    return int(validate.fields(value, {"firewall": validate.integer}, {})["firewall"])


def _public_net(name: str, value: Any) -> Json:
    if not isinstance(value, dict):
        raise errors.invalid_input(name, "must be an object")
    flags = {"enable_ipv4": validate.boolean, "enable_ipv6": validate.boolean}
    ids = {"ipv4": validate.integer, "ipv6": validate.integer}
    return validate.fields(value, {}, {**flags, **ids})


def _addresses(
    world: World, project: str, net: Json, location: catalogue.Location
) -> dict[str, Any]:
    """For each family that is wanted the address to use, or "new"."""
    found: dict[str, Any] = {}
    for family in ("ipv4", "ipv6"):
        if not net.get(f"enable_{family}", True):
            if family in net:
                raise errors.invalid_input("public_net", f"{family} given but not enabled")
            continue
        if family not in net:
            found[family] = "new"
            continue
        address = world.get(PrimaryIp, project, net[family])
        if address.type != family:
            raise errors.ApiError(412, "primary_ip_version_mismatch", "wrong IP version")
        if address.assignee is not None:
            raise errors.unprocessable("primary_ip_assigned", "already assigned to a server")
        if address.location != location:
            code = "primary_ip_datacenter_mismatch"
            raise errors.unprocessable(code, "is in a different location")
        found[family] = address
    return found
