"""A connection that is logged in, and the channels on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncssh

from burst_lifecycle.remote.ssh.channel import AgentChannel, OverSocket
from burst_lifecycle.remote.ssh.policy import reason
from burst_protocol.errors import LinkLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from burst_lifecycle.remote.ssh.target import SshTarget
    from burst_lifecycle.remote.ssh.wire import Wire

_RECEIVE_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""asyncssh's default of 2 MiB caps a download at 40 MB/s over a 50 ms round trip."""


class SshConnection:
    """An authenticated connection to a host whose key we knew. Made by `connect`."""

    def __init__(
        self,
        target: SshTarget,
        connection: asyncssh.SSHClientConnection,
        jumps: Sequence[asyncssh.SSHClientConnection],
        wire: Wire | None,
    ) -> None:
        self.target = target
        self._wire = wire
        self._connection = connection
        self._jumps = tuple(jumps)

    async def run(self, fixed_command: str) -> AgentChannel:
        """Start a command. It must be a constant: no input of ours may ever become part of it."""
        channel = AgentChannel(str(self.target), self._wire)
        try:
            await self._connection.create_session(
                lambda: channel,
                fixed_command,
                env={},
                send_env=[],
                request_pty=False,
                x11_forwarding=False,
                encoding=None,
                window=_RECEIVE_WINDOW_BYTES,
            )
        except asyncssh.ChannelOpenError as error:
            # Often `MaxSessions`; or the connection went away under us.
            raise LinkLost(reason(error), host=str(self.target)) from error
        except (asyncssh.Error, OSError) as error:
            raise LinkLost(reason(error), host=str(self.target)) from error
        return channel

    async def open_socket(self, path: str) -> AgentChannel:
        """A channel to what listens on that unix socket there (sshd connects, as the login's user).

        LinkLost if nobody does, or if that sshd forbids it: `burst-agent connect` is the other way.
        """
        channel = AgentChannel(str(self.target), self._wire)
        try:
            await self._connection.create_unix_connection(
                lambda: OverSocket(channel),
                path,
                encoding=None,
                window=_RECEIVE_WINDOW_BYTES,
            )
        except (asyncssh.Error, OSError) as error:
            raise LinkLost(f"{path}: {reason(error)}", host=str(self.target)) from error
        return channel

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed()

    def close(self) -> None:
        """Hang up. Channels end with LinkLost or end of file."""
        self._connection.abort()
        for jump in reversed(self._jumps):
            jump.abort()

    async def wait_closed(self) -> None:
        """Until the connection is gone: closed by us, by the peer, or silent for too long."""
        try:
            await self._connection.wait_closed()
        finally:
            for jump in reversed(self._jumps):
                jump.abort()
