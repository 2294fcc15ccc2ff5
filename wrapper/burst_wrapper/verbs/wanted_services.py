"""Which databases a project's programs want, and the variables that say where they are: pure.

A project asks for services by name (`services` in a configuration), or by forwarding a variable
that tells of one: `DATABASE_URL=postgres://localhost/app` at home means a database on the machine
that the program runs on, and there it is ours.

- A forwarded variable whose value is an address on the loopback: that service is started, and the
  program gets its address in place of home's. An address elsewhere is left alone: it was meant.
- One that is not set at home: by its name, `REDIS_URL`, `MYSQL_HOST`, `PGDATABASE`…
- For a service that is configured, `DATABASE_URL` or `REDIS_URL` is set even if nobody forwards it.
- What the user gave with its value (`--env NAME=VALUE`) stays as it is; an address on the loopback
  in it starts the service all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from burst_protocol.services import ALIASES, DATABASE, PASSWORD, SERVICES, USER

_SCHEMES: Final = {
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "redis": "redis",
}
"""`rediss` is not among them: ours has no TLS."""
_WORDS: Final = {
    "POSTGRES": "postgresql",
    "POSTGRESQL": "postgresql",
    "PG": "postgresql",
    "MYSQL": "mysql",
    "MARIADB": "mysql",
    "REDIS": "redis",
    "VALKEY": "redis",
}
_LIBPQ: Final = ("PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE")
"""One word each: www.postgresql.org/docs/15/libpq-envars.html."""
_USUAL: Final = {"postgresql": b"DATABASE_URL", "mysql": b"DATABASE_URL", "redis": b"REDIS_URL"}
_LOCAL: Final = ("", "localhost", "::1")
_ADDRESSES: Final = ("URL", "URI", "DSN")


@attrs.frozen
class Wanted:
    """`services` as StartProgram names them; `variables` take the place of home's."""

    services: tuple[str, ...]
    variables: tuple[tuple[bytes, bytes], ...]


def wanted_services(
    configured: Iterable[str],
    forwarded: Mapping[bytes, bytes | None],
    given: Mapping[bytes, bytes] | None = None,
) -> Wanted:
    """`forwarded`: names that go to programs with home's value, None if it is not set there;
    `given`: those that the user gave with a value."""
    given = given or {}
    asked = {ALIASES.get(name, name) for name in configured}
    wanted = set(asked)
    variables: dict[bytes, bytes] = {}
    undecided: list[bytes] = []
    for name, value in forwarded.items():
        if name in given:
            continue
        if value:
            service = _by_value(value)
            if service:
                variables[name] = SERVICES[service].url.encode()
                wanted.add(service)
            continue
        service = _by_name(name)
        if not service:
            undecided.append(name)
        elif (text := _text(name, service)) is not None:
            variables[name] = text.encode()
            wanted.add(service)
    wanted |= {service for value in given.values() if (service := _by_value(value))}
    services = tuple(name for name in SERVICES if name in wanted)
    for service in services:
        usual = _USUAL[service]
        free = usual not in given and not forwarded.get(usual)
        if free and (usual in undecided or service in asked):
            variables.setdefault(usual, SERVICES[service].url.encode())
    return Wanted(services, tuple(sorted(variables.items())))


def _by_value(value: bytes) -> str | None:
    """The service that an address on the loopback tells of."""
    from urllib.parse import urlsplit  # noqa: PLC0415 - few verbs ask

    try:
        parts = urlsplit(value.decode())
        host = parts.hostname or ""
    except ValueError:  # not UTF-8, or brackets that do not close
        return None
    service = _SCHEMES.get(parts.scheme)
    local = host in _LOCAL or host.startswith("127.")
    return service if local and value.partition(b":")[2].startswith(b"//") else None


def _by_name(name: bytes) -> str | None:
    text = name.decode("ascii", "replace").upper()
    if text in _LIBPQ:
        return "postgresql"
    return next((_WORDS[word] for word in text.split("_") if word in _WORDS), None)


def _text(name: bytes, service: str) -> str | None:
    """What a variable of that name should hold; None if that is not clear."""
    address = SERVICES[service]
    word = name.decode("ascii", "replace").upper()
    word = word.removeprefix("PG") if word in _LIBPQ else word.rpartition("_")[2]
    if word in _ADDRESSES:
        return address.url
    values = {"HOST": "127.0.0.1", "HOSTADDR": "127.0.0.1", "PORT": str(address.port)}
    if service != "redis":
        names = {"USER": USER, "USERNAME": USER, "PASSWORD": PASSWORD, "DB": DATABASE}
        values |= names | {"DATABASE": DATABASE}
    return values.get(word)
