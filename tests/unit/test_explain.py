"""burst_wrapper.cli.explain: the last build as people read it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import attrs
import pytest

from burst_wrapper import paths
from burst_wrapper.cli import explain
from burst_wrapper.journal import Journal, UnitRecord

UNIT = UnitRecord(
    crate="my_app",
    kind="bin",
    where="remote",
    executor="embedded",
    why="not in any store",
    reason="executed",
    wall_ms=3,
    sent_bytes=0,
    received_bytes=0,
    started_ms=1000,
    key="ab",
    manifest=(("arg", "--edition=2021"),),
)


@pytest.fixture
def journal(home: Path) -> Journal:
    return Journal(os.path.join(paths.state_dir(dict(os.environb)), b"builds"))


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (UNIT, "nothing of this changed since its last build: a source or another input did"),
        (
            attrs.evolve(UNIT, where="hit", reason="hit", manifest=()),
            "a result for exactly these inputs was stored",
        ),
        (
            attrs.evolve(UNIT, key="cd", manifest=(("arg", "--edition=2024"),)),
            "changed: arg: --edition=2021 -> --edition=2024",
        ),
    ],
)
def test_why_a_unit_was_a_miss(
    journal: Journal, capsys: pytest.CaptureFixture[str], second: UnitRecord, says: str
) -> None:
    """A hit is none, and nothing has to have changed for it."""
    journal.record((5, 1), b"/p", UNIT)
    began_ms = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == began_ms:
        pass  # builds are told apart by the millisecond
    journal.record((6, 1), b"/p", second)
    assert explain.run(["my-app"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == says
