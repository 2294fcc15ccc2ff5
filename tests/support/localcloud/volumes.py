"""/volumes: create, list, change, delete, attach, detach, resize, protect."""

from __future__ import annotations

from typing import Any, Final

from . import catalogue, errors, validate
from .actions import Action
from .exchange import Answer, Request, listed
from .model import Server, Volume
from .world import World

Json = dict[str, Any]
PER_SERVER: Final = 16


def list_volumes(request: Request) -> Answer:
    enum = ("available", "creating")
    known = ("name", "label_selector", "page", "per_page", "sort", "status")
    request.query(*known).many("status", enum)

    def keep(query: validate.Query, volume: Volume) -> bool:
        wanted = query.many("status", enum)
        return not wanted or volume.status in wanted

    return listed(
        request,
        Volume,
        Volume.json,
        sortable=("id", "name", "created"),
        keep=keep,
        extra=("status",),
    )


def get_volume(request: Request) -> Answer:
    volume = request.world.get(Volume, request.project, request.ids[0])
    return Answer(200, {"volume": volume.json()})


def create_volume(request: Request) -> Answer:
    world, project = request.world, request.project
    given = validate.fields(
        request.body,
        {"name": validate.volume_name, "size": validate.volume_size},
        {
            "location": validate.id_or_name,
            "server": validate.integer,
            "automount": validate.boolean,
            "format": validate.one_of("ext4", "xfs"),
            "labels": validate.labels,
        },
    )
    if ("location" in given) == ("server" in given):
        raise errors.invalid_input("location", "give either location or server")
    if given.get("automount") and "server" not in given:
        raise errors.invalid_input("automount", "needs a server")
    world.unique(Volume, project, given["name"])
    server = world.get(Server, project, given["server"]) if "server" in given else None
    if server is not None:
        world.check_unlocked(("server", server.id))
        _check_room(server)
    location = catalogue.find_location(given["location"]) if server is None else server.location
    if location.name in world.no_volume_space:
        raise errors.unprocessable("no_space_left_in_location", "no volume space left")
    world.check_quota(project, {"volumes": 1, "volume_gb": given["size"]})
    volume = Volume(
        id=world.next_id(),
        project=project,
        name=given["name"],
        labels=given.get("labels", {}),
        created=world.clock.now(),
        size=given["size"],
        location=location,
        status="creating",
        format=given.get("format"),
        server=None,
    )
    world.add(volume)
    world.bill_from_birth(volume, f"{volume.size} GB", location.name, volume.size)

    def work() -> None:
        volume.disk = world.backend.new_disk(volume.id, volume.size, volume.format)

    def created() -> None:
        volume.status = "available"

    def failed() -> None:
        world.remove(volume)
        world.bill_until_now(volume.id)

    action = world.act(
        volume,
        "create_volume",
        world.timings.create_volume,
        finish=created,
        undo=failed,
        work=work,
    )
    following = [] if server is None else [attach(world, volume, server, after=action)]
    now = world.clock.now()
    body = {
        "volume": volume.json(),
        "action": action.json(now),
        "next_actions": [entry.json(now) for entry in following],
    }
    return Answer(201, body)


def update_volume(request: Request) -> Answer:
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    optional = {"name": validate.volume_name, "labels": validate.labels}
    given = validate.fields(request.body, {}, optional)
    if "name" in given:
        world.unique(Volume, request.project, given["name"], besides=volume.id)
        volume.name = given["name"]
    if "labels" in given:
        volume.label(given["labels"], world.clock.now())
    return Answer(200, {"volume": volume.json()})


def delete_volume(request: Request) -> Answer:
    """The code for an attached one is not in the document; its message is a reported one."""
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    if volume.protected:
        raise errors.protected("volume")
    if volume.server is not None:
        words = f"volume with ID '{volume.id}' is still attached to a server"
        raise errors.unprocessable("service_error", words)
    world.check_unlocked(("volume", volume.id))
    world.remove(volume)
    world.bill_until_now(volume.id)
    world.backend.remove_disk(volume.disk)
    return Answer(204)


def attach(world: World, volume: Volume, server: Server, after: Action | None = None) -> Action:
    """The volume counts as attached from the start of the action, and not if it fails."""
    volume.server = server.id
    server.volumes.append(volume.id)

    def failed() -> None:
        volume.server = None
        if volume.id in server.volumes:
            server.volumes.remove(volume.id)

    def work() -> None:
        server.machine.plug(volume.id, volume.disk)

    return world.act(
        volume,
        "attach_volume",
        world.timings.attach_volume,
        others=[("server", server.id)],
        undo=failed,
        work=work,
        after=after,
    )


def attach_volume(request: Request) -> Answer:
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    required, optional = {"server": validate.integer}, {"automount": validate.boolean}
    given = validate.fields(request.body, required, optional)
    server = world.get(Server, request.project, given["server"])
    if volume.server is not None:
        code = "volume_already_attached"
        raise errors.unprocessable(code, "volume is already attached to a server")
    if volume.location != server.location:
        raise errors.invalid_input("server", "server and volume must be in the same location")
    world.check_unlocked(("volume", volume.id), ("server", server.id))
    _check_room(server)
    return _action(world, attach(world, volume, server))


def _check_room(server: Server) -> None:
    if len(server.volumes) >= PER_SERVER:
        code = "limit_exceeded_error"
        raise errors.unprocessable(code, f"a server has at most {PER_SERVER} volumes")


def detach_volume(request: Request) -> Answer:
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    validate.fields(request.body, {}, {})
    if volume.server is None:
        raise errors.unprocessable("service_error", "volume is not attached to a server")
    server = world.resources["servers"].get(volume.server)
    others = [] if server is None else [("server", server.id)]
    world.check_unlocked(("volume", volume.id), *others)
    if volume.id in world.stuck:
        world.stuck.discard(volume.id)

    def detached() -> None:
        volume.server = None
        if server is not None and volume.id in server.volumes:
            server.volumes.remove(volume.id)

    def work() -> None:
        if server is not None:
            server.machine.unplug(volume.id)

    action = world.act(
        volume,
        "detach_volume",
        world.timings.detach_volume,
        others=others,
        finish=detached,
        work=work,
    )
    return _action(world, action)


def resize_volume(request: Request) -> Answer:
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    given = validate.fields(request.body, {"size": validate.volume_size}, {})
    if given["size"] <= volume.size:
        raise errors.invalid_input("size", "must be greater than the current size")
    world.check_unlocked(("volume", volume.id))
    world.check_quota(request.project, {"volume_gb": given["size"] - volume.size})

    def resized() -> None:
        volume.size = given["size"]
        world.bill_size(volume.id, volume.size)

    def work() -> None:
        world.backend.resize_disk(volume.disk, given["size"])

    action = world.act(
        volume, "resize_volume", world.timings.resize_volume, finish=resized, work=work
    )
    return _action(world, action)


def change_protection(request: Request) -> Answer:
    world = request.world
    volume = world.get(Volume, request.project, request.ids[0])
    given = validate.fields(request.body, {}, {"delete": validate.boolean})
    world.check_unlocked(("volume", volume.id))

    def change() -> None:
        volume.protected = given.get("delete", volume.protected)

    seconds = world.timings.change_protection
    return _action(world, world.act(volume, "change_protection", seconds, finish=change))


def _action(world: World, action: Action) -> Answer:
    return Answer(201, {"action": action.json(world.clock.now())})
