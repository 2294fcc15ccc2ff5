"""Labels that somebody asked for another value of, and labels that were written back.

A PUT replaces all labels of a resource and knows no condition. So a change is merged into a fresh
read, and read again; and whoever made it remembers it, and puts it right when a machine that was
suspended between its reading and its writing has taken it back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from burst_lifecycle import labels, readiness, situation
from burst_lifecycle.cloud.model import Inventory, Kind, Resource, Server
from burst_lifecycle.context import Context
from burst_lifecycle.errors import Busy, NotFound
from burst_lifecycle.events import Event, Labelled, Ready
from burst_lifecycle.readiness import Proof, Witness

R = TypeVar("R", bound=Resource)
_TRIES: Final = 4


async def change(
    context: Context, kind: Kind, read: Callable[[], Awaitable[R]], label: str, value: str
) -> R:
    """That resource with the label set, as it was read afterwards.

    `read` reads it, and refuses what must not be changed; nothing comes between it and the write.
    Busy if others write over it again and again; and whatever `read` raises.
    """
    mark = labels.new_operation()
    fresh = await read()
    was = fresh.labels.get(labels.CHANGE, "")
    for _ in range(_TRIES):
        told = labels.merged(fresh.labels, **{label: value, labels.CHANGE: mark})
        with context.effect(f"set {label}"):
            await context.cloud.set_labels(kind, fresh.id, told)
        fresh = await read()
        if fresh.labels.get(labels.CHANGE) == mark and fresh.labels.get(label) == value:
            await context.ledger.record(
                Labelled(
                    at_s=context.cloud.now_s(),
                    kind=kind,
                    id=fresh.id,
                    label=label,
                    value=value,
                    change=mark,
                    was=was,
                    endpoint=context.account.endpoint,
                )
            )
            return fresh
    raise Busy("others write its labels at the same time", what=f"{kind.value} {fresh.name}")


async def repair(context: Context, inventory: Inventory, events: Iterable[Event]) -> bool:
    """Put right what was written back, as far as this machine or an address knows it; whether
    there was any. What nobody has proved yet of a server that is ready is proved."""
    known = list(events)
    repaired = await _servers(context, inventory, known)
    latest: dict[tuple[Kind, int, str], Labelled] = {}
    for event in known:
        if isinstance(event, Labelled) and event.endpoint == context.account.endpoint:
            before = latest.get((event.kind, event.id, event.label))
            if before is None or before.at_s <= event.at_s:
                latest[event.kind, event.id, event.label] = event
    present = {(kind, resource.id): resource for kind, resource in inventory.everything()}
    for event in latest.values():
        resource = present.get((event.kind, event.id))
        if resource is not None and _taken_back(context, resource, event):
            repaired |= await _again(context, event)
    return repaired


async def _servers(context: Context, inventory: Inventory, events: Iterable[Event]) -> bool:
    owner = context.wishes.owner
    seen = {event.id: event for event in events if isinstance(event, Ready)}
    repaired = False
    for server in situation.of_owner(inventory.servers, owner):
        said = readiness.witness_of(server, inventory.primary_ips)
        ready = seen.get(server.id)
        witness = _better(Proof(ready.pin, ready.boot_by) if ready else None, said)
        if witness is not None and witness.lost(server.labels):
            with contextlib.suppress(NotFound):
                repaired |= await readiness.restore(context, server, witness)
        elif (
            not isinstance(said, Proof)
            and labels.READY in server.labels
            and _has_address(server, inventory)
        ):
            await readiness.prove(context, server)
    return repaired


def _better(seen: Proof | None, said: Witness | None) -> Witness | None:
    """What this machine has seen, or what the address says: of the later boot. What is promised of
    a boot that was seen ready has come true."""
    if seen is None or said is None:
        return said or seen
    try:
        ahead = int(said.boot) - int(seen.boot)
    except ValueError:  # seen by an earlier release
        return said
    return said if ahead > 0 or (ahead == 0 and isinstance(said, Proof)) else seen


def _has_address(server: Server, inventory: Inventory) -> bool:
    """With labels of ours: another is none that came with it, or it is labelled first."""
    return any(one.id in {server.ipv4_id, server.ipv6_id} for one in inventory.primary_ips)


def _taken_back(context: Context, resource: Resource, event: Labelled) -> bool:
    """It has exactly the mark from before the change. An end that has passed meanwhile is left."""
    found = resource.labels
    if found.get(labels.CHANGE, "") != event.was or found.get(event.label) == event.value:
        return False
    if event.label == labels.EXPIRES:
        now_s = context.cloud.now_s()
        return all(_later(text, now_s) for text in (event.value, found.get(event.label, "")))
    return True


def _later(text: str, now_s: float) -> bool:
    return text.isdigit() and int(text) > now_s


async def _again(context: Context, event: Labelled) -> bool:
    cloud = context.cloud
    try:
        match event.kind:
            case Kind.SERVER:
                fresh: Resource = await cloud.server(event.id)
            case Kind.VOLUME:
                fresh = await cloud.volume(event.id)
            case _:
                return False
    except NotFound:
        return False
    if not _taken_back(context, fresh, event):
        return False
    told = labels.merged(fresh.labels, **{event.label: event.value, labels.CHANGE: event.change})
    with context.effect("put its labels right"):
        await cloud.set_labels(event.kind, event.id, told)
    return True
