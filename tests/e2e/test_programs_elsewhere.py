"""Programs on a machine of another libc than the one they were linked on: Debian 12 and trixie.

Either may be the home; what the machine lacks of home's libraries is asked for and shown.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
import pytest

from agent_client import AgentClient, Tools, native_tools
from burst_protocol import programs as p
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.elf import glibc_names
from burst_wrapper.home_libraries import find_libraries
from mirror_client import sync
from mirrors import X
from program_client import Run, run, start
from remote_client import connect
from trixie import TrixieHost, Unavailable, tree

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]

TOP = b"/home/developer/project"
PROGRAM = TOP + b"/target/burst/debug/deps/suite-0123456789abcdef"


@pytest.fixture(scope="module")
def trixie() -> Path:
    """The tree of a trixie machine, with a newer glibc than this one's."""
    try:
        made = tree()
    except Unavailable as error:
        pytest.skip(str(error))
    newer = re.search(rb"stable release version (\d+)\.(\d+)", libc_of(made).read_bytes())
    assert newer is not None
    if tuple(map(int, newer.groups())) <= tuple(map(int, platform.libc_ver()[1].split("."))):
        pytest.skip("this machine's glibc is not older than trixie's")
    return made


@pytest.fixture(scope="module")
def host(trixie: Path) -> Iterator[TrixieHost]:
    """That machine, running; its user is no root."""
    del trixie
    with tempfile.TemporaryDirectory(prefix="burst-trixie-", dir="/var/tmp") as folder:
        try:
            with TrixieHost.start(Path(folder, "host")) as running:
                yield running
        except Unavailable as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    return native_tools(tmp_path_factory.mktemp("tools"))


def libc_of(root: Path) -> Path:
    return root / "usr" / "lib" / "x86_64-linux-gnu" / "libc.so.6"


async def put_libraries(
    client: AgentClient, found: Mapping[str, bytes | None]
) -> tuple[tuple[str, Digest], ...]:
    """As the daemon answers Lacking."""
    named: list[tuple[str, Digest]] = []
    for name, path in found.items():
        if path is None:
            named.append((name, EMPTY))
        else:
            with open(path, "rb") as file:  # noqa: ASYNC230 - a few, and small
                digests = await client.put(file.read())
            named.append((name, digests[0]))
    return tuple(named)


def test_home_is_newer(trixie: Path, tools: Tools) -> None:
    """A program linked on trixie asks for its glibc on a Debian 12 machine, gets all of it, and so
    does what it starts: the machine's own shell, which was linked on the older one."""
    program = (trixie / "usr" / "bin" / "bash").read_bytes()
    folder = libc_of(trixie).parent
    home = {name: os.fsencode(folder / name) for name in glibc_names() if (folder / name).exists()}
    home["ld-linux-x86-64.so.2"] = os.fsencode(folder / "ld-linux-x86-64.so.2")

    async def scenario(store: Path) -> None:
        client = await AgentClient.start_ready(tools, store, local=False)
        async with client:
            await sync(client, {TOP: {PROGRAM[len(TOP) + 1 :]: X(program)}})
            script = b'echo "$BASH_VERSION"; /bin/sh -c "grep libc.so.6 /proc/self/maps"; exit 3'
            request = start((PROGRAM, b"-c", script), cwd=TOP)
            asked = await Run.start(client, request)
            assert isinstance(asked.end, p.Lacking), asked.end
            assert asked.end.libraries == ("libc.so.6",)
            assert "GLIBC_2.38" in asked.end.reason

            named = await put_libraries(client, home)
            done = await run(client, attrs.evolve(request, libraries=named))
            assert (await done.finish()).code == 3, done.said
            version, *maps = done.said[1].decode().splitlines()
            assert version.startswith("5."), done.said
            assert maps

            # Home has none either: it is started, and ld.so says what it says at home.
            nothing = (("libc.so.6", EMPTY),)
            refused = await run(client, attrs.evolve(request, libraries=nothing))
            assert (await refused.finish()).code == 1
            assert b"GLIBC_2.38" in refused.said[2]

    with tempfile.TemporaryDirectory(prefix="burst-place-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        asyncio.run(scenario(Path(name, "store")))


def compiled(folder: Path) -> tuple[bytes, dict[str, bytes]]:
    """A program of this machine that loads a library of ours, and where that lies."""
    (folder / "greet.c").write_text('const char *greet(void) { return "greetings"; }\n')
    (folder / "main.c").write_text(
        "#include <stdio.h>\nconst char *greet(void);\n"
        "int main(void) { puts(greet()); return 7; }\n"
    )
    soname = "-Wl,-soname,libburst-greet.so.4"
    for words in (
        ["-shared", "-fPIC", "-o", "libburst-greet.so.4", soname, "greet.c"],
        ["-o", "main", "main.c", "libburst-greet.so.4"],
    ):
        subprocess.run(["cc", *words], cwd=folder, check=True)
    found = find_libraries(["libburst-greet.so.4"], [os.fsencode(folder)])
    return (folder / "main").read_bytes(), {one.name: one.path or b"" for one in found}


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_home_is_older_and_has_a_library_of_its_own(
    host: TrixieHost, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program linked on Debian 12 runs on a trixie machine, whose glibc is new enough; what that
    machine has never heard of comes from home. Its user is no root and may do nothing."""
    program, home = compiled(tmp_path)
    monkeypatch.setenv("HOME", str(host.client_home))

    async def scenario() -> None:
        async with await connect(host.address, tmp_path / "cache", tools) as client:
            assert client.ready is not None
            assert client.ready.launcher == "namespaces"
            await sync(client, {TOP: {PROGRAM[len(TOP) + 1 :]: X(program), b"data": b"there\n"}})
            request = start((PROGRAM,), cwd=TOP)
            asked = await Run.start(client, request)
            assert isinstance(asked.end, p.Lacking), asked.end
            assert asked.end.libraries == ("libburst-greet.so.4",)

            named = await put_libraries(client, home)
            done = await run(client, attrs.evolve(request, libraries=named))
            assert (await done.finish()).code == 7, done.said
            assert done.said[1] == b"greetings\n"

            script = b"id -u; pwd; cat data; echo new > made; ls; grep CapEff /proc/self/status"
            shell = await run(client, start((b"/bin/sh", b"-c", script), cwd=TOP))
            assert (await shell.finish()).code == 0, shell.said
            uid, folder, *rest = shell.said[1].decode().split()
            assert (uid, folder) == ("1000", TOP.decode())
            assert rest == ["there", "data", "made", "target", "CapEff:", "0000000000000000"]

            script = b"id -u; readlink /proc/self/ns/net; cat made; echo more >> made"
            apart = start((b"/bin/sh", b"-c", script), cwd=TOP, shares_network=False)
            inside = await run(client, apart)
            assert (await inside.finish()).code == 0, inside.said
            uid, network, made = inside.said[1].decode().split()
            theirs = host.run(["readlink", "/proc/self/ns/net"]).stdout.strip()
            assert (uid, made) == ("1000", "new")
            assert network != theirs

    asyncio.run(scenario())
