"""A server that the lifecycle has booted, as the daemon reaches its agent.

Loaded only by who has one: what looks after servers is as large as the rest of the daemon.
"""

from __future__ import annotations

from typing import ClassVar

import attrs

from burst_lifecycle.boot import Booted
from burst_lifecycle.remote.install import ServiceInstaller
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_protocol import messages as m
from burst_protocol.errors import LinkLost, RemoteProtocolError
from burst_wrapper.config import Config
from burst_wrapper.daemon.link import AgentLink, Stream


@attrs.frozen(eq=False)
class OwnServer:
    """A verified server; the lifecycle keeps the connection to it."""

    booted: Booted
    ssh: PinnedSsh
    installer: ServiceInstaller

    comes_back: ClassVar[bool] = False

    @property
    def name(self) -> str:
        return self.booted.server.name

    @property
    def lasting(self) -> bool:
        """A volume is; a server's own disk goes with it."""
        return self.booted.store.volume_id is not None

    async def open(self, config: Config, auth_sock: str | None) -> Stream:
        """To the service of our version there; it is brought if there is none (any more)."""
        del config, auth_sock
        login = self.booted.login
        socket = await self.installer.serve(attrs.evolve(login, user="root"))
        return await (await self.ssh.connection(login)).open_socket(socket)

    async def settle(self, link: AgentLink) -> None:
        """Work in the project's own store."""
        volume_id = self.booted.store.volume_id
        if volume_id is None:
            return
        answer = await link.ask(m.OpenStore(link.new_id(), str(volume_id)))
        if isinstance(answer, m.Failed):
            raise LinkLost(f"its volume cannot be used: {answer.detail}", host=self.name)
        if not isinstance(answer, m.Opened):
            raise RemoteProtocolError(f"expected Opened, got {type(answer).__name__}")
