"""/servers: create, list, change, delete, and their actions."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Final

from . import catalogue, errors, validate
from .actions import Action
from .addresses import create_address
from .clock import stamp
from .exchange import Answer, Request, listed
from .firewalls import apply_to_server, firewalls_of
from .images import find_image, freeze
from .machines import Spec
from .model import Firewall, Image, PrimaryIp, Server, SshKey, Volume
from .world import World

Json = dict[str, Any]
VOLUMES_MAX: Final = 16
FIREWALLS_MAX: Final = 5
STATUSES: Final = (
    "running",
    "initializing",
    "starting",
    "stopping",
    "off",
    "deleting",
    "migrating",
    "rebuilding",
    "unknown",
)


def show(world: World, server: Server) -> Json:
    addresses = [ip for ip in world.of(PrimaryIp, server.project) if ip.assignee == server.id]
    net: Json = {"ipv4": None, "ipv6": None, "floating_ips": []}
    net.update({ip.type: ip.net_json() for ip in addresses})
    net["firewalls"] = firewalls_of(world, server)
    return {
        "id": server.id,
        "name": server.name,
        "status": server.status,
        "created": stamp(server.created),
        "public_net": net,
        "private_net": [],
        "server_type": type_json(world, server.type),
        "location": server.location.json(),
        "image": None if server.image is None else server.image.json(),
        "iso": None,
        "rescue_enabled": False,
        "locked": world.is_locked("server", server.id),
        "backup_window": None,
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 20 * 10**12,
        "protection": {"delete": server.protected, "rebuild": server.protected},
        "labels": server.labels,
        "volumes": list(server.volumes),
        "load_balancers": [],
        "primary_disk_size": server.disk_size,
        "placement_group": None,
    }


def type_json(world: World, kind: catalogue.ServerType) -> Json:
    places = {place.name: place for place in catalogue.LOCATIONS}
    return {
        "id": kind.id,
        "name": kind.name,
        "description": kind.name.upper(),
        "category": kind.category,
        "cores": kind.cores,
        "memory": float(kind.memory),
        "disk": kind.disk,
        "deprecated": kind.deprecation is not None,
        "deprecation": kind.deprecation,
        "prices": catalogue.type_prices(kind),
        "storage_type": "local",
        "cpu_type": kind.cpu_type,
        "architecture": kind.architecture,
        "locations": [
            {
                "id": places[name].id,
                "name": name,
                "deprecation": kind.deprecation,
                "available": (kind.name, name) not in world.unavailable,
                "recommended": kind.deprecation is None and name in {"fsn1", "nbg1", "hel1"},
            }
            for name in kind.locations
        ],
    }


def list_servers(request: Request) -> Answer:
    def keep(query: validate.Query, server: Server) -> bool:
        wanted = query.many("status", STATUSES)
        return not wanted or server.status in wanted

    request.query("name", "label_selector", "page", "per_page", "sort", "status").many(
        "status", STATUSES
    )
    return listed(
        request,
        Server,
        lambda server: show(request.world, server),
        sortable=("id", "name", "created"),
        keep=keep,
        extra=("status",),
    )


def get_server(request: Request) -> Answer:
    server = request.world.get(Server, request.project, request.ids[0])
    return Answer(200, {"server": show(request.world, server)})


def update_server(request: Request) -> Answer:
    world = request.world
    server = world.get(Server, request.project, request.ids[0])
    optional = {"name": validate.server_name, "labels": validate.labels}
    given = validate.fields(request.body, {}, optional)
    if "name" in given:
        world.unique(Server, request.project, given["name"], besides=server.id)
        server.name = given["name"]
    if "labels" in given:
        server.label(given["labels"], world.clock.now())
    return Answer(200, {"server": show(world, server)})


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
    from .volumes import attach

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


def went_off(world: World, server: Server) -> None:
    """The guest switched itself off. Called from any thread."""
    with world.lock:
        if server.status in {"running", "starting", "stopping"}:
            server.status = "off"


def delete_server(request: Request) -> Answer:
    """Gone from the account at once; its volumes and addresses are free when the action ends."""
    world = request.world
    server = world.get(Server, request.project, request.ids[0])
    validate.fields(request.body, {}, {})
    if server.protected:
        raise errors.protected("server")
    world.check_unlocked(("server", server.id))
    server.deleting = True
    server.status = "deleting"
    world.bill_until_now(server.id)
    for address in world.of(PrimaryIp, server.project):
        if address.assignee == server.id and address.auto_delete:
            world.bill_until_now(address.id)
    sticky = bool(server.volumes) and world.sticky_volumes > 0
    world.sticky_volumes -= sticky

    def deleted() -> None:
        world.remove(server)
        for volume in world.of(Volume, server.project):
            if volume.server == server.id:
                if sticky:
                    world.stuck.add(volume.id)
                else:
                    volume.server = None
        for address in world.of(PrimaryIp, server.project):
            if address.assignee == server.id:
                address.assignee = None
                if address.auto_delete:
                    world.remove(address)
        for firewall in world.of(Firewall, server.project):
            firewall.servers.pop(server.id, None)

    plugged = list(server.volumes)

    def work() -> None:
        server.machine.power_off()
        for volume in plugged:
            server.machine.unplug(volume)
        server.machine.destroy()

    if world.timings.deleting_visible > 0:
        world.engine.later(world.timings.deleting_visible, lambda: world.remove(server))
    else:
        world.remove(server)
    volumes = [("volume", ident) for ident in server.volumes]
    action = world.act(
        server,
        "delete_server",
        world.timings.delete_server,
        others=volumes,
        finish=deleted,
        work=work,
    )
    return _action(world, action)


# actions


def _action(world: World, action: Action) -> Answer:
    return Answer(201, {"action": action.json(world.clock.now())})


def _free(request: Request) -> Server:
    """The server of the path, if nothing runs on it."""
    server = request.world.get(Server, request.project, request.ids[0])
    request.world.check_unlocked(("server", server.id))
    return server


def power_on(world: World, server: Server, after: Action | None = None) -> Action:
    if after is None:
        server.status = "starting"

    def on() -> None:
        server.status = "running"

    def off() -> None:
        server.status = "off"

    return world.act(
        server,
        "start_server",
        world.timings.start_server,
        finish=on,
        undo=off,
        work=server.machine.power_on,
        after=after,
    )


def poweron(request: Request) -> Answer:
    server = _free(request)
    validate.fields(request.body, {}, {})
    if server.status == "running":
        action = request.world.act(server, "start_server", 0.0)
    else:
        action = power_on(request.world, server)
    return _action(request.world, action)


def poweroff(request: Request) -> Answer:
    """Cuts the power."""
    server = _free(request)
    validate.fields(request.body, {}, {})
    if server.status == "running":
        server.status = "stopping"

    def off() -> None:
        server.status = "off"

    world = request.world
    action = world.act(
        server,
        "stop_server",
        world.timings.stop_server,
        finish=off,
        work=server.machine.power_off,
    )
    return _action(world, action)


def shutdown(request: Request) -> Answer:
    """Over when the signal was sent, which says nothing about the server being off."""
    return _signal(request, "shutdown_server", lambda server: server.machine.shutdown)


def reboot(request: Request) -> Answer:
    return _signal(request, "reboot_server", lambda server: server.machine.reset)


def reset(request: Request) -> Answer:
    return _signal(request, "reset_server", lambda server: server.machine.reset)


def _signal(
    request: Request, command: str, method: Callable[[Server], Callable[[], None]]
) -> Answer:
    server, world = _free(request), request.world
    validate.fields(request.body, {}, {})
    if server.status != "running":
        raise errors.unprocessable("service_error", "server is not running")
    seconds = getattr(world.timings, command, world.timings.reboot_server)
    return _action(world, world.act(server, command, seconds, work=method(server)))


def create_image(request: Request) -> Answer:
    """A snapshot. Names are not unique: a repeated request makes a second one."""
    server, world = _free(request), request.world
    given = validate.fields(
        request.body,
        {},
        {
            "description": validate.text(255),
            "type": validate.one_of("snapshot", "backup"),
            "labels": validate.labels,
        },
    )
    if given.get("type", "snapshot") == "backup":
        raise errors.unprocessable("service_error", "backups are not enabled for this server")
    world.check_quota(request.project, {"snapshots": 1})
    image, action = freeze(world, server, given.get("description"), given.get("labels", {}))
    body = {"image": image.json(), "action": action.json(world.clock.now())}
    return Answer(201, body)


def change_protection(request: Request) -> Answer:
    server, world = _free(request), request.world
    optional = {"delete": validate.boolean, "rebuild": validate.boolean}
    given = validate.fields(request.body, {}, optional)
    wanted = given.get("delete", server.protected)
    if given.get("rebuild", server.protected) != wanted:
        raise errors.invalid_input("rebuild", "must have the same value as delete")

    def change() -> None:
        server.protected = wanted

    seconds = world.timings.change_protection
    return _action(world, world.act(server, "change_protection", seconds, finish=change))


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


def find_location(wanted: str) -> catalogue.Location:
    for location in catalogue.LOCATIONS:
        if wanted in {location.name, str(location.id)}:
            return location
    raise errors.invalid_input("location", "location not found")


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


__all__ = ["Image", "show", "type_json"]
