"""/firewalls: rules, and what they are applied to, by hand or by label selector."""

from __future__ import annotations

from typing import Any, Final

from . import errors, validate
from .actions import Action
from .clock import stamp
from .exchange import Answer, Request, listed
from .labels import parse_selector
from .model import Firewall, PrimaryIp, Server
from .world import World

Json = dict[str, Any]
RULES_MAX: Final = 50
PER_SERVER: Final = 5


def selected(world: World, firewall: Firewall, selector: str) -> list[Server]:
    test = parse_selector(selector)
    return [server for server in world.of(Server, firewall.project) if test(server.labels)]


def firewalls_of(world: World, server: Server) -> list[Json]:
    """As they stand in the server's `public_net`."""
    found = []
    for firewall in world.of(Firewall, server.project):
        status = firewall.servers.get(server.id)
        chosen = any(
            server in selected(world, firewall, selector) for selector in firewall.selectors
        )
        if status or chosen:
            found.append({"id": firewall.id, "status": status or "applied"})
    return found


def filter_machines(world: World) -> None:
    """Tell machines the rules that changed."""
    for server in world.resources["servers"].values():
        rules = effective_rules(world, server)
        if rules != server.filtered:
            server.filtered = rules
            server.machine.filter(rules)


def effective_rules(world: World, server: Server) -> list[Json] | None:
    """All rules that hold for it; None if no firewall does, and everything is let in."""
    shown = firewalls_of(world, server)
    ids = {entry["id"] for entry in shown if entry["status"] == "applied"}
    if not ids:
        return None
    found = (world.resources["firewalls"][ident].rules for ident in sorted(ids))
    return [rule for rules in found for rule in rules]


def show(world: World, firewall: Firewall) -> Json:
    applied: list[Json] = [
        {"type": "server", "server": {"id": ident}} for ident in sorted(firewall.servers)
    ]
    for selector in firewall.selectors:
        targets = selected(world, firewall, selector)
        applied.append(
            {
                "type": "label_selector",
                "label_selector": {"selector": selector},
                "applied_to_resources": [
                    {"type": "server", "server": {"id": server.id}} for server in targets
                ],
            }
        )
    return {
        "id": firewall.id,
        "name": firewall.name,
        "labels": firewall.labels,
        "created": stamp(firewall.created),
        "rules": firewall.rules,
        "applied_to": applied,
    }


def list_firewalls(request: Request) -> Answer:
    return listed(
        request,
        Firewall,
        lambda firewall: show(request.world, firewall),
        sortable=("id", "name", "created"),
    )


def get_firewall(request: Request) -> Answer:
    firewall = request.world.get(Firewall, request.project, request.ids[0])
    return Answer(200, {"firewall": show(request.world, firewall)})


def create_firewall(request: Request) -> Answer:
    world, project = request.world, request.project
    given = validate.fields(
        request.body,
        {"name": validate.text(128)},
        {
            "labels": validate.labels,
            "rules": validate.list_of(validate.rule, RULES_MAX),
            "apply_to": validate.list_of(_target),
        },
    )
    world.unique(Firewall, project, given["name"])
    world.check_quota(project, {"firewalls": 1})
    firewall = Firewall(
        id=world.next_id(),
        project=project,
        name=given["name"],
        labels=given.get("labels", {}),
        created=world.clock.now(),
        rules=given.get("rules", []),
        servers={},
        selectors=[],
    )
    targets = given.get("apply_to", [])
    for kind, value in targets:
        if kind == "server" and value not in world.resources["servers"]:
            raise errors.unprocessable("firewall_resource_not_found", "server not found")
    world.add(firewall)
    actions = []
    if firewall.rules:
        actions.append(_rules_action(world, firewall))
    actions += [_apply(world, firewall, kind, value) for kind, value in targets]
    now = world.clock.now()
    body = {
        "firewall": show(world, firewall),
        "actions": [action.json(now) for action in actions],
    }
    return Answer(201, body)


def update_firewall(request: Request) -> Answer:
    world = request.world
    firewall = world.get(Firewall, request.project, request.ids[0])
    optional = {"name": validate.text(128), "labels": validate.labels}
    given = validate.fields(request.body, {}, optional)
    _check_idle(world, firewall)
    if "name" in given:
        world.unique(Firewall, request.project, given["name"], besides=firewall.id)
        firewall.name = given["name"]
    if "labels" in given:
        firewall.label(given["labels"], world.clock.now())
    return Answer(200, {"firewall": show(world, firewall)})


def _check_idle(world: World, firewall: Firewall) -> None:
    """Not locked: a change while another runs is a `conflict` (documented for PUT)."""
    if world.is_locked("firewall", firewall.id):
        raise errors.ApiError(409, "conflict", "the resource has changed during the request")


def delete_firewall(request: Request) -> Answer:
    world = request.world
    firewall = world.get(Firewall, request.project, request.ids[0])
    if firewall.servers or firewall.selectors:
        raise errors.unprocessable("resource_in_use", "firewall is still in use")
    world.check_unlocked(("firewall", firewall.id))
    world.remove(firewall)
    return Answer(204)


def set_rules(request: Request) -> Answer:
    world = request.world
    firewall = world.get(Firewall, request.project, request.ids[0])
    rules = validate.list_of(validate.rule, RULES_MAX)
    given = validate.fields(request.body, {"rules": rules}, {})
    _check_idle(world, firewall)
    firewall.rules = given["rules"]
    actions = [_rules_action(world, firewall)]
    actions += [
        apply_to_server(world, firewall, world.get(Server, request.project, ident))
        for ident in firewall.servers
        if ident in world.resources["servers"]
    ]
    return _actions(world, actions)


def apply_to_resources(request: Request) -> Answer:
    world = request.world
    firewall = world.get(Firewall, request.project, request.ids[0])
    targets = {"apply_to": validate.list_of(_target)}
    given = validate.fields(request.body, targets, {})["apply_to"]
    for kind, value in given:
        if kind == "server":
            _check_server(world, firewall, value)
        elif value in firewall.selectors:
            raise errors.unprocessable("firewall_already_applied", "already applied")
    return _actions(world, [_apply(world, firewall, kind, value) for kind, value in given])


def _check_server(world: World, firewall: Firewall, ident: int) -> None:
    server = world.resources["servers"].get(ident)
    if server is None or server.project != firewall.project:
        raise errors.ApiError(404, "firewall_resource_not_found", "server not found")
    if ident in firewall.servers:
        raise errors.unprocessable("firewall_already_applied", "already applied")
    if len(firewalls_of(world, server)) >= PER_SERVER:
        raise errors.invalid_input("apply_to", f"a server has at most {PER_SERVER} firewalls")
    if not any(ip.assignee == ident for ip in world.of(PrimaryIp, firewall.project)):
        raise errors.unprocessable("private_net_only_server", "server has no public interface")


def remove_from_resources(request: Request) -> Answer:
    world = request.world
    firewall = world.get(Firewall, request.project, request.ids[0])
    targets = {"remove_from": validate.list_of(_target)}
    given = validate.fields(request.body, targets, {})["remove_from"]
    actions = []
    for kind, value in given:
        if kind == "label_selector":
            if value not in firewall.selectors:
                raise errors.unprocessable("firewall_already_removed", "already removed")
            firewall.selectors.remove(value)
            actions.append(world.act(firewall, "remove_firewall", world.timings.firewall))
            continue
        if value not in world.resources["servers"]:
            raise errors.ApiError(404, "firewall_resource_not_found", "server not found")
        if value not in firewall.servers:
            server = world.get(Server, request.project, value)
            by_label = any(entry["id"] == firewall.id for entry in firewalls_of(world, server))
            what = "managed_by_label_selector" if by_label else "already_removed"
            raise errors.unprocessable(f"firewall_{what}", "cannot be removed")
        actions.append(_remove(world, firewall, value))
    return _actions(world, actions)


def _remove(world: World, firewall: Firewall, ident: int) -> Action:
    def removed() -> None:
        firewall.servers.pop(ident, None)

    return world.act(
        firewall,
        "remove_firewall",
        world.timings.firewall,
        others=[("server", ident)],
        finish=removed,
    )


def apply_to_server(
    world: World, firewall: Firewall, server: Server, after: Action | None = None
) -> Action:
    """Runs as its own action and locks the server meanwhile."""
    firewall.servers[server.id] = "pending"

    def applied() -> None:
        if server.id in firewall.servers:
            firewall.servers[server.id] = "applied"

    return world.act(
        firewall,
        "apply_firewall",
        world.timings.firewall,
        others=[("server", server.id)],
        finish=applied,
        after=after,
    )


def _apply(world: World, firewall: Firewall, kind: str, value: Any) -> Action:
    if kind == "server":
        return apply_to_server(world, firewall, world.get(Server, firewall.project, value))
    firewall.selectors.append(value)
    return world.act(firewall, "apply_firewall", world.timings.firewall, locks=False)


def _rules_action(world: World, firewall: Firewall) -> Action:
    return world.act(firewall, "set_firewall_rules", world.timings.firewall, locks=False)


def _target(name: str, value: Any) -> tuple[str, Any]:
    """("server", id) or ("label_selector", text)."""
    if not isinstance(value, dict):
        raise errors.invalid_input(name, "must be an object")
    kinds = ("server", "label_selector")
    parts = {
        "server": _inner("id", validate.integer),
        "label_selector": _inner("selector", validate.string),
    }
    given = validate.fields(value, {"type": validate.one_of(*kinds)}, parts)
    kind = given["type"]
    if set(given) != {"type", kind}:
        raise errors.invalid_input(name, f"type {kind} needs {kind}, and nothing else")
    if kind == "label_selector":
        parse_selector(given[kind])
    return kind, given[kind]


def _inner(key: str, check: validate.Check) -> validate.Check:
    def inner(name: str, value: Any) -> Any:
        if not isinstance(value, dict):
            raise errors.invalid_input(name, "must be an object")
        return validate.fields(value, {key: check}, {})[key]

    return inner


def _actions(world: World, actions: list[Action]) -> Answer:
    now = world.clock.now()
    return Answer(201, {"actions": [action.json(now) for action in actions]})
