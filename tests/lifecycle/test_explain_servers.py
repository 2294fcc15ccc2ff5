"""`cargo burst explain`: where units ran, on which server, and why not on one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.decision import Reason, Situation, Threshold, Work, decide, words
from burst_protocol.errors import Draining
from burst_wrapper import paths
from burst_wrapper.cli import explain
from burst_wrapper.daemon.remote import NotYet
from burst_wrapper.daemon.server_keeper import NoServer
from burst_wrapper.journal import Journal, UnitRecord

SERVER = "burst-build-0123456789"
UNIT = UnitRecord(
    crate="serde",
    kind="lib",
    where="remote",
    executor=SERVER,
    why="not in any store",
    reason="executed",
    wall_ms=300,
    sent_bytes=10,
    received_bytes=20,
    started_ms=1000,
    key="ab",
    manifest=(),
)


@pytest.fixture
def journal(home: Path) -> Journal:
    return Journal(os.path.join(paths.state_dir(dict(os.environb)), b"builds"))


def instead(crate: str, error: Exception) -> UnitRecord:
    """As `daemon.unit` writes down a unit that our agent at home compiled for want of a server."""
    code = getattr(error, "code", "")
    return attrs.evolve(
        UNIT,
        crate=crate,
        where="local",
        executor="embedded",
        why=f"not in any store; {code}: {error}",
        reason=code,
    )


def test_units_of_a_server_and_those_instead(
    journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line names who compiled, and the words stand for themselves."""
    none = decide(
        Work(unit_s=(24.0,)), Situation(configured=True, home_cores=2), Threshold(boot_after_s=90)
    )
    errors = {
        "a": NotYet("it boots", host="the server"),
        "b": NoServer(words(none, Threshold())),
        "c": Draining("idle at the hour's edge"),
        "d": NotYet("it boots", host="the server"),
    }
    journal.record((1, 1), b"/w", UNIT)
    for crate, error in errors.items():
        journal.record((1, 1), b"/w", instead(crate, error))
    assert explain.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split()[0]: line.partition(" B  ")[2].strip() for line in lines[2:7]}
    said = {crate: line.rpartition("20 B  ")[2] for crate, line in shown.items()}
    assert said == {
        "serde": f"{SERVER}: not in any store",
        "a": "embedded: not in any store; not-yet: the server is not ready yet: it boots",
        "b": "embedded: not in any store; no-server: too little to compile: 12 s at home, and "
        "one is booted for more than 90 s (`boot_after_s`)",
        "c": "embedded: not in any store; draining: the server is about to go: idle at the hour's "
        "edge",
        "d": "embedded: not in any store; not-yet: the server is not ready yet: it boots",
    }
    assert lines[7:10] == [
        "4 local, 1 remote",
        f"compiled elsewhere: 1 on {SERVER}",
        "compiled on this machine instead: 1 x draining, 1 x no-server, 2 x not-yet",
    ]
    assert explain.run(["--json"]) == 0
    units = json.loads(capsys.readouterr().out)["units"]
    assert [unit["reason"] for unit in units] == [
        "executed",
        "not-yet",
        "no-server",
        "draining",
        "not-yet",
    ]
    assert units[0]["executor"] == SERVER


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_words(reason: Reason) -> None:
    """Whoever reads them knows what to change."""
    decision = attrs.evolve(decide(Work(), Situation(), Threshold()), reason=reason)
    text = words(decision, Threshold(), 60.0)
    assert " " in text
    assert "Reason" not in text


def test_without_consent_nothing_is_booted() -> None:
    """`[hetzner]` without a limit is as good as none, and `explain` says what to do."""
    decision = decide(Work(unit_s=(9000.0,)), Situation(configured=False), Threshold())
    assert decision.reason is Reason.NOT_CONFIGURED
    assert "cargo burst enable hetzner" in words(decision, Threshold())
