"""Costs to the cent, against a straightforward computation of the bill's rules."""

from __future__ import annotations

import calendar
import datetime as dt
import math
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burst_lifecycle import pricing
from burst_lifecycle.admin.tariff import Tariff, hourly
from burst_lifecycle.cloud.model import Kind, Offer, Price, Prices, ServerType
from burst_lifecycle.history import End, Life
from burst_lifecycle.pricing import Rate

HOUR = 3600
START = dt.datetime(2026, 11, 26, 9, 0, tzinfo=dt.UTC).timestamp()


def price(text: str) -> Price:
    return Price(Decimal(text), Decimal(text) * Decimal("1.19"))


PRICES = Prices(
    currency="EUR",
    vat_percent=Decimal(19),
    volume_gb_month=price("0.0572"),
    image_gb_month=price("0.0110"),
    ipv4_hourly={"fsn1": price("0.0008")},
    ipv4_monthly={"fsn1": price("0.50")},
)
TYPES = [
    ServerType(
        1,
        "ccx43",
        16,
        Decimal(64),
        360,
        "x86",
        True,
        (Offer("fsn1", price("0.4423"), price("275.99"), available=True),),
    )
]
TARIFF = Tariff.of(PRICES, TYPES)


def life(kind: Kind, **changes: object) -> Life:
    given: dict[str, object] = {
        "kind": kind,
        "id": 1,
        "created_s": START,
        "created_known": True,
        "seen_s": START,
        "name": "x",
        "location": "fsn1",
        "type": {Kind.SERVER: "ccx43", Kind.PRIMARY_IP: "ipv4"}.get(kind, ""),
        **changes,
    }
    return Life(**given)  # type: ignore[arg-type]


def cents(amount: Decimal) -> str:
    return str(amount.quantize(Decimal("0.01"), ROUND_HALF_UP))


def by_hand(start_s: float, seconds: float, hour: str, month: str) -> Decimal:
    """The bill, the long way round: each hour by itself into its month, each month capped."""
    months: dict[str, Decimal] = {}
    at = start_s
    while at < start_s + max(seconds, 1):
        name = dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m")
        months[name] = months.get(name, Decimal(0)) + Decimal(hour)
        at += HOUR
    return sum((min(spent, Decimal(month)) for spent in months.values()), Decimal(0))


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1, "0.44"),
        (300, "0.44"),
        (3600, "0.44"),
        (3601, "0.88"),
        (12 * HOUR, "5.31"),
        (60 * HOUR, "26.54"),
        (40 * 24 * HOUR, "371.53"),  # 111 hours of November, December capped, 105 hours of January
    ],
)
def test_a_server(seconds: float, expected: str) -> None:
    """Started hours, no month beyond its price."""
    end = End(START + seconds, "idle", "a")
    cost = TARIFF.cost(life(Kind.SERVER, end=end), START + 1e9)
    assert cost.exact
    assert cost.amount.eur == by_hand(START, seconds, "0.4423", "275.99")
    assert cents(cost.amount.eur) == expected


@settings(max_examples=25)
@given(
    start=st.integers(1_700_000_000, 1_900_000_000),
    seconds=st.integers(0, 70 * 24 * HOUR),
)
def test_the_hours_add_up_to_the_bill(start: int, seconds: int) -> None:
    """The sum of charges is what `pricing` says of the whole, and what a bill by hand says."""
    rate = Rate(Decimal("0.4423"), Decimal("275.99"))
    charges = hourly(rate, life(Kind.SERVER, created_s=float(start)), start + seconds)
    total = sum((charge.eur for charge in charges), Decimal(0))
    assert total == pricing.hourly_cost(rate, start, start + seconds).eur
    assert total == by_hand(start, seconds, "0.4423", "275.99")
    assert len(charges) == max(1, math.ceil(seconds / HOUR))


@settings(max_examples=25)
@given(
    start=st.integers(1_700_000_000, 1_900_000_000),
    hours=st.integers(1, 900),
    grows=st.integers(1, 900),
)
def test_a_volume_that_grows(start: int, hours: int, grows: int) -> None:
    """Each started hour its size at its beginning, by the hours of its month."""
    sizes = ((float(start), Decimal(100)), (float(start + grows * HOUR), Decimal(250)))
    volume = life(Kind.VOLUME, created_s=float(start), sizes_gb=sizes)
    charges = hourly(Rate.of_volume(PRICES), volume, start + hours * HOUR)
    expected = Decimal(0)
    for number in range(hours):
        at = dt.datetime.fromtimestamp(start + number * HOUR, dt.UTC)
        days = calendar.monthrange(at.year, at.month)[1]
        size = 100 if number < grows else 250
        expected += size * Decimal("0.0572") / (24 * days)
    total = sum((charge.eur for charge in charges), Decimal(0))
    assert total.quantize(Decimal("0.0000001")) == expected.quantize(Decimal("0.0000001"))
    whole = pricing.size_cost(Rate.of_volume(PRICES), sizes, start, start + hours * HOUR)
    assert total == whole.eur


def test_an_address_a_snapshot_and_what_is_free() -> None:
    until = START + 10 * HOUR

    def cost(found: Life) -> str:
        return str(TARIFF.cost(found, until).amount.eur.quantize(Decimal("0.0001")))

    seen = {"seen_s": until}
    assert cost(life(Kind.PRIMARY_IP, **seen)) == "0.0080"
    assert cost(life(Kind.PRIMARY_IP, type="ipv6", **seen)) == "0.0000"
    snapshot = life(Kind.IMAGE, sizes_gb=((START, Decimal("7.2")),), **seen)
    assert cost(snapshot) == str(
        (10 * Decimal("7.2") * Decimal("0.0110") / 720).quantize(Decimal("0.0001"))
    )
    assert cost(life(Kind.SSH_KEY, **seen)) == "0.0000"


def test_an_address_of_which_kind_nobody_said() -> None:
    """Only those that bill are recorded with a price."""
    end = End(START + 60, "", "")
    free = life(Kind.PRIMARY_IP, type="", end=end)
    assert TARIFF.cost(free, START).amount.eur == 0
    bills = life(Kind.PRIMARY_IP, type="", eur_per_hour=Decimal("0.0007"), end=end)
    assert TARIFF.cost(bills, START).amount.eur == Decimal("0.0008")


def test_an_end_that_nobody_saw() -> None:
    """At least until it was seen last; exact if its absence was seen in the same started hour."""
    late = TARIFF.cost(life(Kind.SERVER, seen_s=START + 600, gone_s=START + 9 * HOUR), START + 1e6)
    assert late.amount.text == "at least €0.44"
    assert "nobody recorded" in late.why
    soon = TARIFF.cost(life(Kind.SERVER, seen_s=START + 600, gone_s=START + 3000), START + 1e6)
    assert soon.exact
    assert soon.amount.text == "€0.44"


def test_a_birth_that_nobody_recorded() -> None:
    cost = TARIFF.cost(life(Kind.SERVER, created_known=False, seen_s=START + 2 * HOUR), START + 1e6)
    assert cost.amount.text == "at least €0.88"


def test_whose_price_counts() -> None:
    """The user's own, else the cloud's, else what was recorded; else nobody's."""
    old = life(Kind.SERVER, type="gone1", eur_per_hour=Decimal("0.2"), end=End(START + 1, "", ""))
    assert TARIFF.cost(old, START + 1).amount.text == "€0.20"
    own = Tariff.of(PRICES, TYPES, {"": Decimal(1), "ccx43": Decimal(3)})
    assert own.cost(old, START + 1).amount.text == "€1.00"
    assert own.cost(life(Kind.SERVER, end=End(START + 1, "", "")), START).amount.text == "€3.00"
    nobody = Tariff().cost(life(Kind.SERVER), START)
    assert nobody.amount.text == "at least €0.00"
    assert "no price" in nobody.why


def test_per_hour() -> None:
    now = START
    assert TARIFF.per_hour(life(Kind.SERVER), now) == Decimal("0.4423")
    volume = life(Kind.VOLUME, sizes_gb=((START, Decimal(100)),))
    assert TARIFF.per_hour(volume, now) == 100 * Decimal("0.0572") / 720
    assert Tariff().per_hour(life(Kind.SERVER), now) is None
