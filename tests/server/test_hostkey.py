"""The host key is made anew on the server, and real sshd shows it from the commit on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burst_agent.host import hostkey
from burst_agent.host.hostkey import HostKeys
from sshd import SSHD, Sshd, keygen

KEY = "ssh_host_ed25519_key"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a key that came from elsewhere."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    keygen(folder / KEY)
    return folder


class Reloads:
    """Counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def public(path: Path) -> str:
    return " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])


def test_rotation_in_two_steps(folder: Path) -> None:
    """Both are known in between; after the commit there is one, in both of its files."""
    reloads = Reloads()
    keys = HostKeys(str(folder), reloads)
    old = public(folder / KEY)
    assert keys.status() == {"current": old, "next": None}
    first = keys.rotate()
    new = first["next"]
    assert first == {"current": old, "next": new, "committed": False}
    assert new not in {None, old}
    assert public(folder / KEY) == old
    assert reloads.count == 0
    assert keys.rotate() == first
    assert keys.commit() == {"current": new, "next": None, "committed": True}
    assert public(folder / KEY) == new
    assert (folder / KEY).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(folder)) == [KEY, f"{KEY}.pub"]
    assert reloads.count == 1
    assert keys.commit()["committed"] is False
    assert keys.rotate()["next"] not in {old, new}


def test_a_rotation_that_was_killed_is_made_again(folder: Path) -> None:
    """Half a key is none."""
    (folder / "burst_next_ed25519_key.new").write_text("half")
    keys = HostKeys(str(folder), Reloads())
    new = keys.rotate()["next"]
    assert isinstance(new, str)
    assert new.startswith("ssh-ed25519 ")


def test_the_command_answers_with_one_document(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And never with a private half."""

    def ask(*argv: str) -> tuple[int, Any]:
        options = ["--folder", str(folder), "--pid-file", str(folder / "none")]
        code = hostkey.main([*options, *argv])
        out = capsys.readouterr().out
        assert "PRIVATE" not in out
        return code, json.loads(out)

    assert ask("rotate", "--commit")[0] == 1
    assert ask("rotate")[0] == 0
    code, problem = ask("rotate", "--commit")
    assert code == 2
    assert "none" in problem["detail"]
    assert ask("status")[1]["next"] is None


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    with Sshd.start(tmp_path / "host") as running:
        yield running


def shown(sshd: Sshd) -> str:
    """What ssh-keyscan sees."""
    done = subprocess.run(
        ["ssh-keyscan", "-t", "ed25519", "-p", str(sshd.port), "127.0.0.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    return " ".join(done.stdout.split()[1:3])


@pytest.mark.slow
def test_sshd_shows_the_new_key_after_the_commit(sshd: Sshd, tmp_path: Path) -> None:
    """A login that was open stays open; the next one sees the new key."""
    path = sshd.host_key
    folder = tmp_path / "keys"
    folder.mkdir()
    for suffix in ("", ".pub"):
        shutil.copy(f"{path}{suffix}", folder / f"{KEY}{suffix}")
        os.unlink(f"{path}{suffix}")
        os.symlink(folder / f"{KEY}{suffix}", f"{path}{suffix}")
    pid_file = tmp_path / "pid"
    pid_file.write_text(f"{sshd._process.pid if sshd._process else 0}\n")
    old = shown(sshd)
    keys = HostKeys(str(folder), lambda: hostkey.reload_sshd(str(pid_file)))
    new = keys.rotate()["next"]
    assert shown(sshd) == old
    with socket.create_connection(("127.0.0.1", sshd.port)) as before:
        assert before.recv(4) == b"SSH-"
        keys.commit()
        seen = old
        while seen in {old, ""}:  # it listens anew in a moment
            seen = shown(sshd)
        assert seen == new
