"""`burst-agent serve` as a real process on a socket of its own, and clients of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import attrs

from agent_client import AgentClient, Tools
from burst_agent.lease import Lease
from burst_protocol import messages as m
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

_PATIENCE_S = 60


@attrs.define
class ServiceClient(AgentClient):
    """A client whose end does not end the agent."""

    async def close(self) -> bytes:
        self.writer.close()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()
        return b""


@attrs.define
class AgentService:
    """The process; `folder` holds its store, its volumes and its lease."""

    folder: Path
    process: asyncio.subprocess.Process
    socket: Path
    tools: Tools
    lease: Lease
    """As another process has it."""
    clients: list[ServiceClient] = attrs.field(factory=list)

    @classmethod
    async def start(cls, folder: Path, tools: Tools, *options: str) -> Self:
        for name in ("run", "volumes"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        # Socket paths hold 107 bytes at most.
        path = Path(tempfile.mkdtemp(prefix="burst-", dir="/tmp")) / "agent.sock"
        ready = path.parent / "ready.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
            notified.bind(str(ready))
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "burst_agent.main", "serve",
                "--socket", str(path), "--root", str(folder / "root"),
                "--volumes", str(folder / "volumes"), "--lease", str(folder / "run"), *options,
                env={**os.environ, "NOTIFY_SOCKET": str(ready)},
                stdin=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            notified.settimeout(_PATIENCE_S)
            assert await asyncio.to_thread(notified.recv, 64) == b"READY=1"
        return cls(folder, process, path, tools, Lease(str(folder / "run")))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.close()
        await self.stop()
        self.lease.close()
        shutil.rmtree(self.socket.parent)

    async def stop(self) -> bytes:
        """By SIGTERM; what it said on stderr."""
        if self.process.returncode is None:
            self.process.terminate()
        assert self.process.stderr is not None
        stderr = await asyncio.wait_for(self.process.stderr.read(), _PATIENCE_S)
        await self.process.wait()
        return stderr

    def volume(self, name: str) -> Path:
        """Mounts one, as far as the agent can tell."""
        volume = self.folder / "volumes" / name
        (volume / "store").mkdir(parents=True)
        (volume / "burst-volume.json").write_text(json.dumps({"id": name}))
        return volume

    async def connect(self, *, volume: str = "", ready: bool = True) -> ServiceClient:
        """A client; with our tools brought and its store opened, if it shall be ready."""
        reader, writer = await asyncio.open_unix_connection(str(self.socket))
        session = Session(Role.CLIENT, BUILD, os.getpid())
        root = self.folder / "root"
        client = ServiceClient(root, self.process, session, reader, writer)
        self.clients.append(client)
        writer.write(session.hello())
        client._pump = asyncio.create_task(client._read())
        if volume:
            opened = await client.ask(m.OpenStore(client.new_id(), volume))
            assert isinstance(opened, m.Opened), opened
            client.root = Path(os.fsdecode(opened.root))
        if ready:
            await client.use_tools(self.tools.sandbox, self.tools.observer)
        return client

    async def status(self, **wanted: Any) -> dict[str, object]:
        """The lease's, as soon as it says what is wanted."""
        while True:
            found = self.lease.status()
            if all(found[name] == value for name, value in wanted.items()):
                return found
            await asyncio.sleep(0.01)
