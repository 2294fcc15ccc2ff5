"""An agent on another machine, spoken to by hand: brought there over SSH as the daemon does it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agent_client import AgentClient, Tools
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD
from burst_wrapper.config import Config
from burst_wrapper.daemon.dial import KnownHost


class _Reader:
    def __init__(self, stream: Any) -> None:
        self.read = stream.read


class _Writer:
    def __init__(self, stream: Any) -> None:
        self.write = stream.write
        self.drain = stream.drain
        self.close = stream.close


class RemoteClient(AgentClient):
    """Ends with its connection; the agent over there ends with it, too."""

    async def close(self) -> bytes:
        self.writer.close()
        if self._pump is not None:
            await self._pump
        return b""


async def connect(address: str, cache: Path, tools: Tools) -> RemoteClient:
    """Ready. HOME must hold an .ssh folder that gets in."""
    stream = await KnownHost(address, os.fsencode(cache)).open(Config(), None)
    session = Session(Role.CLIENT, BUILD, os.getpid())
    reader: Any = _Reader(stream)
    writer: Any = _Writer(stream)
    nothing: Any = None
    client = RemoteClient(Path("/"), nothing, session, reader, writer)
    writer.write(session.hello())
    client.start_reading()
    await client.use_tools(tools.sandbox, tools.observer)
    return client
