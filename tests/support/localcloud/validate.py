"""Bodies and queries, checked before anything is done.

Stricter than the original on purpose in one point: unknown fields and unknown query parameters are
`invalid_input` everywhere; Hetzner's document says so (`additionalProperties: false`) for firewalls
and primary IPs only. A field that was removed (`datacenter`) thus cannot hide.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from .errors import invalid_input
from .labels import check_labels

Json = dict[str, Any]
Check = Callable[[str, Any], Any]
"""Gets the field's name and value, returns the value to use or raises ApiError."""

_HOST: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?")
_VOLUME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,62}[a-zA-Z0-9])?")
USER_DATA_MAX: Final = 32 * 1024
PER_PAGE: Final = 25
PER_PAGE_MAX: Final = 50


def fields(body: Json, required: Mapping[str, Check], optional: Mapping[str, Check]) -> Json:
    """The checked values of the fields that were given and are not null."""
    for name in body:
        if name not in required and name not in optional:
            raise invalid_input(name, "unknown field")
    for name in required:
        if body.get(name) is None:
            raise invalid_input(name, "missing data for required field")
    checks = {**required, **optional}
    return {name: checks[name](name, value) for name, value in body.items() if value is not None}


def string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise invalid_input(name, "must be a string")
    return value


def text(maximum: int) -> Check:
    """Not empty, at most that many characters."""

    def check(name: str, value: Any) -> str:
        if not 1 <= len(string(name, value)) <= maximum:
            raise invalid_input(name, f"must be 1 to {maximum} characters long")
        return str(value)

    return check


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid_input(name, "must be a boolean")
    return value


def integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_input(name, "must be an integer")
    return value


def id_or_name(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise invalid_input(name, "must be an ID or a name")
    return str(value)


def one_of(*values: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in values:
            raise invalid_input(name, f"must be one of {', '.join(values)}")
        return str(value)

    return check


def list_of(item: Check, maximum: int | None = None) -> Check:
    def check(name: str, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise invalid_input(name, "must be an array")
        if maximum is not None and len(value) > maximum:
            raise invalid_input(name, f"must have at most {maximum} entries")
        return [item(name, entry) for entry in value]

    return check


def labels(_name: str, value: Any) -> dict[str, str]:
    return check_labels(value)


def server_name(name: str, value: Any) -> str:
    """RFC 1123: labels of letters, digits and dashes, joined by dots, 253 characters in all."""
    parts = string(name, value).split(".")
    if len(value) > 253 or not all(_HOST.fullmatch(part) for part in parts):
        raise invalid_input(name, "must be a valid hostname as per RFC 1123")
    return str(value)


def volume_name(name: str, value: Any) -> str:
    if not _VOLUME.fullmatch(string(name, value)):
        raise invalid_input(name, "must be 1 to 64 letters, digits, dashes, underscores and dots")
    return str(value)


def volume_size(name: str, value: Any) -> int:
    if not 10 <= integer(name, value) <= 10240:
        raise invalid_input(name, "must be between 10 and 10240")
    return int(value)


def user_data(name: str, value: Any) -> str:
    if len(string(name, value).encode()) > USER_DATA_MAX:
        raise invalid_input(name, "is limited to 32KiB")
    return str(value)


def rule(name: str, value: Any) -> Json:
    """One firewall rule, with all six keys as the API returns it."""
    if not isinstance(value, dict):
        raise invalid_input(name, "must be an object")
    given = fields(
        value,
        {"direction": one_of("in", "out"), "protocol": one_of("tcp", "udp", "icmp", "esp", "gre")},
        {
            "port": _port,
            "source_ips": list_of(_cidr, 100),
            "destination_ips": list_of(_cidr, 100),
            "description": text(255),
        },
    )
    ports = given["protocol"] in {"tcp", "udp"}
    if ports != ("port" in given):
        raise invalid_input(f"{name}.port", "is for tcp and udp, and required there")
    inward = given["direction"] == "in"
    wanted, unwanted = ("source_ips", "destination_ips")[:: 1 if inward else -1]
    if not given.get(wanted) or given.get(unwanted):
        raise invalid_input(f"{name}.{wanted}", f"direction {given['direction']} needs {wanted}")
    return {
        "direction": given["direction"],
        "protocol": given["protocol"],
        "port": given.get("port"),
        "source_ips": given.get("source_ips", []),
        "destination_ips": given.get("destination_ips", []),
        "description": given.get("description"),
    }


def _port(name: str, value: Any) -> str:
    low, dash, high = string(name, value).partition("-")
    numbers = [int(part) for part in (low, high) if part.isascii() and part.isdigit()]
    if len(numbers) != (2 if dash else 1) or numbers != sorted(numbers):
        raise invalid_input(name, "must be a port or a range of ports")
    if not all(1 <= number <= 65535 for number in numbers):
        raise invalid_input(name, "must be between 1 and 65535")
    return str(value)


def _cidr(name: str, value: Any) -> str:
    """Host bits must be empty, and the prefix length given."""
    try:
        if "/" not in string(name, value):
            raise ValueError(value)
        return str(ipaddress.ip_network(value))
    except ValueError:
        raise invalid_input(name, f"{value!r} is not in CIDR block notation") from None


@attrs.frozen
class Page:
    number: int
    size: int

    def links(self, total: int) -> Json:
        last = max(1, math.ceil(total / self.size))
        return {
            "page": self.number,
            "per_page": self.size,
            "previous_page": self.number - 1 if self.number > 1 else None,
            "next_page": self.number + 1 if self.number < last else None,
            "last_page": last,
            "total_entries": total,
        }


class Query:
    """Query parameters, each of which may be repeated; every one must be known."""

    def __init__(self, values: Mapping[str, list[str]], allowed: Iterable[str]) -> None:
        self._values = values
        for name in values:
            if name not in allowed:
                raise invalid_input(name, "unknown parameter")

    def one(self, name: str) -> str | None:
        values = self._values.get(name)
        return values[-1] if values else None

    def many(self, name: str, enum: Iterable[str] | None = None) -> list[str]:
        values = self._values.get(name, [])
        for value in values:
            if enum is not None and value not in enum:
                raise invalid_input(name, f"{value!r} is not one of {', '.join(enum)}")
        return values

    def ids(self, name: str) -> list[int]:
        return [self._number(name, value, 1, 2**53) for value in self._values.get(name, [])]

    def page(self) -> Page:
        number = self._number("page", self.one("page") or "1", 1, 2**53)
        size = self._number("per_page", self.one("per_page") or str(PER_PAGE), 1, PER_PAGE_MAX)
        return Page(number, size)

    def sort(self, allowed: Iterable[str]) -> list[tuple[str, bool]]:
        """Fields, and whether descending."""
        wanted = [f"{name}{way}" for name in allowed for way in ("", ":asc", ":desc")]
        parts = (value.partition(":") for value in self.many("sort", wanted))
        return [(name, way == "desc") for name, _, way in parts]

    @staticmethod
    def _number(name: str, value: str, low: int, high: int) -> int:
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise invalid_input(name, f"must be between {low} and {high}")
        return int(value)
