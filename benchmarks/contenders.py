"""What is measured against each other: each sets cargo up its own way and cleans up after itself.

Every contender keeps all it has below one folder that is given to it, so that a cold run is cold
and a user's own caches and daemons are neither used nor touched.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

HERE = Path(__file__).resolve().parent


class ContenderError(Exception):
    """A contender is not installed or did not do what it should; the message says which and why."""


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A short path: sockets live below it, and their names may have 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="bb"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program(name: str) -> Path | None:
    """A program installed with this interpreter, else one on PATH."""
    beside = Path(sysconfig.get_path("scripts"), name)
    if beside.is_file():
        return beside
    found = shutil.which(name)
    return Path(found) if found else None


def quietly(command: list[str], environ: dict[str, str]) -> None:
    """Run to the end; ContenderError with its output if it fails."""
    run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        said = (run.stderr or run.stdout).strip()
        raise ContenderError(f"`{' '.join(command)}` failed with {run.returncode}:\n{said}")


@attrs.define
class Floor:
    """The C wrapper that only copies; see floor.c."""

    folder: Path

    def build(self) -> None:
        """Compile it with this machine's cc."""
        self.folder.mkdir(parents=True)
        (self.folder / "store").mkdir()
        command = ["cc", "-std=c11", "-O2", "-o", str(self._program), str(HERE / "floor.c")]
        quietly(command, dict(os.environ))

    @property
    def _program(self) -> Path:
        return self.folder / "floor"

    def environ(self, mode: str) -> dict[str, str]:
        """For cargo; `mode` is record or replay."""
        return {
            "RUSTC_WRAPPER": str(self._program),
            "FLOOR_STORE": str(self.folder / "store"),
            "FLOOR_MODE": mode,
        }

    def calls(self) -> int:
        """How many rustc calls (without probes) were recorded."""
        return sum(1 for _ in (self.folder / "store").glob("*/unit"))


@attrs.define
class Sccache:
    """sccache with a cache folder and a server of its own."""

    path: Path
    folder: Path

    def environ(self) -> dict[str, str]:
        """For cargo and for sccache's own commands."""
        return {
            "RUSTC_WRAPPER": str(self.path),
            "SCCACHE_DIR": str(self.folder / "cache"),
            "SCCACHE_SERVER_UDS": str(self.folder / "socket"),
            "SCCACHE_CONF": str(self.folder / "config.toml"),
            "SCCACHE_IDLE_TIMEOUT": "0",
        }

    def start(self) -> None:
        """An empty cache and a running server, as a user has it."""
        self.folder.mkdir(parents=True)
        (self.folder / "config.toml").touch()
        quietly([str(self.path), "--start-server"], {**os.environ, **self.environ()})

    def stop(self) -> None:
        """End the server that `start` started, and only that."""
        quietly([str(self.path), "--stop-server"], {**os.environ, **self.environ()})


@attrs.define
class Burst:
    """burst on its embedded agent, with XDG folders of its own."""

    path: Path
    cargo_burst: Path
    folder: Path

    @classmethod
    def find(cls, folder: Path, wrapper: Path | None = None) -> "Burst | None":
        """None if burst is not installed with this interpreter (or not at `wrapper`)."""
        path = wrapper or program("burst-rustc")
        beside = path.with_name("cargo-burst") if path else None
        cargo_burst = beside if beside and beside.is_file() else program("cargo-burst")
        if path is None or cargo_burst is None or not os.access(path, os.X_OK):
            return None
        return cls(path, cargo_burst, folder)

    def environ(self) -> dict[str, str]:
        """For cargo and for `cargo burst`."""
        folders = {
            f"XDG_{kind}_{suffix}": str(self.folder / kind.lower())
            for kind, suffix in (
                ("CACHE", "HOME"),
                ("CONFIG", "HOME"),
                ("DATA", "HOME"),
                ("STATE", "HOME"),
                ("RUNTIME", "DIR"),
            )
        }
        return {"RUSTC_WRAPPER": str(self.path), **folders}

    def prepare(self) -> None:
        """Empty folders: nothing cached, nothing configured, nothing running."""
        for kind in ("cache", "config", "data", "state", "runtime"):
            (self.folder / kind).mkdir(parents=True, mode=0o700)

    def ask(self, *verb: str, folder: Path | None = None) -> str:
        """Run in `folder`, what `cargo burst <verb>` prints; ContenderError if it fails."""
        command = [str(self.cargo_burst), "burst", *verb]
        environ = {**os.environ, **self.environ()}
        run = subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, check=False
        )
        if run.returncode != 0:
            said = (run.stderr or run.stdout).strip()
            raise ContenderError(f"`cargo burst {' '.join(verb)}` failed:\n{said}")
        return run.stdout

    def stop(self) -> None:
        """End its daemon. A daemon that cannot be stopped must not pass unnoticed."""
        self.ask("stop")


def note(text: str) -> None:
    """To stderr: results alone go to stdout."""
    print(text, file=sys.stderr, flush=True)
