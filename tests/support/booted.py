"""A container that boots as a server does: systemd, cloud-init with our user data, no network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from sshd import descendants

PATIENCE_S: Final = 150.0
_POLL_S: Final = 0.1
_SOURCES: Final = "datasource_list: [NoCloud]\n"


def base() -> Path:
    """The tree that the local cloud's servers start from."""
    trees = Path("~root/.cache/burst-tests").expanduser().glob("cloud-*/usr")
    found = sorted((tree.parent for tree in trees), key=lambda tree: tree.stat().st_mtime)
    if not found or shutil.which("systemd-nspawn") is None:
        pytest.skip("no systemd-nspawn, or the local cloud's tests have not made their tree")
    return found[-1]


class Booted:
    """One running machine; `root` is its file system from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upper = folder / "upper"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def leader(self) -> int | None:
        """Its first process, as numbered here."""
        pids = descendants(self._process.pid) if self._process is not None else []
        return pids[0] if pids else None

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.leader}/root")

    @property
    def console(self) -> str:
        return (self.folder / "console").read_text(errors="replace")

    def boot(self) -> None:
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
            "--console=pipe", "--private-network", "--capability=CAP_NET_ADMIN",
            "--resolv-conf=off", "--timezone=off", f"--directory={self.folder / 'root'}",
            f"--machine=burst-{os.getpid()}-{id(self):x}",
        ]  # fmt: skip
        with open(self.folder / "console", "wb") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )

    def run(self, *argv: str, check: bool = True) -> str:
        """What a command inside says."""
        enter = ["nsenter", f"--target={self.leader}", "--all", "--wd=/"]
        done = subprocess.run(
            [*enter, "env", "-i", "PATH=/usr/sbin:/usr/bin:/usr/local/bin", *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def wait_for(self, path: str) -> Path:
        """Until it is there."""
        end_s = time.monotonic() + PATIENCE_S
        while self.leader is None or not (self.root / path.lstrip("/")).exists():
            assert self._process is not None
            assert self._process.poll() is None, self.console
            assert time.monotonic() < end_s, f"no {path}: {self.console[-3000:]}"
            time.sleep(_POLL_S)
        return self.root / path.lstrip("/")

    def wait_off(self) -> None:
        """Until it has powered itself off."""
        assert self._process is not None
        assert self._process.wait(PATIENCE_S) == 0

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                leader = self.leader
                if leader is not None:
                    subprocess.run(["kill", "-9", str(leader)], check=False)
                self._process.kill()
                self._process.wait()


def user_data(**modules: Any) -> str:
    """JSON is YAML."""
    return "#cloud-config\n" + json.dumps(modules)


@contextlib.contextmanager
def booted(folder: Path, data: str, files: Sequence[tuple[str, str]] = ()) -> Iterator[Booted]:
    """Boots it with that user data, and files (path, text) that were there before."""
    lower = base()
    machine = Booted(folder)
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    machine.upper.chmod(0o755)
    seed = "/var/lib/cloud/seed/nocloud"
    for path, text in (
        (f"{seed}/user-data", data),
        (f"{seed}/meta-data", "instance-id: 4711\nlocal-hostname: server\n"),
        ("/etc/cloud/cloud.cfg.d/99-zz-sources.cfg", _SOURCES),
        *files,
    ):
        target = machine.upper / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    options = f"lowerdir={lower},upperdir={machine.upper},workdir={folder / 'work'}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "root")]
    subprocess.run(mount, check=True)
    try:
        machine.boot()
        yield machine
    finally:
        machine.end()
        subprocess.run(["umount", "-l", folder / "root"], check=False)
        shutil.rmtree(folder, ignore_errors=True)
