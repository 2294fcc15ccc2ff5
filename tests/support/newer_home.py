"""A developer's machine that is a Debian trixie of its own, and a server that is this machine.

Home has its distribution's Python with our wheel and what a test has installed besides. The server
is reached over a cable between the two.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import pytest

import trixie
from space import Done, write_files
from sshd import SSHD, Sshd
from trixie import TrixieHost, Unavailable, cached_tree

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = 1
PACKAGES: Final = (*trixie.PACKAGES, "python3-venv", "gcc", "libc6-dev")
VENV: Final = "/opt/burst"
PROJECT: Final = f"/home/{trixie.USER}/app"


@attrs.frozen
class Home:
    """The developer's machine, and the server that it may use."""

    host: TrixieHost
    server: Sshd
    address: str
    rust: str
    """The folder of its Rust."""

    def run(self, *argv: str, **environ: str) -> Done:
        """In the project, as the developer."""
        path = f"{VENV}/bin:{self.rust}/bin:/usr/bin:/bin"
        settings = {"PATH": path, "CARGO_INCREMENTAL": "0", "CARGO_TERM_COLOR": "never", **environ}
        done = self.host.run(argv, cwd=PROJECT, **settings)
        return Done(done.returncode, done.stdout, done.stderr)

    def burst(self, *words: str) -> Done:
        return self.run("cargo", "burst", *words, BURST_HOST=self.address)


def requirements() -> list[str]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        found: list[str] = tomllib.load(file)["project"]["dependencies"]
    return found


def pip(*words: str | Path) -> None:
    pytest.importorskip("pip", reason="needs pip")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"pip: {error.stderr[-1000:]}") from error


def make(root: Path, packages: Sequence[str] = PACKAGES) -> None:
    """trixie with these, and an environment that lacks nothing but our wheel."""
    trixie.make(root, packages)
    python = subprocess.run(
        ["chroot", root, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    wheels = root / "opt" / "wheels"
    machine = platform.machine()
    fits = [f"--platform=manylinux{which}_{machine}" for which in ("2014", "_2_28")]
    fits += ["--only-binary=:all:", f"--python-version={python}"]
    pip("download", "--dest", wheels, *fits, *requirements())
    subprocess.run(["chroot", root, "python3", "-m", "venv", VENV], check=True)
    install = [f"{VENV}/bin/pip", "install", "--quiet", "--no-index", "--find-links=/opt/wheels"]
    # Nothing of this machine's pip: its settings name files that are not there.
    bare = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(["chroot", root, *install, *requirements()], check=True, env=bare)
    shutil.rmtree(wheels)


def wheel(folder: Path) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def as_root(host: TrixieHost, *argv: str) -> None:
    done = host.run(argv, user=None)
    assert done.returncode == 0, done.stdout + done.stderr


def install_wheel(host: TrixieHost) -> None:
    found = wheel(host.folder / "wheel")
    place = host.root / "root" / found.name
    shutil.copyfile(found, place)
    install = ["install", "--quiet", "--no-index", "--no-deps", f"/root/{found.name}"]
    as_root(host, f"{VENV}/bin/pip", *install)


def write_project(host: TrixieHost, files: Mapping[str, str]) -> None:
    """The developer's."""
    write_files(host.root / PROJECT.lstrip("/"), files)
    as_root(host, "chown", "-R", f"{trixie.UID}:{trixie.UID}", PROJECT)


def acquaint(host: TrixieHost, server: Sshd) -> str:
    """The server's address, for a developer who has its key and a key for it."""
    server.extra = f"ListenAddress {host.our_ip}"
    server.restart()
    ssh = host.root / "home" / trixie.USER / ".ssh"
    shutil.copyfile(server.client_home / ".ssh" / "id_ed25519", ssh / "id_ed25519")
    (ssh / "id_ed25519").chmod(0o600)
    (ssh / "known_hosts").write_text(f"[{host.our_ip}]:{server.port} {server.host_key_line}\n")
    as_root(host, "chown", "-R", f"{trixie.UID}:{trixie.UID}", f"/home/{trixie.USER}/.ssh")
    return f"{server.user}@{host.our_ip}:{server.port}"


def named(name: str) -> str:
    """Of a cached tree that `make` has filled."""
    needs = hashlib.sha256(" ".join(requirements()).encode()).hexdigest()[:12]
    return f"{name}-{RECIPE}-{needs}"


@contextlib.contextmanager
def newer_home(lower: Path, shown: Mapping[Path, str], rust: str) -> Iterator[Home]:
    """Both machines, acquainted, with our wheel. Skips where there can be none."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    with tempfile.TemporaryDirectory(prefix="burst-newer-", dir="/var/tmp") as folder:
        try:
            with (
                TrixieHost.start(Path(folder, "home"), lower=lower, shown=shown) as host,
                Sshd.start(Path(folder, "server"), plain_user=True) as server,
            ):
                install_wheel(host)
                opened = Home(host, server, acquaint(host, server), rust)
                yield opened
                opened.run("burst", "stop")
        except Unavailable as error:
            pytest.skip(str(error))


def home_tree(name: str, packages: Sequence[str] = PACKAGES) -> Path:
    """Skips where none can be made."""
    try:
        return cached_tree(named(name), lambda root: make(root, packages))
    except Unavailable as error:
        pytest.skip(str(error))
