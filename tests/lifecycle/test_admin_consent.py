"""What is shown and written down before a server may be made."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from burst_lifecycle import consent
from burst_lifecycle.cloud.model import Offer, Price, Prices, ServerType
from burst_lifecycle.errors import NoCapacity
from burst_lifecycle.settings import Hetzner, read_user


def price(text: str) -> Price:
    return Price(Decimal(text), Decimal(text) * Decimal("1.19"))


def kind(number: int, name: str, cores: int, hourly: str, monthly: str) -> ServerType:
    offers = tuple(
        Offer(place, price(hourly), price(monthly), available=True) for place in ("fsn1", "nbg1")
    )
    return ServerType(
        number, name, cores, Decimal(cores * 4), cores * 20, "x86", dedicated=True, offers=offers
    )


TYPES = [
    kind(1, "ccx63", 48, "1.3678", "853.49"),
    kind(2, "ccx53", 32, "0.8550", "533.49"),
]
PRICES = Prices(
    "EUR",
    Decimal(19),
    price("0.0572"),
    price("0.0110"),
    {"fsn1": price("0.0008"), "nbg1": price("0.0008")},
    {"fsn1": price("0.50"), "nbg1": price("0.50")},
)
SETTINGS = Hetzner(location=("fsn1", "nbg1"), server_type=("ccx63", "ccx53", "cpx99"))


def test_the_text() -> None:
    """As people see it: each figure stands for itself."""
    assert (
        "\n".join(consent.text(consent.terms(SETTINGS, TYPES, PRICES, architecture="x86")))
        == """\
Builds that are worth it will boot a server, tried in this order:

  ccx63   48 cores  192 GB  €1.3678 per started hour
  ccx53   32 cores  128 GB  €0.8550 per started hour
  cpx99  is not sold there, and left out

in fsn1, nbg1; its IPv4 address €0.0008 per hour.
Each project has a volume of 100 GB: €5.72 per month while it exists.
All without VAT; yours is 19 %.

An idle server goes at the end of a paid hour, and is off after 12 h,
whatever it does; but what is off bills like what runs, until a burst command or
`burst-admin reap` with your token deletes it. The worst cases:

  used until its hard end and deleted then    €16.42
  forgotten for a weekend (60 h), no reaper   €82.12
  forgotten for a month, no reaper            €859.71

`burst-admin reap --install` makes this machine come by every five minutes.
Nothing dearer than €1.37 per hour is ever created."""
    )


def test_what_is_written_down_is_read_again(tmp_path: Path) -> None:
    """Types, places and the limit; the limit admits the dearest type that was shown."""
    found = consent.terms(SETTINGS, TYPES, PRICES, architecture="x86")
    lines = [f"{key} = {value}\n" for key, value in consent.entries(found).items()]
    path = tmp_path / "config.toml"
    path.write_text("[hetzner]\n" + "".join(lines))
    values = read_user(str(path)).values
    assert values["hetzner.server_type"] == ("ccx63", "ccx53")
    assert values["hetzner.max_eur_per_hour"] == Decimal("1.37")
    assert values["hetzner.max_eur_per_hour"] >= found.dearest.rate.per_hour


def test_what_cannot_be_used_is_named() -> None:
    """Of another architecture than home's, or dearer than the user's own limit."""
    arm = attrs.evolve(TYPES[0], name="cax41", architecture="arm")
    settings = attrs.evolve(SETTINGS, server_type=("cax41", "ccx63", "ccx53"))
    found = consent.terms(settings, [*TYPES, arm], PRICES, architecture="x86", limit=Decimal("0.9"))
    assert [choice.type for choice in found.choices] == ["ccx53"]
    assert found.left_out == (
        ("cax41", "is arm, and programs for x86 are built"),
        ("ccx63", "costs more than €0.9 per hour"),
    )
    assert found.max_eur_per_hour == Decimal("0.86")


def test_nothing_is_sold_there() -> None:
    elsewhere = attrs.evolve(SETTINGS, location=("sin",))
    with pytest.raises(NoCapacity, match="ccx63 is not sold there; ccx53"):
        consent.terms(elsewhere, TYPES, PRICES, architecture="x86")
