"""What the tests leave out when they compare what two cargos said."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from space import without_waiting


@pytest.mark.parametrize("color", ["always", "never"])
def test_cargo_waits_for_another(tmp_path: Path, color: str) -> None:
    """As tests do that run beside each other with one package cache."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/lib.rs").touch()
    (tmp_path / "Cargo.toml").write_text(
        '[package]\nname = "one"\nversion = "0.1.0"\nedition = "2021"\n'
    )
    home = tmp_path / "cargo-home"
    home.mkdir()
    env = {**os.environ, "CARGO_HOME": str(home), "RUSTUP_HOME": _rustup_home()}
    with open(home / ".package-cache", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with subprocess.Popen(
            ["cargo", "check", "--color", color],
            cwd=tmp_path,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        ) as cargo:
            assert cargo.stderr is not None
            waiting = cargo.stderr.readline()
            fcntl.flock(lock, fcntl.LOCK_UN)
            rest = cargo.stderr.read()
    assert "Blocking" in waiting
    assert "waiting for file lock on package cache" in waiting
    assert "Blocking" not in without_waiting(rest)
    assert without_waiting(waiting + rest) == without_waiting(rest)


def _rustup_home() -> str:
    return os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup")
