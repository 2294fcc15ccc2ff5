"""A developer's machine in a folder: home, XDG directories, a project, cargo with burst on top.

The real wrapper, daemon and agent of this checkout; rustc, cargo and the user's CARGO_HOME are the
machine's. `Space.cargo` runs cargo through burst, `Space.plain` without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

_SCRIPTS = Path(sys.executable).parent
BURST_RUSTC = _SCRIPTS / "burst-rustc"
CARGO_BURST = _SCRIPTS / "cargo-burst"
_DROPPED = ("CARGO_", "RUSTC", "RUSTDOC", "RUSTFLAGS", "XDG_", "BURST_", "SSH_", "MAKE", "MFLAGS")
_KEPT = ("CARGO_HOME",)
# Tests that run beside each other share one package cache; in colour there are escapes between.
_ESCAPE = r"(?:\x1b\[[0-9;]*m)*"
_WAITING = re.compile(rf"^{_ESCAPE}\s*Blocking{_ESCAPE} waiting for file lock.*\n?", re.MULTILINE)


@attrs.frozen
class Done:
    """A finished command, its output as text with what is not UTF-8 escaped."""

    status: int
    stdout: str
    stderr: str

    def check(self) -> Done:
        """Itself; AssertionError with the output if the command failed."""
        assert self.status == 0, f"status {self.status}\n{self.stdout}\n{self.stderr}"
        return self


def without_waiting(text: str) -> str:
    """Cargo's output without what it says of other cargos that hold a lock at that moment."""
    return _WAITING.sub("", text)


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Texts by their paths below it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@attrs.define
class Space:
    """`folder` is short on purpose: socket paths have a limit of about 107 bytes."""

    folder: Path
    home: Path
    project: Path
    env: dict[str, str]

    @classmethod
    @contextmanager
    def open(cls, **env: str) -> Iterator[Space]:
        """A fresh machine; its daemon is stopped and the folder removed at the end."""
        base = os.environ.get("BURST_TEST_BASE", "/var/tmp")
        folder = Path(tempfile.mkdtemp(prefix="burst-", dir=base))
        space = cls(folder, folder / "home", folder / "p", {})
        for name in ("home/.ssh", "run", "p"):
            (folder / name).mkdir(parents=True, mode=0o700)
        space.env = {
            **_inherited(),
            "HOME": str(space.home),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            **env,
        }
        try:
            yield space
        finally:
            space.stop()
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def store(self) -> Path:
        """The embedded agent's."""
        return self.home / ".cache" / "burst" / "store"

    @property
    def state(self) -> Path:
        return self.home / ".local" / "state" / "burst"

    def write(self, files: Mapping[str, str]) -> None:
        """Files of the project, by path."""
        write_files(self.project, files)

    def run(
        self, *argv: str | Path, cwd: Path | str | None = None, timeout_s: float = 900, **env: str
    ) -> Done:
        return self._run(argv, env, cwd, timeout_s)

    def _run(
        self,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        cwd: Path | str | None,
        timeout_s: float = 900,
    ) -> Done:
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=cwd or self.project,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
        return Done(
            done.returncode,
            done.stdout.decode("utf-8", "backslashreplace"),
            done.stderr.decode("utf-8", "backslashreplace"),
        )

    def cargo(self, *arguments: str, cwd: Path | str | None = None, **env: str) -> Done:
        """cargo through burst; under BURST_REQUIRE_REMOTE unless `env` says otherwise."""
        settings = {"RUSTC_WRAPPER": str(BURST_RUSTC), "BURST_REQUIRE_REMOTE": "1", **env}
        return self._run(["cargo", *arguments], settings, cwd)

    def plain(self, *arguments: str, cwd: Path | str | None = None, **env: str) -> Done:
        """cargo as if burst did not exist."""
        return self._run(["cargo", *arguments], env, cwd)

    def burst(self, *arguments: str, cwd: Path | str | None = None, **env: str) -> Done:
        """`cargo burst …`, which requires nothing."""
        return self._run([CARGO_BURST, "burst", *arguments], env, cwd)

    def units(self, build: int = 1) -> list[dict[str, Any]]:
        """What `explain` says of the N-th last build."""
        done = self.burst("explain", "--json", "--build", str(build))
        document = json.loads(done.stdout)
        units: list[dict[str, Any]] = document["units"]
        return units

    def where(self, build: int = 1) -> dict[str, str]:
        """Crate (with its kind, where several share a name) to remote, hit or local."""
        return {f"{u['crate']} {u['kind']}": u["where"] for u in self.units(build)}

    def fresh_target(self) -> None:
        shutil.rmtree(self.project / "target", ignore_errors=True)

    def forget_store(self) -> None:
        """As if burst had never run here, but for what a remote agent keeps."""
        self.stop()
        shutil.rmtree(self.home / ".cache" / "burst", ignore_errors=True)

    def stop(self) -> None:
        """End daemon and embedded agent."""
        self.burst("stop")

    def log(self) -> str:
        """The daemon's and the agent's logs, for a failing test's message."""
        logs = (*self.state.glob("*.log"), self.store / "agent.log")
        return "\n".join(
            f"--- {path}\n{path.read_text(errors='replace')[-6000:]}"
            for path in logs
            if path.exists()
        )


def _inherited() -> dict[str, str]:
    """The machine's environment without what would change a build or find another daemon."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(_DROPPED)
    }
    home = Path.home()
    env.setdefault("CARGO_HOME", str(home / ".cargo"))
    env.setdefault("RUSTUP_HOME", str(home / ".rustup"))
    env["PATH"] = env.get("PATH", "/usr/bin:/bin")
    return env
