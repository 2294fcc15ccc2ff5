"""The small ones: SSH keys, actions, and what is only read (types, locations, prices)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Any, Final

from . import catalogue, errors, validate
from .actions import SORTABLE, Action
from .exchange import Answer, Handler, Request, listed, paged
from .model import Resource, SshKey
from .servers import type_json

Json = dict[str, Any]
DATACENTERS: Final = "https://docs.hetzner.cloud/changelog#2026-06-02-datacenters-deprecated"
_KEY_TYPES: Final = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
)

# SSH keys


def fingerprint(name: str, value: Any) -> str:
    """MD5 of the key, in pairs: ApiError if it is no OpenSSH public key."""
    parts = validate.string(name, value).split(maxsplit=2)
    try:
        blob = base64.b64decode(parts[1], validate=True)
        length = int.from_bytes(blob[:4], "big")
        if parts[0] not in _KEY_TYPES or blob[4 : 4 + length] != parts[0].encode():
            raise ValueError
    except (IndexError, ValueError, binascii.Error):
        raise errors.invalid_input(name, "is not a valid SSH public key") from None
    return hashlib.md5(blob, usedforsecurity=False).digest().hex(":")


def list_keys(request: Request) -> Answer:
    def keep(query: validate.Query, key: SshKey) -> bool:
        return query.one("fingerprint") in {None, key.fingerprint}

    return listed(
        request,
        SshKey,
        SshKey.json,
        sortable=("id", "name"),
        keep=keep,
        extra=("fingerprint",),
    )


def get_key(request: Request) -> Answer:
    key = request.world.get(SshKey, request.project, request.ids[0])
    return Answer(200, {"ssh_key": key.json()})


def create_key(request: Request) -> Answer:
    world, project = request.world, request.project
    given = validate.fields(
        request.body,
        {"name": validate.text(128), "public_key": validate.string},
        {"labels": validate.labels},
    )
    print_ = fingerprint("public_key", given["public_key"])
    for other in world.of(SshKey, project):
        if other.fingerprint == print_:
            message = "SSH key with the same fingerprint already exists"
            raise errors.uniqueness("public_key", message)
    world.unique(SshKey, project, given["name"])
    world.check_quota(project, {"ssh_keys": 1})
    key = SshKey(
        id=world.next_id(),
        project=project,
        name=given["name"],
        labels=given.get("labels", {}),
        created=world.clock.now(),
        public_key=given["public_key"].strip(),
        fingerprint=print_,
    )
    world.add(key)
    return Answer(201, {"ssh_key": key.json()})


def update_key(request: Request) -> Answer:
    world = request.world
    key = world.get(SshKey, request.project, request.ids[0])
    optional = {"name": validate.text(128), "labels": validate.labels}
    given = validate.fields(request.body, {}, optional)
    if "name" in given:
        world.unique(SshKey, request.project, given["name"], besides=key.id)
        key.name = given["name"]
    if "labels" in given:
        key.label(given["labels"], world.clock.now())
    return Answer(200, {"ssh_key": key.json()})


def delete_key(request: Request) -> Answer:
    key = request.world.get(SshKey, request.project, request.ids[0])
    request.world.remove(key)
    return Answer(204)


# actions


def get_actions(request: Request) -> Answer:
    """The removed list of everything: only with ids (since January 2025)."""
    wanted = request.query("id", "page", "per_page").ids("id")
    if not wanted:
        raise errors.invalid_input("id", "missing data for required field")
    found = [action for action in _actions(request) if action.id in wanted]
    now = request.world.clock.now()
    return Answer(200, {"actions": [action.json(now) for action in found]})


def get_action(request: Request) -> Answer:
    for action in _actions(request):
        if action.id == request.ids[-1]:
            return _shown(request, action)
    raise errors.not_found("action", request.ids[-1])


def _shown(request: Request, action: Action) -> Answer:
    return Answer(200, {"action": action.json(request.world.clock.now())})


def _actions(request: Request) -> list[Action]:
    everyone = request.world.engine.all.values()
    return [action for action in everyone if action.project == request.project]


def actions_of_kind(kind: type[Resource]) -> Handler:
    """GET /{kind}/actions."""
    return lambda request: _listed(request, lambda action: _about(action, kind.kind), ("id",))


def action_of_kind(kind: type[Resource]) -> Handler:
    """GET /{kind}/actions/{id}."""

    def handle(request: Request) -> Answer:
        for action in _actions(request):
            if action.id == request.ids[0] and _about(action, kind.kind):
                return _shown(request, action)
        raise errors.not_found("action", request.ids[0])

    return handle


def actions_of_one(kind: type[Resource]) -> Handler:
    """GET /{kind}/{id}/actions."""

    def handle(request: Request) -> Answer:
        ident = request.world.get(kind, request.project, request.ids[0]).id
        return _listed(request, lambda action: (kind.kind, ident) in action.resources, ())

    return handle


def action_of_one(kind: type[Resource]) -> Handler:
    """GET /{kind}/{id}/actions/{id}."""

    def handle(request: Request) -> Answer:
        ident = request.world.get(kind, request.project, request.ids[0]).id
        for action in _actions(request):
            if action.id == request.ids[1] and (kind.kind, ident) in action.resources:
                return _shown(request, action)
        raise errors.not_found("action", request.ids[1])

    return handle


def _about(action: Action, kind: str) -> bool:
    return any(name == kind for name, _ in action.resources)


def _listed(request: Request, keep: Callable[[Action], bool], more: tuple[str, ...]) -> Answer:
    query = request.query("status", "sort", "page", "per_page", *more)
    statuses = query.many("status", ("running", "success", "error"))
    ids = query.ids("id")
    found = [
        action
        for action in _actions(request)
        if keep(action)
        and (not statuses or action.status in statuses)
        and (not ids or action.id in ids)
    ]
    for field, descending in reversed(query.sort(SORTABLE)):
        found.sort(key=lambda one: getattr(one, field) or 0, reverse=descending)
    now = request.world.clock.now()
    return paged(request, "actions", query.page(), [action.json(now) for action in found])


# only read


def pricing(request: Request) -> Answer:
    request.query()
    return Answer(200, {"pricing": catalogue.pricing()})


def list_locations(request: Request) -> Answer:
    return _catalogue(request, "locations", [place.json() for place in catalogue.LOCATIONS])


def get_location(request: Request) -> Answer:
    found = [place.json() for place in catalogue.LOCATIONS if place.id == request.ids[0]]
    if not found:
        raise errors.not_found("location", request.ids[0])
    return Answer(200, {"location": found[0]})


def list_types(request: Request) -> Answer:
    shown = [type_json(request.world, kind) for kind in catalogue.SERVER_TYPES]
    return _catalogue(request, "server_types", shown)


def get_type(request: Request) -> Answer:
    for kind in catalogue.SERVER_TYPES:
        if kind.id == request.ids[0]:
            return Answer(200, {"server_type": type_json(request.world, kind)})
    raise errors.not_found("server_type", request.ids[0])


def _catalogue(request: Request, key: str, entries: list[Json]) -> Answer:
    query = request.query("name", "page", "per_page", "sort")
    name = query.one("name")
    found = sorted(
        (entry for entry in entries if name in {None, entry["name"]}), key=lambda one: one["id"]
    )
    for field, descending in reversed(query.sort(("id", "name"))):
        found.sort(key=lambda one: one[field], reverse=descending)
    return paged(request, key, query.page(), found)


def datacenters(request: Request) -> Answer:
    raise errors.gone(DATACENTERS)
