"""Commands over a real sshd with a pinned host key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.access import load_or_make
from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import DeadlinePassed
from burst_lifecycle.hostkey import pin
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_lifecycle.remote.ssh_transport import new_key_pair
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
