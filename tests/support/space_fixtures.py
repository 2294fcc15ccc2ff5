"""Fixtures with a machine: `pytest_plugins = ("space_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import faults
from space import Space
from wrong_hits import Twin, machines, twins


@pytest.fixture
def space() -> Iterator[Space]:
    """A fresh machine with the small project."""
    with Space.open(CARGO_INCREMENTAL="0") as opened:
        opened.write(faults.SMALL)
        yield opened


@pytest.fixture(scope="module")
def twins_machine() -> Iterator[Space]:
    with machines() as machine:
        yield machine


@pytest.fixture
def twin(twins_machine: Space, request: pytest.FixtureRequest) -> Iterator[Twin]:
    """A new project for this test, on the machine of its module."""
    with twins(twins_machine, request.node.name) as project:
        yield project
