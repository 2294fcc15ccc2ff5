"""Commands on servers of our own, against a real sshd: the pin alone says who it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import DeadlinePassed
from burst_lifecycle.hostkey import pin
from burst_lifecycle.remote.pinned import PinnedSsh, argv_line
from burst_protocol.errors import (
    AuthenticationFailed,
    ConfigError,
    HostKeyProblem,
    LinkLost,
    Unreachable,
)
from sshd import SSHD, Sshd, closed_port, keygen

pytest_plugins = ("remote_hosts",)
pytestmark = pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")

T = TypeVar("T")


@pytest.fixture
def login(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """With a key of our own; nothing that `ssh` would read may matter."""
    keygen(tmp_path / "burst")
    with sshd.authorized_keys.open("a") as file:
        file.write((tmp_path / "burst.pub").read_text())
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/config").write_text("Host *\n  ProxyCommand false\n  Port 1\n  User nobody\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SSH_AUTH_SOCK", "/nowhere")
    user, _, place = sshd.address.rpartition("@")
    host, _, port = place.partition(":")
    line = sshd.host_key.with_suffix(".pub").read_text()
    return Login(host, int(port), user, (pin(line),), tmp_path / "burst")


def on(act: Callable[[PinnedSsh], object]) -> Answer:
    async def body() -> Answer:
        ssh = PinnedSsh(connect_timeout_s=20)
        try:
            return await act(ssh)  # type: ignore[misc,no-any-return]
        finally:
            await ssh.aclose()

    return asyncio.run(body())


def evolved(login: Login, **changes: object) -> Login:
    import attrs

    return attrs.evolve(login, **changes)


def test_an_argv_arrives_as_it_is(login: Login) -> None:
    """Whatever stands in the words: nothing is taken for a shell's."""
    words = ["a b", "$HOME", "`id`", "'\"\\", "*", "", ";exit 9", "ü", "line\nbreak", "--x=y"]
    answer = on(lambda ssh: ssh.run(login, ["printf", "%s\\0", *words]))
    assert answer.stdout.split(b"\0")[:-1] == [word.encode() for word in words]
    assert answer.status == 0
    assert pin(answer.host_key) in login.pins


def test_status_output_and_input(login: Login) -> None:
    """Each by itself; a large input does not wait for a large output."""
    data = os.urandom(3 << 20)
    answer = on(lambda ssh: ssh.run(login, ["cat"], stdin=data))
    assert answer.stdout == data
    answer = on(lambda ssh: ssh.run(login, ["sh", "-c", "echo out; echo err >&2; exit 7"]))
    assert (answer.status, answer.stdout, answer.stderr) == (7, b"out\n", b"err\n")
    answer = on(lambda ssh: ssh.run(login, ["true"], stdin=data))
    assert answer.status == 0


def test_another_host_key_is_never_accepted(login: Login) -> None:
    """Not even one that the user's known_hosts has; and no pin at all means nobody."""
    with pytest.raises(HostKeyProblem, match="not the one it was given at its birth"):
        on(lambda ssh: ssh.run(evolved(login, pins=("A" * 52,)), ["true"]))
    with pytest.raises(HostKeyProblem, match="nothing says"):
        on(lambda ssh: ssh.run(evolved(login, pins=()), ["true"]))


def test_during_a_rotation_both_are_right(login: Login) -> None:
    """The old one and the next one, in any order."""
    for pins in (("A" * 52, *login.pins), (*login.pins, "A" * 52)):
        answer = on(lambda ssh, pins=pins: ssh.run(evolved(login, pins=pins), ["true"]))
        assert pin(answer.host_key) == login.pins[0]


def test_only_our_own_key_is_offered(login: Login, tmp_path: Path) -> None:
    """One that the server does not know, and one that cannot be read."""
    keygen(tmp_path / "other")
    with pytest.raises(AuthenticationFailed, match="does not accept the key"):
        on(lambda ssh: ssh.run(evolved(login, key_path=tmp_path / "other"), ["true"]))
    with pytest.raises(ConfigError):
        on(lambda ssh: ssh.run(evolved(login, key_path=tmp_path / "absent"), ["true"]))


def test_nobody_there(login: Login) -> None:
    """That is how a server looks that is not up yet."""
    with pytest.raises(Unreachable):
        on(lambda ssh: ssh.run(evolved(login, port=closed_port()), ["true"]))


def test_a_command_that_does_not_end(login: Login) -> None:
    """The deadline ends it; the connection is as good as before."""

    async def both(ssh: PinnedSsh) -> Answer:
        with pytest.raises(DeadlinePassed, match="no end within"):
            await ssh.run(login, ["sleep", "60"], timeout_s=0.3)
        return await ssh.run(login, ["echo", "next"])

    assert on(both).stdout == b"next\n"


def test_one_connection_serves_all_commands(login: Login, sshd: Sshd) -> None:
    """And a new one is made when it is gone."""

    async def several(ssh: PinnedSsh) -> Answer:
        first = await ssh.connect(login)
        await asyncio.gather(*(ssh.run(login, ["true"]) for _ in range(5)))
        assert await ssh.connect(login) is first
        first.close()
        await first.wait_closed()
        return await ssh.run(login, ["echo", "again"])

    assert on(several).stdout == b"again\n"
    sshd.wait_sessions_end()


def test_a_link_that_breaks_in_the_middle(login: Login, tmp_path: Path) -> None:
    """An error of ours, at once."""
    begun = tmp_path / "begun"
    os.mkfifo(begun)

    async def broken(ssh: PinnedSsh) -> Answer:
        connection = await ssh.connect(login)
        words = ["sh", "-c", 'echo > "$1"; exec sleep 60', "sh", str(begun)]
        running = asyncio.create_task(ssh.run(login, words, timeout_s=60))
        await asyncio.to_thread(begun.read_bytes)
        connection.close()
        with pytest.raises(LinkLost):
            await running
        return await ssh.run(login, ["echo", "again"])

    assert on(broken).stdout == b"again\n"


@pytest.mark.parametrize("argv", [[], ["a\0b"]])
def test_what_no_argv_holds(argv: list[str]) -> None:
    """A bug of the caller, said before anything is sent."""
    with pytest.raises(ValueError, match="not an argv"):
        argv_line(argv)
