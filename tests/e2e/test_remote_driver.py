"""`--driver remote`: no cargo at home at all, and a real sshd on loopback where there is one."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import with_env
from faults import MANIFEST, configure, until
from space import CARGO_BURST, Done, Space
from sshd import Sshd, keygen

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MAIN = """\
fn main() {
    let unused = 1;
    match std::env::args().nth(1).as_deref() {
        Some("three") => std::process::exit(3),
        Some("die") => { let p: *const u8 = std::ptr::null(); unsafe { p.read_volatile(); } }
        Some("keys") => {
            std::process::Command::new("ssh-add").arg("-l").status().unwrap();
        }
        Some("variables") => {
            for (name, value) in std::env::vars_os() {
                println!("{}={}", name.to_string_lossy(), value.to_string_lossy());
            }
        }
        Some("wait") => {
            println!("waiting");
            loop { std::thread::park(); }
        }
        Some("read") => {
            let mut text = String::new();
            std::io::stdin().read_line(&mut text).unwrap();
            println!("read {text}");
        }
        _ => println!("hello from {} with {}", far::far(), env!("CARGO_PKG_NAME")),
    }
}
#[test]
fn seven() { assert_eq!(far::far(), "afar"); }
"""
PROJECT = {
    "ws/Cargo.toml": '[workspace]\nmembers = ["app"]\nresolver = "2"\n',
    "ws/.gitignore": "target\n",
    "ws/app/Cargo.toml": MANIFEST.format(name="app") + '[dependencies]\nfar.path = "../../far"\n',
    "ws/app/src/main.rs": MAIN,
    "far/Cargo.toml": MANIFEST.format(name="far") + '[dependencies]\nvendored = "0.1"\n',
    "far/src/lib.rs": "pub fn far() -> &'static str { vendored::far() }\n",
    # Above the workspace, with packages beside it.
    ".cargo/config.toml": '[source.crates-io]\nreplace-with = "beside"\n'
    '[source.beside]\ndirectory = "packages"\n[build]\nrustc-wrapper = "/nowhere/of-home"\n',
    "packages/vendored/Cargo.toml": MANIFEST.format(name="vendored"),
    "packages/vendored/src/lib.rs": 'pub fn far() -> &\'static str { "afar" }\n',
    "packages/vendored/.cargo-checksum.json": '{"files": {}, "package": "' + "0" * 64 + '"}',
    "other/vendored/Cargo.toml": MANIFEST.format(name="vendored"),
    "other/vendored/src/lib.rs": 'pub fn far() -> &\'static str { "elsewhere" }\n',
}
SCCACHE = """\
#!/bin/sh
echo "$@" >>"$SCCACHE_DIR/log"
exec "$@"
"""
"""Stands for the real one: that it is asked, and where it may keep things."""
RUSTUP = """\
#!/bin/sh
[ "$1 $2 $4 $5 $6" = "toolchain install --no-self-update --profile minimal" ] || exit 2
echo "info: installing $3" >&2
mkdir -p "$RUSTUP_HOME/toolchains"
ln -s "$HOME"/.rustup/toolchains/1.95-* "$RUSTUP_HOME/toolchains/$3-$(uname -m)-unknown-linux-gnu"
"""
"""Stands for the real one, whose downloads come from elsewhere."""


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """With this machine's toolchain in the account's rustup folder."""
    with Sshd.for_user() as sshd:
        sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        toolchains = sshd.remote_home / ".rustup" / "toolchains"
        toolchains.mkdir(parents=True)
        place = toolchains / f"1.95-{os.uname().machine}-unknown-linux-gnu"
        if subprocess.run(["cp", "-al", sysroot, place], check=False, stderr=-3).returncode:
            subprocess.run(["cp", "-a", sysroot, place], check=True)
        program(sshd, "sccache", SCCACHE)
        yield sshd


def program(server: Sshd, name: str, text: str) -> Path:
    """Of the account over there."""
    path = server.remote_home / ".cargo" / "bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def home(server: Sshd) -> Iterator[Space]:
    """A machine without cargo and rustc."""
    with Space.open(BURST_HOST=server.address, PATH="/usr/bin:/bin") as space:
        if shutil.which("cargo", path=space.env["PATH"]):
            pytest.skip("there is a cargo in /usr/bin")
        for name in ("CARGO_HOME", "RUSTUP_HOME"):
            space.env.pop(name, None)
        shutil.copytree(server.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        space.write(PROJECT)
        space.project = space.project / "ws"
        yield space


def burst(space: Space, *words: str, **more: str) -> Done:
    done = with_env(space, more).run(CARGO_BURST, *words)
    assert "bug in burst" not in done.stderr, done.stderr + space.log()
    return done


def test_build_brings_a_program_that_runs(home: Space, server: Sshd) -> None:
    """Cargo's own words on stderr, nothing on stdout; its lock file comes, too. sccache there is
    used, a wrapper that home's configuration names is not."""
    done = burst(home, "build").check()
    assert done.stdout == ""
    assert f"   Compiling far v0.1.0 ({home.project.parent}/far)" in done.stderr
    assert "warning: unused variable: `unused`" in done.stderr
    assert "    Finished `dev` profile" in done.stderr
    assert home.run("target/debug/app").check().stdout == "hello from afar with app\n"
    assert 'name = "far"' in (home.project / "Cargo.lock").read_text()
    modes = {
        name: stat.filemode((home.project / name).stat().st_mode)
        for name in ("target", "target/debug", "target/debug/app", "Cargo.lock")
    }
    assert modes == {
        "target": "drwxr-xr-x",
        "target/debug": "drwxr-xr-x",
        "target/debug/app": "-rwxr-xr-x",
        "Cargo.lock": "-rw-r--r--",
    }
    assert sorted(path.name for path in (home.project / "target").iterdir()) == [
        "CACHEDIR.TAG",
        "debug",
    ]
    log = server.remote_cache / "burst/store/driver/sccache/log"
    assert "--crate-name vendored" in log.read_text()
    again = burst(home, "b").check()
    assert "Compiling" not in again.stderr
    assert "Fetched" not in again.stderr


def test_programs_run_there_and_end_as_they_do(home: Space) -> None:
    assert burst(home, "run", "-q").check().stdout == "hello from afar with app\n"
    assert burst(home, "run", "-q", "--", "three").status == 3
    died = burst(home, "run", "-q", "--", "die")
    assert died.status == -signal.SIGSEGV
    tests = burst(home, "test").check()
    assert "test seven ... ok" in tests.stdout


def test_run_local_builds_there_and_runs_here(home: Space) -> None:
    """Its own arguments and exit code; variables that are not sent anywhere are seen."""
    done = burst(home, "run-local", "variables", MY_OWN="1").check()
    assert "MY_OWN=1\n" in done.stdout
    assert "     Running `target/debug/app variables`" in done.stderr
    assert burst(home, "run-local", "-q", "--", "three").status == 3


def test_a_compile_error_is_rustcs_and_cargos(home: Space) -> None:
    source = home.project / "app/src/main.rs"
    text = source.read_text()
    try:
        source.write_text(text.replace("hello from", "{} {}"))
        done = burst(home, "build")
    finally:
        source.write_text(text)
    assert done.status == 101
    assert "error: 4 positional arguments in format string" in done.stderr
    assert "error: could not compile `app`" in done.stderr
    assert done.stdout == ""


def test_json_messages_are_the_users(home: Space) -> None:
    done = burst(home, "build", "--message-format=json").check()
    assert f'"executable":"{home.project}/target/debug/app"' in done.stdout
    assert done.stdout.endswith('{"reason":"build-finished","success":true}\n')


def test_no_fetch_and_fetch_all(home: Space) -> None:
    burst(home, "build", "--release", "--no-fetch").check()
    assert not (home.project / "target/release").exists()
    burst(home, "build", "--release", "--fetch-all").check()
    names = {path.name for path in (home.project / "target/release").iterdir()}
    assert {"app", "deps", ".fingerprint"} <= names


def test_test_executables_are_real_files(home: Space) -> None:
    done = burst(home, "test", "--no-run").check()
    line = next(line for line in done.stderr.splitlines() if "Executable" in line)
    path = line.partition("(")[2].rstrip(")")
    ran = home.run(home.project / path).check()
    assert "1 passed" in ran.stdout


def test_a_toolchain_that_is_not_there(home: Space) -> None:
    done = burst(home, "+1.2.3", "build")
    assert done.status == 127
    assert "error: toolchain `1.2.3` (+1.2.3) is not on" in done.stderr
    assert "hint: " in done.stderr
    listed = burst(home, "toolchain", "list").check()
    assert "1.95-" in listed.stdout


@pytest.mark.thorough
def test_homes_own_toolchain_goes_where_there_is_none(tmp_path: Path) -> None:
    """A host without any Rust, driven by choice from a machine that has one."""
    with (
        Sshd.for_user() as bare,
        Space.open(BURST_HOST=bare.address) as space,
    ):
        shutil.copytree(bare.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        space.write({"Cargo.toml": MANIFEST.format(name="app"), "src/main.rs": "fn main() {}\n"})
        done = burst(space, "build", "--driver", "remote", "-v").check()
        sysroot = subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip()
        assert "Compiling app" in done.stderr
        space.run("target/debug/app").check()
        said = space.run(CARGO_BURST, "--driver", "remote", "--version").check().stdout
        assert said == space.run("cargo", "--version").check().stdout
        assert not list((bare.remote_home).glob(".rustup")), sysroot


def test_no_host(home: Space) -> None:
    """Neither cargo nor a machine that has one; or one that cannot be reached."""
    nobody = burst(home, "build", BURST_HOST="")
    assert nobody.status == 127
    assert "error: there is no cargo on this machine's PATH" in nobody.stderr
    assert "hint: install Rust, or let cargo run on a host: `--driver remote" in nobody.stderr
    named = burst(home, "build", "--driver", "remote", BURST_HOST="")
    assert named.status == 127
    assert "error: no other machine is known that could run cargo" in named.stderr
    gone = burst(home, "build", BURST_HOST="nobody@127.0.0.1:1")
    assert gone.status == 12
    assert "error: cannot reach nobody@127.0.0.1:1" in gone.stderr
    assert "hint: " in gone.stderr


def test_outside_of_any_project(home: Space, tmp_path: Path) -> None:
    done = home.run(CARGO_BURST, "build", cwd=home.home)
    assert done.status == 101
    assert "error: could not find `Cargo.toml` in" in done.stderr
    version = home.run(CARGO_BURST, "--driver", "remote", "--list", cwd=home.home).check()
    assert "build" in version.stdout


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[str]:
    """A real ssh agent with one key; its socket."""
    keygen(tmp_path / "key")
    sock = f"/tmp/burst-test-agent-{os.getpid()}"
    with subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=-3) as process:
        until(lambda: os.path.exists(sock), "the agent's socket")
        added = ["ssh-add", "-q", str(tmp_path / "key")]
        subprocess.run(added, env={**os.environ, "SSH_AUTH_SOCK": sock}, check=True)
        yield sock
        process.kill()
    Path(sock).unlink(missing_ok=True)


def test_what_goes_there_and_what_is_lent(home: Space, agent: str) -> None:
    """Nothing of the environment but what cargo is configured by and what is named; the ssh agent
    and tokens only for who says so, and a token's value is in no log."""
    secret = "s3cr3t-token"
    mine = {
        "SSH_AUTH_SOCK": agent,
        "CARGO_REGISTRIES_MINE_TOKEN": secret,
        "CARGO_PROFILE_DEV_OPT_LEVEL": "1",
        "MY_OWN": "1",
    }
    refused = burst(home, "run", "-q", "--", "keys", **mine)
    assert "ED25519" not in refused.stdout
    seen = burst(home, "run", "-q", "-e", "GIVEN=2", "--", "variables", **mine).check().stdout
    assert "CARGO_PROFILE_DEV_OPT_LEVEL=1\n" in seen
    assert "GIVEN=2\n" in seen
    assert secret not in seen
    assert "MY_OWN" not in seen
    configure(home, 'driver_tokens = ["CARGO_REGISTRIES_MINE_TOKEN"]\ndriver_ssh_agent = true\n')
    try:
        given = burst(home, "run", "-q", "--", "variables", **mine).check().stdout
        assert f"CARGO_REGISTRIES_MINE_TOKEN={secret}\n" in given
        keys = burst(home, "run", "-q", "--", "keys", **mine).check().stdout
        assert "ED25519" in keys
    finally:
        configure(home, "")
    assert secret not in home.log()


def test_rustup_there_gets_a_toolchain(home: Space, server: Sshd) -> None:
    """The one that the project names, on the way; another one on demand. Both stay."""
    rustup = program(server, "rustup", RUSTUP)
    named = home.project / "rust-toolchain.toml"
    try:
        named.write_text('[toolchain]\nchannel = "1.94"\n')
        done = burst(home, "build").check()
        assert "info: installing 1.94" in done.stderr
        burst(home, "toolchain", "install", "nightly").check()
    finally:
        named.unlink()
        rustup.unlink()
    listed = burst(home, "toolchain", "list").check().stdout
    assert "1.94-" in listed
    assert "nightly-" in listed
    assert "Finished" in burst(home, "+nightly", "build").check().stderr
    without = burst(home, "toolchain", "install", "beta")
    assert without.status == 127
    assert "error: there is no rustup on" in without.stderr


def test_what_no_manifest_names_is_brought_when_cargo_asks(home: Space) -> None:
    """A patch on the command line: cargo there names what it lacks."""
    patch = f'patch.crates-io.vendored.path="{home.project.parent}/other/vendored"'
    done = burst(home, "run", "--config", patch).check()
    assert "other/vendored, too: once more with it" in done.stderr
    assert done.stdout == "hello from elsewhere with app\n"


def test_install_puts_a_program_into_cargos_folder_here(home: Space) -> None:
    done = burst(home, "install", "--path", "app", "--debug").check()
    assert "Installing" in done.stderr
    ran = home.run(home.home / ".cargo/bin/app").check()
    assert ran.stdout.startswith("hello from")
    burst(home, "install", "--path", "app", "--debug", "--root", "here", "--force").check()
    assert (home.project / "here/bin/app").exists()


def test_what_cargo_writes_into_sources_comes_back(home: Space) -> None:
    """The formatter's work; and nothing of it over a file that is another one here."""
    source = home.project / "app/src/main.rs"
    text = source.read_text()
    try:
        source.write_text(text + "fn  odd( ) { }\n")
        source.chmod(0o640)
        burst(home, "fmt").check()
        assert "fn odd() {}\n" in source.read_text()
        assert stat.S_IMODE(source.stat().st_mode) == 0o640
        source.write_text(text)
        assert burst(home, "fmt", "--check").status in {0, 1}
        assert source.read_text() == text
    finally:
        source.write_text(text)


def test_clean_is_for_both_sides(home: Space) -> None:
    burst(home, "build").check()
    done = burst(home, "clean").check()
    assert "Removed" in done.stderr
    assert not (home.project / "target").exists()
    again = burst(home, "build").check()
    assert "Compiling app" in again.stderr
    assert (home.project / "target/debug/app").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_ended_leaves_nothing_there(home: Space, number: signal.Signals) -> None:
    """The program there gets the signal, dies of it, and so do we."""
    with subprocess.Popen(
        [str(CARGO_BURST), "run", "-q", "--", "wait"],
        cwd=home.project,
        env=home.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(number)
        assert process.wait(60) == -number
    until(lambda: not waiting(), "the end of the program there")


def waiting() -> list[int]:
    """Programs of the test above that run."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"target/debug/app") and words[1:2] == [b"wait"]:
                found.append(int(name))
    return found


def test_at_a_terminal(home: Space) -> None:
    """Cargo there has a terminal, too: colours, and a program that reads what is typed."""
    ours, theirs = pty.openpty()
    argv = [str(CARGO_BURST), "run", "--", "read"]
    process = subprocess.Popen(
        argv,
        cwd=home.project,
        env={**home.env, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, b"typed\n")
    seen = b""
    with contextlib.suppress(OSError):  # EIO: it has ended
        while data := os.read(ours, 65536):
            seen += data
    os.close(ours)
    assert process.wait() == 0
    assert b"read typed" in seen
    assert b"\x1b[1m\x1b[92m" in seen or b"\x1b[1m\x1b[32m" in seen
