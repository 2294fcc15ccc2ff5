"""Programs of a session run on a server: a real sshd on loopback, real cargo, real programs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import machine, with_env, with_project
from burst_protocol.digest import Digest
from burst_wrapper import stubs
from faults import MANIFEST
from screens import Screen
from space import Space
from sshd import Sshd
from verbs_by_hand import APP, hooks, not_run_to_its_end, run, session_of, waiting_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd.for_user() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def space(server: Sshd) -> Iterator[Space]:
    """A machine whose builds and programs run on the server; the toolchain is there already."""
    with machine(BURST_HOST=server.address, CARGO_INCREMENTAL="0") as opened:
        shutil.copytree(server.client_home / ".ssh", opened.home / ".ssh", dirs_exist_ok=True)
        opened.write(APP)
        opened.cargo("check").check()
        opened.fresh_target()
        yield opened


def stubs_of(space: Space) -> dict[str, Digest]:
    root = space.project / "target" / "burst"
    found = dict(stubs.find(os.fsencode(root)))
    return {os.path.relpath(os.fsdecode(path), root): digest for path, digest in found.items()}


def test_programs_stay_where_they_are_linked(space: Space) -> None:
    """All that the runner starts are stubs of what plain cargo links; the rest is real."""
    with session_of(space, "test") as session:
        assert session.info.executor == "remote"
        assert session.info.target_dir == os.fsencode(space.project / "target" / "burst")
        assert not session.info.notes
        env = {**hooks(space, session), "BURST_REQUIRE_REMOTE": "1"}
        space.plain("test", "--no-run", "--benches", "--tests", **env).check()
        progress = session.close().progress
    assert progress.units_remote > 0
    found = stubs_of(space)
    names = {Path(name).name.rpartition("-")[0] or Path(name).name for name in found}
    assert names == {"app", "files", "b"}, found
    assert "debug/app" in found
    # The same target directory gives the same bytes.
    kept = space.project / "target" / "stubbed"
    (space.project / "target" / "burst").rename(kept)
    try:
        space.plain(
            "test", "--no-run", "--benches", "--tests", "--target-dir", "target/burst"
        ).check()
        for name, digest in found.items():
            assert Digest.of_file(str(space.project / "target" / "burst" / name)) == digest, name
    finally:
        shutil.rmtree(space.project / "target" / "burst")
        kept.rename(space.project / "target" / "burst")


def test_a_build_says_what_its_host_is_doing(space: Space, server: Sshd) -> None:
    """A verb that starts no programs waits for nobody; its row shows what is there."""
    with session_of(space, "build", executes=False) as session:
        assert session.info.executor == "home"
        space.plain("build", **hooks(space, session), BURST_REQUIRE_REMOTE="1").check()
        assert session.progress().server == "ready"
    with session_of(space, "build", executes=False, host="nobody@127.0.0.1:1") as session:
        assert session.progress().server == ""


def test_a_stub_by_hand_says_what_it_is(space: Space) -> None:
    run(space, "build").done.check()
    app = space.project / "target" / "burst" / "debug" / "app"
    done = space.run(app, PATH=f"{Path(sys.executable).parent}:{space.env['PATH']}")
    assert done.status == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: `")
    assert "\nhint: " in done.stderr


def test_stubs_whose_program_is_gone_are_made_again(space: Space, server: Sshd) -> None:
    run(space, "build").done.check()
    before = stubs_of(space)
    space.stop()
    server.wait_sessions_end()
    blob = before["debug/app"].hash.hex()
    stored = list(server.remote_cache.rglob(blob))
    assert stored
    for path in stored:
        path.unlink()
    with session_of(space, "build") as session:
        assert "debug/app" not in stubs_of(space)
        # A daemon that has just begun does not wait for the toolchain to be there, unless it must.
        space.plain("build", **hooks(space, session), BURST_REQUIRE_REMOTE="1").check()
        assert stubs_of(space)["debug/app"] == before["debug/app"]


# --- programs ---


def test_cargo_test_runs_there(space: Space) -> None:
    """The same results as at home; doctests run where rustdoc is. Then plain cargo, without us."""
    verb = run(space, "test")
    assert verb.done.check().stdout.count("test result: ok. ") == 4
    assert "test reads ... ok" in verb.done.stdout
    assert "test starts ... ok" in verb.done.stdout
    assert verb.summary.programs == 3
    assert verb.summary.progress.server == "ready"
    again = run(space, "test")
    assert again.done.check().stdout.count("test result: ok. ") == 4
    # Nothing was built, nothing was new: the mirror is not even told.
    assert again.summary.progress.units_remote == again.summary.progress.local == 0
    assert again.summary.progress.bytes_up < 20_000
    assert space.plain("test", "--offline").check().stdout.count("test result: ok. ") == 4


@pytest.mark.parametrize(("words", "status"), [(("exit", "3"), 3), (("abort",), -signal.SIGTERM)])
def test_its_end_is_ours(space: Space, words: tuple[str, ...], status: int) -> None:
    verb = run(space, "run", "-q", "--", *words)
    assert (verb.done.status, verb.done.stderr, verb.done.stdout) == (status, "", "")
    assert verb.summary.programs == 1


def test_programs_that_home_linked_run_there_too(space: Space) -> None:
    """While the toolchain is on its way, say, or after a result of home's own store."""
    target = space.project / "target" / "burst"
    kept = target.rename(space.project / "target" / "kept")
    try:
        space.plain("test", "--no-run", CARGO_TARGET_DIR=str(target)).check()
        verb = run(space, "test")
        assert verb.done.check().stdout.count("test result: ok. ") == 4
        assert verb.summary.programs == 3
        assert not stubs_of(space)
    finally:
        shutil.rmtree(target)
        kept.rename(target)


@pytest.mark.skipif(shutil.which("cargo-nextest") is None, reason="cargo-nextest is not installed")
def test_nextest(space: Space) -> None:
    """It lists and runs every test by the runner, several at once; a failure is its failure."""
    verb = run(space, "nextest", "run")
    assert "3 tests run: 3 passed" in verb.done.check().stderr
    assert verb.summary.programs == 9
    (space.project / "data.txt").write_text("changed\n")
    try:
        failed = run(space, "nextest", "run", "--no-fail-fast")
        assert failed.done.status == 100
        assert "3 tests run: 2 passed, 1 failed" in failed.done.stderr
    finally:
        (space.project / "data.txt").write_text("data\n")


def test_a_program_that_cannot_be_started(space: Space) -> None:
    with session_of(space, "run") as session:
        runner = hooks(space, session)
        command = next(value for name, value in runner.items() if name.endswith("_RUNNER"))
        done = with_env(space, runner).run(command, "./data.txt")
    assert done.status == 125
    assert done.stderr.startswith("error: cannot start the program: ")


def test_where_it_runs(space: Space) -> None:
    """At home's path, in cargo's folder, with cargo's variables: nobody could tell, but by pid."""
    below = space.project / "below"
    below.mkdir(exist_ok=True)
    (below / "keep").touch()
    shown = run(space, "run", "-q", "--", "nothing", cwd=below).done.check()
    assert shown.stdout == f"7 in {below}\n"


def test_stdin_of_any_size(space: Space) -> None:
    data = bytes(range(256)) * (3 * 4096)
    with session_of(space, "run") as session:
        env = {**space.env, **hooks(space, session)}
        command = ["cargo", "run", "-q", "--", "cat"]
        done = subprocess.run(
            command, cwd=space.project, env=env, input=data, capture_output=True, check=True
        )
    assert done.stdout == data


def test_a_reader_that_leaves_is_for_the_program_to_notice(space: Space) -> None:
    """`| head`, a full disk: it sees the failing write and ends as it does at home."""
    with session_of(space, "run") as session:
        env = {**space.env, **hooks(space, session)}
        command = ["cargo", "run", "-q", "--", "pour"]
        with subprocess.Popen(
            command,
            cwd=space.project,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(10000) == b"y" * 10000
            process.stdout.close()
            assert process.stderr.read() == b"BrokenPipe\n"
            assert process.wait() == 9
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(
                command,
                cwd=space.project,
                env=env,
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
            )
        assert (ended.returncode, ended.stderr) == (9, b"BrokenPipe\n")


FULL = r"""
stty raw -echo
printf '\033[?1049h\033[?25lsize '; stty size
while :; do
    key=$(dd bs=1 count=1 2>/dev/null)
    case $key in
    s) printf 'size '; stty size ;;
    q) break ;;
    *) printf 'key %s.' "$key" ;;
    esac
done
printf '\033[?25h\033[?1049l'
exit 4
"""


def test_a_full_screen_program(space: Space) -> None:
    """Raw keys one by one, the size of our terminal and its changes, and all as it was after it."""
    (space.project / "full.sh").write_text(FULL)
    with session_of(space, "run") as session:
        env = {**space.env, **hooks(space, session), "TERM": "xterm"}
        runner = next(value for name, value in env.items() if name.endswith("_RUNNER"))
        command = ["sh", "-c", f"{runner} /bin/sh full.sh; echo ended $?"]
        with Screen.open(command, env, space.project, rows=30, columns=90) as screen:
            screen.until(b"size 30 90")
            assert not screen.cooked()
            screen.type(b"a")
            screen.until(b"key a.")
            screen.type(b"\x03")
            screen.until(b"key \x03.")
            screen.resize(50, 120)
            screen.type(b"s")
            screen.until(b"size 50 120")
            screen.type(b"q")
            screen.until(b"\x1b[?1049l")
            screen.until(b"ended 4")
            assert screen.cooked()
    (space.project / "full.sh").unlink()


# --- what comes back ---

WRITES = {
    "Cargo.toml": MANIFEST.format(name="writes"),
    "src/lib.rs": """
#[test]
fn writes() {
    std::fs::create_dir_all("tests/snapshots").unwrap();
    std::fs::create_dir_all("wip").unwrap();
    for name in ["tests/snapshots/one.snap.new", "tests/.inline.rs.pending-snap",
            "tests/seeds.proptest-regressions", "wip/said.stderr"] {
        std::fs::write(name, "new").unwrap();
    }
    std::fs::write("other.txt", "other").unwrap();
    let target = std::env::var("CARGO_TARGET_DIR").unwrap();
    let report = std::path::Path::new(&target).join("criterion");
    std::fs::create_dir_all(&report).unwrap();
    std::fs::write(report.join("index.html"), "<html>").unwrap();
}
""",
}


def test_what_programs_write_comes_back(space: Space) -> None:
    """Snapshots and reports by themselves, where they would be written at home; other files when
    asked for; nothing with `--no-fetch`."""
    other = with_files(space, "writes", WRITES)
    none = run(other, "test", no_fetch=True)
    assert none.done.check().status == 0
    assert none.summary.fetched == ()
    assert not (other.project / "tests" / "snapshots").exists()
    usual = run(other, "test").summary
    snapshot = other.project / "tests" / "snapshots" / "one.snap.new"
    report = other.project / "target" / "criterion" / "index.html"
    beside = (
        "tests/.inline.rs.pending-snap",
        "tests/seeds.proptest-regressions",
        "wip/said.stderr",
    )
    files = {snapshot, *(other.project / name for name in beside)}
    assert set(usual.fetched) == {bytes(path) for path in (*files, report)}
    assert {path.read_text() for path in files} == {"new"}
    assert report.read_text() == "<html>"
    assert not (other.project / "other.txt").exists()
    asked = run(other, "test", fetch=("/other.txt",)).summary
    assert bytes(other.project / "other.txt") in asked.fetched


# --- ports ---

SERVES = {
    "Cargo.toml": MANIFEST.format(name="serves"),
    "src/main.rs": """
use std::io::{Read, Write};
fn main() {
    let listener = std::net::TcpListener::bind("127.0.0.1:3000").unwrap();
    println!("listens");
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        write!(stream, "heard {all}").unwrap();
    }
}
""",
}


def test_a_server_is_reached_by_a_forward(space: Space) -> None:
    """Port 3000 of its own network; nothing of it is on this machine's but the forward."""
    other = with_files(space, "serves", SERVES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with session_of(other, "run", forwards=((port, 3000),)) as session:
        env = {**other.env, **hooks(other, session)}
        command = ["cargo", "run", "-q"]
        with subprocess.Popen(
            command, cwd=other.project, env=env, stdout=subprocess.PIPE, stdin=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listens\n"
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(b"question")
                    client.shutdown(socket.SHUT_WR)
                    assert client.makefile("rb").read() == b"heard question"
            process.terminate()
            assert process.wait(60) == -signal.SIGTERM


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_service_there_is_there_for_doctests_too(space: Space) -> None:
    """Doctests are linked at home; with services they are brought where those are."""
    ping = 'std::net::TcpStream::connect("127.0.0.1:6379").unwrap();'
    files = {
        "Cargo.toml": MANIFEST.format(name="doc"),
        "src/lib.rs": f"/// ```\n/// {ping}\n/// ```\npub fn f() {{}}\n"
        f"#[test]\nfn unit() {{ {ping} }}\n",
    }
    verb = run(with_files(space, "doc", files), "test", services=("redis",))
    assert verb.done.check().stdout.count("test result: ok. 1 passed") == 2
    assert verb.summary.programs == 2


# --- libraries ---

MACRO = {
    "Cargo.toml": MANIFEST.format(name="derives") + "[lib]\nproc-macro = true\n",
    "build.rs": """
fn main() {
    println!("cargo::rustc-link-search=native={}", std::env::var("ODD").unwrap());
    println!("cargo::rustc-link-lib=dylib=odd");
}
""",
    "src/lib.rs": """
extern "C" { fn odd() -> i32; }
#[proc_macro]
pub fn none(input: proc_macro::TokenStream) -> proc_macro::TokenStream { input }
#[test]
fn calls() { assert_eq!(unsafe { odd() }, 7); }
""",
}


def test_libraries_that_only_home_has(space: Space) -> None:
    """A proc macro's tests load rustc's own library; this one loads another that lies at home."""
    other = with_files(space, "derives", MACRO)
    folder = space.home / "odd"
    folder.mkdir()
    (folder / "odd.c").write_text("int odd(void) { return 7; }\n")
    build = ["cc", "-shared", "-fPIC", "-Wl,-soname,libodd.so.1", "-o", "libodd.so.1", "odd.c"]
    subprocess.run(build, cwd=folder, check=True)
    (folder / "libodd.so").symlink_to("libodd.so.1")
    named = {"ODD": str(folder), "LD_LIBRARY_PATH": str(folder)}
    verb = run(with_env(other, named), "test", "--lib")
    assert "test calls ... ok" in verb.done.check().stdout
    assert verb.summary.programs == 1


# --- a cargo there ---

STARTS = {
    "Cargo.toml": MANIFEST.format(name="starts")
    + '[workspace]\nmembers = ["escargot"]\n[dev-dependencies]\nescargot.path = "escargot"\n',
    "escargot/Cargo.toml": MANIFEST.format(name="escargot"),
    "escargot/src/lib.rs": "",
    "src/main.rs": 'fn main() { print!("started"); }\n',
    "tests/starts.rs": """
use std::process::Command;
#[test]
fn starts() {
    for cargo in [std::env::var("CARGO").unwrap(), "cargo".into()] {
        let done = Command::new(cargo).args(["run", "--bin", "starts"]).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.stdout, b"started");
    }
    assert!(std::fs::write("/run/burst-cargo/home/x", "").is_err());
}
""",
}


def test_a_test_that_starts_cargo(space: Space) -> None:
    """Home's, though that machine has none: by CARGO and by name; nothing of it can be changed."""
    done = run(with_files(space, "starts", STARTS), "test", "--test", "starts").done
    assert done.status == 0, done.stdout + done.stderr


@pytest.mark.thorough
@pytest.mark.projects
def test_trybuild(space: Space) -> None:
    """It builds what passes and what does not, with packages of the registry; what it proposes
    comes back, and is right."""
    other = with_project(space, "trybuild")
    failed = run(other, "test", "--offline")
    assert failed.done.status == 101
    assert "tests/ui/good.rs [should pass] ... ok" in failed.done.stderr
    assert "tests/ui/bad.rs [should fail to compile] ... wip" in failed.done.stderr
    proposed = other.project / "wip" / "bad.stderr"
    assert failed.summary.fetched == (bytes(proposed),)
    proposed.rename(other.project / "tests/ui/bad.stderr")
    done = run(other, "test", "--offline").done.check()
    assert "tests/ui/bad.rs [should fail to compile] ... ok" in done.stderr
    assert space.plain("test", "--offline", cwd=other.project).check().status == 0


# --- what goes wrong ---


def test_a_link_that_is_cut_is_not_a_pass(space: Space, server: Sshd) -> None:
    """A clear end; the next session is as if nothing had been."""
    with session_of(space, "run") as session:
        with waiting_program(space, session) as process:
            server.restart()
            error = not_run_to_its_end(process)
        assert error.startswith("error: `target/burst/debug/app` was not run to its end")
        # The same session: the connection is made again.
        done = space.plain("run", "-q", "--", "exit", "3", **hooks(space, session))
        assert (done.status, done.stderr) == (3, "")
    assert run(space, "run", "-q", "--", "exit", "3").done.status == 3


def test_plain_cargo_test_with_the_server_gone(space: Space, server: Sshd) -> None:
    """The plain target directory was never touched; and with us, it is as without a host."""
    run(space, "test").done.check()
    space.stop()
    server.stop()
    try:
        assert space.plain("test").check().stdout.count("test result: ok. ") == 4
        verb = run(space, "test")
        assert verb.done.check().stdout.count("test result: ok. ") == 4
        assert verb.session.info.executor == "home"
        assert server.address in verb.summary.notes[0]
    finally:
        server.restart()


def with_files(space: Space, name: str, files: dict[str, str]) -> Space:
    """Another project of the same machine."""
    other = Space(space.folder, space.home, space.folder / name, space.env)
    other.project.mkdir(exist_ok=True)
    other.write(files)
    return other
