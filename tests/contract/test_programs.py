"""Programs that clients start: the real agent, real processes, the real protocol.

Over both ways to start one on this machine as it is: below our helper, and without it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent_client import AgentClient, Tools, native_tools
from burst_protocol import messages as m
from burst_protocol import programs as p
from program_client import Run, python, run, shell, start

ALL_TERMINALS = p.TERMINAL_STDIN | p.TERMINAL_STDOUT | p.TERMINAL_STDERR
Start = Callable[[], Awaitable[AgentClient]]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    built = native_tools(tmp_path_factory.mktemp("tools"))
    if built.sandbox is None:
        pytest.skip("no C compiler")
    return built


@pytest.fixture(params=["helper", "no helper"])
def agent(request: pytest.FixtureRequest, tools: Tools, tmp_path: Path) -> Start:
    """Starts an agent of this machine."""
    helper = tools.sandbox if request.param == "helper" else None

    async def begin() -> AgentClient:
        client = await AgentClient.start(tmp_path / "store")
        await client.use_tools(helper, None)
        return client

    return begin


@pytest.fixture
def helped(tools: Tools, tmp_path: Path) -> Start:
    """Only with our helper."""

    async def begin() -> AgentClient:
        return await AgentClient.start_ready(tools, tmp_path / "store")

    return begin


def marked(mark: Path) -> list[int]:
    """Processes that have this name in their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.fsencode(mark) in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found


# Ends


def test_output_and_exit_code(agent: Start) -> None:
    """Both streams, each by itself, then the code; both streams say that they have ended."""

    async def scenario() -> None:
        async with await agent() as client:
            done = await run(client, shell("echo out; echo err >&2; exit 3"))
            end = await done.finish()
            assert (end.code, end.signal, end.reason) == (3, 0, "")
            assert done.said == {1: b"out\n", 2: b"err\n"}
            assert done.ended_streams == {1, 2}
            assert end.wall_ms < 20_000

    asyncio.run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_death_by_signal(agent: Start, number: signal.Signals) -> None:
    """Told as what it was, not as 128+N."""

    async def scenario() -> None:
        async with await agent() as client:
            end = await (await run(client, shell(f"kill -{int(number)} $$"))).finish()
            assert (end.code, end.signal) == (0, int(number))

    asyncio.run(scenario())


def test_exit_codes_above_128_are_no_signals(agent: Start) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            for code in (125, 143, 255):
                end = await (await run(client, shell(f"exit {code}"))).finish()
                assert (end.code, end.signal) == (code, 0)

    asyncio.run(scenario())


def test_argv0_environment_and_folder_are_those_given(agent: Start, tmp_path: Path) -> None:
    """And nothing else of the environment; a name is looked up along the program's own PATH."""

    async def scenario() -> None:
        async with await agent() as client:
            request = start(
                (b"env", b"-u", b"PATH"),
                env=((b"PATH", b"/usr/bin:/bin"), (b"ODD\xff", b"v\xfe")),
                cwd=os.fsencode(tmp_path),
            )
            assert (await run(client, request)).said[1] == b"ODD\xff=v\xfe\n"
            where = await run(client, start((b"/bin/pwd",), cwd=os.fsencode(tmp_path)))
            assert where.said[1] == os.fsencode(tmp_path) + b"\n"

    asyncio.run(scenario())


@pytest.mark.parametrize("name", [b"/no/such/program", b"no-such-program"])
def test_what_is_not_there(agent: Start, name: bytes) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            started = await Run.start(client, start((name,)))
            failed = await started.failure()
            assert failed.code == "program"
            assert name.decode() in failed.detail

    asyncio.run(scenario())


# Streams


def test_input_reaches_it_and_its_end_too(agent: Start) -> None:
    """And what it took is granted again."""

    async def scenario() -> None:
        async with await agent() as client:
            cat = await Run.start(client, start((b"/bin/cat",)))
            await cat.write(b"one\n")
            await cat.until(b"one\n")
            await cat.write(b"two\n")
            await cat.write(b"")
            end = await cat.finish()
            assert end.code == 0
            assert cat.said[1] == b"one\ntwo\n"
            assert cat.credit == p.WINDOW_BYTES

    asyncio.run(scenario())


def test_output_waits_for_credit(agent: Start) -> None:
    """Of a megabyte and more only a window's worth comes before there is room."""
    size = 3 * p.WINDOW_BYTES

    async def scenario() -> None:
        async with await agent() as client:
            much = await Run.start(client, shell(f"head -c {size} /dev/zero; echo on >&2"))
            much.grants = False
            while len(much.said.get(1, b"")) < p.WINDOW_BYTES:
                await much.step()
            await client.send(m.Ping(7))
            await client.next(7)
            assert client.waiting(much.request.id) == 0
            much.grants = True
            await client.send(p.Credit(much.request.id, 1, p.WINDOW_BYTES))
            await much.finish()
            assert len(much.said[1]) == size

    asyncio.run(scenario())


def test_input_beyond_the_window_is_an_error_of_the_peer(agent: Start) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            sleeper = await Run.start(client, shell("sleep 60"))
            for _ in range(3):
                await sleeper.write(bytes(p.WINDOW_BYTES - 1))
            assert (await sleeper.failure()).code == "protocol-remote"
            assert (await run(client, shell("exit 0"))).end is not None

    asyncio.run(scenario())


def test_a_program_that_reads_nothing_ends_all_the_same(agent: Start) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            deaf = await Run.start(client, shell("exec <&-; echo deaf; sleep 0.1; exit 4"))
            await deaf.until(b"deaf")
            await deaf.write(bytes(100_000))
            assert (await deaf.finish()).code == 4

    asyncio.run(scenario())


# Terminals


def test_terminals_and_pipes_as_told(agent: Start) -> None:
    """Each of the three by itself; what goes to the terminal comes as stream 0."""

    async def scenario() -> None:
        async with await agent() as client:
            script = "for i in 0 1 2; do test -t $i && echo t$i >&2 || echo p$i >&2; done"
            pipes = await run(client, shell(script))
            assert pipes.said[2].split() == [b"p0", b"p1", b"p2"]
            some = await run(client, shell(script, terminals=p.TERMINAL_STDOUT))
            assert some.said[2].split() == [b"p0", b"t1", b"p2"]
            request = shell(script, terminals=ALL_TERMINALS, rows=30, columns=100)
            everything = await run(client, request)
            assert everything.said[0].split() == [b"t0", b"t1", b"t2"]

    asyncio.run(scenario())


def test_what_is_typed_is_echoed_on_the_terminal(agent: Start) -> None:
    """And nowhere else, if stdin alone is one."""

    async def scenario() -> None:
        async with await agent() as client:
            request = start((b"/bin/cat",), terminals=p.TERMINAL_STDIN)
            cat = await Run.start(client, request)
            await cat.write(b"typed\n")
            await cat.until(b"typed\n", 1)
            await cat.until(b"typed\r\n", 0)
            await cat.write(b"")
            assert (await cat.finish()).code == 0
            assert cat.said == {0: b"typed\r\n", 1: b"typed\n", 2: b""}

    asyncio.run(scenario())


def test_size_and_resize(agent: Start) -> None:
    """It is as large as told, and a change comes with SIGWINCH."""
    script = (
        "import os, signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n"
        "print(tuple(os.get_terminal_size()), flush=True)\n"
        "signal.sigwait({signal.SIGWINCH})\n"
        "print(tuple(os.get_terminal_size()), flush=True)\n"
    )

    async def scenario() -> None:
        async with await agent() as client:
            request = python(script, terminals=ALL_TERMINALS, rows=30, columns=100)
            sized = await Run.start(client, request)
            await sized.until(b"(100, 30)", 0)
            await client.send(p.Resize(sized.request.id, 40, 120))
            await sized.until(b"(120, 40)", 0)
            assert (await sized.finish()).code == 0

    asyncio.run(scenario())


def test_keys_become_signals(agent: Start) -> None:
    """Ctrl-C on the terminal is SIGINT to what runs in its foreground."""

    async def scenario() -> None:
        async with await agent() as client:
            request = shell("echo up; exec sleep 60", terminals=ALL_TERMINALS)
            sleeper = await Run.start(client, request)
            await sleeper.until(b"up", 0)
            await sleeper.write(b"\x03")
            assert (await sleeper.finish()).signal == signal.SIGINT

    asyncio.run(scenario())


def test_end_of_file_on_a_terminal(agent: Start) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            cat = await Run.start(client, start((b"/bin/cat",), terminals=ALL_TERMINALS))
            await cat.write(b"line\n")
            await cat.until(b"line\r\nline", 0)
            await cat.write(b"")
            assert (await cat.finish()).code == 0

    asyncio.run(scenario())


def test_stop_and_continue(helped: Start) -> None:
    """Ctrl-Z stops it, which is told; SIGCONT lets it go on."""

    async def scenario() -> None:
        async with await helped() as client:
            # One process: a shell that waits in vfork(2) for a stopped child is not stopped itself.
            request = shell("echo up; exec cat", terminals=ALL_TERMINALS)
            cat = await Run.start(client, request)
            await cat.until(b"up", 0)
            await cat.write(b"\x1a")
            while not cat.stopped:
                await cat.step()
            assert cat.stopped == [signal.SIGTSTP]
            await cat.signal(signal.SIGCONT)
            await cat.write(b"again\n")
            await cat.until(b"again\r\nagain", 0)
            await cat.write(b"\x03")
            assert (await cat.finish()).signal == signal.SIGINT

    asyncio.run(scenario())


# Signals and ends from outside


def test_signals_reach_its_group(agent: Start) -> None:
    """What it has started gets them, too; how it answers is its business."""

    async def scenario() -> None:
        async with await agent() as client:
            script = "trap 'echo caught; wait; exit 7' TERM; sh -c 'echo up; sleep 60' & wait"
            trapper = await Run.start(client, shell(script))
            await trapper.until(b"up")
            await trapper.signal(signal.SIGTERM)
            assert (await trapper.finish()).code == 7
            assert b"caught" in trapper.said[1]

    asyncio.run(scenario())


def test_cancel_leaves_no_process(helped: Start, tmp_path: Path) -> None:
    """Not even one in a session of its own, nor one that ignores what it is asked."""
    mark = tmp_path / "marked"

    async def scenario() -> None:
        async with await helped() as client:
            script = (
                f"setsid sh -c 'trap \"\" HUP TERM; sleep 60; : {mark}' & "
                f"trap '' TERM HUP; echo up; sleep 60; : {mark}"
            )
            going = await Run.start(client, shell(script))
            await going.until(b"up")
            assert len(marked(mark)) >= 2
            assert (await going.cancel()).code == "cancelled"
            assert marked(mark) == []

    asyncio.run(scenario())


def test_what_it_leaves_behind_ends_with_it(helped: Start, tmp_path: Path) -> None:
    mark = tmp_path / "marked"

    async def scenario() -> None:
        async with await helped() as client:
            script = f"setsid sh -c 'echo up; sleep 60; : {mark}' & read x; exit 5"
            parent = await Run.start(client, shell(script))
            await parent.until(b"up")
            await parent.write(b"\n")
            assert (await parent.finish()).code == 5
            assert marked(mark) == []

    asyncio.run(scenario())


def test_a_client_that_goes_takes_its_programs_with_it(helped: Start, tmp_path: Path) -> None:
    """They are hung up on first."""
    mark, heard = tmp_path / "marked", tmp_path / "heard"

    async def scenario() -> None:
        client = await helped()
        script = f"trap 'echo > {heard}' HUP; echo up; while :; do sleep 0.05; done; : {mark}"
        looper = await Run.start(client, shell(script))
        await looper.until(b"up")
        assert marked(mark)
        await client.close()
        assert marked(mark) == []
        assert heard.exists()

    asyncio.run(scenario())


def test_wall_limit(agent: Start) -> None:
    """It is asked to end, and told why it did."""

    async def scenario() -> None:
        async with await agent() as client:
            end = await (await run(client, shell("exec sleep 60", wall_s=1))).finish()
            assert (end.signal, end.reason) == (signal.SIGTERM, "wall")

    asyncio.run(scenario())


def test_memory_limit(agent: Start) -> None:
    """Counts what it has started, too."""
    hog = "x = bytearray(300 << 20)\nwhile True: pass"

    async def scenario() -> None:
        async with await agent() as client:
            script = f"{os.fsdecode(python('').argv[0])} -c '{hog}' & wait"
            end = await (await run(client, shell(script, memory_bytes=200 << 20))).finish()
            assert (end.signal, end.reason) == (signal.SIGKILL, "memory")
            fits = await run(client, python("x = bytearray(1 << 20)", memory_bytes=200 << 20))
            assert (await fits.finish()).code == 0

    asyncio.run(scenario())
