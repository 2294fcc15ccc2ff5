"""What a life costs, hour by hour: so that it can be summed by day, and said how sure it is.

The rules are those of `pricing`; this adds whose price counts (the user's `--rate`, else the
cloud's list, else what was recorded at the create) and until when something surely existed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import attrs

from burst_lifecycle.cloud.model import Kind, Offer, Prices, ServerType
from burst_lifecycle.history import Life
from burst_lifecycle.pricing import (
    HOUR_S,
    Amount,
    Rate,
    hours_of_month,
    month_of,
    started_hours,
)

ZERO: Final = Decimal(0)


@attrs.frozen
class Charge:
    """One started hour; `eur` is exact."""

    hour_s: float
    eur: Decimal


@attrs.frozen
class Cost:
    """What a life cost up to a moment. `exact` False: it was at least that."""

    charges: tuple[Charge, ...]
    exact: bool
    why: str = ""
    """Why it is not known exactly."""

    @property
    def amount(self) -> Amount:
        total = sum((charge.eur for charge in self.charges), ZERO)
        return Amount(total, at_least=not self.exact)

    @property
    def hours(self) -> int:
        return len(self.charges)

    def between(self, since_s: float, until_s: float) -> Cost:
        """The hours that began in that time."""
        found = tuple(charge for charge in self.charges if since_s <= charge.hour_s < until_s)
        return attrs.evolve(self, charges=found)


@attrs.frozen
class Tariff:
    """Euros without VAT."""

    prices: Prices | None = None
    offers: Mapping[tuple[str, str], Offer] = attrs.field(factory=dict)
    """By type and location."""
    types: tuple[ServerType, ...] = ()
    rates: Mapping[str, Decimal] = attrs.field(factory=dict)
    """Euros per server hour that the user gave, by type; `""` is for all types."""

    @classmethod
    def of(
        cls,
        prices: Prices | None,
        types: Sequence[ServerType] = (),
        rates: Mapping[str, Decimal] | None = None,
    ) -> Tariff:
        offers = {(type_.name, offer.location): offer for type_ in types for offer in type_.offers}
        return cls(prices, offers, tuple(types), rates or {})

    def rate(self, life: Life) -> Rate | None:
        """None if nobody knows a price."""
        if life.kind is Kind.SERVER:
            own = self.rates.get(life.type, self.rates.get(""))
            if own is not None:
                return Rate(own)
            offer = self.offers.get((life.type, life.location))
            return _recorded(life) if offer is None else Rate.of_offer(offer)
        if life.kind is Kind.PRIMARY_IP:
            # Of which kind nobody said: what bills was recorded with its price.
            if life.type == "ipv6" or (not life.type and life.eur_per_hour is None):
                return Rate()
            if self.prices is None:
                return _recorded(life)
            return Rate.of_ipv4(self.prices, life.location)
        if life.kind in {Kind.VOLUME, Kind.IMAGE}:
            if self.prices is None:
                return _recorded(life)
            make = Rate.of_volume if life.kind is Kind.VOLUME else Rate.of_image
            return make(self.prices)
        return Rate()

    def per_hour(self, life: Life, now_s: float) -> Decimal | None:
        """What one more hour costs, without the monthly cap. None if nobody knows."""
        rate = self.rate(life)
        if rate is None or (rate.per_gb_month and not life.sizes_gb):
            return None
        size_gb = life.sizes_gb[-1][1] if life.sizes_gb else ZERO
        return rate.per_hour + size_gb * rate.per_gb_month / hours_of_month(now_s)

    def cost(self, life: Life, now_s: float) -> Cost:
        """Until its end, or until now."""
        rate = self.rate(life)
        name = life.name or str(life.id)
        if rate is None:
            return Cost((), exact=False, why=f"no price of {name} is known")
        until_s, limit_s, why = _bounds(life, now_s)
        charges = hourly(rate, life, until_s)
        # Nobody knows the second, but if both bounds lie in one hour it does not matter.
        if why and limit_s is not None and started_hours(life.created_s, limit_s) == len(charges):
            why = ""
        if not why and rate.per_gb_month and not life.sizes_gb:
            why = f"the size of {name} is not known"
        return Cost(charges, exact=not why, why=why)


def hourly(rate: Rate, life: Life, until_s: float) -> tuple[Charge, ...]:
    """Every hour begun, with its share: what a month costs beyond its price is free."""
    spent: dict[float, Decimal] = {}
    found = []
    for number in range(started_hours(life.created_s, until_s)):
        hour_s = life.created_s + number * HOUR_S
        eur = rate.per_hour
        if rate.per_month is not None:
            month_s, _ = month_of(hour_s)
            before = spent.get(month_s, ZERO)
            eur = min(eur, max(ZERO, rate.per_month - before))
            spent[month_s] = before + eur
        if rate.per_gb_month:
            sizes = (gb for since_s, gb in reversed(life.sizes_gb) if since_s <= hour_s)
            eur += next(sizes, ZERO) * rate.per_gb_month / hours_of_month(hour_s)
        found.append(Charge(hour_s, eur))
    return tuple(found)


def _recorded(life: Life) -> Rate | None:
    if life.kind in {Kind.VOLUME, Kind.IMAGE}:
        price = life.eur_per_gb_month
        return None if price is None else Rate(per_gb_month=price)
    return None if life.eur_per_hour is None else Rate(life.eur_per_hour, life.eur_per_month)


def _bounds(life: Life, now_s: float) -> tuple[float, float | None, str]:
    """Until when it surely existed, since when it surely did not, and why that is not one time."""
    name = life.name or str(life.id)
    if not life.created_known:
        until_s = life.end.at_s if life.end else life.seen_s
        return until_s, None, f"nobody recorded when {name} was created"
    if life.end is not None:
        return life.end.at_s, life.end.at_s, ""
    if life.gone_s is not None:
        return life.seen_s, life.gone_s, f"nobody recorded when {name} was deleted"
    if life.seen_s >= now_s:
        return now_s, now_s, ""
    return life.seen_s, now_s, f"nobody looked at {name} since it was seen last"
