"""Programs that the embedded agent starts for a runner: services and benches, without a host.

The same way as to another machine, but for the mirror: nothing is copied.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import with_env
from faults import MANIFEST, alive, until
from screens import Screen
from space import Space
from verbs_by_hand import APP, hooks, not_run_to_its_end, run, session_of, waiting_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def space() -> Iterator[Space]:
    with Space.open(CARGO_INCREMENTAL="0") as opened:
        opened.write(APP)
        opened.plain("build", "--tests", "--benches").check()
        yield opened


def test_nothing_is_between_without_a_reason(space: Space) -> None:
    """Without services the runner becomes the program: no program of the session is counted."""
    verb = run(space, "run", "--", "exit", "3")
    assert verb.done.status == 3
    assert verb.summary.programs == 0
    assert verb.session.info.executor == "home"


def test_tests_benches_and_doctests(space: Space) -> None:
    """cargo's own words and results, in cargo's order; doctests run where rustdoc is."""
    plain = space.plain("test")
    verb = run(space, "test", alone=True)
    assert verb.done.check().stdout.count("test result: ok") == plain.stdout.count(
        "test result: ok"
    )
    assert verb.summary.programs == 3
    bench = run(space, "bench", "--bench", "b", alone=True)
    assert bench.done.check().stdout == "benched\n"


def test_a_bench_has_this_machines_network(space: Space) -> None:
    """Nothing is held back from a program that only runs alone."""
    with session_of(space, "run", alone=True) as session:
        runner = hooks(space, session)
        command = next(value for name, value in runner.items() if name.endswith("_RUNNER"))
        shown = with_env(space, runner).run(command, "/bin/readlink", "/proc/self/ns/net")
    assert shown.check().stdout.strip() == os.readlink("/proc/self/ns/net")


@pytest.mark.parametrize(("words", "status"), [(("exit", "3"), 3), (("abort",), -signal.SIGTERM)])
def test_its_end_is_ours(space: Space, words: tuple[str, ...], status: int) -> None:
    verb = run(space, "run", "-q", "--", *words, alone=True)
    assert (verb.done.status, verb.done.stderr, verb.done.stdout) == (status, "", "")


def test_stdin_of_any_size(space: Space) -> None:
    """Three windows of it there and back, and its end is seen."""
    data = bytes(range(256)) * (3 * 4096)
    with session_of(space, "run", alone=True) as session:
        env = {**space.env, **hooks(space, session)}
        command = ["cargo", "run", "-q", "--", "cat"]
        done = subprocess.run(
            command, cwd=space.project, env=env, input=data, capture_output=True, check=True
        )
    assert done.stdout == data


def test_it_sees_cargos_variables_and_not_the_users(space: Space) -> None:
    space.env["MY_SECRET_TOKEN"] = "hidden"
    space.env["RUST_BACKTRACE"] = "1"
    try:
        named = ((b"NAMED", b"by --env"),)
        shown = run(space, "run", "-q", "--", "env", alone=True, env_named=named).done.check()
    finally:
        del space.env["MY_SECRET_TOKEN"], space.env["RUST_BACKTRACE"]
    seen = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    assert seen["CARGO_PKG_NAME"] == "app"
    assert seen["CARGO_TARGET_DIR"] == str(space.project / "target")
    assert seen["INSTA_WORKSPACE_ROOT"] == str(space.project)
    assert seen["NAMED"] == "by --env"
    assert seen["RUST_BACKTRACE"] == "1"
    assert "MY_SECRET_TOKEN" not in seen
    assert not [name for name in seen if name.startswith("BURST_")]
    assert "RUSTC_WRAPPER" not in seen


def test_a_killed_cargo_ends_its_program(space: Space) -> None:
    """cargo run becomes the runner; whoever kills that has killed the program."""
    with session_of(space, "run", alone=True) as session:
        with waiting_program(space, session) as process:
            (program,) = until(lambda: _programs(space), "the program")
            process.kill()
        assert until(lambda: not alive(program), "its end")


def test_the_daemons_end_is_not_a_pass(space: Space) -> None:
    with (
        session_of(space, "run", alone=True) as session,
        waiting_program(space, session) as process,
    ):
        space.stop()
        assert not_run_to_its_end(process)


def test_a_program_that_runs_for_too_long_is_ended(space: Space) -> None:
    """Not a pass, and it says why."""
    settings = space.project / ".config" / "burst.toml"
    settings.parent.mkdir()
    settings.write_text("program_wall_s = 1\n")
    try:
        verb = run(space, "run", "-q", "--", "wait", alone=True)
    finally:
        shutil.rmtree(settings.parent)
    assert verb.done.status == 125
    assert verb.done.stdout == "waits\n"
    assert "it ran for too long" in verb.done.stderr
    assert not _programs(space)


def test_a_detached_program_goes_on(space: Space) -> None:
    """cargo ends at once and well; the program is there after the session, too."""
    verb = run(space, "run", "-q", "--", "wait", alone=True, detach=True)
    assert verb.done.check().stdout == ""
    assert "goes on without us" in verb.summary.notes[0]
    (program,) = until(lambda: _programs(space), "the program")
    os.kill(program, signal.SIGKILL)
    assert until(lambda: not alive(program), "its end")


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_service_is_there_for_doctests_too(space: Space) -> None:
    """In the network of the project's own, where the runner has them started."""
    other = Space(space.folder, space.home, space.folder / "doc", space.env)
    other.project.mkdir()
    ping = 'std::net::TcpStream::connect("127.0.0.1:6379").unwrap();'
    other.write(
        {
            "Cargo.toml": MANIFEST.format(name="doc"),
            "src/lib.rs": f"/// ```\n/// {ping}\n/// ```\npub fn f() {{}}\n"
            f"#[test]\nfn unit() {{ {ping} }}\n",
        }
    )
    verb = run(other, "test", services=("redis",))
    assert verb.done.check().stdout.count("test result: ok. 1 passed") == 2
    assert verb.summary.programs == 2


def test_at_a_terminal(space: Space) -> None:
    """A terminal there of this one's size; Ctrl-C and Ctrl-Z reach the program."""
    shell = 'stty size; read line; echo "got $line"; exec cat'
    with session_of(space, "run", alone=True) as session:
        runner = hooks(space, session)
        program = [next(value for name, value in runner.items() if name.endswith("_RUNNER"))]
        command = [*program, "/bin/sh", "-c", shell]
        words = " ".join(f"'{word}'" for word in command)
        env = {**space.env, **runner, "PS1": "prompt> "}
        with Screen.open(["bash", "--norc", "-i"], env, space.project, rows=33, columns=99) as one:
            one.until(b"prompt> ")
            one.type(words.encode() + b"\r")
            one.until(b"33 99")
            one.type(b"line\r")
            one.until(b"got line")
            one.resize(44, 77)
            one.type(b"\x1a")
            one.until(b"Stopped")
            one.type(b"fg\r")
            one.until(b"exec cat")
            one.type(b"echoed\r")
            one.until(b"echoed\r\nechoed")
            one.type(b"\x03")
            one.until(b"prompt> ")
            one.type(b"echo status $?\r")
            one.until(b"status 130")


def _programs(space: Space) -> list[int]:
    """Of this machine: by what they execute."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                target = os.readlink(entry / "exe")
            except OSError:
                continue
            if target == str(space.project / "target" / "debug" / "app"):
                found.append(int(entry.name))
    return found
