"""The other end of an AgentLink, in memory: hears frames, says what a test tells it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from burst_protocol import messages as m
from burst_protocol.errors import RemoteProtocolError, VersionMismatch
from burst_protocol.messages import Message
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD
from burst_wrapper.daemon.link import AgentLink

Answer = Callable[[Message], list[Message]]


class FakeAgent:
    """A Stream whose far end is a real Session. `answers` maps what was heard to what is said."""

    def __init__(self, answers: Answer | None = None, *, build: str = BUILD) -> None:
        self.heard: list[Message] = []
        self.closed = False
        self.drained = 0
        self.answers: Answer = answers or (lambda _: [])
        self._session = Session(Role.AGENT, build, 1)
        self._bytes: asyncio.Queue[bytes] = asyncio.Queue()
        self._arrived = asyncio.Event()
        self.raw(self._session.hello())

    # what AgentLink uses

    async def read(self, limit: int) -> bytes:
        return await self._bytes.get()

    def write(self, data: bytes) -> None:
        try:
            received = self._session.receive(data)
        except (VersionMismatch, RemoteProtocolError):
            return  # the other end has read our Hello and will say so
        for message in received:
            self.heard.append(message)
            for answer in self.answers(message):
                self.say(answer)
        self._arrived.set()

    async def drain(self) -> None:
        self.drained += 1

    def close(self) -> None:
        self.closed = True

    # what tests use

    def say(self, message: Message) -> None:
        self.raw(self._session.send(message))

    def raw(self, data: bytes) -> None:
        """Any bytes; none at all are the end of the stream."""
        self._bytes.put_nowait(data)

    async def hears(self, kind: type[Message]) -> Message:
        """The first message of that kind, as soon as it is there."""
        while True:
            for message in self.heard:
                if isinstance(message, kind):
                    return message
            self._arrived.clear()
            await self._arrived.wait()

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]


def ready(request: Message) -> list[Message]:
    """An agent that can run things."""
    if isinstance(request, m.UseTools):
        return [m.Ready(request.id, "namespaces", "", True, 4, b"/store", "x86_64")]
    return []


async def no_tools(link: AgentLink) -> m.UseTools:
    return m.UseTools(link.new_id(), None, None)


@asynccontextmanager
async def linked(
    agent: FakeAgent, *, local: bool = False, silence_s: float = 600
) -> AsyncIterator[AgentLink]:
    """A started link to that agent."""
    inner = agent.answers
    agent.answers = lambda message: ready(message) or inner(message)
    link = AgentLink(agent, "there", silence_s=silence_s, local=local)
    await link.start(no_tools)
    try:
        yield link
    finally:
        await link.close()
