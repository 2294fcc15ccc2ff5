"""The transport against a real sshd: logs in as `ssh` would, and carries bytes faithfully."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from burst_lifecycle.remote.known_hosts import KnownHosts
from burst_lifecycle.remote.ssh.channel import AgentChannel
from burst_lifecycle.remote.ssh.connection import SshConnection
from burst_lifecycle.remote.ssh.login import connect
from burst_lifecycle.remote.ssh.target import SshTarget
from burst_protocol.errors import (
    AgentGone,
    AuthenticationFailed,
    ConfigError,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)
from sshd import SSHD, Proxy, Sshd, keygen

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytest_plugins = ("remote_hosts",)
pytestmark = pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")


def on(address: str, act: Callable[[SshConnection], Awaitable[None]]) -> None:
    """Connect, act, hang up."""

    async def body() -> None:
        connection = await connect(SshTarget.parse(address), connect_timeout_s=20)
        try:
            await act(connection)
        finally:
            connection.close()
            await connection.wait_closed()

    asyncio.run(body())


async def read_all(channel: AgentChannel) -> bytes:
    parts = []
    while data := await channel.read(1 << 20):
        parts.append(data)
    return b"".join(parts)


def output_of(address: str, command: str) -> bytes:
    result = b""

    async def act(connection: SshConnection) -> None:
        nonlocal result
        result = await read_all(await connection.run(command))

    on(address, act)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", SshTarget("host")),
        ("me@host", SshTarget("host", "me")),
        ("me@host:2222", SshTarget("host", "me", 2222)),
        ("me@corp@host", SshTarget("host", "me@corp")),
        ("[2001:db8::1]:22", SshTarget("2001:db8::1", None, 22)),
        ("me@[2001:db8::1]", SshTarget("2001:db8::1", "me")),
        ("2001:db8::1", SshTarget("2001:db8::1")),
        ("ssh://me@host:22/", SshTarget("host", "me", 22)),
    ],
)
def test_targets_are_parsed(text: str, expected: SshTarget) -> None:
    """All spellings of user, host and port that ssh knows; printing gives them back."""
    assert expected == SshTarget.parse(text)
    assert expected == SshTarget.parse(str(expected))


@pytest.mark.parametrize(
    "text", ["", "@host", "-oProxyCommand=x", "-u@h", "h:0", "h:65536", "h:x", "[::1", "[::1]22"]
)
def test_what_is_no_target_is_refused(text: str) -> None:
    """Also names that a program could take for an option."""
    with pytest.raises(ConfigError):
        SshTarget.parse(text)


def test_a_command_runs_and_its_output_is_read(sshd: Sshd) -> None:
    """The output is complete, the exit status known, stderr kept apart."""

    async def act(connection: SshConnection) -> None:
        channel = await connection.run("echo out; echo err >&2; exit 3")
        assert await read_all(channel) == b"out\n"
        await channel.wait_closed()
        assert channel.exit_status == 3
        assert channel.stderr_tail == b"err\n"
        with pytest.raises(AgentGone, match="status 3"):
            await channel.drain()

    on(sshd.address, act)


def test_bytes_arrive_as_they_were_sent(sshd: Sshd) -> None:
    """40 MB there and back: more than all windows and buffers, in both directions at once."""
    block = os.urandom(1 << 20)

    async def act(connection: SshConnection) -> None:
        channel = await connection.run("cat")

        async def send() -> None:
            for _ in range(40):
                channel.write(block)
                await channel.drain()
            channel.write_eof()

        sending = asyncio.create_task(send())
        received = hashlib.sha256()
        while data := await channel.read(100_000):
            received.update(data)
        await sending
        assert received.digest() == hashlib.sha256(block * 40).digest()

    on(sshd.address, act)


def test_an_unread_channel_holds_its_sender_back(sshd: Sshd) -> None:
    """Neither an endless output nor an endless input fills our memory; other channels go on."""

    async def act(connection: SshConnection) -> None:
        flood = await connection.run("cat /dev/zero")
        sink = await connection.run("exec sleep 1000")
        written = 0

        async def push() -> None:
            nonlocal written
            while True:
                sink.write(bytes(1 << 16))
                written += 1 << 16
                await sink.drain()

        pushing = asyncio.create_task(push())
        for _ in range(20):
            assert await read_all(await connection.run("echo alive")) == b"alive\n"
        assert flood._size_bytes < 32 << 20
        assert written < 32 << 20
        pushing.cancel()
        await asyncio.gather(pushing, return_exceptions=True)
        assert len(await flood.read(1 << 30)) > 0

    on(sshd.address, act)


def test_many_channels_share_one_connection(sshd: Sshd) -> None:
    """Eight commands at once answer over one login."""

    async def act(connection: SshConnection) -> None:
        channels = await asyncio.gather(*(connection.run("cat") for _ in range(8)))
        for number, channel in enumerate(channels):
            channel.write(b"%d" % number)
            channel.write_eof()
        answers = await asyncio.gather(*(read_all(channel) for channel in channels))
        assert [b"%d" % number for number in range(8)] == answers

    on(sshd.address, act)
    assert sum("Accepted publickey" in line for line in sshd.log) == 1


def test_a_cancelled_read_loses_nothing(sshd: Sshd) -> None:
    """Cancelling a waiting read leaves the channel usable."""

    async def act(connection: SshConnection) -> None:
        channel = await connection.run("cat")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(channel.read(10), 0.05)
        channel.write(b"after")
        assert await channel.read_exactly(5) == b"after"

    on(sshd.address, act)


def test_closing_ends_the_command(sshd: Sshd) -> None:
    """A closed channel reads as ended, and hanging up ends everything without an error."""

    async def act(connection: SshConnection) -> None:
        channel = await connection.run("cat")
        channel.close()
        await channel.wait_closed()
        assert await channel.read(1) == b""
        other = await connection.run("cat")
        connection.close()
        await connection.wait_closed()
        assert await other.read(1) == b""
        with pytest.raises(LinkLost):
            await connection.run("true")

    on(sshd.address, act)


def test_aes128_gcm_is_negotiated(sshd: Sshd) -> None:
    """The fast authenticated cipher, in both directions."""

    async def act(connection: SshConnection) -> None:
        names = {connection._connection.get_extra_info(f"{way}_cipher") for way in ("send", "recv")}
        assert names == {"aes128-gcm@openssh.com"}

    on(sshd.address, act)


def test_an_alias_of_the_configuration_is_followed(sshd: Sshd) -> None:
    """Host, Port, User, IdentityFile, UserKnownHostsFile and HostKeyAlias, as ssh reads them."""
    ssh = sshd.client_home / ".ssh"
    (ssh / "id_ed25519").rename(ssh / "other key")
    sshd.known_hosts.rename(ssh / "other_hosts")
    (ssh / "other_hosts").write_text(f"the-builder {sshd.host_key_line}\n")
    (ssh / "config").write_text(
        f"Host bu*\n  Hostname 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
        '  IdentityFile "~/.ssh/missing"\n  IdentityFile "%d/.ssh/other key"\n'
        "  UserKnownHostsFile %d/.ssh/other_hosts\n  HostKeyAlias the-builder\n"
        "  ForwardAgent yes\n  RemoteCommand echo wrong\n  RequestTTY force\n  SendEnv *\n"
    )
    assert output_of("builder", "echo right") == b"right\n"


def test_a_broken_configuration_is_named(sshd: Sshd) -> None:
    """A line ssh would refuse is a configuration error, not a crash."""
    (sshd.client_home / ".ssh" / "config").write_text("Port twenty-two\n")
    with pytest.raises(ConfigError, match="Port"):
        output_of(sshd.address, "true")


def test_the_ssh_agent_is_asked(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a passphrase is used when, and only when, the agent holds it."""
    ssh = sshd.client_home / ".ssh"
    (ssh / "id_ed25519").rename(ssh / "plain")
    (ssh / "id_ed25519.pub").unlink()
    locked = keygen(ssh / "id_ed25519", passphrase="secret")
    sshd.authorized_keys.write_text(locked + "\n")
    with pytest.raises(AuthenticationFailed, match="no usable key"):
        output_of(sshd.address, "true")
    socket = str(sshd.folder / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE)
    try:
        assert agent.stdout is not None
        agent.stdout.readline()  # says where it listens once it does
        script = sshd.folder / "askpass"
        script.write_text("#!/bin/sh\necho secret\n")
        script.chmod(0o755)
        environment = os.environ | {
            "SSH_AUTH_SOCK": socket,
            "SSH_ASKPASS": str(script),
            "SSH_ASKPASS_REQUIRE": "force",
        }
        subprocess.run(
            ["ssh-add", "-q", ssh / "id_ed25519"],
            env=environment,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        monkeypatch.setenv("SSH_AUTH_SOCK", socket)
        assert output_of(sshd.address, "echo in") == b"in\n"
        (ssh / "config").write_text("IdentityAgent none\n")
        with pytest.raises(AuthenticationFailed):
            output_of(sshd.address, "true")
    finally:
        agent.kill()
        agent.communicate()


def test_a_dead_agent_socket_does_not_matter(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSH_AUTH_SOCK of a session that ended long ago: the key files are used."""
    monkeypatch.setenv("SSH_AUTH_SOCK", str(sshd.folder / "gone"))
    assert output_of(sshd.address, "echo in") == b"in\n"


def test_hashed_names_and_other_types_first(sshd: Sshd) -> None:
    """A hashed line is found, and the host shows the key type we know, not its favourite."""
    subprocess.run(
        ["ssh-keygen", "-q", "-H", "-f", sshd.known_hosts], check=True, capture_output=True
    )
    assert sshd.known_hosts.read_text().startswith("|1|")
    assert output_of(sshd.address, "echo in") == b"in\n"


def test_a_certificate_authority_vouches_for_hosts(sshd: Sshd) -> None:
    """@cert-authority: a host certificate is accepted for the names in it, and for no others."""
    authority = sshd.folder / "authority"
    line = keygen(authority)
    sshd.known_hosts.write_text(f"@cert-authority [127.0.0.1]:* {line}\n")

    def certify(names: str) -> None:
        public = sshd.host_key.with_suffix(".pub")
        subprocess.run(
            ["ssh-keygen", "-q", "-s", authority, "-I", "t", "-h", "-n", names, public], check=True
        )
        sshd.extra = f"HostCertificate {sshd.host_key}-cert.pub"
        sshd.restart()

    certify("127.0.0.1")
    assert output_of(sshd.address, "echo in") == b"in\n"
    certify("another.example")
    with pytest.raises(HostKeyProblem, match=r"127\.0\.0\.1"):
        output_of(sshd.address, "true")


def test_a_revoked_key_is_refused_though_known(sshd: Sshd) -> None:
    """@revoked wins over a plain line."""
    with sshd.known_hosts.open("a") as file:
        file.write(f"@revoked * {sshd.host_key_line}\n")
    with pytest.raises(HostKeyProblem, match="revoked"):
        output_of(sshd.address, "true")


def test_a_jump_host_is_used_and_checked(sshd: Sshd, tmp_path: Path) -> None:
    """ProxyJump: both hosts' keys must be known; one hop unknown refuses the whole way."""
    with Proxy(sshd.port) as proxy:
        sshd.know(sshd.port, proxy.port)
        (sshd.client_home / ".ssh" / "config").write_text(
            f"Host far\n  Hostname 127.0.0.1\n  Port {sshd.port}\n"
            f"  ProxyJump {sshd.user}@127.0.0.1:{proxy.port}\n"
        )
        assert output_of("far", "echo far") == b"far\n"
        assert proxy.forwarded_bytes["up"] > 0
        sshd.know(sshd.port)
        with pytest.raises(HostKeyProblem, match=str(proxy.port)):
            output_of("far", "true")


RELAY = """
import os, socket, sys, threading
peer = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        peer.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := peer.recv(65536):
    os.write(1, data)
"""


def test_a_proxy_command_is_one_of_a_shell(sshd: Sshd) -> None:
    """`~`, quotes and redirections mean what they mean to ssh; what fails is named."""
    (sshd.client_home / "a relay.py").write_text(RELAY)
    config = sshd.client_home / ".ssh" / "config"
    host = f"Host far\n  Hostname 127.0.0.1\n  Port {sshd.port}\n  User {sshd.user}\n"
    relay = f"'{sys.executable}' ~/\"a relay.py\" %h %p 2>/dev/null"
    config.write_text(f"{host}  ProxyCommand {relay}\n")
    assert output_of("far", "echo far") == b"far\n"
    config.write_text(f"{host}  ProxyCommand /no/such/program %h %p\n")
    with pytest.raises(Unreachable, match="through its ProxyCommand"):
        output_of("far", "true")
    config.write_text(f"{host}  ProxyCommand none\n")
    assert output_of("far", "echo far") == b"far\n"


def test_an_address_that_does_not_answer_holds_up_no_other(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name with several addresses, the first a black hole, as IPv6 is in many a network."""
    real = socket.getaddrinfo
    with socket.socket() as deaf, socket.socket() as first, socket.socket() as second:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # full with one in line: the kernel drops what comes then
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())

        def resolve(host: str, port: int, *args: Any, **more: Any) -> list[Any]:
            if host != "both.example":
                return real(host, port, *args, **more)
            kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
            return [(*kind, deaf.getsockname()), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        sshd.known_hosts.write_text(f"[both.example]:{sshd.port} {sshd.host_key_line}\n")
        began_s = time.monotonic()
        assert output_of(f"{sshd.user}@both.example:{sshd.port}", "echo here") == b"here\n"
        assert time.monotonic() - began_s < 8  # of the 20 that `on` gives it


def test_a_plain_user_can_be_logged_in(plain_sshd: Sshd) -> None:
    """The server of the other tests also runs under an ordinary account."""
    assert output_of(plain_sshd.address, "id -un").decode().strip() == plain_sshd.user


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuIgSQ3Zo8YaGP+6rBwMMvOQgVBwfXBJPCnYnH1vxEX"


@pytest.mark.parametrize(
    ("names", "host", "port", "found"),
    [
        ("host", "host", 22, True),
        ("host", "HOST", 22, True),
        ("HOST", "host", 22, True),
        ("a,host,b", "host", None, True),
        ("host", "hos", 22, False),
        ("host", "host", 2222, True),  # without the port if nothing is known with it
        ("[host]:2222", "host", 2222, True),
        ("[host]:2222", "host", 22, False),
        ("[host]:2222", "host", 2223, False),
        ("*.example", "a.example", 22, True),
        ("h?st", "host", 22, True),
        ("*,!host", "host", 22, False),
        ("[*.example]:22?2", "a.example", 2222, True),
        ("[hos]", "h", 22, False),  # brackets are no sets of characters
        ("2001:db8::1", "2001:db8::1", 22, True),
        ("[2001:db8::1]:99", "2001:db8::1", 99, True),
        ("|1|AAAA", "host", 22, False),
        ("|2|AAAA|AAAA", "host", 22, False),
    ],
)
def test_known_hosts_lines_name_hosts_as_openssh_reads_them(
    tmp_path: Path, names: str, host: str, port: int | None, found: bool
) -> None:
    """Patterns, negation, ports, letter case."""
    path = tmp_path / "known_hosts"
    path.write_text(f"# comment\n\nbroken\n@unknown * {KEY}\n{names} {KEY} who@where\n")
    hosts = KnownHosts.read([str(path), str(tmp_path / "missing")])
    assert found == bool(hosts.lookup(host, port))


def test_a_key_known_with_the_port_hides_the_one_without(tmp_path: Path) -> None:
    """Two servers behind one address: the line with the port counts, revocations always."""
    path = tmp_path / "known_hosts"
    path.write_text(f"[h]:99 {KEY}A\nh {KEY}B\n@revoked h {KEY}C\n")
    found = KnownHosts.read([str(path)]).lookup("h", 99)
    assert [(key.kind, key.data[-1]) for key in found] == [("key", "A"), ("revoked", "C")]


def test_an_alias_stands_for_host_and_port(tmp_path: Path) -> None:
    """HostKeyAlias replaces the looked-up name altogether."""
    path = tmp_path / "known_hosts"
    path.write_text(f"alias {KEY}\n[h]:99 {KEY}\n")
    found = KnownHosts.read([str(path)]).lookup("h", 99, "Alias")
    assert [f"{path}:1"] == [key.place for key in found]


def test_a_socket_there_is_a_channel(sshd: Sshd) -> None:
    """Both directions, the end, and a clear word when nobody listens."""
    path = f"/tmp/burst-{os.getpid()}.sock"

    async def act(connection: SshConnection) -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write((await reader.readexactly(3_000_000))[::-1])
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_unix_server(echo, path)
        try:
            channel = await connection.open_socket(path)
            data = os.urandom(3_000_000)
            channel.write(data)
            await channel.drain()
            assert await read_all(channel) == data[::-1]
            assert channel.exit_status is None
            channel.close()
        finally:
            server.close()
            await server.wait_closed()
            os.unlink(path)
        with pytest.raises(LinkLost, match="burst-"):
            await connection.open_socket(path)
        assert await read_all(await connection.run("echo on")) == b"on\n"

    on(sshd.address, act)
