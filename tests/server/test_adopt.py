"""A bundle that came over ssh becomes an agent of the server; parts of it, without systemd.

The whole is in tests/lifecycle/test_builds_on_servers.py, in a container.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from burst_agent.host import adopt


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As the bootstrap leaves it below root's home."""
    folder = tmp_path / "root/.cache/burst/agent" / ("a1" * 16)
    (folder / "lib/burst_agent/host").mkdir(parents=True)
    (folder / "COMMAND").write_text("{dir}/python\n-m\nburst_agent.main\n")
    (folder / "lib/burst_agent/host/adopt.py").write_text("x = 1\n")
    (folder / "python").write_text("#!/bin/sh\n")
    (folder / "python").chmod(0o755)
    folder.chmod(0o700)
    return folder


def test_it_knows_its_own_bundle(bundle: Path) -> None:
    """By the file that every bundle has; an agent that was installed otherwise says so."""
    file = bundle / "lib/burst_agent/host/adopt.py"
    assert adopt.own_bundle(str(file)) == str(bundle)
    with pytest.raises(adopt.AdoptError, match="not brought over ssh"):
        adopt.own_bundle(__file__)


def test_it_is_readable_by_the_agents_user(bundle: Path, tmp_path: Path) -> None:
    """A copy outside root's home, complete or not there; a second time nothing is copied."""
    final = tmp_path / "opt" / bundle.name
    final.parent.mkdir()
    adopt._bring(str(bundle), str(final))
    assert stat.S_IMODE(final.stat().st_mode) == 0o755
    assert os.access(final / "python", os.X_OK)
    before = final.stat().st_ino
    adopt._bring(str(bundle), str(final))
    assert final.stat().st_ino == before
    assert [entry.name for entry in final.parent.iterdir()] == [bundle.name]


def test_a_copy_that_was_interrupted_is_none(bundle: Path, tmp_path: Path) -> None:
    """What lies there without its command file is not used: that is an error, not an agent."""
    final = tmp_path / "opt" / bundle.name
    final.mkdir(parents=True)
    (final / "half").touch()
    with pytest.raises(adopt.AdoptError, match="cannot be made"):
        adopt._bring(str(bundle), str(final))


def test_a_link_that_leads_nowhere_is_none(tmp_path: Path) -> None:
    """An image whose agent was removed gets the one that came; another version stays."""
    current = tmp_path / "current"
    assert adopt._leads_to(str(current)) is None
    adopt._link("b2", str(current))
    assert adopt._leads_to(str(current)) is None
    (tmp_path / "b2").mkdir()
    (tmp_path / "b2/COMMAND").touch()
    assert adopt._leads_to(str(current)) == "b2"
    adopt._link("c3", str(current))
    assert os.readlink(current) == "c3"


@pytest.mark.parametrize("arguments", [["--from"], ["x"], ["--from", "a", "b"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, on stderr."""
    assert adopt.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_the_answer_says_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    """One JSON document, for whoever brought it."""
    assert adopt.main(["--from", "/no/such-bundle"]) == 1
    assert '"serves": false' in capsys.readouterr().out
