"""`cargo burst VERB` with a host: a real sshd on loopback, real cargo, programs that stay there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import machine as new_machine
from faults import alive, processes_of, until
from space import CARGO_BURST, Space, write_files
from sshd import Sshd
from verb_files import FILES, end, running, the_one_that_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEEDS_NEXTEST = pytest.mark.skipif(
    shutil.which("cargo-nextest") is None, reason="needs cargo-nextest"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd.for_user() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def space(server: Sshd) -> Iterator[Space]:
    """A machine whose host has the toolchain already."""
    with new_machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as opened:
        shutil.copytree(server.client_home / ".ssh", opened.home / ".ssh", dirs_exist_ok=True)
        opened.write(FILES)
        opened.plain("generate-lockfile", "--offline").check()
        opened.env["BURST_HOST"] = server.address
        opened.cargo("check").check()
        opened.fresh_target()
        yield opened


def is_elf(path: Path) -> bool:
    return path.read_bytes()[:4] == b"\x7fELF"


def test_run_is_there_and_ends_as_it_does_there(space: Space) -> None:
    """Code, signal, stdin; only a stub is here. `run-local` has the real file, and runs it here."""
    done = space.burst("run", "-q", "--", "exit")
    assert done.status == 3, done.stderr
    stub = space.project / "target/burst/debug/tool"
    assert not is_elf(stub)
    assert space.burst("run", "-q", "--", "signal").status == -signal.SIGTERM
    words = [str(CARGO_BURST), "burst", "run-remote", "-q", "read"]
    said = subprocess.check_output(words, cwd=space.project, env=space.env, input=b"x" * 70000)
    assert said == b"read 70000\n"
    assert space.burst("run-local", "-q", "exit").status == 3
    assert is_elf(space.project / "target/debug/tool")


def test_another_target_folder(space: Space) -> None:
    """The one that was named keeps real files only."""
    for words in (("--target-dir", "other"), ("--target-dir=other",)):
        assert space.burst("run", "-q", *words, "--", "exit").status == 3
    assert (space.project / "other/burst/debug/tool").exists()
    assert not (space.project / "other/debug").exists()
    assert space.burst("run", "-q", CARGO_TARGET_DIR="third").check().stdout == "[]\n"
    assert (space.project / "third/burst/debug/tool").exists()
    done = space.burst("run", "-q", "--", "--target-dir", "x").check()
    assert done.stdout == '["--target-dir", "x"]\n'
    done = space.burst("run", "-q", "word", "--target-dir", "x", "--", "--config").check()
    assert done.stdout == '["word", "--target-dir", "x", "--", "--config"]\n'
    assert space.burst("run", "-q", "--config", 'build.target-dir="fourth"', "exit").status == 3
    assert (space.project / "fourth/burst/debug/tool").exists()
    assert not (space.project / "fourth/debug").exists()


def test_another_build_folder(space: Space) -> None:
    """`build.build-dir`, where cargo keeps what is not for its user: nothing of ours lies there."""
    done = space.burst("test", "-p", "core-of-it", "--lib", CARGO_BUILD_BUILD_DIR="between").check()
    assert "2 passed" in done.stderr + done.stdout
    words = ("--lib", "--config", 'build.build-dir="between"')
    for verb in (("test", "--cargo-test"), ("nextest", "run")):
        done = space.burst(*verb, "-p", "core-of-it", *words).check()
        assert "2 passed" in done.stderr + done.stdout
    assert not (space.project / "between").exists()


def test_variables_go_there_only_by_name(space: Space) -> None:
    """Not what this shell has."""
    space.env["SPECIAL"] = "mine"
    try:
        assert space.burst("run", "-q", "variable").check().stdout == "None\n"
        named = space.burst("run", "-q", "-e", "SPECIAL", "variable").check()
        assert named.stdout == 'Some("mine")\n'
        given = space.burst("run", "-q", "--env=SPECIAL=a b", "variable").check()
        assert given.stdout == 'Some("a b")\n'
    finally:
        del space.env["SPECIAL"]


def test_aliases_and_what_goes_on_without_us(space: Space) -> None:
    """An alias is its verb, and its program is there; a detached one stays when we have gone."""
    assert space.burst("xtask", "-x").check().stdout == '["say", "-x"]\n'
    done = space.burst("run", "--detach", "--", "wait").check()
    assert "goes on without us" in done.stderr
    stub = space.project / "target/burst/debug/tool"
    assert not is_elf(stub)
    end(the_one_that_runs(stub, "wait"))


@NEEDS_NEXTEST
def test_test_is_as_at_home(space: Space) -> None:
    """nextest, the own harness and doctests; it is said. Plain cargo works right after."""
    done = space.burst("test", "--workspace").check()
    assert "2 tests run: 2 passed" in done.stderr
    assert "my own harness" in done.stdout
    assert "Doc-tests core_of_it" in done.stderr
    assert "programs run on " in done.stderr
    assert list((space.project / "target/burst/debug/deps").glob("own-*"))
    failed = space.burst("test", "-e", "FAIL=1")
    assert failed.status == 101
    plain = space.plain("test").check()
    assert plain.stdout.count("test result: ok") == 3


STUBBORN = {
    "Cargo.toml": '[package]\nname = "stubborn"\nversion = "0.1.0"\nedition = "2021"\n',
    "src/lib.rs": """\
#[test]
fn ignores() {
    extern "C" { fn signal(number: i32, action: usize) -> usize; }
    unsafe { signal(2, 1); }
    println!("waiting");
    loop { std::thread::park() }
}
""",
}


@pytest.mark.parametrize(
    "patient", [False, pytest.param(True, marks=pytest.mark.thorough)], ids=["again", "once"]
)
def test_nothing_is_left_of_an_interrupted_test(space: Space, *, patient: bool) -> None:
    """It ignores SIGINT, of which cargo dies. The verb waits for it for a while, as nextest does,
    or until the second one; then it is ended, there and here."""
    folder = space.folder / "stubborn"
    write_files(folder, STUBBORN)
    words = [str(CARGO_BURST), "burst", "test", "--cargo-test", "--lib", "--", "--nocapture"]
    with subprocess.Popen(
        words,
        cwd=folder,
        env=space.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while b"waiting" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        (program,) = (
            pid
            for path in folder.glob("target/burst/debug/deps/stubborn-*")
            for pid in running(path, "--nocapture")
        )
        os.killpg(process.pid, signal.SIGINT)
        if not patient:
            while b"Ctrl-C ends it" not in (line := process.stderr.readline()):
                assert line
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert until(lambda: not alive(program), "its end")
    assert until(lambda: not processes_of(folder), "the end of its runner")


def test_files_that_somebody_wants_are_real(space: Space) -> None:
    """`build`, `--no-run` and whatever JSON names."""
    space.burst("build").check()
    assert is_elf(space.project / "target/debug/tool")
    done = space.burst("test", "--no-run", "--message-format=json").check()
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    executables = [Path(m["executable"]) for m in messages if m.get("executable")]
    assert len(executables) >= 3
    assert all(is_elf(path) for path in executables)


def test_verbs_that_run_nothing(space: Space, tmp_path: Path) -> None:
    """Compiled there, with real files here; `clean` takes what stayed there, too."""
    space.burst("check").check()
    lint = ("-D", "clippy::arithmetic_side_effects")
    assert space.burst("clippy", "--", *lint).status == 101
    space.burst("doc", "--no-deps", "-p", "core-of-it").check()
    assert (space.project / "target/doc/core_of_it/index.html").exists()
    root = str(tmp_path)
    done = space.burst("install", "--path", "tool", "--root", root, "--offline").check()
    assert f" compiled on {space.env['BURST_HOST']}" in done.stderr
    assert subprocess.run([tmp_path / "bin/tool", "exit"], check=False).returncode == 3
    space.burst("run", "-q", "exit")
    assert (space.project / "target/burst/debug/tool").exists()
    space.burst("clean", "-p", "tool").check()
    assert not (space.project / "target/burst/debug/tool").exists()
    assert (space.project / "target/burst/debug/deps").exists()
    space.burst("clean").check()
    assert not (space.project / "target").exists()


def test_bench_and_its_processor(space: Space) -> None:
    """Runs there, with cargo's own words; another processor's baseline is warned of."""
    folder = space.project / "target/criterion"
    base = folder / "group/base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "estimates.json").write_text("{}")
    known = {"schema": 1, "measured_on": {"base": "Another Processor"}}
    (folder / "burst-baselines.json").write_text(json.dumps(known))
    done = space.burst("bench", "-p", "tool", "--bench", "speed").check()
    assert done.stdout == 'measured ["--bench"]\n'
    assert "warning: baseline `base` was measured on another processor" in done.stderr
    shutil.rmtree(folder)


def test_a_users_own_runner_is_here(space: Space) -> None:
    """An emulator, or a probe on a board: programs are real files then, and the summary says so."""
    triple = space.run("rustc", "-vV").check().stdout.split("host: ")[1].split()[0]
    runner = space.project / "mine.sh"
    runner.write_text('#!/bin/sh\necho mine; exec "$@"\n')
    runner.chmod(0o755)
    done = space.burst(f"--config=target.{triple}.runner='{runner}'", "run", "--", "exit")
    assert done.status == 3
    assert done.stdout == "mine\n"
    assert f"{triple}: programs are started by your own runner, here" in done.stderr


def test_no_host_to_be_had(space: Space) -> None:
    """At home with a note; `run-remote` fails; nothing runs twice."""
    done = space.burst("run", "--host", "nobody@127.0.0.1:1", "exit")
    assert done.status == 3
    assert "note: " in done.stderr
    done = space.burst("run-remote", "--host", "nobody@127.0.0.1:1", "exit")
    assert done.status not in (0, 3)
    assert "error: " in done.stderr
    assert os.listdir(space.project)
