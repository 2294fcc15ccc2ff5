"""A lifecycle over the cloud in memory: one machine of one owner."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs

from burst_lifecycle import access
from burst_lifecycle.books import Account as LedgerAccount
from burst_lifecycle.cloud.model import Kind, Server
from burst_lifecycle.context import Context, ServerFiles, Wishes
from burst_lifecycle.events import Event
from burst_lifecycle.labels import Claim
from burst_lifecycle.ledger import History
from burst_lifecycle.notices import Notice
from burst_lifecycle.session import Lifecycle
from memory_bill import watch
from memory_cloud import Account, MemoryCloud, World
from memory_hosts import Box, KeyMaker, MemoryAgent, MemorySsh, make_key

OWNER = "alice"
PROJECT = "0123456789abcdef"
FILES = ServerFiles(
    {
        "deadman.sh": "#!/bin/sh\nexit 0\n",
        "burst-deadman.service": "[Service]\n",
        "burst-deadman.timer": "[Timer]\n",
    }
)


@attrs.define
class MemoryLedger:
    """Survives the machine's processes, as a file does."""

    events: list[Event] = attrs.field(factory=list)

    async def record(self, *events: Event) -> None:
        self.events.extend(events)

    def read(self) -> History:
        return History(tuple(self.events))


@attrs.define
class MemoryNotices:
    notices: list[Notice] = attrs.field(factory=list)

    def post(self, notice: Notice) -> object:
        self.notices.append(notice)
        return True

    def withdraw(self, key: str) -> None:
        self.notices = [notice for notice in self.notices if notice.key != key]

    @property
    def keys(self) -> list[str]:
        return [notice.key for notice in self.notices]


def wishes(**changes: Any) -> Wishes:
    given: dict[str, Any] = {
        "owner": OWNER,
        "server_types": ("ccx63", "ccx53", "ccx43"),
        "locations": ("fsn1", "nbg1"),
        "max_eur_per_hour": Decimal(2),
        "project": PROJECT,
        **changes,
    }
    return Wishes(**given)


@attrs.define
class Machine:
    """What of a machine survives its processes, and a way to start one."""

    account: Account
    number: int = 1
    wishes: Wishes = attrs.field(factory=wishes)
    address: str = "198.51.100.7"
    ledger: MemoryLedger = attrs.field(factory=MemoryLedger)
    notices: MemoryNotices = attrs.field(factory=MemoryNotices)
    watched: bool = False
    hook: Callable[[str], None] = lambda _name: None
    """Called as `before NAME` and `after NAME` of every request, ssh command and step."""
    keys: KeyMaker = attrs.field(factory=lambda: KeyMaker(500))
    locked: bool = False

    def __attrs_post_init__(self) -> None:
        watch(self)

    @contextlib.asynccontextmanager
    async def _lock(self) -> AsyncIterator[None]:
        assert not self.locked, "two boots at once on one machine"
        self.locked = True
        try:
            yield
        finally:
            self.locked = False

    def start(self) -> tuple[Lifecycle, MemoryCloud]:
        """A new process."""
        self.locked = False

        def around(when: str) -> Callable[[str], None]:
            return lambda name: self.hook(f"{when} {name}")

        cloud = MemoryCloud(self.account, around("before"), around("after"))
        public = make_key(self.number)[1]
        ssh = MemorySsh(
            self.account, public, self.address, before=around("before"), after=around("after")
        )
        context = Context(
            cloud=cloud,
            ssh=ssh,
            agent=MemoryAgent(ssh),
            ledger=self.ledger,
            notices=self.notices,
            time=self.account.world,
            wishes=self.wishes,
            key=access.client_key(Path("/nowhere/ed25519"), public),
            server_files=FILES,
            new_host_key=self.keys,
            lock=self._lock,
            step=lambda name: self.hook(f"step {name}"),
            account=LedgerAccount("memory", "token"),
        )
        return Lifecycle(context, watched=self.watched), cloud

    @property
    def lifecycle(self) -> Lifecycle:
        return self.start()[0]


def fresh(**changes: Any) -> Machine:
    """A machine with an empty account."""
    return Machine(Account(World()), **changes)


def second(machine: Machine, **changes: Any) -> Machine:
    """Another machine that sees the same account."""
    return Machine(machine.account, **{"number": 2, "address": "203.0.113.9", **changes})


def the_server(machine: Machine) -> Server:
    """The account's only one, as it is now."""
    (server,) = machine.account.held[Kind.SERVER].values()
    return machine.account.server(server.id)


def box_of(machine: Machine) -> Box:
    """Of its owner's only server."""
    boxes = [
        machine.account.boxes[server.id]
        for server in machine.account.held[Kind.SERVER].values()
        if (claim := Claim.of(server.labels)) and claim.owner == machine.wishes.owner
    ]
    assert len(boxes) == 1
    return boxes[0]
