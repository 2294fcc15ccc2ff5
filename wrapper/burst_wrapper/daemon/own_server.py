"""A server that the lifecycle has booted, as the daemon reaches its agent.

Loaded only by who has one: what looks after servers is as large as the rest of the daemon.
"""

from __future__ import annotations

from typing import Final

import attrs

from burst_lifecycle.boot import Booted
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_protocol import messages as m
from burst_protocol.errors import LinkLost, RemoteProtocolError
from burst_protocol.version import BUILD
from burst_wrapper.config import Config
from burst_wrapper.daemon.dial import bring_agent
from burst_wrapper.daemon.link import AgentLink, Stream

_SOCKET: Final = "/run/burst/agent.sock"
_LEASE: Final = "/run/burst"


@attrs.frozen(eq=False)
class OwnServer:
    """A server that the lifecycle has booted and verified, whose connection it keeps."""

    booted: Booted
    ssh: PinnedSsh
    cache_dir: bytes

    @property
    def name(self) -> str:
        return self.booted.server.name

    async def open(self, config: Config, auth_sock: str | None) -> Stream:
        """Its agent is a service; another version's is left alone and ours is sent along."""
        del auth_sock
        connection = await self.ssh.connect(self.booted.login)
        if self.booted.agent == BUILD:
            return await connection.open_socket(_SOCKET)
        folder = self.booted.store.folder
        root = f"{folder}/store" if folder else "{cache}/burst/store"
        arguments = ("--stdio", "--root", root, "--lease", _LEASE)
        return await bring_agent(connection, self.cache_dir, arguments, config)

    async def settle(self, link: AgentLink) -> None:
        """Work in the project's own store."""
        volume_id = self.booted.store.volume_id
        if volume_id is None or self.booted.agent != BUILD:
            return
        answer = await link.ask(m.OpenStore(link.new_id(), str(volume_id)))
        if isinstance(answer, m.Failed):
            raise LinkLost(f"its volume cannot be used: {answer.detail}", host=self.name)
        if not isinstance(answer, m.Opened):
            raise RemoteProtocolError(f"expected Opened, got {type(answer).__name__}")
