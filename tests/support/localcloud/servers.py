"""/servers: create, list, change, delete, and their actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from . import catalogue, errors, validate
from .actions import Action
from .clock import stamp
from .exchange import Answer, Request, listed
from .firewalls import firewalls_of
from .images import freeze
from .model import Firewall, PrimaryIp, Server, Volume
from .world import World

Json = dict[str, Any]
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


def went_off(world: World, server: Server) -> None:
    """The guest switched itself off. Called from any thread."""
    with world.lock:
        server.switched_off = True
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

    def work() -> None:
        server.switched_off = False
        server.machine.power_on()

    def on() -> None:
        # It may have switched itself off before anybody looked.
        server.status = "off" if server.switched_off else "running"

    def off() -> None:
        server.status = "off"

    return world.act(
        server,
        "start_server",
        world.timings.start_server,
        finish=on,
        undo=off,
        work=work,
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
