"""One machine with a host to build on, for all tests of a session: the platform travels once.

`pytest_plugins = ("ssh_lab",)`; `lab` is ready to build, as if the daemon had never run: what a
test breaks is repaired for the next one.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import pytest

import faults
from faults import Phase
from space import Space
from sshd import SSHD, Proxy, Sshd

_tags: Final = itertools.count(1)


@attrs.define
class Lab:
    """`space` builds on `sshd`, a server on loopback with a cache folder of its own."""

    space: Space
    sshd: Sshd

    def through(self, proxy: Proxy) -> None:
        """Build over this connection from now on."""
        self.sshd.know(self.sshd.port, proxy.port)
        self.host(f"{self.sshd.user}@127.0.0.1:{proxy.port}")

    def host(self, address: str) -> None:
        """Build there, with the keys and known_hosts of the server's client."""
        ssh = self.space.home / ".ssh"
        shutil.rmtree(ssh, ignore_errors=True)
        shutil.copytree(self.sshd.client_home / ".ssh", ssh)
        self.space.env["BURST_HOST"] = address

    def write(self, files: Mapping[str, str]) -> None:
        """A project no store has seen: every crate root gets another constant."""
        tag = f'\npub const TAG: &str = "{next(_tags)}";\n'
        shutil.rmtree(self.space.project)
        self.space.project.mkdir()
        self.space.write(
            {
                name: text + tag if name.endswith(("src/lib.rs", "src/main.rs")) else text
                for name, text in files.items()
            }
        )

    def write_held(self, phase: Phase) -> None:
        """`faults.held_project`, new to every store; a proc macro may only have functions."""
        files = faults.held_project(phase)
        macros = {name: files.pop(name) for name in list(files) if name.startswith("spin/")}
        self.write(files)
        self.space.write(macros)

    def remote_rustcs(self, crate: str) -> list[int]:
        """The compilers of that crate in the host's sandboxes."""
        there = set(self.sshd.session_pids())
        return [pid for pid in faults.rustcs(self.space, crate) if pid in there]

    def hold(self, phase: Phase) -> int:
        """As `faults.hold`, on the host."""
        return faults.hold(self.space, phase, find=lambda: self.remote_rustcs("held"))

    def agents(self) -> list[int]:
        """The remote agents' processes."""
        return [pid for pid in self.sshd.session_pids() if faults.is_agent(pid)]

    def repair(self) -> None:
        """As if nothing had ever gone wrong."""
        self.space.stop()
        if self.sshd.environment or self.sshd.extra:
            self.sshd.environment.clear()
            self.sshd.extra = ""
            self.sshd.restart()
        with contextlib.suppress(AssertionError):
            self.sshd.thaw()
        self.sshd.know()
        self.host(self.sshd.address)
        shutil.rmtree(self.space.home / ".config", ignore_errors=True)
        for name in ("store", "spool"):
            shutil.rmtree(self.space.home / ".cache" / "burst" / name, ignore_errors=True)
        shutil.rmtree(self.space.state / "builds", ignore_errors=True)


@pytest.fixture(scope="session")
def _machine() -> Iterator[Lab]:
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    with (
        tempfile.TemporaryDirectory(prefix="burst-sshd-", dir="/var/tmp") as folder,
        Sshd.start(Path(folder, "sshd")) as sshd,
        Space.open(CARGO_INCREMENTAL="0") as space,
    ):
        lab = Lab(space, sshd)
        lab.repair()
        lab.write(faults.SMALL)
        space.cargo("build").check()
        yield lab


@pytest.fixture
def lab(_machine: Lab) -> Iterator[Lab]:
    """Repaired, with the small project in it."""
    _machine.repair()
    _machine.write(faults.SMALL)
    yield _machine
    _machine.space.stop()
