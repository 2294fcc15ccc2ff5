"""What a user agrees to in `cargo burst enable hetzner`, and how it is asked. Pure.

Consent is to types, places and a price per hour: nothing dearer is ever created afterwards. It
shows what one hour costs, what a forgotten weekend costs at the most, and what stays between uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_UP, Decimal
from typing import Final

import attrs

from burst_lifecycle import pricing
from burst_lifecycle.cloud.model import Prices, ServerType
from burst_lifecycle.errors import NoCapacity
from burst_lifecycle.pricing import WEEKEND_H, Amount, Rate
from burst_lifecycle.settings import Hetzner

_CENT: Final = Decimal("0.01")


@attrs.frozen
class Choice:
    """One type, where it is dearest among the places that were named."""

    type: str
    cores: int
    memory_gb: Decimal
    disk_gb: int
    location: str
    rate: Rate
    """Without its address."""


@attrs.frozen
class Terms:
    """Everything that is shown. Euros without VAT."""

    choices: tuple[Choice, ...]
    """In the order in which they are tried."""
    left_out: tuple[tuple[str, str], ...]
    """Types that were named and cannot be used, and why."""
    locations: tuple[str, ...]
    ipv4: Rate
    volume_gb: int
    volume_eur_month: Decimal
    hard_end_s: float
    keep_alive_s: float
    vat_percent: Decimal

    @property
    def dearest(self) -> Choice:
        return max(self.choices, key=lambda choice: choice.rate.per_hour)

    @property
    def max_eur_per_hour(self) -> Decimal:
        """What is written down: the dearest type, up to the next cent."""
        return self.dearest.rate.per_hour.quantize(_CENT, ROUND_UP)

    @property
    def session_eur(self) -> Decimal:
        """One server that nobody extends: the dead man turns it off at its hard end, and the next
        command deletes it."""
        hours = pricing.started_hours(0, self.hard_end_s)
        return hours * (self.dearest.rate.per_hour + self.ipv4.per_hour)

    @property
    def weekend_eur(self) -> Decimal:
        """Friday evening to Monday morning, when nobody comes by who could delete it."""
        return pricing.forgotten((self.dearest.rate, self.ipv4), WEEKEND_H)

    @property
    def month_eur(self) -> Decimal:
        """A whole month, capped as the bill is."""
        caps = [self.dearest.rate.per_month, self.ipv4.per_month]
        return sum((cap or Decimal(0) for cap in caps), self.volume_eur_month)


def terms(
    settings: Hetzner,
    types: Sequence[ServerType],
    prices: Prices,
    *,
    architecture: str,
    limit: Decimal | None = None,
) -> Terms:
    """From live prices; `architecture` is home's, `limit` in euros per hour.

    NoCapacity if none of the types is sold in any of the places and may be used.
    """
    known = {type_.name: type_ for type_ in types}
    choices: list[Choice] = []
    left_out: list[tuple[str, str]] = []
    for name in settings.server_type:
        type_ = known.get(name)
        offers = [
            offer
            for location in settings.location
            if type_ is not None and (offer := type_.offer(location)) is not None
        ]
        if type_ is None or not offers:
            left_out.append((name, "is not sold there"))
            continue
        if type_.architecture != architecture:
            why = f"is {type_.architecture}, and programs for {architecture} are built"
            left_out.append((name, why))
            continue
        dearest = max(offers, key=lambda offer: offer.hourly.net_eur)
        if limit is not None and dearest.hourly.net_eur > limit:
            left_out.append((name, f"costs more than €{limit} per hour"))
            continue
        choices.append(
            Choice(
                type=name,
                cores=type_.cores,
                memory_gb=type_.memory_gb,
                disk_gb=type_.disk_gb,
                location=dearest.location,
                rate=Rate.of_offer(dearest),
            )
        )
    if not choices:
        raise NoCapacity(
            f"in {', '.join(settings.location)}: "
            + "; ".join(f"{name} {why}" for name, why in left_out),
            what="a server like that",
        )
    ipv4 = [Rate.of_ipv4(prices, location) for location in settings.location]
    return Terms(
        choices=tuple(choices),
        left_out=tuple(left_out),
        locations=settings.location,
        ipv4=max(ipv4, key=lambda rate: rate.per_hour),
        volume_gb=settings.volume_gb,
        volume_eur_month=settings.volume_gb * prices.volume_gb_month.net_eur,
        hard_end_s=settings.hard_end_s,
        keep_alive_s=settings.keep_alive_s,
        vat_percent=prices.vat_percent,
    )


def text(found: Terms) -> list[str]:
    """What is shown before the question."""
    lines = ["Builds that are worth it will boot a server, tried in this order:", ""]
    lines += [
        f"  {choice.type:<6} {choice.cores:>3} cores {choice.memory_gb.normalize():>4f} GB  "
        f"€{choice.rate.per_hour:.4f} per started hour"
        for choice in found.choices
    ]
    lines += [f"  {name:<6} {why}, and left out" for name, why in found.left_out]
    hard_end = found.hard_end_s / 3600
    weekend = Amount(found.weekend_eur).text
    volume = Amount(found.volume_eur_month).text
    lines += [
        "",
        f"in {', '.join(found.locations)}; its IPv4 address €{found.ipv4.per_hour:.4f} per hour.",
        f"Each project has a volume of {found.volume_gb} GB: {volume} per month while it exists.",
        f"All without VAT; yours is {found.vat_percent.normalize():f} %.",
        "",
        f"An idle server goes at the end of a paid hour, and is off after {hard_end:g} h,",
        "whatever it does; but what is off bills like what runs, until a burst command or",
        "`burst-admin reap` with your token deletes it. The worst cases:",
        "",
        f"  used until its hard end and deleted then    {Amount(found.session_eur).text}",
        f"  forgotten for a weekend ({WEEKEND_H} h), no reaper   {weekend}",
        f"  forgotten for a month, no reaper            {Amount(found.month_eur).text}",
        "",
        "`burst-admin reap --install` makes this machine come by every five minutes.",
        f"Nothing dearer than €{found.max_eur_per_hour} per hour is ever created.",
    ]
    return lines


QUESTION: Final = "May burst create servers like these for you?"
"""No is the default."""


def entries(found: Terms) -> dict[str, str]:
    """What is written into `[hetzner]` of the user's configuration, as TOML: types, places, and the
    limit that was agreed."""

    def words(names: Sequence[str]) -> str:
        return "[" + ", ".join(f'"{name}"' for name in names) + "]"

    return {
        "server_type": words([choice.type for choice in found.choices]),
        "location": words(found.locations),
        "max_eur_per_hour": str(found.max_eur_per_hour),
    }
