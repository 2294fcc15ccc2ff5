"""The agent as its client sees it: the real process, real rustc, the real protocol."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest

from agent_client import (
    AgentClient,
    Crate,
    Outcome,
    Tools,
    announce,
    native_tools,
    sandbox_processes,
    shell,
    wait_for,
)
from burst_protocol import messages as m
from burst_protocol.action import (
    KIND_DIRECTORY,
    KIND_EXECUTABLE,
    KIND_FILE,
    Incremental,
    Input,
)
from burst_protocol.digest import Digest
from burst_protocol.tree import TreeBuilder

pytestmark = pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")

HELLO = b'pub fn hello() -> &\'static str { "hello" }\n'
WEAK = b"w" * 32
STRONG = b"s" * 32
Start = Callable[..., Awaitable[AgentClient]]


@pytest.fixture(scope="session")
def toolchain() -> Path:
    """The sysroot of the rustc on PATH, behind rustup's proxy."""
    return Path(
        subprocess.run(
            ["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True
        ).stdout.strip()
    )


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


async def compile_crate(client: AgentClient, crate: Crate) -> Outcome:
    """Sends the source, then the action."""
    await client.put(crate.source)
    return await client.execute(client.request(crate.action()))


async def status(client: AgentClient) -> m.Status:
    answer = await client.ask(m.AskStatus(client.new_id()))
    assert isinstance(answer, m.Status)
    return answer


async def sleeping(client: AgentClient) -> m.Execute:
    """A run of two processes that goes on until it is ended."""
    request = client.request(shell("echo up >&2; sleep 60 & sleep 60"))
    await client.send(request)
    assert isinstance(await client.next(request.id), m.Started)
    assert isinstance(await client.next(request.id), m.Stderr)
    return request


def gate_of(client: AgentClient) -> Path:
    """The folder in which scripts wait for files."""
    gate = client.root.parent / "gate"
    gate.mkdir()
    return gate


def exit_code(outcome: Outcome) -> int:
    end = outcome.end
    assert isinstance(end, m.Exited), end
    assert end.signal == 0
    return end.code


def accept(request: m.Execute, outcome: Outcome) -> m.Accept:
    return m.Accept(request.id, WEAK, b"a list", STRONG, outcome.result(request.action))


# Start


def test_ready_says_how_things_are_run(start: Start) -> None:
    """UseTools is answered after something was really run."""

    async def scenario() -> None:
        async with await start("--slots", "3") as client:
            ready = client.ready
            assert ready is not None
            assert ready.launcher in {"namespaces", "bubblewrap", "none"}
            assert ready.slots == 3
            assert ready.store_root == str(client.root).encode()
            assert ready.arch == os.uname().machine

    asyncio.run(scenario())


def test_execute_without_tools_is_refused(tmp_path: Path) -> None:
    """No launcher was chosen yet: Failed(no-sandbox), and the agent goes on."""

    async def scenario() -> None:
        async with await AgentClient.start(tmp_path / "root") as client:
            outcome = await client.execute(client.request(shell("true")))
            assert isinstance(outcome.end, m.Failed)
            assert outcome.end.code == "no-sandbox"
            assert (await status(client)).running == 0

    asyncio.run(scenario())


# Compiling


def test_lib_outputs_come_in_order_before_their_lines(start: Start, toolchain: Path) -> None:
    """Observed, Output, then the Stderr line that announces it; Exited is the last."""

    async def scenario() -> None:
        async with await start() as client:
            outcome = await compile_crate(client, Crate(toolchain, HELLO))
            assert exit_code(outcome) == 0, outcome.stderr
            assert outcome.names() == [
                "Started",
                *("Observed", "Output", "Stderr"),
                *("Observed", "Output", "Stderr"),
                *("Output", "Stderr"),
                *("Observed", "Exited"),
            ]
            assert set(outcome.outputs) == {
                b"hello-b0b0.d",
                b"libhello-b0b0.rmeta",
                b"libhello-b0b0.rlib",
            }
            for file in outcome.outputs.values():
                assert Digest.of(await client.fetch(file.digest)) == file.digest
                assert not file.executable
            assert outcome.outputs[b"hello-b0b0.d"].mentions

    asyncio.run(scenario())


def test_outputs_are_what_local_rustc_writes(start: Start, toolchain: Path, tmp_path: Path) -> None:
    """Same paths, same bits: rmeta, rlib and dep-info equal those of a plain rustc run."""

    async def scenario() -> None:
        package, deps = tmp_path / "pkg", tmp_path / "target/debug/deps"
        (package / "src").mkdir(parents=True)
        deps.mkdir(parents=True)
        (package / "src/lib.rs").write_bytes(HELLO)
        crate = Crate(toolchain, HELLO, package=str(package), out_dir=str(deps))
        await asyncio.to_thread(
            subprocess.run, crate.argv(), check=True, cwd=package, capture_output=True
        )
        async with await start() as client:
            outcome = await compile_crate(client, crate)
            assert set(outcome.outputs) == {os.fsencode(name) for name in os.listdir(deps)}
            for name, file in outcome.outputs.items():
                assert file.digest == Digest.of_file(os.fsencode(deps) + b"/" + name), name

    asyncio.run(scenario())


def test_a_linked_program_is_executable(start: Start, toolchain: Path) -> None:
    """A bin goes through the linker; the linker's own programs are not reported."""

    async def scenario() -> None:
        async with await start() as client:
            crate = Crate(toolchain, b"fn main() {}\n", kind="bin", emit="dep-info,link")
            outcome = await compile_crate(client, crate)
            assert exit_code(outcome) == 0, outcome.stderr
            assert outcome.outputs[b"hello-b0b0"].executable
            last = outcome.observations[-1]
            assert last.complete
            assert last.programs == ()

    asyncio.run(scenario())


def test_rmeta_is_there_while_code_generation_goes_on(start: Start) -> None:
    """Pipelining: after the rmeta's line the run still runs, and the rmeta can be fetched."""

    async def scenario() -> None:
        async with await start() as client:
            gate = gate_of(client)
            script = "; ".join(
                [
                    "echo meta > /work/out/a.rmeta",
                    announce("a.rmeta", "metadata"),
                    wait_for("go"),
                    "echo lib > /work/out/a.rlib",
                    announce("a.rlib", "link"),
                ]
            )
            request = client.request(shell(script, gate=gate))
            await client.send(request)
            seen: list[m.Message] = []
            while not seen or not isinstance(seen[-1], m.Stderr):
                seen.append(await client.next(request.id))
            output = seen[-2]
            assert isinstance(output, m.Output)
            assert await client.fetch(output.file.digest) == b"meta\n"
            assert (await status(client)).running == 1
            (gate / "go").touch()
            rest = await client.collect(request.id)
            assert exit_code(rest) == 0
            assert set(rest.outputs) == {b"a.rlib"}

    asyncio.run(scenario())


@pytest.mark.slow
def test_real_rustc_is_pipelined(start: Start, toolchain: Path) -> None:
    """With a crate whose code generation takes long, the rmeta comes well before the end."""

    async def scenario() -> None:
        body = "\n".join(
            f"pub fn f{i}(v: &mut Vec<[u64; {i + 1}]>) {{ v.sort(); v.dedup(); }}" for i in range(6)
        )
        crate = Crate(toolchain, body.encode(), extra=("-C", "opt-level=3"))
        async with await start() as client:
            outcome = await compile_crate(client, crate)
            assert exit_code(outcome) == 0, outcome.stderr
            rmeta_s = next(
                when
                for when, message in zip(outcome.times_s, outcome.messages, strict=True)
                if isinstance(message, m.Output) and message.file.path.endswith(b".rmeta")
            )
            start_s, end_s = outcome.times_s[0], outcome.times_s[-1]
            assert (end_s - rmeta_s) > 0.4 * (end_s - start_s)

    asyncio.run(scenario())


def test_a_compile_error_is_a_result(start: Start, toolchain: Path) -> None:
    """Exit 1 with the diagnostics and the dep-info; asking again really runs again."""

    async def scenario() -> None:
        async with await start() as client:
            crate = Crate(toolchain, b"pub fn f() -> u8 { nonsense }\n")
            for executed in (1, 2):
                outcome = await compile_crate(client, crate)
                assert exit_code(outcome) == 1
                assert any(b"nonsense" in line for line in outcome.stderr)
                assert set(outcome.outputs) == {b"hello-b0b0.d"}
                assert (await status(client)).executed == executed

    asyncio.run(scenario())


def test_a_changed_announced_file_is_sent_again(start: Start) -> None:
    """What is delivered is what stands in the out-dir at the end."""

    async def scenario() -> None:
        async with await start() as client:
            gate = gate_of(client)
            script = "; ".join(
                [
                    "echo early > /work/out/a",
                    announce("a", "obj"),
                    wait_for("go"),
                    "echo late and longer > /work/out/a",
                    "mkdir /work/out/sub",
                    "echo x > /work/out/sub/b",
                    "chmod +x /work/out/sub/b",
                    "ln -s a /work/out/link",
                ]
            )
            request = client.request(shell(script, gate=gate))
            await client.send(request)
            assert isinstance(await client.next(request.id), m.Started)
            early = await client.next(request.id)
            assert isinstance(early, m.Output)
            assert await client.fetch(early.file.digest) == b"early\n"
            (gate / "go").touch()
            outcome = await client.collect(request.id)
            assert exit_code(outcome) == 0, outcome.stderr
            assert list(outcome.outputs) == [b"a", b"sub/b"]
            assert await client.fetch(outcome.outputs[b"a"].digest) == b"late and longer\n"
            assert outcome.outputs[b"sub/b"].executable

    asyncio.run(scenario())


def test_a_linked_file_comes_with_the_end(start: Start) -> None:
    """It is large and the last thing that is made: moved when nobody can write to it any more.
    What was said after its announcement waits, so that lines keep their order."""

    async def scenario() -> None:
        async with await start() as client:
            gate = gate_of(client)
            script = "; ".join(
                [
                    "echo before >&2",
                    "echo one > /work/out/a",
                    announce("a", "link"),
                    "echo after >&2",
                    wait_for("go"),
                    "echo two >> /work/out/a",
                ]
            )
            request = client.request(shell(script, gate=gate))
            await client.send(request)
            assert isinstance(await client.next(request.id), m.Started)
            first = await client.next(request.id)
            assert isinstance(first, m.Stderr)
            assert first.line == b"before\n"
            assert (await status(client)).running == 1
            assert client.waiting(request.id) == 0
            (gate / "go").touch()
            outcome = await client.collect(request.id)
            assert exit_code(outcome) == 0
            assert [line.split(b" ")[0] for line in outcome.stderr][-1] == b"after\n"
            assert len(outcome.stderr) == 2
            names = outcome.names()
            assert names.index("Output") < names.index("Stderr")
            assert await client.fetch(outcome.outputs[b"a"].digest) == b"one\ntwo\n"

    asyncio.run(scenario())


def test_inputs_in_the_out_dir_are_no_outputs(start: Start) -> None:
    """The directory of `-L dependency` is the out-dir: what is shown there is not sent back."""

    async def scenario() -> None:
        async with await start() as client:
            (digest,) = await client.put(b"an rmeta")
            action = shell("cat /work/out/libdep.rmeta; echo new > /work/out/libnew.rmeta")
            dep = Input(b"/work/out/libdep.rmeta", KIND_FILE, digest)
            action = attrs.evolve(action, inputs=(*action.inputs, dep))
            outcome = await client.execute(client.request(action))
            assert outcome.result(action).stdout == b"an rmeta"
            assert set(outcome.outputs) == {b"libnew.rmeta"}

    asyncio.run(scenario())


def test_what_is_not_an_input_does_not_exist(start: Start, tmp_path: Path) -> None:
    """The sandbox shows inputs and empty directories, a private /tmp, and no network."""

    async def scenario() -> None:
        (tmp_path / "secret").write_text("home")
        async with await start() as client:
            if client.ready is None or client.ready.launcher == "none":
                pytest.skip("no sandbox here")
            script = f"ls -A / /given /tmp; test -e {tmp_path} && echo leak; true"
            action = shell(script, directories=(b"/given",))
            outcome = await client.execute(client.request(action))
            shown = outcome.result(action).stdout.decode()
            assert "leak" not in shown
            assert "/given:\n\n" in shown
            assert "home" not in shown
            assert shown.endswith("/tmp:\n")

    asyncio.run(scenario())


def test_without_isolation_only_own_files_are_taken(
    tmp_path: Path, tools: Tools, toolchain: Path
) -> None:
    """No sandbox: rustc writes into the real out-dir, where others' files and older ones stay."""

    async def scenario() -> None:
        package, deps = tmp_path / "pkg", tmp_path / "target/debug/deps"
        (package / "src").mkdir(parents=True)
        deps.mkdir(parents=True)
        (package / "src/lib.rs").write_bytes(HELLO)
        (deps / "libother-aaaa.rlib").touch()
        (deps / "libhello-b0b0.old").touch()
        os.utime(deps / "libhello-b0b0.old", (1, 1))
        crate = Crate(toolchain, HELLO, package=str(package), out_dir=str(deps))
        client = await AgentClient.start(tmp_path / "root", path="/nowhere")
        async with client:
            ready = await client.use_tools(None, tools.observer)
            assert ready.launcher == "none"
            assert "bubblewrap" in ready.reason
            outcome = await compile_crate(client, crate)
            assert exit_code(outcome) == 0, outcome.stderr
            names = {b"hello-b0b0.d", b"libhello-b0b0.rmeta", b"libhello-b0b0.rlib"}
            assert set(outcome.outputs) == names
            assert {os.fsencode(name) for name in os.listdir(deps)} > names

    asyncio.run(scenario())


def test_without_local_there_is_always_isolation(tmp_path: Path, tools: Tools) -> None:
    """An agent for another machine never runs anything unprotected; it says why."""

    async def scenario() -> None:
        client = await AgentClient.start(tmp_path / "root", local=False, path="/nowhere")
        async with client:
            ready = await client.use_tools(None, tools.observer)
            assert ready.launcher == ""
            assert "bubblewrap" in ready.reason
            outcome = await client.execute(client.request(shell("true")))
            assert isinstance(outcome.end, m.Failed)
            assert outcome.end.code == "no-sandbox"

    asyncio.run(scenario())


# Inputs


def test_missing_blobs_are_named_then_the_same_id_runs(start: Start) -> None:
    """All digests at once where they can be known; below an unknown directory they cannot."""

    async def scenario() -> None:
        async with await start() as client:
            files = {b"a.txt": b"A", b"deep/er/b.txt": b"B", b"deep/run.sh": b"#!/bin/sh\necho C\n"}
            builder, blobs = TreeBuilder(), dict[Digest, bytes]()
            for path, data in files.items():
                builder.file(path, Digest.of(data), executable=path.endswith(b".sh"))
            builder.symlink(b"deep/link", b"../a.txt")
            root = builder.build(blobs)
            lone = Digest.of(b"lone")
            action = shell("cat /in/a.txt /in/deep/link /in/deep/er/b.txt /lone; /in/deep/run.sh")
            action = attrs.evolve(
                action,
                inputs=(
                    *action.inputs,
                    Input(b"/in", KIND_DIRECTORY, root),
                    Input(b"/lone", KIND_EXECUTABLE, lone),
                ),
            )
            request = client.request(action)
            known = dict(blobs)
            known |= {Digest.of(data): data for data in files.values()}
            known[lone] = b"lone"
            rounds = 0
            while True:
                outcome = await client.execute(request)
                if not isinstance(outcome.end, m.Missing):
                    break
                rounds += 1
                assert outcome.end.digests
                await client.put(*(known.pop(digest) for digest in outcome.end.digests))
            assert rounds >= 2
            assert known == {}
            assert outcome.result(action).stdout == b"AABloneC\n"

    asyncio.run(scenario())


def test_put_files_takes_and_verifies_local_files(start: Start, tmp_path: Path) -> None:
    """A local client names files; one that is not what it is said to be is refused."""

    async def scenario() -> None:
        good = tmp_path / "good"
        good.write_bytes(b"good")
        async with await start() as client:
            digest = Digest.of(b"good")
            await client.send(m.PutFiles(client.new_id(), ((digest, str(good).encode()),)))
            assert await client.fetch(digest) == b"good"
            wrong = m.PutFiles(client.new_id(), ((Digest.of(b"else"), str(good).encode()),))
            answer = await client.ask(wrong)
            assert isinstance(answer, m.Failed)
            assert answer.code == "digest-mismatch"

    asyncio.run(scenario())


def test_large_blobs_travel_in_pieces_and_compressed(start: Start) -> None:
    """Both directions; the pieces of one blob are written in their order."""

    async def scenario() -> None:
        async with await start(local=False) as client:
            data = b"".join(b"%d\n" % number for number in range(300_000))
            digest, number = Digest.of(data), client.new_id()
            step = 500_000
            for at in range(0, len(data), step):
                piece = data[at : at + step]
                last = at + step >= len(data)
                await client.send(m.BlobChunk(number, digest, m.CODEC_RAW, piece, last))
            assert await client.fetch(digest) == data

    asyncio.run(scenario())


# Keeping results


def test_an_accepted_result_is_a_hit(start: Start, toolchain: Path) -> None:
    """Lookup and Execute both answer Hit; before that, Lists."""

    async def scenario() -> None:
        async with await start() as client:
            before = await client.ask(m.Lookup(client.new_id(), WEAK, (STRONG,)))
            assert isinstance(before, m.Lists)
            assert before.lists == ()
            crate = Crate(toolchain, HELLO)
            await client.put(crate.source)
            request = client.request(crate.action(), weak_key=WEAK)
            outcome = await client.execute(request)
            await client.send(accept(request, outcome))
            again = client.request(crate.action(), weak_key=WEAK, strong_keys=(STRONG,))
            answer = await client.ask(m.Lookup(client.new_id(), WEAK, (STRONG,)))
            while not isinstance(answer, m.Hit):
                answer = await client.ask(m.Lookup(client.new_id(), WEAK, (STRONG,)))
            assert answer.strong_key == STRONG
            assert answer.result == outcome.result(request.action)
            assert isinstance((await client.execute(again)).end, m.Hit)
            assert (await status(client)).executed == 1

        async with await start() as client:  # another process, the same store
            assert isinstance((await client.execute(again)).end, m.Hit)
            other = attrs.evolve(again, strong_keys=(b"x" * 32,), lists_tried=0)
            lists = (await client.execute(other)).end
            assert isinstance(lists, m.Lists)
            assert lists.lists == (b"a list",)

    asyncio.run(scenario())


def test_a_result_from_another_agent_is_kept(start: Start) -> None:
    """PutResult after its blobs; without them it is dropped, as if nothing had been said."""

    async def scenario() -> None:
        async with await start() as client:
            request = client.request(shell("echo x > /work/out/x"))
            outcome = await client.execute(request)
            result = outcome.result(request.action)
            absent = attrs.evolve(
                result.outputs[0], digest=Digest.of(b"never sent"), path=b"absent"
            )
            bad = attrs.evolve(result, outputs=(absent,))
            await client.send(m.PutResult(WEAK, b"list", b"1" * 32, bad))
            await client.send(m.PutResult(WEAK, b"list", b"2" * 32, result))
            answer: m.Message = m.Shutdown()
            while not isinstance(answer, m.Hit):
                answer = await client.ask(m.Lookup(client.new_id(), WEAK, (b"2" * 32,)))
            answer = await client.ask(m.Lookup(client.new_id(), WEAK, (b"1" * 32,)))
            assert isinstance(answer, m.Lists)

    asyncio.run(scenario())


# Many at once


def test_equal_actions_run_once_and_late_listeners_catch_up(start: Start) -> None:
    """The second is told so, with the leader's out-dir, and gets everything from the start."""

    async def scenario() -> None:
        async with await start() as client:
            gate = gate_of(client)
            action = shell(f"echo first >&2; {wait_for('go')}; echo x > /work/out/x", gate=gate)
            leader = client.request(action, action_key=b"k" * 32)
            await client.send(leader)
            begun = [await client.next(leader.id) for _ in range(2)]
            assert isinstance(begun[1], m.Stderr)
            elsewhere = attrs.evolve(action, out_dir=b"/elsewhere")
            second = client.request(elsewhere, action_key=b"k" * 32)
            await client.send(second)
            started = await client.next(second.id)
            assert started == m.Started(second.id, True, b"/work/out")
            (gate / "go").touch()
            one, two = await client.collect(leader.id), await client.collect(second.id)
            assert exit_code(one) == exit_code(two) == 0
            assert two.stderr == [b"first\n"]
            assert two.outputs == one.outputs
            third = client.request(action, action_key=b"k" * 32)
            late = await client.execute(third)  # ended, but neither accepted nor released
            assert late.outputs == one.outputs
            assert (await status(client)).executed == 1

    asyncio.run(scenario())


def test_a_cancelled_leader_leaves_the_run_to_the_others(start: Start) -> None:
    """Cancel detaches one listener; the run ends only with the last."""

    async def scenario() -> None:
        async with await start() as client:
            gate = gate_of(client)
            action = shell(f"echo up >&2; {wait_for('go')}", gate=gate)
            leader, other = (client.request(action, action_key=b"k" * 32) for _ in range(2))
            await client.send(leader)
            await client.send(other)
            for _ in range(2):
                await client.next(other.id)
            await client.send(m.Cancel(leader.id))
            gone = (await client.collect(leader.id)).end
            assert isinstance(gone, m.Failed)
            assert gone.code == "cancelled"
            (gate / "go").touch()
            assert exit_code(await client.collect(other.id)) == 0

    asyncio.run(scenario())


def test_cancel_leaves_no_process_and_no_file(start: Start) -> None:
    """When Failed(cancelled) comes everything is gone: processes, scratch, the slot."""

    async def scenario() -> None:
        async with await start("--slots", "1") as client:
            request = await sleeping(client)
            assert len(sandbox_processes(client.root)) > 1
            await client.send(m.Cancel(request.id))
            end = (await client.collect(request.id)).end
            assert isinstance(end, m.Failed)
            assert end.code == "cancelled"
            assert sandbox_processes(client.root) == [client.process.pid]
            left = [path for path in client.root.glob("tmp/*/*") if path.is_dir()]
            assert left == []
            outcome = await client.execute(client.request(shell("true")))
            assert exit_code(outcome) == 0

    asyncio.run(scenario())


def test_an_end_right_after_a_cancel_is_clean(start: Start) -> None:
    """The run that was cancelled still ends in order: its slot, its scratch, no error logged."""

    async def scenario() -> None:
        async with await start("--slots", "1") as client:
            request = await sleeping(client)
            await client.send(m.Cancel(request.id))
            await status(client)  # by now the cancel is under way
            await client.send(m.Shutdown())
            assert await client.process.wait() == 0
            assert [path for path in client.root.glob("tmp/*/*") if path.is_dir()] == []
            assert "Traceback" not in (client.root / "agent.log").read_text()

    asyncio.run(scenario())


def test_queued_actions_go_by_priority(start: Start) -> None:
    """With one slot: the more urgent first, equal ones in their order."""

    async def scenario() -> None:
        async with await start("--slots", "1") as client:
            gate = gate_of(client)
            first = client.request(shell(wait_for("go"), gate=gate))
            await client.send(first)
            await client.next(first.id)
            order: list[int] = []
            requests = [
                client.request(shell(f"exit {number}", priority=priority))
                for number, priority in ((0, 0), (1, 0), (2, 5))
            ]
            for request in requests:
                await client.send(request)
                assert isinstance(await client.next(request.id), m.Started)
            assert (await status(client)).queued == 3

            async def follow(request: m.Execute) -> None:
                order.append(exit_code(await client.collect(request.id)))

            (gate / "go").touch()
            await asyncio.gather(*map(follow, requests))
            assert order == [2, 0, 1]

    asyncio.run(scenario())


def test_rustc_gets_a_working_jobserver(start: Start) -> None:
    """The descriptors of CARGO_MAKEFLAGS are open, and hold a token for each slot: one more than
    that is there, and one is this run's own."""

    async def scenario() -> None:
        async with await start("--slots", "3") as client:
            script = (
                'set -- $(echo "$CARGO_MAKEFLAGS" | sed "s/.*auth=//; s/,/ /"); '
                "test -p /proc/self/fd/$1 && test -p /proc/self/fd/$2 && "
                "dd bs=1 count=3 status=none <&$1"
            )
            script = script.replace("<&$1", "if=/proc/self/fd/$1")
            for _ in range(2):  # the tokens that the first one kept are there again
                action = shell(script, env=((b"PATH", b"/usr/bin:/bin"),))
                outcome = await client.execute(client.request(action))
                assert exit_code(outcome) == 0, outcome.stderr
                assert outcome.result(action).stdout == b"+++"
                await client.send(m.Release(outcome.end.id))  # type: ignore[union-attr]

    asyncio.run(scenario())


def test_pushed_blobs_come_before_the_line_and_block_no_other_id(start: Start) -> None:
    """For a remote client: Output, its pieces, then the line that makes cargo look for the file."""

    async def scenario() -> None:
        async with await start() as client:
            script = (
                "head -c 3000000 /dev/zero > /work/out/a.rmeta; "
                f"{announce('a.rmeta', 'metadata')}; echo after >&2"
            )
            request = client.request(shell(script), push=True)
            outcome = await client.execute(request)
            names = outcome.names()
            assert names[:3] == ["Started", "Observed", "Output"]
            pieces = [c for c in outcome.messages if isinstance(c, m.BlobChunk)]
            assert len(pieces) == 6
            assert names[3:9] == ["BlobChunk"] * 6
            assert [c.last for c in pieces] == [False] * 5 + [True]
            assert names[9:11] == ["Stderr", "Stderr"]

    asyncio.run(scenario())


def test_ping_is_answered_while_much_is_sent(start: Start) -> None:
    """A small message waits for one piece at most, not for a large file."""

    async def scenario() -> None:
        async with await start() as client:
            data = bytes(40_000_000)
            (digest,) = await client.put(data)
            number = client.new_id()
            await client.send(m.Fetch(number, digest))
            assert isinstance(await client.next(number), m.BlobChunk)
            await client.send(m.Ping(-5))
            assert isinstance(await client.next(-5), m.Pong)
            assert client.waiting(number) < 70

    asyncio.run(scenario())


# Observation


def test_reads_and_absences_are_reported(start: Start, toolchain: Path) -> None:
    """Sources and what was looked for in vain; nothing of toolchain, system or out-dir."""

    async def scenario() -> None:
        async with await start() as client:
            if client.ready is None or not client.ready.observer:
                pytest.skip("no observer here")
            crate = Crate(
                toolchain,
                b'pub const T: &str = include_str!("../data.txt");\n'
                b'pub const E: Option<&str> = option_env!("MY_VARIABLE");\n',
            )
            (data,) = await client.put(b"data")
            await client.put(crate.source)
            action = crate.action()
            given = Input(b"/home/burst/pkg/data.txt", KIND_FILE, data)
            action = attrs.evolve(action, inputs=(*action.inputs, given))
            outcome = await client.execute(client.request(action))
            assert exit_code(outcome) == 0, outcome.stderr
            seen = outcome.accesses()
            assert seen[b"/home/burst/pkg/src/lib.rs"]
            assert seen[b"/home/burst/pkg/src/../data.txt"]
            noise = (str(toolchain).encode(), b"/usr/", action.out_dir, b"/proc", b"/dev")
            assert [p for p, found in seen.items() if found and p.startswith(noise)] == []
            assert all(observation.complete for observation in outcome.observations)
            early = outcome.observations[0]
            assert b"/home/burst/pkg/src/../data.txt" in {a.path for a in early.accesses}
            last = outcome.messages[-2]
            assert isinstance(last, m.Observed)
            assert last.last

    asyncio.run(scenario())


def test_programs_and_absent_files_of_a_run_are_reported(start: Start) -> None:
    """A program that nobody allowed, and a file that is not there."""

    async def scenario() -> None:
        async with await start() as client:
            if client.ready is None or not client.ready.observer:
                pytest.skip("no observer here")
            action = shell("cat /nowhere/file; env true", programs=(b"/usr/bin/env",))
            outcome = await client.execute(client.request(action))
            programs = {p for o in outcome.observations for p in o.programs}
            assert {os.path.basename(p) for p in programs} == {b"cat"}
            assert outcome.accesses()[b"/nowhere/file"] is False

    asyncio.run(scenario())


# Incremental


def test_incremental_state_is_kept_and_thrown_away_after_a_kill(start: Start) -> None:
    """Kept after 0 and 1, gone after a kill; a second holder gets an empty one."""

    async def scenario() -> None:
        async with await start() as client:
            if client.ready is None or client.ready.launcher == "none":
                pytest.skip("no sandbox here")
            state = Incremental(b"/work/incr", b"unit-1")

            async def shown(script: str, key: bytes) -> bytes:
                action = shell(f"ls /work/incr; {script}", incremental=state)
                outcome = await client.execute(client.request(action, action_key=key))
                await client.send(m.Release(outcome.end.id))  # type: ignore[union-attr]
                return b"".join(s.data for s in outcome.messages if isinstance(s, m.Stdout))

            assert await shown("touch /work/incr/one", b"1" * 32) == b""
            assert await shown("touch /work/incr/two; exit 1", b"2" * 32) == b"one\n"
            gate = gate_of(client)
            holder = client.request(
                shell(f"echo up >&2; {wait_for('go')}", gate=gate, incremental=state)
            )
            await client.send(holder)
            for _ in range(2):
                await client.next(holder.id)
            assert await shown("true", b"3" * 32) == b""
            (gate / "go").touch()
            assert exit_code(await client.collect(holder.id)) == 0
            assert await shown("true", b"4" * 32) == b"one\ntwo\n"
            await shown("kill -9 $$", b"5" * 32)
            assert await shown("touch /work/incr/x; exit 101", b"6" * 32) == b""
            assert await shown("true", b"7" * 32) == b""

    asyncio.run(scenario())


def test_real_incremental_compile_reuses_its_state(start: Start, toolchain: Path) -> None:
    """The second compile of an edited crate finds the first one's work products."""

    async def scenario() -> None:
        async with await start() as client:
            state = Incremental(b"/home/burst/target/debug/incremental", b"unit-2")
            for number in (1, 2):
                source = HELLO + b"pub fn n() -> u32 { %d }\n" % number
                crate = Crate(toolchain, source, incremental=state)
                outcome = await compile_crate(client, crate)
                assert exit_code(outcome) == 0, outcome.stderr
                assert not any(b"warning" in line for line in outcome.stderr)
            states = list(client.root.glob("incremental/*/state/hello-*/s-*"))
            assert [path for path in states if path.is_dir()]
            assert not list(client.root.glob("incremental/*/dirty"))

    asyncio.run(scenario())
