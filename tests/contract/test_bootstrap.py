"""From nothing to a running agent on a host, through a real sshd and a real shell."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from burst_lifecycle.remote import bootstrap, remote_bundle, remote_stub
from burst_lifecycle.remote.bootstrap import CACHE_PLACE, RemoteFacts, start_agent_with_facts
from burst_lifecycle.remote.ssh.login import connect
from burst_lifecycle.remote.ssh.target import SshTarget
from burst_protocol import messages as m
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD
from fake_bundle import make_bundle, provider
from sshd import SSHD, Sshd

if TYPE_CHECKING:
    from pathlib import Path

    from burst_lifecycle.remote.remote_bundle import Bundle
    from trixie import TrixieHost

pytest_plugins = ("remote_hosts",)
pytestmark = pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")

ARGS = ("--stdio", "--root", f"{CACHE_PLACE}/burst/store")


def start(sshd: Sshd, bundle: Bundle, *, times: int = 1) -> list[tuple[bytes, RemoteFacts]]:
    """Start agents at the same time over one connection; their first line and their facts."""

    async def one(connection: object) -> tuple[bytes, RemoteFacts]:
        channel, facts = await start_agent_with_facts(
            connection,  # type: ignore[arg-type]
            provider(bundle),
            agent_args=ARGS,
        )
        data = bytes(range(256)) * 1000
        channel.write(data)
        channel.write_eof()
        line = b""
        while not line.endswith(b"\n"):
            line += await channel.read_exactly(1)
        assert data == await channel.read_exactly(len(data))
        assert await channel.read(1) == b""
        return line, facts

    async def body() -> list[tuple[bytes, RemoteFacts]]:
        connection = await connect(SshTarget.parse(sshd.address), connect_timeout_s=20)
        try:
            return await asyncio.gather(*(one(connection) for _ in range(times)))
        finally:
            connection.close()
            await connection.wait_closed()

    return asyncio.run(body())


def versions(sshd: Sshd) -> list[str]:
    """What lies in the agent's directory there, hidden names included."""
    return sorted(os.listdir(sshd.remote_cache / "burst" / "agent"))


def test_an_agent_is_installed_and_started(sshd: Sshd, tmp_path: Path) -> None:
    """The first byte after the set-up is the agent's; its arguments and its store are right."""
    bundle = make_bundle(tmp_path, "aaa")
    [(line, facts)] = start(sshd, bundle)
    store = f"{sshd.remote_cache}/burst/store"
    assert f"agent of aaa: --stdio --root {store}\n" == line.decode()
    assert facts.uploaded_bytes == bundle.size_bytes
    assert facts.arch == os.uname().machine
    assert facts.home == str(sshd.remote_home)
    assert facts.free_bytes > 0
    assert tuple(map(int, facts.python.split(".")[:2])) >= (3, 11)
    assert versions(sshd) == ["aaa"]


def test_the_second_start_sends_nothing(sshd: Sshd, tmp_path: Path) -> None:
    """An installed version is used; another one is installed beside it."""
    start(sshd, make_bundle(tmp_path, "aaa"))
    [(line, facts)] = start(sshd, make_bundle(tmp_path, "aaa"))
    assert (facts.uploaded_bytes, line[:12]) == (0, b"agent of aaa")
    [(line, facts)] = start(sshd, make_bundle(tmp_path, "bbb"))
    assert line[:12] == b"agent of bbb"
    assert versions(sshd) == ["aaa", "bbb"]


def test_installing_at_once_is_harmless(sshd: Sshd, tmp_path: Path) -> None:
    """Five daemons at the same moment: all get their agent, one version remains, no rubbish."""
    answers = start(sshd, make_bundle(tmp_path, "aaa", filler_bytes=300_000), times=5)
    assert {line[:12] for line, _ in answers} == {b"agent of aaa"}
    assert versions(sshd) == ["aaa"]


@pytest.mark.parametrize("damage", ["shorter", "missing", "manifest"])
def test_a_damaged_version_is_replaced(sshd: Sshd, tmp_path: Path, damage: str) -> None:
    """A file cut short or gone, or no manifest: sent again, the rest thrown away."""
    bundle = make_bundle(tmp_path, "aaa")
    start(sshd, bundle)
    installed = sshd.remote_cache / "burst" / "agent" / "aaa"
    match damage:
        case "shorter":
            (installed / "bin" / "agent.sh").write_text("#")
        case "missing":
            (installed / "bin" / "agent.sh").unlink()
        case _:
            (installed / remote_stub.MANIFEST).unlink()
    [(line, facts)] = start(sshd, bundle)
    assert (line[:12], facts.uploaded_bytes) == (b"agent of aaa", bundle.size_bytes)
    assert versions(sshd) == ["aaa"]


def test_versions_unused_for_two_weeks_are_removed(sshd: Sshd, tmp_path: Path) -> None:
    """Old ones go, unless an agent runs from them; so does what broken installations left."""
    for name in ("old", "running", "recent"):
        start(sshd, make_bundle(tmp_path, name))
    root = sshd.remote_cache / "burst" / "agent"
    for name in (".new-left", ".new-fresh"):
        (root / name).mkdir()
    long_ago = time.time() - remote_stub.UNUSED_S - 60
    for path in (root / "old" / "LOCK", root / "running" / "LOCK", root / ".new-left"):
        os.utime(path, (long_ago, long_ago))
    with open(root / "running" / "LOCK", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        start(sshd, make_bundle(tmp_path, "new"))
    assert versions(sshd) == [".new-fresh", "new", "recent", "running"]


def test_a_running_agent_holds_its_version(sshd: Sshd, tmp_path: Path) -> None:
    """The lock outlives the stub: the agent's process has it."""
    agent = '#!/bin/sh\n[ "$1" = --version ] && exit 0\nls -l /proc/$$/fd; exec cat\n'

    async def body() -> None:
        connection = await connect(SshTarget.parse(sshd.address))
        bundle = make_bundle(tmp_path, "aaa", agent=agent)
        channel, _ = await start_agent_with_facts(connection, provider(bundle), agent_args=ARGS)
        channel.write_eof()
        listing = b""
        while data := await channel.read(4096):
            listing += data
        assert b"/aaa/LOCK\n" in listing
        connection.close()
        await connection.wait_closed()

    asyncio.run(body())


NOISE = (
    "echo hello",
    "printf no-newline",
    "echo burst-stub-; echo",
    "head -c 60000 /dev/zero",
    "set -x",
)


@pytest.mark.parametrize("noise", NOISE)
def test_a_talking_shell_does_not_matter(sshd: Sshd, tmp_path: Path, noise: str) -> None:
    """What .bashrc prints comes before our marker and is passed over."""
    (sshd.remote_home / ".bashrc").write_text(noise + "\n")
    assert start(sshd, make_bundle(tmp_path, "aaa"))[0][0].startswith(b"agent of aaa")


def test_the_cache_is_below_home_without_xdg(sshd: Sshd, tmp_path: Path) -> None:
    """XDG_CACHE_HOME empty or relative is no XDG_CACHE_HOME."""
    sshd.environment["XDG_CACHE_HOME"] = "relative"
    sshd.restart()
    start(sshd, make_bundle(tmp_path, "aaa"))
    assert (sshd.remote_home / ".cache" / "burst" / "agent" / "aaa" / "MANIFEST").exists()


def test_an_old_python3_is_passed_over(sshd: Sshd, tmp_path: Path) -> None:
    """`python3` is 3.9, but python3.16 is new enough."""
    folder = sshd.folder / "bin"
    folder.mkdir()
    for name, target in (("python3", "echo 3 9"), ("python3.16", f'exec {sys.executable} "$@"')):
        (folder / name).write_text(f"#!/bin/sh\n{target}\n")
        (folder / name).chmod(0o755)
    sshd.environment["PATH"] = f"{folder}:/usr/bin:/bin"
    sshd.restart()
    [(_, facts)] = start(sshd, make_bundle(tmp_path, "aaa"))
    assert facts.python == ".".join(map(str, sys.version_info[:3]))


def test_a_plain_user_gets_an_agent(plain_sshd: Sshd, tmp_path: Path) -> None:
    """No root is needed there."""
    assert start(plain_sshd, make_bundle(tmp_path, "aaa"))[0][0].startswith(b"agent of aaa")
    installed = plain_sshd.remote_cache / "burst" / "agent"
    assert installed.stat().st_mode & 0o777 == 0o700


def test_the_command_is_constant_and_fits_every_shell() -> None:
    """One line in single quotes: sh, bash, zsh, fish and csh all take it for the same."""
    inner = bootstrap.COMMAND.removeprefix("exec /bin/sh -c '").removesuffix("'")
    assert len(inner) + len("exec /bin/sh -c ''") == len(bootstrap.COMMAND)
    assert not set(inner) & set("'\\\n!")


SHELLS = ("sh", "dash", "bash", "zsh", "csh", "tcsh", "fish", "ksh", "mksh", "yash", "posh")


@pytest.mark.parametrize("shell", SHELLS)
def test_login_shells_run_the_command(shell: str) -> None:
    """The stub starts and refuses our nonsense politely."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip("not installed")
    stub = bootstrap._stub_source()
    done = subprocess.run(
        [program, "-c", bootstrap.COMMAND],
        input=b"%d\n%s" % (len(stub), stub) + b"Z\0\0\0\0",
        capture_output=True,
        check=False,
    )
    assert done.stdout.startswith(remote_stub.MARKER + b"E")
    assert done.stderr == b""


# The real bundle


def test_the_bundle_is_deterministic_and_cached(tmp_path: Path) -> None:
    """Built twice: the same bytes and identity; asked again: the same file."""
    first, second = (remote_bundle.build(str(tmp_path / name)) for name in "ab")
    assert first.identity == second.identity
    with open(first.path, "rb") as one, open(second.path, "rb") as other:
        assert one.read() == other.read()
    inode = os.stat(first.path).st_ino
    assert first == remote_bundle.build(str(tmp_path / "a"))
    assert inode == os.stat(first.path).st_ino
    assert first.size_bytes < 20 << 20


def hello_of_real_agent(address: str, bundles: Path) -> tuple[m.Hello, RemoteFacts]:
    """Set up the real bundle and speak with it."""
    home_bundle = remote_bundle.HomeBundle(os.fsencode(bundles))

    async def body() -> tuple[m.Hello, RemoteFacts]:
        connection = await connect(SshTarget.parse(address), connect_timeout_s=20)
        channel, facts = await start_agent_with_facts(connection, home_bundle, agent_args=ARGS)
        session = Session(Role.CLIENT, BUILD, os.getpid())
        channel.write(session.hello())
        while session.peer is None:
            data = await channel.read(1 << 16)
            assert data, channel.stderr_tail
            session.receive(data)
        connection.close()
        await connection.wait_closed()
        return session.peer, facts

    return asyncio.run(body())


@pytest.mark.slow
def test_the_real_agent_says_hello(sshd: Sshd, tmp_path: Path) -> None:
    """Home's interpreter, libraries and packages run the agent there; its protocol is ours."""
    peer, facts = hello_of_real_agent(sshd.address, tmp_path / "bundles")
    assert peer.build == BUILD
    assert facts.uploaded_bytes > 0


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_another_distribution_runs_the_real_agent(trixie: TrixieHost, tmp_path: Path) -> None:
    """Debian trixie, plain user, other Python and libc: nothing of it is loaded into the agent."""
    peer, facts = hello_of_real_agent(trixie.address, tmp_path / "bundles")
    assert peer.build == BUILD
    assert facts.python.startswith("3.13.")
    assert facts.libc == "glibc 2.41"
    assert facts.home == "/home/builder"
    [version] = os.listdir(trixie.root / "home/builder/.cache/burst/agent")
    folder = f"/home/builder/.cache/burst/agent/{version}"
    command = (trixie.root / folder[1:] / "COMMAND").read_text().replace("{dir}", folder)
    report = (
        "import burst_agent.main, sys; print(sys.version_info[:3] == "
        f"{sys.version_info[:3]}, sys.prefix == {folder!r}, "
        "*{line.split()[-1] for line in open('/proc/self/maps') if '.so' in line"
        f" and {folder!r} not in line}})"
    )
    argv = [*command.splitlines()[:-1], report]
    done = trixie.run(argv)
    assert (done.stdout, done.stderr) == ("True True\n", "")


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.timeout(600)
def test_a_plain_user_may_create_user_namespaces_in_trixie(trixie: TrixieHost) -> None:
    """What the sandbox needs there, with a /proc of its own; and it is cut off from the network."""
    done = trixie.run(
        ["unshare", "-Urpfm", "--mount-proc", "sh", "-c", "id -u; ls -d /proc/[0-9]*"]
    )
    assert done.stdout.splitlines()[:2] == ["0", "/proc/1"]
    assert trixie.run(["ls", "/sys/class/net"]).stdout.split() == ["eth0", "lo"]
