"""Brings home's agent to a server of our own and sees that it serves there.

Nothing is sent if that version is on the server already, baked or brought before.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Final

import attrs

from burst_lifecycle.context import Login
from burst_lifecycle.errors import DeadlinePassed, ServerProblem
from burst_lifecycle.remote import bootstrap
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_lifecycle.remote.remote_bundle import HomeBundle

_LIMIT_S: Final = 300.0
"""Some 10 MB over a home's uplink, and the start of a service."""
_ANSWER_BYTES: Final = 1 << 16


@attrs.frozen
class Serving:
    """An agent of our version that answers."""

    identity: str
    socket: str


class Installer:
    """The real `context.AgentInstaller`."""

    def __init__(self, ssh: PinnedSsh, cache_dir: bytes) -> None:
        self._ssh = ssh
        self._bundle = HomeBundle(os.path.join(cache_dir, b"bundle"))

    async def ensure(self, login: Login) -> str:
        """See `context.AgentInstaller`; `login` is root's."""
        return (await self.serve(login)).identity

    async def identity(self) -> str:
        """Of the version that home would bring."""
        return (await self._bundle()).identity

    async def serve(self, login: Login) -> Serving:
        """ServerProblem if it does not serve, DeadlinePassed, and what `bootstrap` raises."""
        connection = await self._ssh.connection(login)
        try:
            async with asyncio.timeout(_LIMIT_S):
                channel = await bootstrap.start_agent(
                    connection, self._bundle, agent_args=("adopt",)
                )
                try:
                    said = b""
                    while data := await channel.read(_ANSWER_BYTES):
                        said += data
                finally:
                    channel.close()
        except TimeoutError:
            detail = f"no answer within {_LIMIT_S:g} s"
            raise DeadlinePassed(detail, what=f"bringing the agent to {login.host}") from None
        try:
            answer = json.loads(said)
            if answer["serves"]:
                return Serving(str(answer["identity"]), str(answer["socket"]))
            why = str(answer["why"])
        except (ValueError, KeyError, TypeError):
            why = "the agent that was brought did not say how it fares"
        raise ServerProblem(why, what=login.host)
