"""How tests are dealt to processes that run side by side (`pytest -n auto`, as `make test` does).

A file goes to one process as a whole, since its tests share a machine (a daemon, a server, what was
built before); only the files named here are dealt test by test. What takes long comes first, and
the small tests of single modules fill the gaps at the end. No test may depend on being alone: what
it looks for among processes, it tells from others' by a path or a parent of its own.

Loaded by conftest.py where pytest-xdist is installed.
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ONE_BY_ONE: Final = (
    "tests/e2e/test_projects.py",
    "tests/e2e/test_calls.py",
    "tests/faults/test_daemon_faults.py",
    "tests/lifecycle/test_builds_on_servers.py",
    "tests/lifecycle/test_verbs_on_servers.py",
    "tests/lifecycle/test_sigkill.py",
    "tests/lifecycle/test_sigkill_on_servers.py",
)
"""Files that take minutes, and whose tests do not share what was dear to make."""
ORDER: Final = (
    "tests/e2e/test_ssh.py",  # minutes in one piece, as the next ones
    "tests/lifecycle/test_sigkill.py",
    "tests/cloud/test_bake.py",
    "tests/faults/test_link_faults.py",
    "tests/e2e/test_projects.py",
    "tests/lifecycle/test_builds_on_servers.py",
    "tests/lifecycle/test_verbs_on_servers.py",
    "tests/lifecycle/test_reaper_for_real.py",
    "tests/lifecycle/test_sigkill_on_servers.py",
    "tests/lifecycle/test_sessions_on_servers.py",
    "tests/lifecycle/test_containers.py",
    "tests/e2e/",
    "tests/faults/",
    "tests/contract/",
    "tests/lifecycle/",
    "tests/server/",
    "tests/unit/",
)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """By file, in the order of collection."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return nodeid if path in ONE_BY_ONE else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """Twice as many as cores: half of the time a test waits for something. With more, servers'
    tests measure the machine."""
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In every worker the same; one process alone keeps the fast tests first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    return next((n for n, start in enumerate(ORDER) if nodeid.startswith(start)), len(ORDER))
