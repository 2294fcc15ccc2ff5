"""The agent as its client sees it: the real process, real rustc, the real protocol."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
from agent_client import AgentClient, Crate, Outcome, sandbox_processes

from burst_protocol import messages as m
from burst_protocol.action import KIND_DIRECTORY, KIND_FILE, Incremental, Input
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.tree import TreeBuilder
from burst_wrapper.native_build import NativeTools, build_native

pytestmark = pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")

HELLO = b"pub fn hello() -> &'static str { \"hello\" }\n"


@pytest.fixture(scope="session")
def toolchain() -> Path:
    """The sysroot of the rustc on PATH, behind rustup's proxy."""
    return Path(
        subprocess.run(
            ["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True
        ).stdout.strip()
    )


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> NativeTools:
    cc = shutil.which("cc")
    return build_native(None if cc is None else cc.encode(), tmp_path_factory.mktemp("native"))


Start = Callable[..., Awaitable[AgentClient]]


@pytest.fixture
def start(tmp_path: Path, native: NativeTools) -> Start:
    """Starts an agent on this test's root, tools sent."""

    async def start(*options: str, root: Path | None = None, local: bool = True) -> AgentClient:
        client = await AgentClient.start(root or tmp_path / "root", *options, local=local)
        await client.use_tools(
            native.sandbox and native.sandbox.read_bytes(),
            native.observer and native.observer.read_bytes(),
        )
        return client

    return start


def hello(toolchain: Path, source: bytes = HELLO) -> Crate:
    return Crate(toolchain, source)


async def run(client: AgentClient, crate: Crate) -> Outcome:
    """Sends the source, then the action."""
    await client.put(crate.source)
    return await client.execute(client.request(crate.action()))


def test_ready_says_how_things_are_run(start: Start) -> None:
    """UseTools is answered after something was really run."""

    async def scenario() -> None:
        async with await start("--slots", "3") as client:
            ready = client.ready
            assert ready is not None
            assert ready.launcher in {"namespaces", "bubblewrap", "none"}
            assert ready.slots == 3
            assert ready.store_root == str(client.root).encode()

    asyncio.run(scenario())


def test_lib_outputs_come_in_order_before_their_lines(start: Start, toolchain: Path) -> None:
    """Observed, Output, then the Stderr line that announces it; Exited is the last."""

    async def scenario() -> None:
        async with await start() as client:
            outcome = await run(client, hello(toolchain))
            assert outcome.names()[0] == "Started", outcome.messages
            end = outcome.end
            assert isinstance(end, m.Exited), end
            assert (end.code, end.signal) == (0, 0)
            assert set(outcome.outputs) == {
                b"hello-b0b0.d",
                b"libhello-b0b0.rmeta",
                b"libhello-b0b0.rlib",
            }
            assert outcome.names()[1:] == [
                *("Observed", "Output", "Stderr"),
                *("Observed", "Output", "Stderr"),
                *("Output", "Stderr"),
                *("Observed", "Exited"),
            ]
            rmeta = outcome.outputs[b"libhello-b0b0.rmeta"]
            data = await client.fetch(rmeta.digest)
            assert Digest.of(data) == rmeta.digest
            assert outcome.outputs[b"hello-b0b0.d"].mentions

    asyncio.run(scenario())
