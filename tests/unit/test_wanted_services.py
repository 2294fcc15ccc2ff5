"""Which databases are started for a project, and what its programs are told."""

from __future__ import annotations

import pytest

from burst_protocol.services import SERVICES
from burst_wrapper.verbs.wanted_services import wanted_services

POSTGRES = SERVICES["postgresql"].url.encode()
MYSQL = SERVICES["mysql"].url.encode()
REDIS = SERVICES["redis"].url.encode()


def test_nothing_is_started_for_who_asks_for_nothing() -> None:
    wanted = wanted_services((), {b"PATH": b"/bin", b"RUST_LOG": b"info", b"DATABASE_URL": None})
    assert (wanted.services, wanted.variables) == ((), ())


@pytest.mark.parametrize(
    ("configured", "services", "variables"),
    [
        (("postgres",), ("postgresql",), ((b"DATABASE_URL", POSTGRES),)),
        (("mariadb",), ("mysql",), ((b"DATABASE_URL", MYSQL),)),
        (("redis",), ("redis",), ((b"REDIS_URL", REDIS),)),
        # One name for two: the first of the documented order.
        (
            ("redis", "mysql", "postgresql"),
            ("postgresql", "mysql", "redis"),
            ((b"DATABASE_URL", POSTGRES), (b"REDIS_URL", REDIS)),
        ),
    ],
)
def test_configured(
    configured: tuple[str, ...],
    services: tuple[str, ...],
    variables: tuple[tuple[bytes, bytes], ...],
) -> None:
    """The usual variables say where they are, also if nobody forwards any."""
    wanted = wanted_services(iter(configured), {})
    assert (wanted.services, wanted.variables) == (services, variables)


@pytest.mark.parametrize(
    ("value", "service"),
    [
        (b"postgres://me:secret@localhost/app?sslmode=disable", "postgresql"),
        (b"postgresql://127.0.0.1:5433/app", "postgresql"),
        (b"postgres:///app", "postgresql"),
        (b"mysql://root@[::1]:3306/app", "mysql"),
        (b"redis://localhost:6379/0", "redis"),
        (b"postgres://db.example.com/app", None),
        (b"rediss://localhost:6380", None),
        (b"sqlite://test.db", None),
        (b"postgres", None),
        (b"postgres://[::1/app", None),
        (b"\xff://localhost", None),
    ],
)
def test_by_a_forwarded_value(value: bytes, service: str | None) -> None:
    """Home's own loopback is another one there; any other address was meant."""
    wanted = wanted_services((), {b"TEST_STORE": value})
    if service is None:
        assert (wanted.services, wanted.variables) == ((), ())
    else:
        url = SERVICES[service].url.encode()
        assert (wanted.services, wanted.variables) == ((service,), ((b"TEST_STORE", url),))


@pytest.mark.parametrize(
    ("name", "service", "value"),
    [
        (b"REDIS_URL", "redis", REDIS),
        (b"APP_POSTGRES_URL", "postgresql", POSTGRES),
        (b"PGHOST", "postgresql", b"127.0.0.1"),
        (b"PGPORT", "postgresql", b"5432"),
        (b"PGDATABASE", "postgresql", b"burst"),
        (b"MYSQL_PASSWORD", "mysql", b"burst"),
        (b"REDIS_PORT", "redis", b"6379"),
        (b"REDIS_PASSWORD", None, b""),
        (b"POSTGRES_POOL_SIZE", None, b""),
        (b"UPGRADE", None, b""),
    ],
)
def test_by_a_name_that_is_not_set_at_home(name: bytes, service: str | None, value: bytes) -> None:
    wanted = wanted_services((), {name: None})
    if service is None:
        assert (wanted.services, wanted.variables) == ((), ())
    else:
        assert (wanted.services, wanted.variables) == ((service,), ((name, value),))


def test_a_variable_that_fits_any_of_them_takes_what_there_is() -> None:
    wanted = wanted_services((), {b"DATABASE_URL": None, b"PGHOST": None})
    assert wanted.variables == ((b"DATABASE_URL", POSTGRES), (b"PGHOST", b"127.0.0.1"))


def test_what_the_user_says_stays() -> None:
    """With `--env NAME=VALUE`; the database that it names is there."""
    mine = {b"DATABASE_URL": b"postgres://burst:burst@127.0.0.1/burst"}
    wanted = wanted_services((), {b"DATABASE_URL": b"postgres://localhost/app"}, mine)
    assert (wanted.services, wanted.variables) == (("postgresql",), ())
    elsewhere = wanted_services(("postgresql",), {b"DATABASE_URL": b"postgres://db.example.com/a"})
    assert (elsewhere.services, elsewhere.variables) == (("postgresql",), ())
