"""Stopping a command at every point in turn, among things of others that must stay as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import attrs
import pytest

from burst_lifecycle import labels
from burst_lifecycle.cloud.model import Kind, Resource, ServerState
from burst_lifecycle.context import HOUR_S
from burst_lifecycle.errors import (
    ActionFailed,
    Ambiguous,
    Busy,
    CloudProblem,
    CloudUnreachable,
    DeadlinePassed,
    NameTaken,
    NoCapacity,
    NotFound,
    QuotaExceeded,
    Unauthorized,
)
from lifecycles import OWNER, Machine, MemoryLedger
from memory_cloud import Account
from tiers import EVERYTHING

DAY_S: Final = 24 * HOUR_S
ERRORS = (
    NoCapacity("x", what="it"),
    QuotaExceeded("x", what="it"),
    Busy("x", what="it"),
    NameTaken("x", what="it"),
    NotFound(what="it"),
    Ambiguous("x", what="it"),
    ActionFailed("x", what="it"),
    DeadlinePassed("x", what="it"),
    CloudUnreachable("x", what="it"),
    Unauthorized("x", what="it"),
    CloudProblem("x", what="it"),
)


class Killed(BaseException):
    """As SIGKILL: no handler runs that an `except Exception` guards, and no answer is read."""


@attrs.define
class Counter:
    """Numbers all points; does something at one of them."""

    at: int = -1
    what: Callable[[], None] = lambda: None
    names: list[str] = attrs.field(factory=list)

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.at:
            self.what()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def stopped_at(machine: Machine, point: str, work: Coroutine[Any, Any, Any]) -> None:
    """Its process ends there, for good; the next one goes on unhindered."""

    def stop(name: str) -> None:
        if name == point:
            raise Killed

    machine.hook = stop
    with pytest.raises(Killed):
        run(work)
    machine.hook = lambda _name: None


def plant_foreign(machine: Machine) -> dict[tuple[Kind, int], Resource]:
    """Another owner's machine, with a server, and things that have some of our labels."""
    other = attrs.evolve(
        machine,
        number=77,
        wishes=attrs.evolve(machine.wishes, owner="bob", server_types=("ccx43",)),
        address="203.0.113.5",
        ledger=MemoryLedger(),
    )
    run(other.lifecycle.up("foreign"))
    account = machine.account
    (server,) = account.held[Kind.SERVER].values()
    account.boxes[server.id].running = 1
    account.boxes[server.id].hard_end_s += 1000 * DAY_S
    half = attrs.evolve(
        server,
        id=account.new_id(),
        name="half",
        labels={labels.MARK: "1", labels.OWNER: OWNER},
        state=ServerState.RUNNING,
        ipv4="192.0.2.251",
    )
    account.held[Kind.SERVER][half.id] = half
    bare = attrs.evolve(half, id=account.new_id(), name="theirs", labels={"env": "production"})
    account.held[Kind.SERVER][bare.id] = bare
    for one in (half, bare):
        account.boxes[one.id] = account.boxes[server.id]
    del account.boxes[half.id], account.boxes[bare.id]
    for volume in list(account.held[Kind.VOLUME].values()):
        other_volume = attrs.evolve(
            volume, id=account.new_id(), name="data", labels={}, server_id=None
        )
        account.held[Kind.VOLUME][other_volume.id] = other_volume
    return {(kind, one.id): one for kind in Kind for one in account.held[kind].values()}


def foreign_now(
    account: Account, planted: dict[tuple[Kind, int], Resource]
) -> dict[tuple[Kind, int], Resource | None]:
    return {key: account.held[key[0]].get(key[1]) for key in planted}


def ours(account: Account, *kinds: Kind) -> list[Resource]:
    return [
        one
        for kind in kinds or tuple(Kind)
        for one in account.held[kind].values()
        if one.labels.get(labels.OWNER) == OWNER and one.labels.get(labels.ROLE)
    ]


async def touch(machine: Machine) -> None:
    lifecycle, cloud = machine.start()
    cloud._acted()
    report = await lifecycle.reap()
    assert report.ok, report.failed


def places(names: list[str]) -> list[tuple[int, str]]:
    """Steps are left out: here each of them is just outside of a request, where nothing happens.

    The usual tests take every fifth point, and all around creates and deletes.
    """
    requests = [(at, name) for at, name in enumerate(names) if not name.startswith("step ")]
    if EVERYTHING:
        return requests
    telling = ("create", "delete", "power", "label servers", "format")
    return [
        (at, name)
        for number, (at, name) in enumerate(requests)
        if number % 5 == 0 or any(word in name for word in telling)
    ]


def kill() -> None:
    raise Killed
