"""Programs as a client sees them: started, fed and read over the real protocol."""

from __future__ import annotations

import os
import sys
from typing import Self

import attrs

from agent_client import AgentClient
from burst_protocol import messages as m
from burst_protocol import programs as p

ENV = ((b"PATH", b"/usr/bin:/bin"), (b"LANG", b"C.UTF-8"))
SHELL = b"/bin/sh"
PYTHON = os.fsencode(sys.executable)


def shell(script: str, **changes: object) -> p.StartProgram:
    """A request for `/bin/sh -c SCRIPT`, all three of it pipes."""
    return start((SHELL, b"-c", script.encode()), **changes)


def python(script: str, **changes: object) -> p.StartProgram:
    return start((PYTHON, b"-ISc", script.encode()), **changes)


def start(argv: tuple[bytes, ...], **changes: object) -> p.StartProgram:
    request = p.StartProgram(
        id=0, mirror="project", argv=argv, env=ENV, cwd=b"/", terminals=0, rows=0, columns=0,
        trees=(), libraries=(), services=(), memory_bytes=0, wall_s=0, alone=False,
        shares_network=True, prolongs=True, detached=False,
    )  # fmt: skip
    return attrs.evolve(request, **changes)  # type: ignore[arg-type]


@attrs.define
class Run:
    """One program, and everything that was said of it."""

    client: AgentClient
    request: p.StartProgram
    notes: tuple[str, ...] = ()
    said: dict[int, bytes] = attrs.field(factory=dict)
    ended_streams: set[int] = attrs.field(factory=set)
    credit: int = p.WINDOW_BYTES
    stopped: list[int] = attrs.field(factory=list)
    end: m.Message | None = None
    grants: bool = True
    """Whether what was read may be followed by more."""

    @classmethod
    async def start(cls, client: AgentClient, request: p.StartProgram) -> Self:
        """Until it runs, or the answer is another one (`end`)."""
        run = cls(client, attrs.evolve(request, id=client.new_id()))
        await client.send(run.request)
        await run.step()
        return run

    async def step(self) -> m.Message:
        """The next message about it."""
        message = await self.client.next(self.request.id)
        match message:
            case p.Running():
                self.notes = message.notes
            case p.ProgramOutput():
                assert self.end is None
                assert message.stream not in self.ended_streams
                self.said[message.stream] = self.said.get(message.stream, b"") + message.data
                if not message.data:
                    self.ended_streams.add(message.stream)
                elif self.grants:
                    grant = p.Credit(self.request.id, message.stream, len(message.data))
                    await self.client.send(grant)
            case p.Credit():
                self.credit += message.size
            case p.Stopped():
                self.stopped.append(message.number)
            case _:
                self.end = message
        return message

    async def finish(self) -> p.ProgramEnded:
        """How it ended; Failed is an error of the test."""
        while self.end is None:
            await self.step()
        assert isinstance(self.end, p.ProgramEnded), self.end
        return self.end

    async def failure(self) -> m.Failed:
        while self.end is None:
            await self.step()
        assert isinstance(self.end, m.Failed), self.end
        return self.end

    async def until(self, text: bytes, stream: int = 1) -> None:
        """Until it has said this."""
        while text not in self.said.get(stream, b""):
            assert self.end is None, (self.end, self.said)
            await self.step()

    async def write(self, data: bytes) -> None:
        self.credit -= len(data)
        await self.client.send(p.Input(self.request.id, data))

    async def signal(self, number: int) -> None:
        await self.client.send(p.Signal(self.request.id, number))

    async def cancel(self) -> m.Failed:
        await self.client.send(m.Cancel(self.request.id))
        return await self.failure()


async def run(client: AgentClient, request: p.StartProgram) -> Run:
    """From start to end."""
    started = await Run.start(client, request)
    if started.end is None:
        await started.finish()
    return started
