"""burst_lifecycle.pricing: to the cent, as the bill has it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_lifecycle.cloud.model import Kind, Offer, Price, Prices
from burst_lifecycle.events import Created
from burst_lifecycle.pricing import (
    HOUR_S,
    Amount,
    Rate,
    cost_of,
    forgotten,
    gross,
    hourly_cost,
    hours_of_month,
    month_of,
    paid_until_s,
    per_hour,
    size_cost,
    started_hours,
    total,
)

D = Decimal
CCX63 = Rate(D("1.3678"), D("853.49"))
VOLUME = Rate(per_gb_month=D("0.0572"))


def at(text: str) -> float:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp()


NOON = at("2026-09-10T12:00:00")


@pytest.mark.parametrize(
    ("seconds", "hours"), [(0, 1), (1, 1), (300, 1), (3600, 1), (3600.5, 2), (7200, 2), (-5, 1)]
)
def test_started_hours(seconds: float, hours: int) -> None:
    """Five minutes are an hour; a birth in the future by a second's rounding, too."""
    assert started_hours(NOON, NOON + seconds) == hours
    assert hourly_cost(CCX63, NOON, NOON + seconds).eur == hours * D("1.3678")
    assert paid_until_s(NOON, NOON + seconds) == NOON + hours * HOUR_S


def test_no_month_costs_more_than_its_price() -> None:
    """624 hours reach the cap; the next month begins anew."""
    begin = at("2026-09-01T00:00:00")
    assert hourly_cost(CCX63, begin, begin + 600 * HOUR_S).eur == 600 * D("1.3678")
    assert hourly_cost(CCX63, begin, begin + 720 * HOUR_S).eur == D("853.49")
    assert hourly_cost(CCX63, begin, begin + 722 * HOUR_S).eur == D("853.49") + 2 * D("1.3678")
    uncapped = Rate(D("1.3678"))
    assert hourly_cost(uncapped, begin, begin + 720 * HOUR_S).eur == 720 * D("1.3678")


def test_an_hour_belongs_to_the_month_in_which_it_starts() -> None:
    """The last half hour of September is September's."""
    begin = at("2026-09-30T23:30:00")
    rate = Rate(D(1), D("1.5"))
    assert hourly_cost(rate, begin, begin + 3 * HOUR_S).eur == D(1) + D("1.5")


def test_volumes_by_size_and_hour() -> None:
    """100 GB for a whole September are 100 monthly prices; growing counts from then on."""
    begin, end = month_of(NOON)
    sizes = ((begin, D(100)),)
    assert size_cost(VOLUME, sizes, begin, end).cents == D("5.72")
    grown = (*sizes, (begin + 360 * HOUR_S, D(200)))
    assert size_cost(VOLUME, grown, begin, end).cents == D("8.58")
    assert hours_of_month(begin) == 720
    assert hours_of_month(at("2028-02-29T00:00:00")) == 29 * 24


def test_a_snapshot_costs_from_when_its_size_is_known() -> None:
    """While it is made nobody knows what it will be."""
    rate = Rate(per_gb_month=D("0.0143"))
    cost = size_cost(rate, ((NOON + 1800, D(3)),), NOON, NOON + 2 * HOUR_S)
    assert cost.eur == D(3) * D("0.0143") / 720
    assert not cost.at_least


def test_what_is_not_known_is_a_lower_bound() -> None:
    """Never a guess that looks like a number."""
    assert hourly_cost(CCX63, None, NOON) == Amount(D("1.3678"), at_least=True)
    assert size_cost(VOLUME, (), NOON, NOON).at_least
    nothing_known = Created(at_s=NOON, kind=Kind.SERVER, id=1)
    assert cost_of(nothing_known, NOON) == Amount(at_least=True)
    assert per_hour(nothing_known, NOON) == Amount(at_least=True)
    both = total([Amount(D("1.005")), cost_of(nothing_known, NOON)])
    assert both.text == "at least €1.01"
    assert Amount(D("0.004")).text == "€0.00"


def test_by_what_the_ledger_holds() -> None:
    """Servers, addresses, volumes; keys cost nothing."""
    server = Created(
        at_s=NOON,
        kind=Kind.SERVER,
        id=1,
        created_s=NOON,
        eur_per_hour=D("1.3678"),
        eur_per_month=D("853.49"),
    )
    volume = Created(
        at_s=NOON,
        kind=Kind.VOLUME,
        id=2,
        created_s=NOON,
        size_gb=D(100),
        eur_per_gb_month=D("0.0572"),
    )
    key = Created(at_s=NOON, kind=Kind.SSH_KEY, id=3, created_s=NOON)
    assert cost_of(server, NOON + 5400).eur == D("2.7356")
    assert cost_of(volume, NOON + 60).eur == D("5.72") / 720
    assert cost_of(key, NOON + 60) == Amount()
    assert per_hour(server, NOON).eur == D("1.3678")
    assert per_hour(volume, NOON).eur == D("5.72") / 720
    assert per_hour(key, NOON) == Amount()


def test_rates_of_the_price_list() -> None:
    """An unknown location's address costs as the dearest one."""
    two = {"fsn1": Price(D("0.0008"), D("0.001")), "sin": Price(D("0.002"), D("0.003"))}
    prices = Prices(
        currency="EUR",
        vat_percent=D(19),
        volume_gb_month=Price(D("0.0572"), D("0.0681")),
        image_gb_month=Price(D("0.0143"), D("0.0170")),
        ipv4_hourly=two,
        ipv4_monthly=two,
    )
    assert Rate.of_ipv4(prices, "fsn1") == Rate(D("0.0008"), D("0.0008"))
    assert Rate.of_ipv4(prices, "mars") == Rate(D("0.002"), D("0.002"))
    assert Rate.of_volume(prices) == VOLUME
    assert Rate.of_image(prices).per_gb_month == D("0.0143")
    assert gross(D(100), prices) == D(119)
    offer = Offer("fsn1", Price(D("1.3678"), D("1.6")), Price(D("853.49"), D(1000)), True)
    assert Rate.of_offer(offer) == CCX63


def test_a_forgotten_weekend() -> None:
    """Sixty hours of a CCX63 with its address; capped by the month if it is cheaper."""
    assert forgotten([CCX63, Rate(D("0.0008"), D("0.50"))]) == 60 * D("1.3686")
    assert forgotten([CCX63], hours=1000) == D("853.49")


_TIMES = st.integers(0, 60 * 24 * 3600)


@given(_TIMES, _TIMES)
def test_time_never_makes_it_cheaper(first: int, more: int) -> None:
    """And a month is never dearer than its price."""
    shorter, longer = (hourly_cost(CCX63, NOON, NOON + t).eur for t in (first, first + more))
    assert shorter <= longer
    months = 2 + (first + more) // (28 * 24 * 3600)
    assert longer <= months * D("853.49")


@given(st.lists(st.integers(1, 5 * 24 * 3600), min_size=1, max_size=5))
def test_a_server_kept_is_never_dearer_than_one_made_anew(stretches: list[int]) -> None:
    """Why idle servers are kept until their hour's edge: each new one begins an hour of its own."""
    whole = hourly_cost(Rate(D(1)), NOON, NOON + sum(stretches)).eur
    begins = [NOON + sum(stretches[:number]) for number in range(len(stretches))]
    parts = [
        hourly_cost(Rate(D(1)), begin, begin + length).eur
        for begin, length in zip(begins, stretches, strict=True)
    ]
    assert whole <= sum(parts)
