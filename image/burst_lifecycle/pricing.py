"""Euros: exact Decimals, by the rules of the bill. Pure.

- Servers and IPv4 addresses: every started hour counts whole, from creation to deletion, running or
  off (billing FAQ); an hour belongs to the calendar month (UTC) in which it starts, and no month
  costs more than the monthly price.
- Volumes and snapshots: a started hour costs the GB at its beginning x the monthly price / the
  hours of that month, attached or not.
- IPv6 addresses, keys, firewalls: nothing.

What is not known (a birth, an end, a size) makes an amount a lower bound: `at_least`. Rounded only
for show (`Amount.text`).
"""

from __future__ import annotations

import calendar
import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

import attrs

from burst_lifecycle.cloud.model import Kind, Offer, Price, Prices
from burst_lifecycle.events import Created

HOUR_S: Final = 3600
WEEKEND_H: Final = 60
"""Friday evening to Monday morning."""
_CENT: Final = Decimal("0.01")
_HUNDREDTH_CENT: Final = Decimal("0.0001")
_ZERO: Final = Decimal(0)


@attrs.frozen
class Amount:
    """Euros. `at_least`: something that belongs to it is not known."""

    eur: Decimal = _ZERO
    at_least: bool = False

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.eur + other.eur, self.at_least or other.at_least)

    @property
    def cents(self) -> Decimal:
        """Rounded half up, once, at the end."""
        return self.eur.quantize(_CENT, ROUND_HALF_UP)

    @property
    def text(self) -> str:
        """`€1.37`, `at least €1.37`."""
        return f"{'at least ' if self.at_least else ''}€{self.cents}"

    @property
    def hourly_text(self) -> str:
        """`€1.3678 an hour`: a volume's hour is less than a cent."""
        eur = self.eur.quantize(_HUNDREDTH_CENT, ROUND_HALF_UP)
        return f"{'at least ' if self.at_least else ''}€{eur} an hour"


@attrs.frozen
class Rate:
    """What one thing costs. Either per started hour and capped, or by size and month."""

    per_hour: Decimal = _ZERO
    per_month: Decimal | None = None
    """The most for a calendar month; None: not known, no cap is applied."""
    per_gb_month: Decimal = _ZERO

    @classmethod
    def of_offer(cls, offer: Offer) -> Rate:
        """A server without its address, without VAT."""
        return cls(offer.hourly.net_eur, offer.monthly.net_eur)

    @classmethod
    def of_ipv4(cls, prices: Prices, location: str) -> Rate:
        """Where the list has no price for that location, the dearest of the others."""
        return cls(
            _of_location(prices.ipv4_hourly, location), _of_location(prices.ipv4_monthly, location)
        )

    @classmethod
    def of_volume(cls, prices: Prices) -> Rate:
        return cls(per_gb_month=prices.volume_gb_month.net_eur)

    @classmethod
    def of_image(cls, prices: Prices) -> Rate:
        return cls(per_gb_month=prices.image_gb_month.net_eur)


Sizes = Sequence[tuple[float, Decimal]]
"""Since when, how many GB; oldest first."""


def started_hours(begin_s: float, end_s: float) -> int:
    """Whatever exists for a moment has begun one."""
    return max(1, math.ceil((end_s - begin_s) / HOUR_S))


def paid_until_s(begin_s: float, now_s: float) -> float:
    """The end of the hour that is being paid for: deleting before it saves nothing."""
    return begin_s + started_hours(begin_s, now_s) * HOUR_S


def hourly_cost(rate: Rate, begin_s: float | None, end_s: float) -> Amount:
    """Of a server or an address. An unknown birth counts as one hour, at least."""
    if begin_s is None:
        return Amount(rate.per_hour, at_least=True)
    months: dict[tuple[int, int], int] = {}
    for hour_s in _hours(begin_s, end_s):
        month = _month(hour_s)
        months[month] = months.get(month, 0) + 1
    cap = rate.per_month
    costs = (count * rate.per_hour for count in months.values())
    return Amount(sum((cost if cap is None else min(cost, cap) for cost in costs), _ZERO))


def size_cost(rate: Rate, sizes: Sizes, begin_s: float | None, end_s: float) -> Amount:
    """Of a volume or an image. Hours before its size was known are free: an image is being made."""
    if begin_s is None:
        begin_s, unknown = (sizes[0][0] if sizes else end_s), True
    else:
        unknown = not sizes
    total = _ZERO
    for hour_s in _hours(begin_s, end_s):
        size_gb = next((gb for since_s, gb in reversed(sizes) if since_s <= hour_s), None)
        if size_gb is not None:
            total += size_gb * rate.per_gb_month / hours_of_month(hour_s)
    return Amount(total, unknown)


def rate_of(thing: Created) -> Rate | None:
    """As it was recorded at birth; None if it was not."""
    if thing.kind in {Kind.SERVER, Kind.PRIMARY_IP}:
        if thing.eur_per_hour is None:
            return None
        return Rate(thing.eur_per_hour, thing.eur_per_month)
    if thing.kind in {Kind.VOLUME, Kind.IMAGE}:
        if thing.eur_per_gb_month is None:
            return None
        return Rate(per_gb_month=thing.eur_per_gb_month)
    return Rate()


def cost_of(thing: Created, end_s: float, sizes: Sizes = ()) -> Amount:
    """From its birth until then; `sizes` if it was resized."""
    rate = rate_of(thing)
    if rate is None:
        return Amount(at_least=True)
    if thing.kind in {Kind.SERVER, Kind.PRIMARY_IP}:
        return hourly_cost(rate, thing.created_s, end_s)
    if thing.kind not in {Kind.VOLUME, Kind.IMAGE}:
        return Amount()
    if not sizes and thing.size_gb is not None:
        sizes = ((thing.created_s or thing.at_s, thing.size_gb),)
    return size_cost(rate, sizes, thing.created_s, end_s)


def per_hour(thing: Created, now_s: float) -> Amount:
    """What it costs as long as it is there."""
    rate = rate_of(thing)
    if rate is None:
        return Amount(at_least=True)
    if rate.per_gb_month and thing.size_gb is None:
        return Amount(at_least=True)
    size_gb = thing.size_gb or _ZERO
    return Amount(rate.per_hour + size_gb * rate.per_gb_month / hours_of_month(now_s))


def total(amounts: Iterable[Amount]) -> Amount:
    return sum(amounts, Amount())


def forgotten(rates: Iterable[Rate], hours: int = WEEKEND_H) -> Decimal:
    """What hourly things cost if nobody looks for that long: for `cargo burst enable hetzner`."""
    return sum(
        (
            min(rate.per_hour * hours, rate.per_hour * hours if cap is None else cap)
            for rate in rates
            for cap in (rate.per_month,)
        ),
        _ZERO,
    )


def gross(net: Decimal, prices: Prices) -> Decimal:
    """With the owner's VAT."""
    return net * (100 + prices.vat_percent) / 100


def hours_of_month(at_s: float) -> int:
    """672 to 744."""
    year, month = _month(at_s)
    return 24 * calendar.monthrange(year, month)[1]


def month_of(at_s: float) -> tuple[float, float]:
    """Begin and end of the calendar month (UTC), in epoch seconds: a budget's period."""
    year, month = _month(at_s)
    begin = dt.datetime(year, month, 1, tzinfo=dt.UTC)
    return begin.timestamp(), begin.timestamp() + hours_of_month(at_s) * HOUR_S


def _hours(begin_s: float, end_s: float) -> Iterable[float]:
    return (begin_s + number * HOUR_S for number in range(started_hours(begin_s, end_s)))


def _month(at_s: float) -> tuple[int, int]:
    at = dt.datetime.fromtimestamp(at_s, dt.UTC)
    return at.year, at.month


def _of_location(by_location: Mapping[str, Price], location: str) -> Decimal:

    price = by_location.get(location)
    if price is not None:
        return price.net_eur
    return max((other.net_eur for other in by_location.values()), default=_ZERO)
