"""The month's budget: what is spent, what is committed, and what may still be begun. Pure.

Committed are running servers to the end of their paid hour, and volumes and snapshots for the whole
month; spent is what ended servers of this month have cost, as far as this machine's ledger knows.
All machines of the owner count for what exists now: that is read from the cloud.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import attrs

from burst_lifecycle import pricing
from burst_lifecycle.cloud.model import Inventory, Kind, Prices, Server, ServerType
from burst_lifecycle.events import Created, Deleted, Event, Gone
from burst_lifecycle.labels import Claim
from burst_lifecycle.placement import Plan, Refused
from burst_lifecycle.pricing import HOUR_S, Rate

_ZERO = Decimal(0)


@attrs.frozen
class Tariff:
    """Today's prices."""

    types: tuple[ServerType, ...]
    prices: Prices

    def of_server(self, type_name: str, location: str, *, ipv4: bool) -> Rate:
        """With its address. A type that is not sold any more counts as the dearest of all."""
        known = next((one for one in self.types if one.name == type_name), None)
        offer = known.offer(location) if known else None
        if offer is None:
            offers = [offer for one in self.types for offer in one.offers]
            offer = max(offers, key=lambda one: one.hourly.net_eur, default=None)
        rate = Rate() if offer is None else Rate.of_offer(offer)
        if not ipv4:
            return rate
        address = Rate.of_ipv4(self.prices, location)
        return Rate(
            rate.per_hour + address.per_hour,
            (rate.per_month or _ZERO) + (address.per_month or _ZERO),
        )


def spent(events: Iterable[Event], now_s: float) -> Decimal:
    """What servers and addresses that have ended cost in this calendar month."""
    begin_s, _ = pricing.month_of(now_s)
    born: dict[tuple[Kind, int], Created] = {}
    ended: dict[tuple[Kind, int], float] = {}
    for event in events:
        match event:
            case Created():
                if event.kind in {Kind.SERVER, Kind.PRIMARY_IP}:
                    born.setdefault(event.key, event)
            case Deleted() | Gone():
                key = (event.kind, event.id)
                ended[key] = min(event.at_s, ended.get(key, event.at_s))
            case _:
                pass
    total = _ZERO
    for key, thing in born.items():
        end_s = ended.get(key)
        rate = pricing.rate_of(thing)
        if end_s is None or end_s <= begin_s or rate is None:
            continue
        from_s = max(thing.created_s or thing.at_s, begin_s)
        total += pricing.hourly_cost(rate, from_s, end_s).eur
    return total


def committed(
    inventory: Inventory, owner: str, tariff: Tariff, now_s: float, *, more_s: float = 0.0
) -> Decimal:
    """Of what exists and is this owner's. `more_s`: as if it were that much later."""
    begin_s, _ = pricing.month_of(now_s)
    total = _ZERO
    for server in inventory.servers:
        if _is_of(server.labels, owner):
            total += _server(server, tariff, begin_s, now_s + more_s)
    for volume in inventory.volumes:
        if _is_of(volume.labels, owner):
            total += volume.size_gb * tariff.prices.volume_gb_month.net_eur
    for image in inventory.images:
        if _is_of(image.labels, owner) and not image.system:
            total += (image.size_gb or _ZERO) * tariff.prices.image_gb_month.net_eur
    return total


def _server(server: Server, tariff: Tariff, begin_s: float, until_s: float) -> Decimal:
    rate = tariff.of_server(server.type, server.location, ipv4=server.ipv4_id is not None)
    return pricing.hourly_cost(rate, max(server.created_s, begin_s), until_s).eur


def affordable(
    plan: Plan,
    inventory: Inventory,
    owner: str,
    tariff: Tariff,
    *,
    budget_eur: Decimal | None,
    already_eur: Decimal,
    now_s: float,
    new_volume_gb: int = 0,
) -> Plan:
    """The candidates whose first hour fits. `new_volume_gb`: what the boot adds to the rent."""
    if budget_eur is None:
        return plan
    base = already_eur + committed(inventory, owner, tariff, now_s)
    base += new_volume_gb * tariff.prices.volume_gb_month.net_eur
    kept = []
    refused = list(plan.refused)
    for one in plan.candidates:
        hour = tariff.of_server(one.type, one.location, ipv4=True).per_hour
        if base + hour <= budget_eur:
            kept.append(one)
        else:
            why = (
                f"{base:.2f} euros of this month's {budget_eur} are spent or committed, "
                f"its first hour costs {hour:.2f}"
            )
            refused.append(Refused(f"{one.type} in {one.location}", why, money=True))
    return Plan(tuple(kept), tuple(refused))


def next_hour_exceeds(
    server: Server,
    inventory: Inventory,
    owner: str,
    tariff: Tariff,
    *,
    budget_eur: Decimal | None,
    already_eur: Decimal,
    now_s: float,
) -> bool:
    """Whether that server must be drained at the edge of the hour it is in."""
    if budget_eur is None:
        return False
    begin_s, _ = pricing.month_of(now_s)
    now = committed(inventory, owner, tariff, now_s)
    hour_later = _server(server, tariff, begin_s, now_s + HOUR_S)
    return already_eur + now - _server(server, tariff, begin_s, now_s) + hour_later > budget_eur


def over(
    events: Sequence[Event], budget_eur: Decimal | None, base_eur: Decimal, now_s: float
) -> bool:
    """Whether nothing at all may be begun any more."""
    return budget_eur is not None and spent(events, now_s) + base_eur >= budget_eur


def _is_of(labels: Mapping[str, str], owner: str) -> bool:
    claim = Claim.of(labels)
    return claim is not None and claim.owner == owner
