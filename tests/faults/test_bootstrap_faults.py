"""Hosts on which the agent cannot be set up: what is said, and that nothing half done stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from burst_lifecycle.remote.bootstrap import start_agent
from burst_lifecycle.remote.ssh.login import connect
from burst_lifecycle.remote.ssh.target import SshTarget
from burst_protocol.errors import (
    BurstError,
    DiskFull,
    LinkLost,
    RemoteProtocolError,
    RemoteTooOld,
    Unreachable,
)
from fake_bundle import make_bundle, provider
from sshd import SSHD, Proxy, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from burst_lifecycle.remote.remote_bundle import Bundle

pytest_plugins = ("remote_hosts",)
pytestmark = pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")


def start(sshd: Sshd, bundle: Bundle, *, port: int = 0, answer_timeout_s: float = 20) -> bytes:
    """The agent's first line."""

    async def body() -> bytes:
        target = SshTarget.parse(f"{sshd.user}@127.0.0.1:{port or sshd.port}")
        connection = await connect(target, connect_timeout_s=20)
        try:
            channel = await start_agent(
                connection,
                provider(bundle),
                agent_args=["--stdio"],
                answer_timeout_s=answer_timeout_s,
            )
            return await channel.read_exactly(12)
        finally:
            connection.close()
            await connection.wait_closed()

    return asyncio.run(body())


def refused(sshd: Sshd, bundle: Bundle, **options: float) -> BurstError:
    with pytest.raises(BurstError) as info:
        start(sshd, bundle, **options)  # type: ignore[arg-type]
    return info.value


def left_there(sshd: Sshd) -> list[str]:
    """What lies in the agent's directory there once every session has ended."""
    sshd.wait_sessions_end()
    with contextlib.suppress(FileNotFoundError):
        return sorted(os.listdir(sshd.remote_cache / "burst" / "agent"))
    return []


def fake_pythons(sshd: Sshd, script: str) -> None:
    """Every python3 the command could find is that script."""
    if any(name.startswith("python3") for name in os.listdir("/usr/local/bin")):
        pytest.skip("a python3 in /usr/local/bin cannot be hidden")
    folder = sshd.folder / "bin"
    folder.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(11, 17))):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    sshd.environment["PATH"] = f"{folder}:/usr/bin:/bin"
    sshd.restart()


def test_a_python_too_old_is_named(sshd: Sshd, tmp_path: Path) -> None:
    """Only Python 3.9 there: its version is in the message."""
    fake_pythons(sshd, "echo 3 9")
    error = refused(sshd, make_bundle(tmp_path, "aaa"))
    assert isinstance(error, RemoteTooOld)
    assert "found only 3.9" in str(error)
    assert left_there(sshd) == []


def test_no_python_is_said(sshd: Sshd, tmp_path: Path) -> None:
    """Nothing that runs as python3."""
    fake_pythons(sshd, "exit 127")
    error = refused(sshd, make_bundle(tmp_path, "aaa"))
    assert isinstance(error, RemoteTooOld)
    assert "found no python3" in str(error)


def test_a_shell_that_talks_too_much_is_named(sshd: Sshd, tmp_path: Path) -> None:
    """More than 64 KiB before our marker."""
    (sshd.remote_home / ".bashrc").write_text("head -c 100000 /dev/zero\n")
    error = refused(sshd, make_bundle(tmp_path, "aaa"))
    assert isinstance(error, Unreachable)
    assert "64 KiB" in str(error)


def test_a_shell_that_ends_is_named(sshd: Sshd, tmp_path: Path) -> None:
    """.bashrc exits: the status is said."""
    (sshd.remote_home / ".bashrc").write_text("echo no login here; exit 7\n")
    error = refused(sshd, make_bundle(tmp_path, "aaa"))
    assert isinstance(error, Unreachable)
    assert "status 7" in str(error)


def test_a_shell_that_hangs_is_given_up(sshd: Sshd, tmp_path: Path) -> None:
    """Logged in, but nothing of ours ever runs."""
    (sshd.remote_home / ".bashrc").write_text("sleep 1000\n")
    error = refused(sshd, make_bundle(tmp_path, "aaa"), answer_timeout_s=0.5)
    assert isinstance(error, Unreachable)
    assert "nothing answered within 0.5 s" in str(error)


def test_another_architecture_is_refused(sshd: Sshd, tmp_path: Path) -> None:
    """Before anything is sent."""
    error = refused(sshd, make_bundle(tmp_path, "aaa", arch="s390x"))
    assert isinstance(error, Unreachable)
    assert "s390x" in str(error)
    assert left_there(sshd) == []


def test_a_bundle_that_does_not_run_is_not_installed(sshd: Sshd, tmp_path: Path) -> None:
    """It is tried before it gets its name; what it said is in the message."""
    bundle = make_bundle(tmp_path, "aaa", agent="#!/bin/sh\necho kernel too old >&2; exit 9\n")
    error = refused(sshd, bundle)
    assert isinstance(error, Unreachable)
    assert "kernel too old" in str(error)
    assert left_there(sshd) == []


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../outside"),
        member("/tmp/burst-outside"),
        member("bin/../../outside"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("hard", tarfile.LNKTYPE, "/etc/passwd"),
        member("pipe", tarfile.FIFOTYPE),
        member("COMMAND"),
        member("bin/agent.sh/x"),
    ],
    ids=lambda info: info.name,
)
def test_unsafe_archives_are_refused(sshd: Sshd, tmp_path: Path, evil: tarfile.TarInfo) -> None:
    """No name outside, no link, no second file of a name; nothing stays."""
    error = refused(sshd, make_bundle(tmp_path, "aaa", members=[evil]))
    assert isinstance(error, RemoteProtocolError | Unreachable)
    assert left_there(sshd) == []
    assert os.listdir(sshd.remote_cache / "burst") == ["agent"]


@pytest.mark.parametrize("after_bytes", [9_000, 60_000, 150_000, 290_000])
def test_an_interrupted_upload_is_made_good(sshd: Sshd, tmp_path: Path, after_bytes: int) -> None:
    """The link breaks in the middle: nothing visible there, and the next try succeeds."""
    bundle = make_bundle(tmp_path, "aaa", filler_bytes=300_000)
    with Proxy(sshd.port) as proxy:
        sshd.know(sshd.port, proxy.port)
        proxy.cut_after(after_bytes)
        error = refused(sshd, bundle, port=proxy.port)
        assert isinstance(error, LinkLost | Unreachable)
        assert left_there(sshd) == []
        assert start(sshd, bundle, port=proxy.port) == b"agent of aaa"
        assert left_there(sshd) == ["aaa"]


@pytest.fixture
def small_disk(sshd: Sshd) -> Iterator[Sshd]:
    """2 MiB for the remote cache."""
    if os.getuid() != 0:
        pytest.skip("needs root")
    sshd.remote_cache.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2M", "tmpfs", sshd.remote_cache], check=True
    )
    try:
        yield sshd
    finally:
        sshd.stop()
        subprocess.run(["umount", sshd.remote_cache], check=True)


@pytest.mark.root
def test_too_little_space_is_said_before_sending(small_disk: Sshd, tmp_path: Path) -> None:
    """The bundle's unpacked size is known beforehand."""
    error = refused(small_disk, make_bundle(tmp_path, "aaa", filler_bytes=3_000_000))
    assert isinstance(error, DiskFull)
    assert "3.0 MB are needed" in str(error)


@pytest.mark.root
def test_a_disk_that_fills_up_meanwhile_is_heard(small_disk: Sshd, tmp_path: Path) -> None:
    """The refusal arrives while we are still sending; what was unpacked is removed."""
    bundle = make_bundle(tmp_path, "aaa", filler_bytes=8_000_000, unpacked_bytes=0)
    error = refused(small_disk, bundle)
    assert isinstance(error, DiskFull)
    assert left_there(small_disk) == []
    assert start(small_disk, make_bundle(tmp_path, "bbb")) == b"agent of bbb"


@pytest.mark.root
def test_a_file_system_without_execution_is_named(small_disk: Sshd, tmp_path: Path) -> None:
    """~/.cache on a disk mounted noexec."""
    subprocess.run(["mount", "-o", "remount,noexec", small_disk.remote_cache], check=True)
    error = refused(small_disk, make_bundle(tmp_path, "aaa"))
    assert isinstance(error, Unreachable)
    assert "noexec" in str(error)
