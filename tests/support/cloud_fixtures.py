"""Clouds: `pytest_plugins = ("cloud_fixtures",)`. See `localcloud`.

After each test the cloud must hold what the test said by `expect`, else nothing; every answer it
gave must have been as Hetzner's document describes it; and what it made on this machine is gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localcloud import LocalCloud
from localcloud.host import leftovers
from localcloud.schema import expected, problems
from trixie import Unavailable

REAL_TIMEOUT_S = 300
MAKING_TIMEOUT_S = 1500


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Containers take longer than the usual time limit on a busy machine; the first test of a run
    may have to make their tree."""
    limit = MAKING_TIMEOUT_S
    for item in items:
        if {"real_cloud", "database_cloud"} & set(getattr(item, "fixturenames", ())):
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(limit))
            limit = REAL_TIMEOUT_S


@pytest.fixture
def paper_cloud() -> Iterator[LocalCloud]:
    """Servers are on paper: the API, its rules, its bill."""
    with LocalCloud() as cloud:
        yield cloud
        cloud.check()
        check_answers(cloud)


def check_answers(cloud: LocalCloud) -> None:
    """AssertionError unless all answers are of Hetzner's schema."""
    for call in cloud.calls():
        if call.status is not None and call.injected is None:
            schema = expected(call.operation, call.status)
            wrong = [] if schema is None else problems(schema, call.answer)
            assert not wrong, f"{call.operation}: {wrong}"
            assert schema is not None or call.answer is None, call.operation


@pytest.fixture
def real_cloud() -> Iterator[LocalCloud]:
    """Servers are containers. Needs root (mark the test `root` and `slow`)."""
    yield from _containers(databases=False)


@pytest.fixture
def database_cloud() -> Iterator[LocalCloud]:
    """The same, and its servers have the databases of a baked image."""
    yield from _containers(databases=True)


def _containers(*, databases: bool) -> Iterator[LocalCloud]:
    from localcloud.containers import Containers

    try:
        backend = Containers(databases=databases)
    except Unavailable as error:
        pytest.skip(str(error))
    with LocalCloud(backend=lambda _: backend) as cloud:
        yield cloud
        cloud.check()
        check_answers(cloud)
    assert not leftovers(backend.run.id)
    assert not backend.run.folder.exists()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCloud]:
    """Servers are one sshd process each, on 127.83.N.M; BURST_TEST_SSH_PORTS is set."""
    from localcloud.processes import Processes

    backend = Processes()
    monkeypatch.setenv("BURST_TEST_SSH_PORTS", str(backend.ports))
    with LocalCloud(backend=lambda _: backend) as made:
        yield made
        made.check()
        check_answers(made)
    assert not leftovers(backend.run.id)
    assert not backend.run.folder.exists()
