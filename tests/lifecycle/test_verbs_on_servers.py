"""`cargo burst VERB` with `[hetzner]` configured: the verb asks for a server, and runs on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from builds import machine
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers, settle
from space import CARGO_BURST, Space
from verb_files import FILES, end, the_one_that_runs

pytest_plugins = ("cloud_fixtures",)

NEEDS_NEXTEST = pytest.mark.skipif(
    shutil.which("cargo-nextest") is None, reason="needs cargo-nextest"
)

MORE = {
    "tool/src/bin/serve.rs": """\
use std::io::{Read, Write};
fn main() {
    let listener = std::net::TcpListener::bind("127.0.0.1:3000").unwrap();
    println!("listens");
    let (mut stream, _) = listener.accept().unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    write!(stream, "heard {all}").unwrap();
}
""",
    "tool/src/bin/write.rs": 'fn main() { std::fs::write("made.txt", "there").unwrap(); }\n',
}
"""Programs for what FILES has none."""
_DEFAULT_RUN = ("[dependencies]", 'default-run = "tool"\n[dependencies]')


def is_elf(path: Path) -> bool:
    return path.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
@NEEDS_NEXTEST
def test_every_verb_on_a_server_of_its_own(real_cloud: LocalCloud) -> None:
    """It boots because a verb asks, however small the build; programs run there; files that
    somebody wants are real; when it is gone plain cargo goes on as if nothing had been."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES | MORE)
        space.write({"tool/Cargo.toml": FILES["tool/Cargo.toml"].replace(*_DEFAULT_RUN)})
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        space.env["BURST_REQUIRE_REMOTE"] = "0"

        # Nothing of this is worth a boot, and none of it runs a program.
        for verb in (["check"], ["clippy"], ["doc", "--no-deps"], ["build"]):
            space.burst(*verb).check()
        assert ready_servers(cloud) == []
        target = space.project / "target"
        assert is_elf(target / "debug/tool")
        assert (target / "doc").is_dir()

        ended = space.burst("run", "-q", "--", "exit")
        assert ended.status == 3, ended.stderr + space.log()
        (server,) = ready_servers(cloud)
        assert space.burst("run", "-q", "--", "signal").status == -signal.SIGTERM
        assert space.burst("run-remote", "-q", "variable").check().stdout == "None\n"

        tested = space.burst("test", "--workspace").check()
        assert "2 tests run: 2 passed" in tested.stderr, tested.stderr
        assert "Doc-tests core_of_it" in tested.stderr
        assert "programs run on " in tested.stderr
        assert space.burst("test", "-e", "FAIL=1").status == 101
        benched = space.burst("bench", "-p", "tool", "--bench", "speed").check()
        assert benched.stdout == 'measured ["--bench"]\n'
        assert (target / "burst/debug").is_dir()

        _options_and_aliases(space)
        assert ready_servers(cloud) == [server]
        root = space.home / "installed"
        space.burst("install", "--path", "tool", "--root", str(root), "--offline").check()
        installed = list((root / "bin").iterdir())
        assert {path.name for path in installed} == {"tool", "serve", "write"}
        assert all(is_elf(path) for path in installed)
        assert ready_servers(cloud) == [server]

        # What a hook of somebody else's takes away: the server.
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        assert ready_servers(cloud) == []
        plain = space.plain("test").check()
        assert plain.stdout.count("test result: ok") == 5
        space.burst("clean").check()
        assert not (target / "burst").exists()
        settle(space, cloud)


def _options_and_aliases(space: Space) -> None:
    """What else a verb can be asked for, with the server there."""
    target = space.project / "target"
    done = space.burst("nextest", "run", "-p", "core-of-it").check()
    assert "2 tests run: 2 passed" in done.stderr
    assert "programs run on " in done.stderr
    assert space.burst("nextest", "run", "-p", "core-of-it", "-e", "FAIL=1").status == 100

    (target / "debug/tool").unlink()
    assert space.burst("run-local", "-q", "exit").status == 3
    assert is_elf(target / "debug/tool")
    done = space.burst("test", "--no-run", "-p", "core-of-it", "--message-format=json").check()
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    (executable,) = [Path(m["executable"]) for m in messages if m.get("executable")]
    assert is_elf(executable)
    assert executable.is_relative_to(target / "debug")

    space.burst("ship").check()
    assert space.burst("xtask", "-x").check().stdout == '["say", "-x"]\n'

    made = space.project / "made.txt"
    space.burst("run", "-q", "--bin", "write").check()
    assert not made.exists()
    done = space.burst("run", "--fetch", "/made.txt", "--bin", "write").check()
    assert made.read_text() == "there"
    assert "Fetched" in done.stderr

    done = space.burst("run", "--detach", "--", "wait").check()
    assert "goes on without us" in done.stderr
    assert done.stdout == ""
    program = the_one_that_runs(target / "burst/debug/tool", "wait")
    assert os.readlink(f"/proc/{program}/ns/uts") != os.readlink("/proc/self/ns/uts")
    end(program)
    _reached_by_a_forward(space)


def _reached_by_a_forward(space: Space) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [str(CARGO_BURST), "burst", "run", "-q", "-L", f"{port}:3000", "--bin", "serve"],
        cwd=space.project,
        env=space.env,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n", space.log()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"heard question"
        assert process.wait(60) == 0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cargo_does_not_wait_for_a_server_that_boots(real_cloud: LocalCloud) -> None:
    """What is to be compiled is compiled at home meanwhile; only the program waits, and runs there:
    it finds its machine's name, not ours."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        said = 'print!("{}", std::fs::read_to_string("/etc/hostname").unwrap())'
        space.write({"tool/src/bin/where.rs": f"fn main() {{ {said} }}\n"})
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        done = space.burst("run", "--bin", "where", BURST_REQUIRE_REMOTE="0").check()
        (server,) = ready_servers(cloud)
        assert done.stdout.strip() == server
        # On a slow machine the last units may find it there.
        assert "not-yet" in {unit["reason"] for unit in space.units()}, space.units()
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_server_to_be_had(real_cloud: LocalCloud) -> None:
    """The program runs here, and is said to."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        cloud.set_capacity("ccx13", "fsn1", 0)
        done = space.burst("run", "--", "exit", BURST_REQUIRE_REMOTE="0")
        assert done.status == 3, done.stderr + space.log()
        assert "programs run on this machine" in done.stderr, done.stderr
        assert space.burst("run-remote", "--", "exit").status not in {0, 3}
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)
