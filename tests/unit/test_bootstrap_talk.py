"""burst_lifecycle.remote.bootstrap: the talk with the stub, however it is cut into portions."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from burst_lifecycle.remote.bootstrap import start_agent_with_facts
from burst_lifecycle.remote.remote_stub import MARKER
from fake_bundle import make_bundle, provider

FACTS = json.dumps({"python": "3.12", "arch": "x86_64"}).encode()
STARTED = b"S" + len(FACTS).to_bytes(4, "little") + FACTS
HELLO = b"the agent's first words"


class Scripted:
    """A channel on which everything has arrived, in portions of one size."""

    host = "there"

    def __init__(self, data: bytes, portion_bytes: int) -> None:
        self.data = data
        self.portion_bytes = portion_bytes

    async def read(self, limit_bytes: int) -> bytes:
        size = min(limit_bytes, self.portion_bytes)
        taken, self.data = self.data[:size], self.data[size:]
        return taken

    async def read_exactly(self, size_bytes: int) -> bytes:
        taken, self.data = self.data[:size_bytes], self.data[size_bytes:]
        assert len(taken) == size_bytes
        return taken

    def unread(self, data: bytes) -> None:
        self.data = data + self.data

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    async def ending(self) -> str:
        return "the end"


class Connection:
    def __init__(self, channel: Scripted) -> None:
        self.channel = channel

    async def run(self, command: str) -> Scripted:
        return self.channel


@pytest.mark.parametrize("noise", [b"", b"Welcome!\r\n", b"x" * 3000])
@pytest.mark.parametrize("portion_bytes", [1, 7, 50, 100_000])
def test_what_comes_behind_the_stub_is_the_agents(
    tmp_path: Path, noise: bytes, portion_bytes: int
) -> None:
    """All at once, as on a busy machine, or byte by byte: no byte of it is lost or misread."""
    channel = Scripted(noise + MARKER + STARTED + HELLO, portion_bytes)
    bundle = make_bundle(tmp_path, "aaa")
    started = start_agent_with_facts(
        Connection(channel),  # type: ignore[arg-type]
        provider(bundle),
        agent_args=(),
    )
    _, facts = asyncio.run(started)
    assert facts.python == "3.12"
    assert channel.data == HELLO
