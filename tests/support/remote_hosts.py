"""Fixtures for remote hosts. Test modules ask for them with `pytest_plugins = ("remote_hosts",)`.

`sshd`: on loopback, as ourselves. `plain_sshd`: on loopback, never as root. `trixie`: a whole
Debian with its own network address (needs root; slow the first time). All three set HOME to the
client's home, with the key and known_hosts in it, and hide the ssh agent.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sshd import SSHD, Sshd
from trixie import TrixieHost, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def _client_environment(server: Sshd | TrixieHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(server.client_home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A running sshd; HOME is the client's home with the key and known_hosts."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    with Sshd.start(tmp_path / "sshd") as server:
        _client_environment(server, monkeypatch)
        yield server


@pytest.fixture
def plain_sshd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """As `sshd`, run by and for a user who is not root (ourselves, when we are not)."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    # Not tmp_path: its parents are closed to other users.
    with (
        tempfile.TemporaryDirectory(prefix="burst-sshd-") as folder,
        Sshd.start(Path(folder, "sshd"), plain_user=True) as server,
    ):
        _client_environment(server, monkeypatch)
        yield server


@pytest.fixture
def trixie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrixieHost]:
    """A Debian trixie host, freshly booted; tests that use it are marked `root` and `slow`."""
    with contextlib.ExitStack() as stack:
        try:
            host = stack.enter_context(TrixieHost.start(tmp_path / "trixie"))
        except Unavailable as error:
            pytest.skip(str(error))
        _client_environment(host, monkeypatch)
        yield host
