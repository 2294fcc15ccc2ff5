"""Logging in to servers of our own: exactly this key of ours, exactly these host keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import asyncssh

from burst_lifecycle import hostkey
from burst_lifecycle.remote.ssh.connection import SshConnection
from burst_lifecycle.remote.ssh.policy import always, reason
from burst_lifecycle.remote.ssh.target import SshTarget
from burst_lifecycle.remote.ssh.wire import Dialer
from burst_protocol.errors import (
    AuthenticationFailed,
    ConfigError,
    HostKeyProblem,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


class PinnedConnection(SshConnection):
    """To a server whose host key has one of the given pins. Made by `connect_pinned`."""

    host_key: str = ""
    """The one it showed: `ssh-ed25519 AAAA…`."""


async def connect_pinned(
    host: str,
    port: int,
    *,
    user: str,
    pins: Sequence[str],
    key_path: str,
    connect_timeout_s: float = 10.0,
    silence_s: float = 15.0,
) -> PinnedConnection:
    """Log in to a server of our own: exactly this key of ours, exactly these host keys.

    No configuration, agent or known_hosts file of the user's takes part. Raises Unreachable,
    HostKeyProblem, AuthenticationFailed; ConfigError if our key cannot be read.
    """
    target = SshTarget(host, user, port)
    client = _PinnedClient(tuple(pins))
    dialer = Dialer(0, None, None)
    try:
        keys = await asyncio.to_thread(asyncssh.load_keypairs, key_path)
    except (OSError, ValueError, asyncssh.Error) as error:
        raise ConfigError(reason(error), path=key_path) from error
    try:
        async with asyncio.timeout(connect_timeout_s):
            connection = await asyncssh.connect(
                host,
                port,
                username=user,
                tunnel=cast("Any", dialer),
                config=None,
                client_factory=lambda: client,
                known_hosts=lambda _host, _address, _port: ([], [], []),
                server_host_key_algs=["ssh-ed25519"],
                client_keys=keys,
                agent_path=None,
                **always(silence_s),
            )
    except TimeoutError as error:
        raise Unreachable(f"no answer within {connect_timeout_s:g} s", host=str(target)) from error
    except asyncssh.HostKeyNotVerifiable as error:
        shown = client.host_key or "nothing that we could read"
        detail = f"it shows {shown}, which none of its labels allows"
        raise HostKeyProblem(detail, host=str(target)) from error
    except asyncssh.PermissionDenied as error:
        detail = "it does not know this machine's key"
        raise AuthenticationFailed(detail, host=str(target)) from error
    except (asyncssh.Error, OSError, ValueError) as error:
        raise Unreachable(reason(error), host=str(target)) from error
    found = PinnedConnection(target, connection, (), dialer.wire)
    found.host_key = client.host_key
    return found


def new_key_pair() -> tuple[str, str]:
    """A fresh ed25519 pair: private in OpenSSH's format without passphrase, public as one line."""
    key = asyncssh.generate_private_key("ssh-ed25519", comment="burst")
    public = key.export_public_key("openssh").decode()
    return key.export_private_key("openssh").decode(), " ".join(public.split()[:2])


class _PinnedClient(asyncssh.SSHClient):
    def __init__(self, pins: tuple[str, ...]) -> None:
        self._pins = pins
        self.host_key = ""

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        del host, addr, port
        self.host_key = " ".join(key.export_public_key("openssh").decode().split()[:2])
        return hostkey.pin(self.host_key) in self._pins
