"""Commands over a real sshd with a pinned host key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.access import load_or_make
from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import DeadlinePassed
from burst_lifecycle.hostkey import pin
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_lifecycle.remote.ssh.pinned_login import new_key_pair
from burst_protocol.errors import AuthenticationFailed, HostKeyProblem, Unreachable
from sshd import SSHD, Sshd, closed_port, keygen

pytestmark = [pytest.mark.slow, pytest.mark.skipif(SSHD is None, reason="no sshd")]


def login_of(sshd: Sshd, key_path: Path) -> Login:
    return Login(
        host="127.0.0.1",
        port=sshd.port,
        user=sshd.user,
        pins=(pin(sshd.host_key_line),),
        key_path=key_path,
    )


def run(login: Login, *argv: str, stdin: bytes = b"", timeout_s: float = 30.0) -> Answer:
    async def main() -> Answer:
        ssh = PinnedSsh()
        try:
            return await ssh.run(login, argv, stdin=stdin, timeout_s=timeout_s)
        finally:
            await ssh.close()

    return asyncio.run(main())


def test_a_server_of_our_own(tmp_path: Path) -> None:
    """A key that burst made logs in; argv arrives as it is; stdin, status and peer are right."""
    key = load_or_make(tmp_path / "ssh" / "ed25519", new_key_pair)
    assert (tmp_path / "ssh" / "ed25519").stat().st_mode & 0o777 == 0o600
    assert load_or_make(tmp_path / "ssh" / "ed25519", new_key_pair) == key
    with Sshd.start(tmp_path / "sshd") as sshd:
        login = login_of(sshd, key.path)
        with pytest.raises(AuthenticationFailed):
            run(login, "true")
        with sshd.authorized_keys.open("a") as file:
            file.write(f"{key.public_key}\n")
        strange = "$(touch /tmp/x); 'a\"b\n\\é"
        answer = run(login, "printf", "%s", strange)
        assert answer.stdout.decode() == strange
        assert answer.host_key == sshd.host_key_line
        assert run(login, "cat", stdin=b"more\nlines").stdout == b"more\nlines"
        assert run(login, "false").status == 1
        assert run(login, "printenv", "SSH_CONNECTION").stdout.startswith(b"127.0.0.1 ")
        with pytest.raises(DeadlinePassed):
            run(login, "sleep", "60", timeout_s=0.3)
        wrong = attrs.evolve(login, pins=(pin(keygen(tmp_path / "other")),))
        with pytest.raises(HostKeyProblem, match="none of its labels"):
            run(wrong, "true")
        both = attrs.evolve(login, pins=(*wrong.pins, *login.pins))
        assert run(both, "true").host_key == sshd.host_key_line
    with pytest.raises(Unreachable):
        run(attrs.evolve(login, port=closed_port()), "true")


def test_what_takes_long_is_shown_as_it_comes(tmp_path: Path) -> None:
    """Before it ends; more than a pipe takes goes in; the end of the output is in the answer."""
    key = load_or_make(tmp_path / "ssh" / "ed25519", new_key_pair)
    with Sshd.start(tmp_path / "sshd") as sshd:
        with sshd.authorized_keys.open("a") as file:
            file.write(f"{key.public_key}\n")
        login = login_of(sshd, key.path)
        assert asyncio.run(_shown_before_its_end(login))
        size = 3_000_000
        answer = asyncio.run(_follow(login, ["wc", "-c"], [b"x" * 100_000] * 30))
        assert int(answer.stdout) == size
        answer = asyncio.run(_follow(login, ["sh", "-c", "exit 3"], [b"x" * 100_000] * 30))
        assert answer.status == 3
        many = ["sh", "-c", "yes | head -c 200000; echo end"]
        assert asyncio.run(_follow(login, many, [])).stdout.endswith(b"\nend\n")
        with pytest.raises(DeadlinePassed):
            asyncio.run(_follow(login, ["sleep", "60"], [], timeout_s=0.3))
        with pytest.raises(ZeroDivisionError):
            asyncio.run(_follow(login, ["cat"], [b"x", b""]))


async def _pieces(parts: Sequence[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part or b"x" * (1 // len(part))


async def _follow(
    login: Login, argv: Sequence[str], parts: Sequence[bytes], timeout_s: float = 30.0
) -> Answer:
    ssh = PinnedSsh()
    try:
        return await ssh.follow(
            login, argv, stdin=_pieces(parts), show=lambda _: None, timeout_s=timeout_s
        )
    finally:
        await ssh.close()


async def _shown_before_its_end(login: Login) -> bool:
    """It waits for us, and we for what it says."""
    shown = asyncio.Event()

    async def later() -> AsyncIterator[bytes]:
        await shown.wait()
        yield b"go on\n"

    ssh = PinnedSsh()
    try:
        answer = await ssh.follow(
            login,
            ["sh", "-c", "echo ready; read -r line"],
            stdin=later(),
            show=lambda _: shown.set(),
            timeout_s=30,
        )
    finally:
        await ssh.close()
    return answer.status == 0
