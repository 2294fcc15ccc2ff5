"""One agent for many clients: what they share, what is theirs, and what happens when they go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pytest

from agent_client import Outcome, Tools, native_tools, shell
from agent_service import AgentService, ServiceClient
from burst_agent import service
from burst_agent.house import name_of
from burst_protocol import messages as m
from burst_protocol.action import KIND_EXECUTABLE, Action, Input
from burst_protocol.digest import Digest
from burst_protocol.errors import AgentGone
from program_client import Run as ProgramRun
from program_client import shell as program_shell

WEAK = b"w" * 32
STRONG = b"s" * 32
PATIENCE_S = 60
COUNT = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done"
Start = Callable[..., AbstractAsyncContextManager[AgentService]]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return native_tools(tmp_path_factory.getbasetemp())


@pytest.fixture
def start(tmp_path: Path, tools: Tools) -> Start:
    """Starts a service below this test's folder."""

    @contextlib.asynccontextmanager
    async def start(*options: str) -> AsyncIterator[AgentService]:
        async with await AgentService.start(tmp_path / "server", tools, *options) as running:
            yield running

    return start


def run(scenario: Callable[[], Any]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    asyncio.run(limited())


async def remote_shell(client: ServiceClient, script: str, **changes: Any) -> m.Execute:
    """A request that runs a script in an input root of blobs: `local` hints count for nothing."""
    return client.request(await portable(client, script, **changes))


def interpreter() -> list[tuple[str, bytes]]:
    """/bin/sh and its libraries."""
    linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    paths = {word for word in linked.split() if word.startswith("/")} | {"/bin/sh"}
    return [(path, Path(path).read_bytes()) for path in sorted(paths)]


async def portable(client: ServiceClient, script: str, **changes: Any) -> Action:
    """`shell`, with the interpreter and its libraries sent as blobs."""
    inputs = []
    for path, data in interpreter():
        await client.put(data)
        inputs.append(Input(path.encode(), KIND_EXECUTABLE, Digest.of(data)))
    return attrs.evolve(shell(script), inputs=tuple(inputs), **changes)


def code_of(outcome: Outcome) -> int:
    end = outcome.end
    assert isinstance(end, m.Exited), end
    return end.code


async def accept(client: ServiceClient, request: m.Execute, outcome: Outcome) -> None:
    result = outcome.result(request.action)
    await client.send(m.Accept(request.id, WEAK, b"a list", STRONG, result))
    # Accept has no answer; sooner or later it is a hit.
    kept = False
    while not kept:
        kept = isinstance(await client.ask(m.Lookup(client.new_id(), WEAK, (STRONG,))), m.Hit)


async def started(client: ServiceClient, request: m.Execute) -> m.Started:
    await client.send(request)
    message = await client.next(request.id)
    assert isinstance(message, m.Started), message
    return message


# What clients share


def test_equal_actions_of_two_clients_run_once(start: Start) -> None:
    """Request ids are each client's own: both may be number 7."""

    async def scenario() -> None:
        async with start() as server:
            one, two = await server.connect(), await server.connect()
            assert code_of(await one.execute(await remote_shell(one, "exit 0"))) == 0
            action = await portable(one, "echo hello >&2; echo out >/work/out/f")
            first = attrs.evolve(one.request(action), id=7)
            second = attrs.evolve(two.request(action), id=7)
            outcomes = await asyncio.gather(one.execute(first), two.execute(second))
            assert [code_of(outcome) for outcome in outcomes] == [0, 0]
            flags = sorted(outcome.messages[0].coalesced for outcome in outcomes)  # type: ignore[union-attr]
            assert flags == [False, True]
            digest = outcomes[1].outputs[b"f"].digest
            assert await two.fetch(digest) == b"out\n"
            status = await one.ask(m.AskStatus(one.new_id()))
            assert isinstance(status, m.Status)
            assert status.executed == 2

    run(scenario)


def test_what_one_client_accepted_is_a_hit_for_the_other(start: Start) -> None:
    """Blobs, results and lists are one store's."""

    async def scenario() -> None:
        async with start() as server:
            one, two = await server.connect(), await server.connect()
            request = await remote_shell(one, "echo out >/work/out/f")
            await accept(one, request, await one.execute(request))
            hit = await two.ask(m.Lookup(two.new_id(), WEAK, (STRONG,)))
            assert isinstance(hit, m.Hit)
            lists = await two.ask(m.Lookup(two.new_id(), WEAK, ()))
            assert isinstance(lists, m.Lists)
            assert lists.lists == (b"a list",)

    run(scenario)


def test_slots_are_shared(start: Start) -> None:
    """Two clients do not run twice as much."""

    async def scenario() -> None:
        async with start("--slots", "1") as server:
            one, two = await server.connect(), await server.connect()
            await started(one, await remote_shell(one, "while :; do :; done"))
            waiting = await remote_shell(two, "exit 3")
            await two.send(waiting)
            await server.status(running=2)
            status = await two.ask(m.AskStatus(two.new_id()))
            assert isinstance(status, m.Status)
            assert (status.running, status.queued) == (1, 1)
            await one.close()
            await two.send(m.Cancel(waiting.id))

    run(scenario)


def test_another_clients_end_is_not_mine(start: Start) -> None:
    """It coalesced with my run, and left."""

    async def scenario() -> None:
        async with start("--orphan", "0") as server:
            one, two = await server.connect(), await server.connect()
            action = await portable(one, "echo up >&2; while :; do :; done")
            first, second = one.request(action), two.request(action)
            await started(one, first)
            assert (await started(two, second)).coalesced
            await one.close()
            await server.status(clients=1, running=1)
            await two.send(m.Cancel(second.id))
            end = (await two.collect(second.id)).end
            assert isinstance(end, m.Failed)
            assert end.code == "cancelled"
            await server.status(running=0)

    run(scenario)


# Clients that go


def test_without_grace_a_run_ends_with_its_client(start: Start) -> None:
    """As with an agent of its own."""

    async def scenario() -> None:
        async with start("--orphan", "0") as server:
            client = await server.connect()
            await started(client, await remote_shell(client, "while :; do :; done"))
            await client.close()
            await server.status(clients=0, running=0)

    run(scenario)


def test_an_orphan_ends_after_its_time(start: Start) -> None:
    """Not at once, and not never."""

    async def scenario() -> None:
        async with start("--orphan", "0.5") as server:
            client = await server.connect()
            await started(client, await remote_shell(client, "while :; do :; done"))
            await client.close()
            assert (await server.status(clients=0))["running"] == 1
            await server.status(running=0)

    run(scenario)


def test_who_comes_back_finds_its_run_again(start: Start) -> None:
    """A cut connection costs nothing: everything it said is said again."""

    async def scenario() -> None:
        async with start("--orphan", "30") as server:
            client = await server.connect()
            action = await portable(client, "echo first >&2; echo second >&2; exit 4")
            request = client.request(action)
            await started(client, request)
            await client.close()
            again = await server.connect()
            outcome = await again.execute(again.request(action))
            assert outcome.stderr == [b"first\n", b"second\n"]
            assert code_of(outcome) == 4

    run(scenario)


def test_a_detached_run_goes_on_and_keeps_the_server(start: Start) -> None:
    """On purpose: nobody is there any more, and no drain is granted until it has ended."""

    async def scenario() -> None:
        async with start("--orphan", "0") as server:
            client = await server.connect()
            action = await portable(client, "echo up >&2; while :; do :; done")
            request = attrs.evolve(client.request(action), detached=True)
            await started(client, request)
            await client.close()
            await server.status(clients=0, running=0, detached=1)
            assert server.lease.drain(0, "test")["why"] == "detached"
            again = await server.connect()
            heir = again.request(action)
            assert (await started(again, heir)).coalesced
            await again.send(m.Cancel(heir.id))
            await server.status(detached=0)

    run(scenario)


@pytest.mark.parametrize("before", [False, True], ids=["afterwards", "before its client went"])
def test_the_end_of_a_detached_run_waits_for_its_heir(start: Start, before: bool) -> None:
    """Whoever asks later hears all of it, a failure too; then it is forgotten."""

    async def scenario() -> None:
        async with start("--orphan", "0") as server:
            client = await server.connect()
            action = await portable(client, f"{COUNT}; echo x >&2; exit 9")
            request = attrs.evolve(client.request(action), detached=True)
            await started(client, request)
            if before:
                await client.collect(request.id)
                await server.status(detached=0)
            await client.close()
            await server.status(clients=0, detached=0)
            again = await server.connect()
            heir = again.request(action)
            outcome = await again.execute(heir)
            assert (outcome.stderr, code_of(outcome)) == ([b"x\n"], 9)
            status = await again.ask(m.AskStatus(again.new_id()))
            assert isinstance(status, m.Status)
            assert status.executed == 1
            await again.send(m.Release(heir.id))
            assert code_of(await again.execute(again.request(action))) == 9
            status = await again.ask(m.AskStatus(again.new_id()))
            assert isinstance(status, m.Status)
            assert status.executed == 2

    run(scenario)


# The lease


def test_a_drained_server_takes_no_work(start: Start) -> None:
    """Who is there hears it with the next run, who comes hears it at once."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            request = await remote_shell(client, "exit 0")
            assert code_of(await client.execute(request)) == 0
            await server.status(running=0)
            assert server.lease.drain(0, "the hour ends")["granted"]
            refused = (await client.execute(await remote_shell(client, "exit 0 # again"))).end
            assert refused == m.Failed(refused.id, "draining", "the hour ends")  # type: ignore[union-attr]
            late = await server.connect(ready=False)
            complaint = await late.next(0)
            assert complaint == m.Failed(0, "draining", "the hour ends")
            assert late._pump is not None
            await asyncio.wait([late._pump])  # it hung up

    run(scenario)


def test_a_running_action_stands_in_the_lease(start: Start) -> None:
    """From its acceptance to its end, and a drain is refused meanwhile."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            assert (await server.status(clients=1))["running"] == 0
            request = await remote_shell(client, "while :; do :; done")
            await started(client, request)
            status = server.lease.status()
            assert status["running"] == 1
            assert [one["crate"] for one in status["actions"]] == ["sh"]  # type: ignore[attr-defined]
            assert server.lease.drain(0, "test")["why"] == "running"
            await client.send(m.Cancel(request.id))
            await client.collect(request.id)
            assert (await server.status(running=0))["actions"] == []
            assert server.lease.drain(0, "test")["granted"]

    run(scenario)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ((b"/t/bin/rustc", b"--crate-name", b"serde", b"--edition=2021"), "serde"),
        ((b"/t/bin/rustc", b"-vV"), "rustc"),
        ((b"/w/target/debug/tests-0\xff", b"--crate-name"), "tests-0\ufffd"),
        ((), ""),
    ],
)
def test_what_a_run_is_called(argv: tuple[bytes, ...], name: str) -> None:
    """Its crate, else its program."""
    action = attrs.evolve(shell("true"), argv=argv)
    request = m.Execute(1, WEAK, (), -1, STRONG, action, push=False)
    assert name_of(request) == name


def test_a_killed_service_counts_no_more(start: Start) -> None:
    """Its runs died with it."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            await started(client, await remote_shell(client, "while :; do :; done"))
            server.process.kill()
            await server.process.wait()
            assert server.lease.status()["running"] == 0

    run(scenario)


def test_notices_reach_those_who_are_there_and_those_who_come(start: Start) -> None:
    """Within some seconds."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect(ready=False)
            await server.status(clients=1)
            server.lease.notice("ten minutes left")
            assert await client.next(-1) == m.Notice("ten minutes left")
            later = await server.connect(ready=False)
            assert await later.next(-1) == m.Notice("ten minutes left")

    run(scenario)


def test_what_was_accepted_before_a_goodbye_is_kept(start: Start) -> None:
    """A daemon that is told to end says what it accepts and then goodbye, in one packet."""
    keys = [bytes([number]) * 32 for number in range(64)]

    async def scenario() -> None:
        async with start() as server:
            one = await server.connect()
            request = await remote_shell(one, "echo out >/work/out/f")
            outcome = await one.execute(request)
            result = outcome.result(request.action)
            (blob,) = await one.put(b"made at home")
            made = attrs.evolve(
                result, outputs=tuple(attrs.evolve(o, digest=blob) for o in result.outputs)
            )
            last = [one.session.send(m.Accept(request.id, WEAK, b"a list", STRONG, result))]
            last += [one.session.send(m.PutResult(WEAK, b"a list", key, made)) for key in keys]
            last += [one.session.send(m.Shutdown())]
            one.writer.write(b"".join(last))
            await one.close()
            await server.status(clients=0)
            two = await server.connect()
            for key in (STRONG, *keys):
                found = await two.ask(m.Lookup(two.new_id(), WEAK, (key,)))
                assert isinstance(found, m.Hit), key

    run(scenario)


# Stores


def test_each_client_works_in_its_projects_store(start: Start) -> None:
    """And its neighbours' results are hits, complete in its own store from then on."""

    async def scenario() -> None:
        async with start() as server:
            volumes = [server.volume(name) for name in ("101", "102")]
            one = await server.connect(volume="101")
            request = await remote_shell(one, "echo out >/work/out/f")
            outcome = await one.execute(request)
            await accept(one, request, outcome)
            two = await server.connect(volume="102")
            hit = await two.ask(m.Lookup(two.new_id(), WEAK, (STRONG,)))
            assert isinstance(hit, m.Hit)
            # The neighbour leaves: everything is here.
            shutil.rmtree(volumes[0])
            again = await two.ask(m.Lookup(two.new_id(), WEAK, (STRONG,)))
            assert isinstance(again, m.Hit)
            # Also for who does not know yet which inputs make that key.
            lists = await two.ask(m.Lookup(two.new_id(), WEAK, ()))
            assert isinstance(lists, m.Lists)
            assert lists.lists == (b"a list",)
            assert await two.fetch(outcome.outputs[b"f"].digest) == b"out\n"

    run(scenario)


def test_inputs_that_a_neighbour_has_are_not_asked_for(start: Start) -> None:
    """The toolchain came with the first project."""

    async def scenario() -> None:
        async with start() as server:
            for name in ("101", "102"):
                server.volume(name)
            one = await server.connect(volume="101")
            action = await portable(one, "exit 0")
            assert code_of(await one.execute(one.request(action))) == 0
            two = await server.connect(volume="102")
            other = attrs.evolve(action, argv=(*action.argv, b"other"))
            assert code_of(await two.execute(two.request(other))) == 0

    run(scenario)


async def executed(client: ServiceClient) -> int:
    status = await client.ask(m.AskStatus(client.new_id()))
    assert isinstance(status, m.Status)
    return status.executed


def test_equal_actions_in_two_stores_run_once(start: Start) -> None:
    """Two projects at once: the second gets what the first has made, in its own store."""

    async def scenario() -> None:
        async with start() as server:
            volumes = [server.volume(name) for name in ("101", "102")]
            one, two = await server.connect(volume="101"), await server.connect(volume="102")
            action = await portable(one, "exit 0")
            assert code_of(await one.execute(one.request(action))) == 0
            action = await portable(one, f"{COUNT}; echo out >/work/out/f")
            before = await executed(one)
            first = one.request(action, strong_keys=(STRONG,))
            second = two.request(action, strong_keys=(STRONG,))
            await started(one, first)
            await two.send(second)
            outcome = await one.collect(first.id)
            await accept(one, first, outcome)
            hit = await two.next(second.id)
            assert isinstance(hit, m.Hit), hit
            assert await executed(two) == before + 1
            shutil.rmtree(volumes[0])
            assert await two.fetch(outcome.outputs[b"f"].digest) == b"out\n"

    run(scenario)


@pytest.mark.parametrize("end", ["released", "failed", "gone"])
def test_what_another_store_did_not_keep_is_run(start: Start, end: str) -> None:
    """Its client judged otherwise, it failed, or its client has gone: the second runs by itself."""

    async def scenario() -> None:
        async with start("--orphan", "0") as server:
            for name in ("101", "102"):
                server.volume(name)
            one, two = await server.connect(volume="101"), await server.connect(volume="102")
            status = 3 if end == "failed" else 0
            action = await portable(one, f"{COUNT}; exit {status}")
            first = one.request(action, strong_keys=(STRONG,))
            second = two.request(action, strong_keys=(STRONG,))
            await started(one, first)
            await two.send(second)
            if end == "gone":
                await one.close()
            else:
                await one.collect(first.id)
            if end == "released":
                await one.send(m.Release(first.id))
            assert code_of(await two.collect(second.id)) == status
            assert await executed(two) == 2

    run(scenario)


def test_a_store_that_nobody_works_in_is_closed(start: Start) -> None:
    """Then its volume can be unmounted; whoever comes back finds everything."""

    def open_below(process: int, folder: Path) -> list[str]:
        found = []
        for fd in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/{process}/fd/{fd}"))
        return [path for path in found if path.startswith(str(folder))]

    async def scenario() -> None:
        async with start("--linger", "0.2") as server:
            volume = server.volume("101")
            client = await server.connect(volume="101")
            request = await remote_shell(client, "echo out >/work/out/f")
            await accept(client, request, await client.execute(request))
            assert open_below(server.process.pid, volume)
            await client.close()
            closed = False
            while not closed:
                closed = not open_below(server.process.pid, volume)
                await asyncio.sleep(0)
            again = await server.connect(volume="101")
            hit = await again.ask(m.Lookup(again.new_id(), WEAK, (STRONG,)))
            assert isinstance(hit, m.Hit)

    run(scenario)


@pytest.mark.parametrize(
    ("name", "code"),
    [("103", "error"), ("../root", "protocol-remote"), ("", "protocol-remote")],
)
def test_a_volume_that_is_not_mounted_is_no_store(start: Start, name: str, code: str) -> None:
    """Nothing is ever written below its mount point. The connection goes on, with the own store."""

    async def scenario() -> None:
        async with start() as server:
            (server.folder / "volumes" / "103").mkdir()
            client = await server.connect(ready=False)
            refused = await client.ask(m.OpenStore(client.new_id(), name or "."))
            assert isinstance(refused, m.Failed)
            assert refused.code == code
            assert os.listdir(server.folder / "volumes" / "103") == []
            await client.use_tools(None, None)
            assert client.ready is not None
            assert client.ready.store_root == os.fsencode(server.folder / "root")
            late = await client.ask(m.OpenStore(client.new_id(), "103"))
            assert isinstance(late, m.Failed)
            assert late.code == "protocol-remote"

    run(scenario)


# The socket


def test_only_one_serves_and_a_dead_ones_socket_is_in_nobodys_way(
    start: Start, tools: Tools, tmp_path: Path
) -> None:
    """Found out by connecting, not by the file."""

    async def scenario() -> None:
        async with start() as server:
            assert server.socket.stat().st_mode & 0o777 == 0o660
            with pytest.raises(AgentGone, match="another one serves"):
                service.listen(os.fsencode(server.socket))
            server.process.kill()
            await server.process.wait()
            service.listen(os.fsencode(server.socket)).close()

    run(scenario)


def test_sigterm_is_an_orderly_end(start: Start) -> None:
    """Clients are seen out, the lease knows of nobody, the socket is gone."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            await started(client, await remote_shell(client, "while :; do :; done"))
            assert await server.stop() == b""
            assert server.process.returncode == 0
            assert not server.socket.exists()
            status = server.lease.status()
            assert (status["clients"], status["running"]) == (0, 0)

    run(scenario)


def test_connect_relays_stdio(start: Start) -> None:
    """For an ssh that cannot forward sockets: both directions, and both ends."""

    async def scenario() -> None:
        async with start() as server:
            relay = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "burst_agent.main", "connect", str(server.socket),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert relay.stdin is not None
            assert relay.stdout is not None
            direct = await server.connect(ready=False)
            client = ServiceClient(
                server.folder, server.process, direct.session.__class__(
                    direct.session.role, direct.session._build, 1
                ), relay.stdout, relay.stdin,
            )  # fmt: skip
            relay.stdin.write(client.session.hello())
            client._pump = asyncio.create_task(client._read())
            large = os.urandom(3_000_000)
            await client.put(large)
            assert await client.fetch(Digest.of(large)) == large
            await server.status(clients=2)
            await client.close()
            assert await relay.wait() == 0
            await server.status(clients=1)

    run(scenario)


def test_connect_says_that_nobody_serves(tmp_path: Path) -> None:
    """On stderr, for the log of whoever asked."""
    done = subprocess.run(
        [sys.executable, "-m", "burst_agent.main", "connect", str(tmp_path / "none")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 12
    assert "No such file" in done.stderr


def test_connect_needs_no_more_than_it_must() -> None:
    """It is started for every connection."""
    code = (
        "import sys\nfrom burst_agent.main import main\n"
        "code = main(['connect', '/nowhere'])\n"
        "assert not {'asyncio', 'attrs', 'argparse', 'json'} & set(sys.modules), sys.modules\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 12, done.stderr.decode()


# Programs


def test_programs_count_as_runs(start: Start) -> None:
    """By their name, until their end: no drain is granted meanwhile."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            program = await ProgramRun.start(client, program_shell("echo up; read x"))
            await program.until(b"up")
            actions: Any = (await server.status(running=1))["actions"]
            assert [action["crate"] for action in actions] == ["sh"]
            assert server.lease.drain(0, "test")["granted"] is False
            await program.write(b"\n")
            await program.finish()
            await server.status(running=0)
            assert server.lease.drain(0, "test")["granted"] is True
            refused = await ProgramRun.start(client, program_shell("exit 0"))
            assert (await refused.failure()).code == "draining"

    run(scenario)


def test_a_detached_program_goes_on_and_another_one_does_not(start: Start) -> None:
    """Unheard, however much it says; and it still counts."""

    async def scenario() -> None:
        async with start() as server:
            client = await server.connect()
            script = "echo up; read x; head -c 3000000 /dev/zero; echo done > /tmp/done"
            kept = await ProgramRun.start(client, program_shell(script, detached=True))
            ended = await ProgramRun.start(client, program_shell("echo up; exec sleep 600"))
            await kept.until(b"up")
            await ended.until(b"up")
            await server.status(running=1, detached=1)
            await client.close()
            await server.status(running=0, detached=0, clients=0)
            later = await ProgramRun.start(await server.connect(), program_shell("cat /tmp/done"))
            await later.finish()
            assert later.said[1] == b"done\n"

    run(scenario)


def test_a_program_that_runs_alone(start: Start) -> None:
    """It begins when the compilers are done, and they go on when it has ended."""

    async def scenario() -> None:
        async with start() as server:
            first, second = await server.connect(), await server.connect()
            # Nothing but a shell is there: a `sleep` would be an end at once.
            script = "echo up >&2; while [ ! -e /work/out/go ]; do :; done"
            compiler = await remote_shell(first, script)
            await first.send(compiler)
            while not isinstance(await first.next(compiler.id), m.Stderr):
                pass
            wanted = program_shell("echo begun; read x", alone=True)
            alone = ProgramRun(second, attrs.evolve(wanted, id=99))
            await second.send(alone.request)
            await server.status(running=2)
            later = await remote_shell(first, "echo later >&2")
            await first.send(later)
            (out,) = server.folder.glob("root/**/out")
            (out / "go").touch()
            assert isinstance((await first.collect(compiler.id)).end, m.Exited)
            await alone.until(b"begun")
            assert isinstance(await first.next(later.id), m.Started)
            queue = await first.ask(m.AskStatus(first.new_id()))
            assert isinstance(queue, m.Status)
            assert (queue.running, queue.queued, first.waiting(later.id)) == (0, 1, 0)
            await alone.write(b"\n")
            await alone.finish()
            assert (await first.collect(later.id)).stderr == [b"later\n"]

    run(scenario)
