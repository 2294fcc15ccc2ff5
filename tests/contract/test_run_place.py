"""Where programs run at an agent that is not at home: the real agent, the real kernel.

As root the program is somebody else; as a plain user it is that user.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import attrs
import pytest

from agent_client import AgentClient, Tools, native_tools
from burst_protocol import programs as p
from mirror_client import sync
from mirrors import L, Tree, X
from program_client import Run, run, shell, start

TOP = b"/home/developer/work/project"
Start = Callable[..., Awaitable[AgentClient]]


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    built = native_tools(tmp_path_factory.mktemp("tools"))
    if built.sandbox is None:
        pytest.skip("no C compiler")
    return built


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not below /tmp, and passable by every user."""
    with tempfile.TemporaryDirectory(prefix="burst-place-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def agent(tools: Tools, folder: Path) -> Start:
    async def begin(*options: str) -> AgentClient:
        client = await AgentClient.start_ready(tools, folder / "store", *options, local=False)
        assert client.ready is not None
        if client.ready.launcher != "namespaces":
            await client.close()
            pytest.skip(client.ready.reason)
        return client

    return begin


def there(script: str, **changes: object) -> p.StartProgram:
    return shell(script, **{"cwd": TOP, **changes})


async def said(client: AgentClient, script: str, **changes: object) -> str:
    done = await run(client, there(script, **changes))
    end = await done.finish()
    assert end.code == 0, (end, done.said)
    return done.said.get(1, b"").decode()


def test_the_mirror_is_at_homes_path_and_writable(agent: Start) -> None:
    """Files, executable bits and links as at home; what a run writes, the next one sees."""
    tree: Tree = {
        b"src/data.txt": b"hello\n",
        b"tool": X(b"#!/bin/sh\necho ran $0 $1\n"),
        b"l": L(b"src"),
    }

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: tree})
            assert await said(client, "pwd; cat l/data.txt; ./tool x") == (
                "/home/developer/work/project\nhello\nran ./tool x\n"
            )
            await said(client, "echo new > src/new.txt; echo more >> src/data.txt; rm l; mkdir d")
            assert await said(client, "cat src/new.txt src/data.txt; ls") == (
                "new\nhello\nmore\nd\nsrc\ntool\n"
            )
            direct = await run(client, start((TOP + b"/tool", b"y"), cwd=TOP))
            assert direct.said[1] == b"ran /home/developer/work/project/tool y\n"

    asyncio.run(scenario())


def test_who_it_is(agent: Start) -> None:
    """No root, no capabilities, none to be had; a process namespace of its own."""

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            status = await said(client, "cat /proc/self/status")
            facts = dict(line.split(":", 1) for line in status.splitlines())
            assert set(facts["Uid"].split()) == {str(os.getuid() or 65534)}
            assert int(facts["CapEff"], 16) == int(facts["CapPrm"], 16) == 0
            assert facts["NoNewPrivs"].strip() == "1"
            assert facts["Groups"].split() in ([], ["65534"])
            pids = (await said(client, "echo /proc/[0-9]*")).split()
            assert len(pids) <= 4
            assert await said(client, "test -O f && test -w f && echo mine") == "mine\n"

    asyncio.run(scenario())


def test_the_machine_is_there_and_cannot_be_changed(agent: Start) -> None:
    """Its programs and settings; not its homes, sockets and stores."""
    release = Path("/etc/os-release").read_text()
    names = "burst\ndeveloper\n" if os.getuid() == 0 else "developer\n"

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            assert await said(client, "cat /etc/os-release") == release
            for path in ("/usr/x", "/etc/x", "/x", "/home/x", "/home/developer/x", "/proc/sys/x"):
                assert await said(client, f"(echo > {path}) 2>/dev/null || echo no") == "no\n"
            assert await said(client, "ls -A /run; ls /home") == names
            store = await said(client, f"ls -A {client.root} 2>/dev/null || echo hidden")
            assert store in {"", "hidden\n"}

    asyncio.run(scenario())


def test_tmp_and_home_are_the_projects_own(agent: Start) -> None:
    """Shared by its programs, and by nobody else's."""

    async def scenario() -> None:
        async with await agent() as client:
            for mirror in ("project", "other"):
                await sync(client, {TOP: {b"f": b""}}, mirror)
            await said(client, 'echo a > /tmp/a; echo b > "$HOME/b"; echo c > /var/tmp/c')
            assert await said(client, 'cat /tmp/a "$HOME/b" /var/tmp/c') == "a\nb\nc\n"
            script = 'ls -A /tmp /var/tmp "$HOME" | grep -v : | wc -w'
            assert await said(client, script, mirror="other") == "0\n"
            assert "a" not in os.listdir("/tmp")
            home = ((b"PATH", b"/usr/bin:/bin"), (b"HOME", b"/home/developer"))
            assert await said(client, "cat ~/b; pwd", env=home) == f"b\n{TOP.decode()}\n"

    asyncio.run(scenario())


def test_programs_that_start_at_once_share_them_too(agent: Start) -> None:
    """As nextest starts tests, the first ones of all."""

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            scripts = [f"echo > /tmp/{number}; echo > made-{number}" for number in range(8)]
            begun = [Run(client, attrs.evolve(there(s), id=client.new_id())) for s in scripts]
            for one in begun:
                await client.send(one.request)
            for one in begun:
                assert (await one.finish()).code == 0
            assert await said(client, "ls -d /tmp/* made-* | wc -w") == "16\n"

    asyncio.run(scenario())


def test_what_cannot_be_executed(agent: Start) -> None:
    """Says so, with the system's reason and one hint, before anything was run."""

    async def scenario() -> None:
        async with await agent() as client:
            tree: Tree = {b"data": X(b"\x7fELF no program"), b"plain": b"#!/bin/sh\n"}
            await sync(client, {TOP: tree})
            for name, why in ((b"data", "Exec format error"), (b"plain", "Permission denied")):
                asked = await Run.start(client, start((TOP + b"/" + name,), cwd=TOP))
                failed = await asked.failure()
                assert failed.code == "program"
                assert failed.detail == f"{TOP.decode()}/{name.decode()}: {why}"

    asyncio.run(scenario())


def test_projects_below_tmp_and_deep_in_the_machine(agent: Start) -> None:
    """Wherever home has its project: below what is private, or beside what the machine has."""

    async def scenario() -> None:
        async with await agent() as client:
            for top in (b"/tmp/project", b"/root/project", b"/usr/local/burst project/p\xff"):
                await sync(client, {top: {b"f": b"here\n"}})
                assert await said(client, "cat f; echo > g; ls", cwd=top) == "here\nf\ng\n"
            assert await said(client, "ls -d /usr/local/bin", cwd=b"/usr") == "/usr/local/bin\n"

    asyncio.run(scenario())


def test_several_roots_and_a_target_folder_in_one_of_them(agent: Start) -> None:
    async def scenario() -> None:
        async with await agent() as client:
            roots: dict[bytes, Tree] = {
                TOP: {b"f": b"1\n"},
                TOP + b"/target/burst": {b"debug/deps/t": X(b"#!/bin/sh\necho test\n")},
                b"/home/developer/shared": {b"g": b"2\n"},
            }
            await sync(client, roots)
            script = "cat f ../../shared/g; ./target/burst/debug/deps/t; echo > ../../shared/h"
            assert await said(client, script) == "1\n2\ntest\n"

    asyncio.run(scenario())


def test_terminals_and_devices(agent: Start) -> None:
    """A terminal in there is one; and programs can make their own."""

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            terminal = p.TERMINAL_STDIN | p.TERMINAL_STDOUT | p.TERMINAL_STDERR
            request = there(
                "test -t 0 && echo yes > /dev/tty; stty size; read x", terminals=terminal
            )
            asked = await Run.start(client, request)
            await asked.until(b"yes", 0)
            await asked.write(b"\x03")
            await asked.finish()
            made = "import pty, os; m, s = pty.openpty(); print(os.ttyname(s))"
            request = start((b"/usr/bin/env", b"python3", b"-c", made.encode()), cwd=TOP)
            if shutil.which("python3", path="/usr/bin:/bin"):
                assert (await run(client, request)).said[1] == b"/dev/pts/0\n"
            assert (
                await said(client, "echo x > /dev/null; echo y > /dev/shm/y; cat /dev/shm/y")
                == "y\n"
            )

    asyncio.run(scenario())


def test_what_is_left_behind_ends(agent: Start) -> None:
    """With its process namespace; the program's end is not held up by it."""

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            script = "setsid sh -c 'trap \"\" HUP TERM; sleep 600' & echo up; exit 6"
            left = await run(client, there(script))
            assert (await left.finish()).code == 6

    asyncio.run(scenario())


@pytest.mark.root
def test_where_mounts_cannot_be_idmapped_owners_are_changed(tools: Tools, folder: Path) -> None:
    """A ramfs, say: the mirror is the program's all the same."""
    (folder / "ram").mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", folder / "ram"], check=True)
    os.chmod(folder / "ram", 0o755)

    async def scenario() -> None:
        store = folder / "ram" / "store"
        async with await AgentClient.start_ready(tools, store, local=False) as client:
            await sync(client, {TOP: {b"d/f": b"old\n"}})
            script = "id -u; echo new >> d/f; cat d/f; echo > d/g; test -O d/f && echo mine"
            assert await said(client, script) == "65534\nold\nnew\nmine\n"
            files = store / "mirrors" / "project" / "files"
            assert (files / TOP.decode()[1:] / "d" / "f").stat().st_uid == 65534
            await sync(client, {TOP: {b"d/f": b"newer\n"}})
            assert await said(client, "echo >> d/f; head -1 d/f") == "newer\n"

    try:
        asyncio.run(scenario())
    finally:
        subprocess.run(["umount", "-l", folder / "ram"], check=True)


def test_nothing_outlives_an_agent_that_is_killed(agent: Start) -> None:
    """Not even what has left its session and ignores what it is asked."""

    async def scenario() -> None:
        client = await agent()
        await sync(client, {TOP: {b"f": b""}})
        script = "setsid sh -c 'trap \"\" HUP TERM; echo up; sleep 600' & sleep 600"
        going = await Run.start(client, there(script))
        await going.until(b"up")
        inside = [pidfd for pid in below(client.process.pid) if (pidfd := os.pidfd_open(pid))]
        assert len(inside) >= 4
        client.process.kill()
        for pidfd in inside:
            assert await asyncio.to_thread(select.select, [pidfd], [], [], 20) != ([], [], [])
            os.close(pidfd)
        await client.close()

    asyncio.run(scenario())


def below(pid: int) -> list[int]:
    """All processes under this one."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(word), *below(int(word))]
    return found


def test_a_folder_that_is_not_of_the_project(agent: Start) -> None:
    """Is empty there, which is said."""

    async def scenario() -> None:
        async with await agent() as client:
            await sync(client, {TOP: {b"f": b""}})
            elsewhere = await run(client, there("ls -A; pwd", cwd=b"/home/developer/elsewhere"))
            assert elsewhere.said[1] == b"/home/developer/elsewhere\n"
            assert any("no folder of the project" in note for note in elsewhere.notes)

    asyncio.run(scenario())


def test_links_that_a_program_has_put_in_our_way(agent: Start, folder: Path) -> None:
    """The next program's mount points are not made through them."""
    victim = folder / "victim"
    victim.mkdir(mode=0o777)

    async def scenario() -> None:
        async with await agent() as client:
            top = b"/tmp/deep/project"
            await sync(client, {TOP: {b"f": b""}})
            await said(client, f"ln -s {victim} /tmp/deep")
            await sync(client, {top: {b"f": b""}})
            await run(client, there("pwd", cwd=top))
            assert os.listdir(victim) == []
            await said(client, "rm /tmp/deep; touch /tmp/deep")
            refused = await Run.start(client, there("pwd", cwd=top))
            assert (await refused.failure()).code in {"program", "mounts"}

    asyncio.run(scenario())


def test_a_network_of_the_projects_own(agent: Start) -> None:
    """Programs of one project meet on its loopback, and nobody else does; they cannot change it."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("needs a python3 of the system")
    listen = (
        "import socket, sys\ns = socket.create_server(('127.0.0.1', 4567))\n"
        "print('up', flush=True)\nc, _ = s.accept()\nc.sendall(b'hello')\nsys.stdin.read()\n"
    )
    call = "import socket\nprint(socket.create_connection(('127.0.0.1', 4567)).recv(9))"

    def asked(script: str, mirror: str = "project") -> p.StartProgram:
        argv = (os.fsencode(python), b"-c", script.encode())
        return start(argv, cwd=TOP, mirror=mirror, shares_network=False)

    async def scenario() -> None:
        async with await agent() as client:
            for mirror in ("project", "other"):
                await sync(client, {TOP: {b"f": b""}}, mirror)
            server = await Run.start(client, asked(listen))
            if any("network" in note for note in server.notes):
                pytest.skip(server.notes[0])
            await server.until(b"up")
            assert b"ConnectionRefused" in (await run(client, asked(call, "other"))).said[2]
            assert (await run(client, asked(call))).said[1] == b"b'hello'\n"
            metadata = call.replace("127.0.0.1", "169.254.169.254").replace("4567", "80")
            assert b"Error" in (await run(client, asked(metadata))).said[2]
            raw = "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"
            assert b"PermissionError" in (await run(client, asked(raw))).said[2]
            await server.write(b"")
            assert (await server.finish()).code == 0

    asyncio.run(scenario())


def test_at_home_only_the_network_is_another_one(tools: Tools, folder: Path) -> None:
    """Files, user and folder are home's own, and everything that is left behind ends."""
    (folder / "work").mkdir()

    async def scenario() -> None:
        async with await AgentClient.start_ready(tools, folder / "store") as client:
            script = (
                "id -u; pwd; echo new > made; umask; ls /proc | grep -c '^[0-9]'; "
                "readlink /proc/self/ns/net"
            )
            cwd = os.fsencode(folder / "work")
            done = await run(client, shell(script, cwd=cwd, shares_network=False))
            assert (await done.finish()).code == 0, done.said
            uid, pwd, umask, processes, network = done.said[1].decode().splitlines()
            assert (uid, pwd) == (str(os.getuid()), str(folder / "work"))
            assert umask == "0022"
            assert int(processes) < 8
            assert network != os.readlink("/proc/self/ns/net")
            assert (folder / "work" / "made").read_text() == "new\n"

    asyncio.run(scenario())


def test_without_namespaces_it_runs_as_the_machine_is(tools: Tools, folder: Path) -> None:
    """In the mirror's folder, and that is said."""

    async def scenario() -> None:
        # A PATH without bubblewrap, and no helper: no namespaces.
        client = await AgentClient.start_ready(
            Tools(None, None), folder / "store", local=False, path=str(folder)
        )
        async with client:
            await sync(client, {TOP: {b"f": b"here\n", b"t": X(b"#!/bin/sh\ncat f; exit 3\n")}})
            done = await run(client, start((TOP + b"/t",), cwd=TOP, shares_network=True))
            assert (await done.finish()).code == 3
            assert done.said[1] == b"here\n"
            assert any("no namespaces" in note for note in done.notes)

    asyncio.run(scenario())
