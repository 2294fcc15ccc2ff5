"""Databases that programs may ask for: names and addresses, for both ends."""

from __future__ import annotations

from typing import Final

import attrs

USER: Final = "burst"
DATABASE: Final = "burst"
PASSWORD: Final = "burst"  # noqa: S105 - see below
"""No secret: an instance listens on the loopback of a network that only its project is in."""


@attrs.frozen
class ServiceAddress:
    """Where a program finds a service that was started for it."""

    name: str
    port: int
    url: str


SERVICES: Final[dict[str, ServiceAddress]] = {
    it.name: it
    for it in (
        ServiceAddress(
            "postgresql", 5432, f"postgres://{USER}:{PASSWORD}@127.0.0.1:5432/{DATABASE}"
        ),
        ServiceAddress("mysql", 3306, f"mysql://{USER}:{PASSWORD}@127.0.0.1:3306/{DATABASE}"),
        ServiceAddress("redis", 6379, "redis://127.0.0.1:6379"),
    )
}
"""By the names that StartProgram gives. The README documents the addresses."""

ALIASES: Final = {"postgres": "postgresql", "mariadb": "mysql"}
"""What people write as well."""
