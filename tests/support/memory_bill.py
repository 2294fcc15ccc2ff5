"""What the cloud in memory charges, its own way, and that an audit of the ledgers says the same.

The cloud writes down what was created in it, by whom, how large it was when and when it went. From
that it adds up its bill hour by hour, by the rules that the cloud publishes; nothing of
`burst_lifecycle.pricing` is used for it.
"""

from __future__ import annotations

import asyncio
import calendar
import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import attrs

from burst_lifecycle.admin.audit import of_owner
from burst_lifecycle.admin.audit_view import AuditReport, audit
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import Event
from burst_lifecycle.history import merge, observed
from burst_lifecycle.labels import OWNER
from burst_lifecycle.session import Lifecycle

if TYPE_CHECKING:
    from lifecycles import Machine

_HOUR_S: Final = 3600
_SHOWN: Final = Decimal("0.000001")
"""A volume's hour costs less than a cent, so a sum of cents would hide some of them."""
GROUPS: Final = {
    Kind.SERVER: "servers",
    Kind.PRIMARY_IP: "ipv4",
    Kind.VOLUME: "volumes",
    Kind.IMAGE: "snapshots",
}

made: list[Machine] = []
"""Machines of the test that runs, if it is `settled`."""
_watching = False


@attrs.define
class Bought:
    """One resource, from its birth to its end."""

    kind: Kind
    id: int
    owner: str
    since_s: float
    eur_per_hour: Decimal = Decimal(0)
    eur_per_month: Decimal = Decimal("Infinity")
    eur_per_gb_month: Decimal = Decimal(0)
    sizes: list[tuple[float, Decimal]] = attrs.field(factory=list)
    """Since when how many GB."""
    until_s: float | None = None

    def cost(self, now_s: float) -> Decimal:
        """Up to now, or to its end."""
        end_s = int(now_s if self.until_s is None else self.until_s)
        months: dict[tuple[int, int], Decimal] = {}
        by_size = Decimal(0)
        hour_s = self.since_s
        while hour_s < max(end_s, self.since_s + 1):
            at = dt.datetime.fromtimestamp(hour_s, dt.UTC)
            months[at.year, at.month] = months.get((at.year, at.month), Decimal(0))
            months[at.year, at.month] += self.eur_per_hour
            known = [size for since_s, size in self.sizes if since_s <= hour_s]
            if known:
                hours = 24 * calendar.monthrange(at.year, at.month)[1]
                by_size += known[-1] * self.eur_per_gb_month / hours
            hour_s += _HOUR_S
        return by_size + sum((min(one, self.eur_per_month) for one in months.values()), Decimal(0))


def bill(bought: Iterable[Bought], owner: str, now_s: float) -> Mapping[str, Decimal]:
    """By group; what costs nothing is left out."""
    found: dict[str, Decimal] = {}
    for one in bought:
        if one.owner == owner and one.kind in GROUPS:
            group = GROUPS[one.kind]
            found[group] = found.get(group, Decimal(0)) + one.cost(now_s)
    return _shown(found)


async def report_of(lifecycle: Lifecycle, *copies: Iterable[Event]) -> AuditReport:
    """What `burst-admin audit` would say with these copies of the ledger."""
    context = lifecycle.context
    inventory = await context.cloud.inventory("")
    tariff = Tariff.of(await context.cloud.prices(), await context.cloud.server_types())
    await lifecycle.guard.learn_time_of(inventory)
    inventory = attrs.evolve(inventory, read_s=context.cloud.now_s())
    mine = of_owner(inventory, context.wishes.owner)
    seen = observed(mine, merge(*copies).lives, context.account)
    return audit(merge(*copies, seen), tariff, inventory.read_s)


def audited(*machines: Machine) -> AuditReport:
    """On one of them, with all of their ledgers."""
    lifecycle = machines[0].lifecycle
    events = [machine.ledger.read().events for machine in machines]
    return asyncio.run(report_of(lifecycle, *events))


def settle(*machines: Machine) -> None:
    """Of each owner: what the ledgers say was spent is what the cloud charges, and is certain."""
    account = machines[0].account
    for owner in sorted({machine.wishes.owner for machine in machines}):
        mine = [machine for machine in machines if machine.wishes.owner == owner]
        hooks = [machine.hook for machine in mine]
        for machine in mine:
            machine.hook = lambda _name: None
        report = audited(*mine)
        for machine, hook in zip(mine, hooks, strict=True):
            machine.hook = hook
        said = _shown({line.group: line.eur for line in report.costs})
        charged = bill(account.bought, owner, account.world.now_s)
        assert said == charged, f"{owner}: the audit says {said}, the bill {charged}"
        assert not report.unknown, report.unknown


@contextmanager
def settled() -> Iterator[None]:
    """At the end, `settle` of every machine that was made in between, account by account."""
    global _watching  # noqa: PLW0603 - one test at a time
    made.clear()
    _watching = True
    try:
        yield
    finally:
        _watching = False
        found, made[:] = list(made), []
    accounts = {id(machine.account): machine.account for machine in found}
    for account in accounts.values():
        settle(*(machine for machine in found if machine.account is account))


def watch(machine: Machine) -> None:
    """It was made."""
    if _watching:
        made.append(machine)


def _shown(euros: Mapping[str, Decimal]) -> Mapping[str, Decimal]:
    rounded = {group: eur.quantize(_SHOWN) for group, eur in euros.items()}
    return {group: eur for group, eur in rounded.items() if eur}


def owner_of(labels: Mapping[str, str]) -> str:
    return labels.get(OWNER, "")
