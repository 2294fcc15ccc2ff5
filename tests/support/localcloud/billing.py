"""The cloud's own bill: exact decimal euros net of VAT, one item per resource.

Rules (research/hetzner.md, "Billing rules"; what it leaves open is fixed here):

- Servers and IPv4 addresses: every started hour counts whole, from creation to deletion, running or
  off; an hour belongs to the calendar month (UTC) in which it starts, and no month costs more than
  the monthly price. IPv6 addresses, keys and firewalls cost nothing.
- Volumes and snapshots: per GB and month. A started hour costs the GB at its beginning x the
  monthly price / the hours of that calendar month. Snapshots count from their `created`.
- Begin is `created`, end is when the API accepted the deletion, both in whole seconds.
"""

from __future__ import annotations

import calendar
import datetime as dt
from decimal import Decimal
from typing import Final

import attrs

from . import catalogue
from .clock import UTC
from .model import Usage

HOUR: Final = 3600
_TYPES: Final = {kind.name: kind for kind in catalogue.SERVER_TYPES}


@attrs.frozen
class Item:
    """`hours` are started ones. `euros` is exact; round for show only."""

    kind: str
    id: int
    name: str
    detail: str
    hours: int
    euros: Decimal
    running: bool


@attrs.frozen
class Bill:
    items: tuple[Item, ...]

    @property
    def total(self) -> Decimal:
        return sum((item.euros for item in self.items), Decimal(0))

    @property
    def cents(self) -> Decimal:
        """The total, rounded half up to the cent."""
        return self.total.quantize(Decimal("0.01"), rounding="ROUND_HALF_UP")

    def of(self, ident: int) -> Item:
        return next(item for item in self.items if item.id == ident)


def make_bill(usages: list[Usage], now: float) -> Bill:
    return Bill(tuple(_item(usage, now) for usage in usages))


def started_hours(start: float, end: float) -> list[float]:
    """When each began. Whatever exists for a moment has begun one."""
    count = max(1, -int(-(end - start) // HOUR))
    return [start + number * HOUR for number in range(count)]


def _item(usage: Usage, now: float) -> Item:
    running = usage.end is None
    hours = started_hours(usage.start, now if usage.end is None else usage.end)
    if usage.kind == "server":
        hourly, monthly = _TYPES[usage.detail].price(usage.location)
        euros = _capped(hours, hourly, monthly)
    elif usage.kind == "primary_ip":
        free = usage.detail != "ipv4"
        euros = (
            Decimal(0) if free else _capped(hours, catalogue.IPV4_HOURLY, catalogue.IPV4_MONTHLY)
        )
    elif usage.kind == "volume":
        euros = _by_size(usage, hours, catalogue.VOLUME_GB_MONTH)
    else:
        euros = _by_size(usage, hours, catalogue.SNAPSHOT_GB_MONTH)
    return Item(usage.kind, usage.id, usage.name, usage.detail, len(hours), euros, running)


def _capped(hours: list[float], hourly: Decimal, monthly: Decimal) -> Decimal:
    months: dict[tuple[int, int], int] = {}
    for hour in hours:
        at = dt.datetime.fromtimestamp(hour, UTC)
        months[at.year, at.month] = months.get((at.year, at.month), 0) + 1
    return sum((min(count * hourly, monthly) for count in months.values()), Decimal(0))


def _by_size(usage: Usage, hours: list[float], gb_month: Decimal) -> Decimal:
    total = Decimal(0)
    for hour in hours:
        at = dt.datetime.fromtimestamp(hour, UTC)
        in_month = 24 * calendar.monthrange(at.year, at.month)[1]
        sizes = [size for since, size in usage.sizes if since <= hour]
        if sizes:
            total += Decimal(str(sizes[-1])) * gb_month / in_month
    return total
