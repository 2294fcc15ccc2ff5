"""Programs in their mirror's network, and connections from outside: the real agent and protocol."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest

from agent_client import AgentClient, Tools, native_tools
from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.services import SERVICES
from mirror_client import sync
from networks import all_gone, below, needs
from program_client import Run, run, start

pytestmark = pytest.mark.slow

TOP = b"/home/developer/work/project"
ENV = ((b"PATH", b"/usr/bin:/bin"),)
ECHO = """
import socket
server = socket.create_server(("127.0.0.1", 7878))
print("listening", flush=True)
while True:
    client, _ = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(data.upper())
        client.sendall(b"END")
"""
CAPABLE = """
import os, socket
with open("/proc/self/status") as file:
    print([line.split()[1] for line in file if line.startswith(("CapEff", "CapPrm"))])
print(open("/etc/resolv.conf").read().split()[:1])
print(sorted(name for _, name in socket.if_nameindex())[-1:])
print(socket.create_connection(("127.0.0.1", 6379)).getpeername()[1])
"""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    built = native_tools(tmp_path_factory.mktemp("tools"))
    if built.sandbox is None:
        pytest.skip("no C compiler")
    return built


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below /tmp, and passable by every user."""
    with tempfile.TemporaryDirectory(prefix="burst-network-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@asynccontextmanager
async def an_agent(tools: Tools, folder: Path, *, local: bool) -> AsyncIterator[AgentClient]:
    async with await AgentClient.start_ready(tools, folder / "store", local=local) as client:
        if client.ready is None or client.ready.launcher != "namespaces":
            pytest.skip("no namespaces here")
        if not local:
            await sync(client, {TOP: {b"f": b""}})
        yield client


def program(script: str, local: bool, *services: str) -> p.StartProgram:
    return start(
        (b"/usr/bin/python3", b"-ISc", script.encode()),
        cwd=b"/" if local else TOP,
        env=ENV,
        services=services,
        shares_network=False,
    )


@attrs.define
class Pipe:
    """A connection as a client sees it."""

    client: AgentClient
    id: int
    said: bytes = b""
    credit: int = p.WINDOW_BYTES

    @classmethod
    async def open(cls, client: AgentClient, port: int, mirror: str = "project") -> Pipe | m.Failed:
        number = client.new_id()
        answer = await client.ask(p.Connect(number, mirror, port))
        if isinstance(answer, m.Failed):
            return answer
        assert answer == p.Connected(number)
        return cls(client, number)

    async def send(self, data: bytes) -> None:
        """As much as may be sent; what comes back meanwhile is read."""
        view = memoryview(data)
        while view:
            while not self.credit:
                await self.step()
            piece = bytes(view[: min(self.credit, 100_000)])
            self.credit -= len(piece)
            await self.client.send(p.Input(self.id, piece))
            view = view[len(piece) :]

    async def step(self) -> bool:
        """Hear one message; false at the end of what the other says."""
        message = await self.client.next(self.id)
        if isinstance(message, p.Credit):
            assert message.stream == 0
            self.credit += message.size
            return True
        assert isinstance(message, p.ProgramOutput), message
        self.said += message.data
        if message.data:
            await self.client.send(p.Credit(self.id, message.stream, len(message.data)))
        return bool(message.data)


@pytest.mark.parametrize("local", [False, True], ids=["elsewhere", "at home"])
def test_a_program_and_a_connection(tools: Tools, folder: Path, local: bool) -> None:
    """4 MB each way through windows of one; one end says its end, and the other has more to say."""
    data = os.urandom(3_000_000).hex().encode()

    async def scenario() -> None:
        async with an_agent(tools, folder, local=local) as client:
            server = await Run.start(client, program(ECHO, local))
            await server.until(b"listening")
            pipe = await Pipe.open(client, 7878)
            assert isinstance(pipe, Pipe)
            await pipe.send(data)
            await client.send(p.Input(pipe.id, b""))
            while await pipe.step():
                pass
            assert pipe.said == data.upper() + b"END"
            # The number is free again when both have ended.
            again = await Pipe.open(client, 7878)
            assert isinstance(again, Pipe)
            await client.send(m.Cancel(again.id))
            assert (await client.next(again.id)) == m.Failed(again.id, "cancelled", "as asked")
            nobody = await Pipe.open(client, 7879)
            assert isinstance(nobody, m.Failed)
            assert (nobody.code, nobody.detail) == (
                "nobody-listens",
                "no program of this project listens on port 7879",
            )
            await server.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("local", [False, True], ids=["elsewhere", "at home"])
def test_a_program_with_a_service(tools: Tools, folder: Path, local: bool) -> None:
    """It is there before the program, which may do nothing to its network elsewhere. At home it is
    who it would be without us."""
    needs("redis-server")

    async def scenario() -> None:
        async with an_agent(tools, folder, local=local) as client:
            done = await run(client, program(CAPABLE, local, "redis"))
            said = done.said.get(1, b"").decode().splitlines()
            assert done.end is not None
            if not local:
                assert said[0] == "['0000000000000000', '0000000000000000']"
            assert said[-1] == str(SERVICES["redis"].port)
            assert said[2] == "['lo']" or done.notes == ()

    asyncio.run(scenario())


def test_two_projects_servers_on_one_port(tools: Tools, folder: Path) -> None:
    async def scenario() -> None:
        async with an_agent(tools, folder, local=True) as client:
            pipes = []
            for mirror in ("one", "two"):
                script = ECHO.replace(".upper()", f".replace(b'me', b'{mirror}')")
                server = await Run.start(
                    client, attrs.evolve(program(script, local=True), mirror=mirror)
                )
                await server.until(b"listening")
                pipe = await Pipe.open(client, 7878, mirror)
                assert isinstance(pipe, Pipe)
                pipes.append(pipe)
            for pipe, name in zip(pipes, ("one", "two"), strict=True):
                await pipe.send(b"me")
                while len(pipe.said) < 3:
                    await pipe.step()
                assert pipe.said.decode() == name

    asyncio.run(scenario())


def test_more_input_than_was_credited(tools: Tools, folder: Path) -> None:
    """A client that does not keep to it is told so; the agent holds no more than one window."""

    async def scenario() -> None:
        async with an_agent(tools, folder, local=True) as client:
            silent = ECHO.replace("while data := client.recv(65536)", "while data := input()")
            server = await Run.start(client, program(silent, local=True))
            await server.until(b"listening")
            pipe = await Pipe.open(client, 7878)
            assert isinstance(pipe, Pipe)
            for _ in range(200):
                await client.send(p.Input(pipe.id, bytes(100_000)))
            while not isinstance(answer := await client.next(pipe.id), m.Failed):
                pass
            assert answer.code == "protocol-remote"

    asyncio.run(scenario())


def test_an_agent_that_is_killed_takes_its_programs_along(tools: Tools, folder: Path) -> None:
    needs("redis-server")

    async def scenario() -> None:
        async with an_agent(tools, folder, local=False) as client:
            server = await Run.start(client, program(ECHO, False, "redis"))
            await server.until(b"listening")
            left = below(client.process.pid)
            client.process.kill()
            await client.process.wait()
            await asyncio.to_thread(all_gone, left)

    asyncio.run(scenario())
