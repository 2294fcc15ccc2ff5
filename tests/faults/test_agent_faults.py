"""What the agent does when something breaks: nothing is left running, nothing wrong is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest

from agent_client import (
    AgentClient,
    Tools,
    native_tools,
    sandbox_processes,
    shell,
    wait_for,
)
from burst_protocol import messages as m
from burst_protocol.action import KIND_FILE, Input
from burst_protocol.digest import Digest
from burst_protocol.framing import FrameDecoder, frame
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

Start = Callable[..., Awaitable[AgentClient]]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return native_tools(tmp_path_factory.getbasetemp())


@pytest.fixture
def start(tmp_path: Path, tools: Tools) -> Start:
    """Starts an agent on this test's root, tools sent."""

    async def start(*options: str, root: Path | None = None, local: bool = True) -> AgentClient:
        return await AgentClient.start_ready(
            tools, root or tmp_path / "root", *options, local=local
        )

    return start


async def running(client: AgentClient, script: str = "sleep 60") -> m.Execute:
    """An action that surely runs."""
    request = client.request(shell(f"echo up >&2; {script}"))
    await client.send(request)
    while not isinstance(await client.next(request.id), m.Stderr):
        pass
    return request


async def gone(root: Path, but: int = -1) -> None:
    """Waits until no process knows this root any more: others kill them, we only look."""
    async with asyncio.timeout(20):
        while [pid for pid in sandbox_processes(root) if pid != but]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def failure(message: m.Message) -> str:
    assert isinstance(message, m.Failed), message
    return message.code


# The connection


def test_the_client_vanishes_in_the_middle(start: Start) -> None:
    """The sandbox is killed and the agent ends, with nothing on stderr and nothing left behind."""

    async def scenario() -> None:
        client = await start()
        await running(client)
        assert await client.close() == b""
        assert client.process.returncode == 0
        assert sandbox_processes(client.root) == []
        assert list(client.root.glob("tmp/*")) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 64,
        b"\xff" * 64,
        (1 << 31).to_bytes(4, "little") + bytes(4),
        frame(m.Ping(1))[:-1] + b"x",
        frame(m.Pong(1)) + frame(m.Ready(1, "", "", False, 1, b"", "")),
    ],
    ids=["zeros", "ones", "huge", "flipped", "wrong-role"],
)
def test_malformed_frames_end_the_connection_quietly(start: Start, garbage: bytes) -> None:
    """The connection ends, the run with it; no traceback anywhere."""

    async def scenario() -> None:
        client = await start()
        await running(client)
        client.writer.write(garbage)
        assert await asyncio.wait_for(client.process.wait(), 20) == 0
        assert await client.close() == b""
        assert sandbox_processes(client.root) == []
        assert b"Traceback" not in (client.root / "agent.log").read_bytes()

    asyncio.run(scenario())


def test_another_version_is_told_ours_and_refused(tmp_path: Path) -> None:
    """Both sides can say what they met: the agent's Hello comes before it ends."""

    async def scenario() -> None:
        client = await AgentClient.start(tmp_path / "root", build="0.0.0-other")
        assert await asyncio.wait_for(client.process.wait(), 20) == 0
        assert await client.close() == b""
        log = (tmp_path / "root/agent.log").read_text()
        assert client.session.peer is None
        assert "0.0.0-other" in log
        assert "Traceback" not in log

    asyncio.run(scenario())


def test_stdio_carries_frames_only(tmp_path: Path) -> None:
    """As over ssh: stdin and stdout are the protocol's, EOF ends the agent."""
    session = Session(Role.CLIENT, BUILD, 1)
    said = session.hello() + session.send(m.Ping(3)) + session.send(m.Shutdown())
    done = subprocess.run(
        [sys.executable, "-m", "burst_agent.main", "--stdio", "--root", str(tmp_path / "root")],
        input=said,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""
    assert [type(message).__name__ for message in FrameDecoder().feed(done.stdout)] == [
        "Hello",
        "Pong",
    ]


# Kills


def test_agent_killed_in_the_middle_then_started_again(start: Start, tmp_path: Path) -> None:
    """SIGKILL takes the sandboxes with it; the next agent finds a sound store and cleans up."""

    async def scenario() -> None:
        client = await start()
        kept = client.request(shell("echo x > /work/out/x"))
        outcome = await client.execute(kept)
        strong = b"s" * 32
        result = outcome.result(kept.action)
        await client.send(m.Accept(kept.id, bytes(32), b"list", strong, result))
        answer: m.Message = m.Shutdown()
        while not isinstance(answer, m.Hit):
            answer = await client.ask(m.Lookup(client.new_id(), bytes(32), (strong,)))
        await running(client)
        client.process.kill()
        await client.process.wait()
        await gone(client.root)
        await client.close()
        async with await start() as again:
            answer = await again.ask(m.Lookup(again.new_id(), bytes(32), (strong,)))
            assert isinstance(answer, m.Hit)
            assert await again.fetch(answer.result.outputs[0].digest) == b"x\n"
            assert len(list(again.root.glob("tmp/*"))) == 1
            outcome = await again.execute(again.request(shell("true")))
            assert isinstance(outcome.end, m.Exited)

    asyncio.run(scenario())


def test_sigterm_ends_everything(start: Start) -> None:
    """Sandboxes are killed, temporary files removed, exit status 0."""

    async def scenario() -> None:
        client = await start()
        await running(client)
        client.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(client.process.wait(), 20) == 0
        assert await client.close() == b""
        assert sandbox_processes(client.root) == []
        assert list(client.root.glob("tmp/*")) == []

    asyncio.run(scenario())


def test_a_command_killed_from_outside_is_no_result(start: Start) -> None:
    """The signal is told; who asks again gets a new run."""

    async def scenario() -> None:
        async with await start() as client:
            for executed in (1, 2):
                outcome = await client.execute(client.request(shell("kill -9 $$")))
                assert isinstance(outcome.end, m.Exited)
                assert outcome.end.signal == signal.SIGKILL
                status = await client.ask(m.AskStatus(client.new_id()))
                assert isinstance(status, m.Status)
                assert (status.executed, status.running) == (executed, 0)

    asyncio.run(scenario())


# Limits


def test_a_run_that_takes_too_long(start: Start) -> None:
    """Failed(limit), and nothing is left running."""

    async def scenario() -> None:
        async with await start() as client:
            request = client.request(shell("sleep 60 & sleep 60", timeout_s=1))
            outcome = await client.execute(request)
            assert failure(outcome.end) == "limit"
            await gone(client.root, but=client.process.pid)

    asyncio.run(scenario())


def test_a_command_that_does_not_exist(start: Start) -> None:
    """It was never started: ours, not a compile error."""

    async def scenario() -> None:
        async with await start() as client:
            outcome = await client.execute(client.request(shell("", argv=(b"/no/rustc",))))
            assert failure(outcome.end) == "no-sandbox"

    asyncio.run(scenario())


def test_lines_without_end_are_relayed_in_bounded_memory(start: Start) -> None:
    """A line larger than the limit ends the run, not the agent."""

    async def scenario() -> None:
        async with await start() as client:
            script = "head -c 30000000 /dev/zero >&2"
            outcome = await client.execute(client.request(shell(script)))
            assert failure(outcome.end) == "limit"
            outcome = await client.execute(client.request(shell("true")))
            assert isinstance(outcome.end, m.Exited)

    asyncio.run(scenario())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk(start: Start, tmp_path: Path) -> None:
    """Failed(disk-full) for outputs and for blobs; smaller things work afterwards."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount here")

    async def scenario() -> None:
        async with await start(root=small / "root") as client:
            script = "head -c 4000000 /dev/zero > /work/out/a; head -c 1 /dev/zero > /work/out/b"
            (digest,) = await client.put(bytes(3_000_000))
            assert len(await client.fetch(digest)) == 3_000_000
            outcome = await client.execute(client.request(shell(script)))
            # The command meets the full disk itself, or we do when we store what it wrote.
            assert isinstance(outcome.end, m.Exited | m.Failed)
            if isinstance(outcome.end, m.Exited):
                assert outcome.end.code != 0
            else:
                assert outcome.end.code == "disk-full"
            await client.put(os.urandom(5_000_000))
            assert failure(await client.next(0)) == "disk-full"
            outcome = await client.execute(client.request(shell("echo x > /work/out/x")))
            assert set(outcome.outputs) == {b"x"}

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


# Blobs


def test_blobs_that_are_not_what_they_are_said_to_be(start: Start) -> None:
    """Refused and named; good ones in the same message are kept, the connection goes on."""

    async def scenario() -> None:
        async with await start() as client:
            good, bad = Digest.of(b"good"), Digest.of(b"bad")
            blobs = ((m.CODEC_RAW, b"good"), (m.CODEC_RAW, b"BAD"))
            await client.send(m.PutBlobs((good, bad), blobs))
            assert failure(await client.next(0)) == "digest-mismatch"
            number = client.new_id()
            for data, last in ((b"b", False), (b"x", False), (b"d", True)):
                await client.send(m.BlobChunk(number, bad, m.CODEC_RAW, data, last))
            assert failure(await client.next(number)) == "digest-mismatch"
            broken = m.BlobChunk(client.new_id(), bad, m.CODEC_ZSTD, b"nonsense", True)
            assert failure(await client.ask(broken)) == "digest-mismatch"
            assert await client.fetch(good) == b"good"
            assert failure(await client.ask(m.Fetch(client.new_id(), bad))) == "blob-missing"

    asyncio.run(scenario())


def test_a_lost_output_blob_is_a_miss(start: Start) -> None:
    """An entry whose blob vanished is no hit, and the unit runs again."""

    async def scenario() -> None:
        async with await start() as client:
            request = client.request(shell("echo x > /work/out/x"), strong_keys=(b"s" * 32,))
            outcome = await client.execute(request)
            result = outcome.result(request.action)
            await client.send(m.Accept(request.id, bytes(32), b"list", b"s" * 32, result))
            while not isinstance(outcome.end, m.Hit):
                outcome = await client.execute(attrs.evolve(request, id=client.new_id()))
            digest = result.outputs[0].digest
            name = digest.hex
            (client.root / "cas" / name[:2] / name).unlink()
            outcome = await client.execute(attrs.evolve(request, id=client.new_id()))
            assert isinstance(outcome.end, m.Exited)
            assert await client.fetch(digest) == b"x\n"

    asyncio.run(scenario())


def test_an_output_lost_before_it_was_accepted_is_made_again(start: Start) -> None:
    """Who asks for the same meanwhile must not be told of a file that is gone."""

    async def scenario() -> None:
        async with await start() as client:
            request = client.request(shell("echo x > /work/out/x"))
            outcome = await client.execute(request)
            digest = outcome.result(request.action).outputs[0].digest
            (client.root / "cas" / digest.hex[:2] / digest.hex).unlink()
            outcome = await client.execute(attrs.evolve(request, id=client.new_id()))
            assert isinstance(outcome.end, m.Exited)
            assert await client.fetch(digest) == b"x\n"

    asyncio.run(scenario())


def test_a_local_input_that_changed_size_is_missing(start: Start, tmp_path: Path) -> None:
    """The hint no longer leads to the bytes that were hashed: the client must send them."""

    async def scenario() -> None:
        source = tmp_path / "source"
        source.write_bytes(b"changed meanwhile")
        given = Input(b"/work/in", KIND_FILE, Digest.of(b"as hashed"), local=os.fsencode(source))
        async with await start() as client:
            action = shell("cat /work/in")
            action = attrs.evolve(action, inputs=(*action.inputs, given))
            request = client.request(action)
            outcome = await client.execute(request)
            assert outcome.end == m.Missing(request.id, (given.digest,))
            await client.put(b"as hashed")
            outcome = await client.execute(request)
            assert outcome.result(action).stdout == b"as hashed"

    asyncio.run(scenario())


# Two agents, one root


def test_two_agents_on_one_root_run_equal_actions_once(start: Start) -> None:
    """The second waits for the first, then finds its result."""

    async def scenario() -> None:
        async with contextlib.AsyncExitStack() as stack:
            one = await stack.enter_async_context(await start())
            two = await stack.enter_async_context(await start())
            gate = one.root.parent / "gate"
            gate.mkdir()
            action = shell(f"echo up >&2; {wait_for('go')}; echo x > /work/out/x", gate=gate)
            strong = b"s" * 32
            first = one.request(action, strong_keys=(strong,), action_key=b"k" * 32)
            await one.send(first)
            assert isinstance(await one.next(first.id), m.Started)
            second = two.request(action, strong_keys=(strong,), action_key=b"k" * 32)
            await two.send(second)
            assert isinstance(await two.ask(m.AskStatus(two.new_id())), m.Status)
            (gate / "go").touch()
            outcome = await one.collect(first.id)
            result = outcome.result(action)
            await one.send(m.Accept(first.id, bytes(32), b"list", strong, result))
            answer = await two.collect(second.id)
            assert answer.names() == ["Hit"]
            status = await two.ask(m.AskStatus(two.new_id()))
            assert isinstance(status, m.Status)
            assert status.executed == 0
            assert list(one.root.glob("locks/*")) == []

    asyncio.run(scenario())


def test_the_second_agent_goes_on_when_the_first_one_dies(start: Start) -> None:
    """A lock of a dead agent is no lock."""

    async def scenario() -> None:
        one = await start()
        async with await start() as two:
            held = one.request(shell("echo up >&2; sleep 60"), action_key=b"k" * 32)
            await one.send(held)
            assert isinstance(await one.next(held.id), m.Started)
            second = two.request(shell("echo x > /work/out/x"), action_key=b"k" * 32)
            await two.send(second)
            one.process.kill()
            outcome = await two.collect(second.id)
            assert set(outcome.outputs) == {b"x"}
        await one.close()

    asyncio.run(scenario())
