"""/images: system images and snapshots."""

from __future__ import annotations

from typing import Any, Final

from . import errors, validate
from .actions import Action
from .exchange import Answer, Request, listed
from .model import Image, Server
from .world import World

Json = dict[str, Any]
TYPES: Final = ("system", "app", "snapshot", "backup", "temporary")
STATUSES: Final = ("available", "creating", "unavailable")
ARCHITECTURES: Final = ("x86", "arm")
_FILTERS: Final = ("type", "status", "architecture", "bound_to", "include_deprecated")


def find_image(world: World, project: str, wanted: str, architecture: str) -> Image:
    """By id, or a system image by its name and the server type's architecture."""
    found = None
    for image in world.of(Image, project):
        named = image.type == "system" and image.name == wanted
        if wanted == str(image.id) or (named and image.architecture == architecture):
            found = image
    if found is None:
        raise errors.invalid_input("image", "image not found")
    if found.architecture != architecture:
        raise errors.invalid_input("image", "has another architecture than the server type")
    if found.status != "available":
        raise errors.invalid_input("image", f"image is {found.status}")
    return found


def list_images(request: Request) -> Answer:
    known = ("name", "label_selector", "page", "per_page", "sort", *_FILTERS)
    query = request.query(*known)
    kinds = query.many("type", TYPES)
    statuses = query.many("status", STATUSES)
    architectures = query.many("architecture", ARCHITECTURES)
    bound = query.ids("bound_to")
    query.many("include_deprecated", ("true", "false", "True", "False"))

    def keep(_: validate.Query, image: Image) -> bool:
        return (
            (not kinds or image.type in kinds)
            and (not statuses or image.status in statuses)
            and (not architectures or image.architecture in architectures)
            and not bound
        )

    return listed(
        request,
        Image,
        Image.json,
        sortable=("id", "name", "created"),
        keep=keep,
        extra=_FILTERS,
    )


def get_image(request: Request) -> Answer:
    image = request.world.get(Image, request.project, request.ids[0])
    return Answer(200, {"image": image.json()})


def freeze(
    world: World, server: Server, description: str | None, labels: dict[str, str]
) -> tuple[Image, Action]:
    """A snapshot of its disk, without volumes. `creating` and without a size until it is done."""
    origin = server.image
    image = Image(
        id=world.next_id(),
        project=server.project,
        name="",
        labels=labels,
        created=world.clock.now(),
        type="snapshot",
        status="creating",
        description=description or f"snapshot of {server.name}",
        image_size=None,
        disk_size=server.disk_size,
        os_flavor=origin.os_flavor if origin else "unknown",
        os_version=origin.os_version if origin else None,
        architecture=server.type.architecture,
        created_from=(server.id, server.name),
    )
    world.add(image)
    frozen: list[tuple[object, float]] = []

    def work() -> None:
        frozen.append(server.machine.freeze())

    def done() -> None:
        image.layer, size = frozen[0]
        image.image_size = round(size or world.backend.compressed_gb, 2)
        image.status = "available"
        world.bill_from_birth(image, "snapshot", "", image.image_size)

    def failed() -> None:
        world.remove(image)

    action = world.act(
        server,
        "create_image",
        world.timings.create_image,
        others=[("image", image.id)],
        finish=done,
        undo=failed,
        work=work,
    )
    return image, action


def _own(request: Request) -> Image:
    image = request.world.get(Image, request.project, request.ids[0])
    if not image.project:
        raise errors.forbidden("system images cannot be changed")
    return image


def update_image(request: Request) -> Answer:
    image = _own(request)
    optional = {
        "description": validate.text(255),
        "type": validate.one_of("snapshot"),
        "labels": validate.labels,
    }
    given = validate.fields(request.body, {}, optional)
    image.description = given.get("description", image.description)
    if "labels" in given:
        image.label(given["labels"], request.world.clock.now())
    return Answer(200, {"image": image.json()})


def delete_image(request: Request) -> Answer:
    image, world = _own(request), request.world
    if image.protected:
        raise errors.protected("image")
    world.check_unlocked(("image", image.id))
    world.remove(image)
    world.bill_until_now(image.id)
    world.backend.remove_layer(image.layer)
    return Answer(204)


def change_protection(request: Request) -> Answer:
    image, world = _own(request), request.world
    given = validate.fields(request.body, {}, {"delete": validate.boolean})
    world.check_unlocked(("image", image.id))

    def change() -> None:
        image.protected = given.get("delete", image.protected)

    action = world.act(image, "change_protection", world.timings.change_protection, finish=change)
    return Answer(201, {"action": action.json(world.clock.now())})
