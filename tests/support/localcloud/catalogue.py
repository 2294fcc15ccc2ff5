"""What Hetzner sells: locations, server types, prices, system images.

Prices are EU net euros after 15 June 2026 (research/hetzner.md, section 3), exact decimals. Hourly
and monthly prices stand in a ratio of about 624 hours. Outside the EU no reliable euro list was
found: 20 % more, which is invented (one quoted figure, CCX13 in the US, is 19 % more in dollars).
Type and location ids are those of the documentation's examples where it has them, else invented.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import attrs

from .errors import invalid_input

Json = dict[str, Any]
D = Decimal

VAT: Final = D("0.19")
CURRENCY: Final = "EUR"
VOLUME_GB_MONTH: Final = D("0.0572")
SNAPSHOT_GB_MONTH: Final = D("0.011")
IPV4_HOURLY: Final = D("0.0008")
IPV4_MONTHLY: Final = D("0.50")
TRAFFIC_TB: Final = D("1.00")
ABROAD: Final = D("1.2")


@attrs.frozen
class Location:
    id: int
    name: str
    city: str
    country: str
    latitude: float
    longitude: float
    network_zone: str

    def json(self) -> Json:
        return {
            "id": self.id,
            "name": self.name,
            "description": f"{self.city} DC Park 1",
            "country": self.country,
            "city": self.city,
            "latitude": self.latitude,
            "longitude": self.longitude,
            "network_zone": self.network_zone,
        }


LOCATIONS: Final = (
    Location(1, "fsn1", "Falkenstein", "DE", 50.47612, 12.370071, "eu-central"),
    Location(2, "nbg1", "Nuremberg", "DE", 49.452102, 11.076665, "eu-central"),
    Location(3, "hel1", "Helsinki", "FI", 60.169855, 24.938379, "eu-central"),
    Location(4, "ash", "Ashburn, VA", "US", 39.045821, -77.487073, "us-east"),
    Location(5, "hil", "Hillsboro, OR", "US", 45.54222, -122.951924, "us-west"),
    Location(6, "sin", "Singapore", "SG", 1.283333, 103.833333, "ap-southeast"),
)
_EU: Final = ("fsn1", "nbg1", "hel1")
_US: Final = ("ash", "hil")
_ALL: Final = (*_EU, *_US, "sin")


def find_location(wanted: str) -> Location:
    """By id or name. ApiError `invalid_input`."""
    for location in LOCATIONS:
        if wanted in {location.name, str(location.id)}:
            return location
    raise invalid_input("location", "location not found")


@attrs.frozen
class ServerType:
    """Memory and disk in GB, prices in net euros at EU locations."""

    id: int
    name: str
    cores: int
    memory: int
    disk: int
    hourly: Decimal
    monthly: Decimal
    locations: tuple[str, ...]
    cpu_type: str = "shared"
    architecture: str = "x86"
    deprecated_from: str | None = None
    """RFC 3339. It can be ordered until `unavailable_after`."""
    unavailable_after: str | None = None

    @property
    def category(self) -> str:
        if self.cpu_type == "dedicated":
            return "Dedicated vCPU"
        return "Cost-Optimized" if self.name.startswith(("cx", "cax")) else "Regular Performance"

    def price(self, location: str) -> tuple[Decimal, Decimal]:
        """Net euros an hour, and at most a month."""
        factor = D(1) if location in _EU else ABROAD
        return self.hourly * factor, self.monthly * factor

    @property
    def deprecation(self) -> Json | None:
        if self.deprecated_from is None:
            return None
        return {"announced": self.deprecated_from, "unavailable_after": self.unavailable_after}


def _types() -> tuple[ServerType, ...]:
    rows = """
        22  cpx11    2   2   40  0.0080    4.99 us
        96  ccx13    2   8   80  0.0689   42.99 all dedicated
        97  ccx23    4  16  160  0.1378   85.99 all dedicated
        98  ccx33    8  32  240  0.2219  138.49 all dedicated
        99  ccx43   16  64  360  0.4423  275.99 all dedicated
        100 ccx53   32 128  600  0.8550  533.49 all dedicated
        101 ccx63   48 192  960  1.3678  853.49 all dedicated
        108 cpx12    1   2   40  0.0180   11.49 eusin
        109 cpx22    2   4   80  0.0312   19.49 eusin
        110 cpx32    4   8  160  0.0569   35.49 eusin
        111 cpx42    8  16  320  0.1114   69.49 eusin
        112 cpx52   12  24  480  0.1610  100.49 eusin
        113 cpx62   16  32  640  0.2083  129.99 eusin
        114 cx23     2   4   40  0.0088    5.49 eu
        115 cx33     4   8   80  0.0136    8.49 eu
        116 cx43     8  16  160  0.0256   15.99 eu
        117 cx53    16  32  320  0.0473   29.49 eu
        45  cax11    2   4   40  0.0096    5.99 eu arm
        93  cax21    4   8   80  0.0168   10.49 eu arm
        94  cax31    8  16  160  0.0336   20.99 eu arm
        95  cax41   16  32  320  0.0657   40.99 eu arm
    """
    places = {"eu": _EU, "us": _US, "eusin": (*_EU, "sin"), "all": _ALL}
    types = []
    for row in rows.strip().splitlines():
        number, name, cores, memory, disk, hourly, monthly, where, *rest = row.split()
        types.append(
            ServerType(
                id=int(number),
                name=name,
                cores=int(cores),
                memory=int(memory),
                disk=int(disk),
                hourly=D(hourly),
                monthly=D(monthly),
                locations=places[where],
                cpu_type="dedicated" if "dedicated" in rest else "shared",
                architecture="arm" if "arm" in rest else "x86",
            )
        )
    old = ServerType(
        id=23,
        name="cpx21",
        cores=3,
        memory=4,
        disk=80,
        hourly=D("0.0137"),
        monthly=D("8.49"),
        locations=_EU,
        deprecated_from="2025-10-16T06:00:00Z",
        unavailable_after="2026-01-01T00:00:00Z",
    )
    return (*types, old)


SERVER_TYPES: Final = _types()


def price(net: Decimal) -> Json:
    """As decimal strings, with VAT added and without."""
    return {"net": f"{net:.10f}", "gross": f"{net * (1 + VAT):.16f}"}


def type_prices(kind: ServerType) -> list[Json]:
    rows = []
    for location in kind.locations:
        hourly, monthly = kind.price(location)
        rows.append(
            {
                "location": location,
                "price_hourly": price(hourly),
                "price_monthly": price(monthly),
                "included_traffic": (20 if location in _EU else 1) * 10**12,
                "price_per_tb_traffic": price(TRAFFIC_TB),
            }
        )
    return rows


def pricing() -> Json:
    """The body of GET /pricing."""
    addresses = [
        {
            "type": family,
            "prices": [
                {"location": place, "price_hourly": price(hourly), "price_monthly": price(monthly)}
                for place in _ALL
            ],
        }
        for family, hourly, monthly in (("ipv4", IPV4_HOURLY, IPV4_MONTHLY), ("ipv6", D(0), D(0)))
    ]
    floating = [{"location": place, "price_monthly": price(D("3.00"))} for place in _ALL]
    return {
        "currency": CURRENCY,
        "vat_rate": f"{VAT * 100:.6f}",
        "image": {"price_per_gb_month": price(SNAPSHOT_GB_MONTH)},
        "floating_ip": {"price_monthly": price(D("3.00"))},
        "floating_ips": [{"type": kind, "prices": floating} for kind in ("ipv4", "ipv6")],
        "primary_ips": addresses,
        "traffic": {"price_per_tb": price(TRAFFIC_TB)},
        "server_backup": {"percentage": "20.000000"},
        "volume": {"price_per_gb_month": price(VOLUME_GB_MONTH)},
        "server_types": [
            {"id": kind.id, "name": kind.name, "prices": type_prices(kind)} for kind in SERVER_TYPES
        ],
        "load_balancer_types": [],
    }


@attrs.frozen
class SystemImage:
    id: int
    name: str
    os_flavor: str
    os_version: str
    architecture: str

    @property
    def description(self) -> str:
        return f"{self.os_flavor.capitalize()} {self.os_version}"


SYSTEM_IMAGES: Final = (
    SystemImage(161547269, "ubuntu-24.04", "ubuntu", "24.04", "x86"),
    SystemImage(161547270, "ubuntu-24.04", "ubuntu", "24.04", "arm"),
    SystemImage(310557660, "debian-13", "debian", "13", "x86"),
    SystemImage(310557661, "debian-13", "debian", "13", "arm"),
    SystemImage(114690387, "debian-12", "debian", "12", "x86"),
)
