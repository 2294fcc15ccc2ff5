"""How an agent on another machine is reached. The end is one byte stream that speaks its protocol.

A host that the user knows is here; a server of our own is in `own_server`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from burst_wrapper.config import Config
from burst_wrapper.daemon.link import AgentLink, Stream, ended

if TYPE_CHECKING:
    from burst_lifecycle.remote.ssh.channel import AgentChannel
    from burst_lifecycle.remote.ssh.connection import SshConnection
    from burst_protocol.errors import BurstError

_PATIENCE: Final = 4
"""The agent's patience with our silence, as a multiple of ours: a busy home may be slow."""
_AGENT_ARGS: Final = ("--stdio", "--root", "{cache}/burst/store")
_AGENT_SAYS: Final = "burst-agent: "
_WORDS: Final = 300
"""Characters of what an agent says at its end."""


class Dial(Protocol):
    """One machine. `name` is what journals and messages call it."""

    @property
    def name(self) -> str: ...

    @property
    def lasting(self) -> bool:
        """Whether what its store is given is there for later builds, too."""
        ...

    @property
    def comes_back(self) -> bool:
        """Whether a lost one is dialled again here, rather than by who looks after it."""
        ...

    async def open(self, config: Config, auth_sock: str | None) -> Stream:
        """To its agent, which is brought there if need be. Errors of the tree."""
        ...

    async def settle(self, link: AgentLink) -> None:
        """What has to be said before anything else is asked."""
        ...


def last_words(stderr: bytes, host: str) -> BurstError | None:
    """Why an agent ended, by a line of its own on stderr; None if there is none."""
    for line in reversed(stderr.decode("utf-8", "replace").splitlines()):
        if line.startswith(_AGENT_SAYS):
            return ended(f"on {host}: {line.removeprefix(_AGENT_SAYS)[:_WORDS]}")
    return None


class _WithConnection:
    """A channel that takes its connection along when it is closed."""

    def __init__(self, channel: AgentChannel, connection: SshConnection, host: str) -> None:
        self._host = host
        self._channel = channel
        self._connection = connection
        self.write = channel.write
        self.drain = channel.drain

    async def read(self, limit: int) -> bytes:
        """As Stream's; at its end the agent's last words are raised, if it had any."""
        data = await self._channel.read(limit)
        if not data:
            await self._channel.ending()  # stderr may come after the end of stdout
            if (cause := last_words(self._channel.stderr_tail, self._host)) is not None:
                raise cause
        return data

    def close(self) -> None:
        self._channel.close()
        self._connection.close()


@attrs.frozen
class KnownHost:
    """`user@host[:port]`, reached as `ssh` would."""

    name: str
    cache_dir: bytes
    lasting: bool = True
    comes_back: bool = True

    async def open(self, config: Config, auth_sock: str | None) -> Stream:
        # asyncssh costs 0.2 s to import: only who has a host pays for it.
        from burst_lifecycle.remote.ssh.login import connect  # noqa: PLC0415
        from burst_lifecycle.remote.ssh.target import SshTarget  # noqa: PLC0415

        connection = await connect(
            SshTarget.parse(self.name),
            connect_timeout_s=config.connect_timeout_s,
            silence_s=config.silence_s,
            auth_sock=auth_sock,
        )
        try:
            channel = await _bring(connection, self.cache_dir, _AGENT_ARGS, config)
        except BaseException:
            connection.close()
            raise
        return _WithConnection(channel, connection, self.name)

    async def settle(self, link: AgentLink) -> None:
        """Its agent has one store."""


async def _bring(
    connection: SshConnection, cache_dir: bytes, arguments: Sequence[str], config: Config
) -> AgentChannel:
    from burst_lifecycle.remote import bootstrap, remote_bundle  # noqa: PLC0415

    bundle = remote_bundle.HomeBundle(os.path.join(cache_dir, b"bundle"))
    patience = ("--patience", f"{_PATIENCE * config.silence_s:g}")
    return await bootstrap.start_agent(connection, bundle, agent_args=(*arguments, *patience))
