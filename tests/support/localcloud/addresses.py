"""/primary_ips: addresses as resources of their own."""

from __future__ import annotations

from typing import Any

from . import catalogue, errors, validate
from .exchange import Answer, Request, listed
from .model import PrimaryIp, Server
from .world import World

Json = dict[str, Any]


def create_address(
    world: World,
    project: str,
    family: str,
    location: catalogue.Location,
    *,
    assignee: int | None,
    name: str = "",
    auto_delete: bool = True,
    labels: dict[str, str] | None = None,
) -> PrimaryIp:
    """Without a name it is an implicit one, which goes with its server."""
    ident = world.next_id()
    ip = world.free_address() if family == "ipv4" else f"2001:db8:{ident & 0xFFFF:x}::/64"
    address = PrimaryIp(
        id=ident,
        project=project,
        name=name or f"primary_ip-{ident}",
        labels=labels or {},
        created=world.clock.now(),
        type=family,
        ip=ip,
        location=location,
        assignee=assignee,
        auto_delete=auto_delete,
    )
    world.add(address)
    world.bill_from_birth(address, family, location.name)
    return address


def list_addresses(request: Request) -> Answer:
    def keep(query: validate.Query, address: PrimaryIp) -> bool:
        return query.one("ip") in {None, address.ip}

    return listed(
        request,
        PrimaryIp,
        PrimaryIp.json,
        sortable=("id", "created"),
        keep=keep,
        extra=("ip",),
    )


def get_address(request: Request) -> Answer:
    address = request.world.get(PrimaryIp, request.project, request.ids[0])
    return Answer(200, {"primary_ip": address.json()})


def create_primary_ip(request: Request) -> Answer:
    world, project = request.world, request.project
    given = validate.fields(
        request.body,
        {"name": validate.text(128), "type": validate.one_of("ipv4", "ipv6")},
        {
            "location": validate.id_or_name,
            "assignee_id": validate.integer,
            "assignee_type": validate.one_of("server", "unassigned"),
            "auto_delete": validate.boolean,
            "labels": validate.labels,
        },
    )
    world.unique(PrimaryIp, project, given["name"])
    server = None
    if "assignee_id" in given:
        if "location" in given:
            raise errors.invalid_input("location", "must not be given with assignee_id")
        server = world.get(Server, project, given["assignee_id"])
        _check_assignable(world, server, given["type"])
    elif "location" not in given:
        raise errors.invalid_input("location", "missing data for required field")
    location = catalogue.find_location(given["location"]) if server is None else server.location
    world.check_quota(project, {"primary_ips": 1})
    address = create_address(
        world,
        project,
        given["type"],
        location,
        assignee=None,
        name=given["name"],
        auto_delete=given.get("auto_delete", False),
        labels=given.get("labels", {}),
    )
    action = None if server is None else _assign(world, address, server)
    return Answer(201, {"primary_ip": address.json(), "action": action})


def update_primary_ip(request: Request) -> Answer:
    world = request.world
    address = world.get(PrimaryIp, request.project, request.ids[0])
    optional = {
        "name": validate.text(128),
        "labels": validate.labels,
        "auto_delete": validate.boolean,
    }
    given = validate.fields(request.body, {}, optional)
    if "name" in given:
        world.unique(PrimaryIp, request.project, given["name"], besides=address.id)
        address.name = given["name"]
    if "labels" in given:
        address.label(given["labels"], world.clock.now())
    address.auto_delete = given.get("auto_delete", address.auto_delete)
    return Answer(200, {"primary_ip": address.json()})


def delete_primary_ip(request: Request) -> Answer:
    """Since May 2026 it must be unassigned; also while the deletion of its server still runs."""
    world = request.world
    address = world.get(PrimaryIp, request.project, request.ids[0])
    if address.protected:
        raise errors.protected("primary_ip")
    if address.assignee is not None:
        raise errors.unprocessable("must_be_unassigned", "Primary IP must be unassigned")
    world.check_unlocked(("primary_ip", address.id))
    world.remove(address)
    world.bill_until_now(address.id)
    return Answer(204)


def change_protection(request: Request) -> Answer:
    world = request.world
    address = world.get(PrimaryIp, request.project, request.ids[0])
    given = validate.fields(request.body, {"delete": validate.boolean}, {})
    world.check_unlocked(("primary_ip", address.id))

    def change() -> None:
        address.protected = given["delete"]

    action = world.act(address, "change_protection", world.timings.change_protection, finish=change)
    return Answer(201, {"action": action.json(world.clock.now())})


def assign(request: Request) -> Answer:
    world = request.world
    address = world.get(PrimaryIp, request.project, request.ids[0])
    required = {"assignee_id": validate.integer, "assignee_type": validate.one_of("server")}
    given = validate.fields(request.body, required, {})
    if address.assignee is not None:
        raise errors.unprocessable("primary_ip_already_assigned", "already assigned")
    server = world.get(Server, request.project, given["assignee_id"])
    if server.location != address.location:
        raise errors.invalid_input("assignee_id", "is in a different location")
    _check_assignable(world, server, address.type)
    return Answer(201, {"action": _assign(world, address, server)})


def unassign(request: Request) -> Answer:
    world = request.world
    address = world.get(PrimaryIp, request.project, request.ids[0])
    validate.fields(request.body, {}, {})
    if address.assignee is None:
        raise errors.unprocessable("service_error", "Primary IP is not assigned")
    server = world.get(Server, request.project, address.assignee)
    if server.status != "off":
        raise errors.unprocessable("server_not_stopped", "the server must be off")
    world.check_unlocked(("server", server.id), ("primary_ip", address.id))

    def free() -> None:
        address.assignee = None

    action = world.act(
        address,
        "unassign_primary_ip",
        world.timings.assign_primary_ip,
        others=[("server", server.id)],
        finish=free,
    )
    return Answer(201, {"action": action.json(world.clock.now())})


def _check_assignable(world: World, server: Server, family: str) -> None:
    world.check_unlocked(("server", server.id))
    if server.status != "off":
        raise errors.unprocessable("server_not_stopped", "the server must be off")
    for other in world.of(PrimaryIp, server.project):
        if other.assignee == server.id and other.type == family:
            raise errors.unprocessable(f"server_has_{family}", f"server already has an {family}")


def _assign(world: World, address: PrimaryIp, server: Server) -> Json:
    def assigned() -> None:
        address.assignee = server.id

    action = world.act(
        address,
        "assign_primary_ip",
        world.timings.assign_primary_ip,
        others=[("server", server.id)],
        finish=assigned,
    )
    return action.json(world.clock.now())
