"""Builds on a Debian trixie host: another distribution, a newer glibc, another Python than home's.

What is built there must be what home would have built: it is compared with plain cargo's files, and
build scripts, proc macros and programs built there run here.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import at, machine, same_bits, save_measurement, with_env, with_project
from space import Space
from trixie import TrixieHost, Unavailable

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def host() -> Iterator[TrixieHost]:
    with tempfile.TemporaryDirectory(prefix="burst-trixie-", dir="/var/tmp") as folder:
        try:
            with TrixieHost.start(Path(folder, "host")) as running:
                yield running
        except Unavailable as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def shared(host: TrixieHost) -> Iterator[Space]:
    """A machine whose builds run on the trixie host."""
    with machine(BURST_HOST=host.address) as space:
        shutil.copytree(host.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        yield space


def assert_remote(units: list[dict[str, object]], host: TrixieHost, where: str) -> None:
    seen = {(unit["where"], unit["executor"]) for unit in units}
    assert seen == {(where, host.address)}, seen


def test_the_host_is_another_system(host: TrixieHost) -> None:
    """Or else these tests would show nothing: newer glibc, another Python, no Rust, no compiler."""
    said = host.run(["ldd", "--version"]).stdout.splitlines()[0]
    theirs = tuple(map(int, said.split()[-1].split(".")))
    ours = tuple(map(int, platform.libc_ver()[1].split(".")))
    assert theirs > ours, (said, platform.libc_ver())
    python = host.run(["python3", "-c", "import sys; print(*sys.version_info[:2])"]).stdout
    assert python.split() != [str(part) for part in platform.python_version_tuple()[:2]]
    for tool in ("rustc", "cargo", "cc", "gcc", "ld", "bwrap"):
        assert host.run(["sh", "-c", f"command -v {tool}"]).returncode != 0, tool


def test_what_is_built_there_is_what_home_builds(shared: Space, host: TrixieHost) -> None:
    """All kinds of crates, C in a build script; every file equal, from the host's store too."""
    space = with_project(shared, "calls")
    same = same_bits(space, "build", between=space.forget_store)
    assert_remote(same.cold_units, host, "remote")
    assert_remote(same.warm_units, host, "hit")


def test_programs_and_tests_built_there_run_here(shared: Space, host: TrixieHost) -> None:
    """Cargo runs build scripts, loads proc macros, runs tests and programs: all came from there."""
    space = with_project(shared, "calls", shared.folder / "programs")
    space = with_env(space, {"CALLS_SET": "yes"})
    tests = space.cargo("test", "--workspace", "--exclude", "dynamic").check()
    assert "test the_program_prints ... ok" in tests.stdout
    assert_remote(space.units(), host, "remote")
    said = space.cargo("run", "-q", "--release", "--bin", "app").check()
    assert said.stdout.startswith("42 42; Many 4; Some(49)")
    loud = space.cargo("run", "-q", "-p", "loader").check()
    assert loud.stdout == "ONE!TWO!1.2.3-rc.4\n"
    fields = ("where", "executor")
    assert {tuple(unit[name] for name in fields) for unit in space.units()} <= {
        ("remote", host.address),
        ("hit", "home store"),
    }


# A library that every gcc here brings, and a machine without compilers has not.
ISL = Path("/usr/lib/x86_64-linux-gnu/libisl.so.23")
LIBRARY_USER = {
    "Cargo.toml": '[package]\nname = "isl"\nversion = "0.1.0"\nedition = "2021"\n',
    "build.rs": f'fn main() {{ println!("cargo::rustc-link-arg={ISL}"); }}\n',
    "src/main.rs": 'fn main() { println!("{}", isl::version()); }\n',
    "src/lib.rs": (
        "use std::ffi::{c_char, CStr};\n"
        'extern "C" { fn isl_version() -> *const c_char; }\n'
        "pub fn version() -> String {\n"
        "    unsafe { CStr::from_ptr(isl_version()) }.to_string_lossy().into()\n}\n"
    ),
    "tests/there.rs": (
        "#[test]\nfn loads() {\n"
        '    let release = std::fs::read_to_string("/etc/os-release").unwrap();\n'
        '    println!("{} {}", isl::version(), release.contains("trixie"));\n'
        '    let tool = std::process::Command::new(env!("CARGO_BIN_EXE_isl")).output().unwrap();\n'
        '    assert_eq!(tool.stdout, format!("{}\\n", isl::version()).into_bytes());\n}\n'
    ),
}


@pytest.mark.skipif(not ISL.exists(), reason=f"needs {ISL}")
def test_tests_run_there_with_a_library_of_home(shared: Space, host: TrixieHost) -> None:
    """What the host lacks comes along, for the programs that a test starts, too; and plain cargo
    says the same here afterwards."""
    assert host.run(["test", "-e", str(ISL)]).returncode != 0
    space = at(shared, shared.folder / "library")
    space.write(LIBRARY_USER)
    space.plain("generate-lockfile", "--offline").check()
    done = space.burst("test", "--cargo-test", "--test", "there", "--", "--nocapture").check()
    assert "test loads ... ok" in done.stdout, done.stdout
    assert " true\n" in done.stdout, done.stdout
    here = space.plain("test", "--test", "there", "--", "--nocapture").check()
    assert "test loads ... ok" in here.stdout
    assert " false\n" in here.stdout


@pytest.mark.projects
@pytest.mark.thorough
@pytest.mark.parametrize("arguments", [("build",), ("clippy", "--release")], ids=" ".join)
def test_a_real_project(shared: Space, host: TrixieHost, arguments: tuple[str, ...]) -> None:
    """Code generation with build scripts and macros of real packages; the program runs here."""
    path = shared.folder / f"codegen-{arguments[0]}"
    space = with_project(shared, "codegen", path)
    same = same_bits(space, *arguments, "--offline", "--locked", between=space.forget_store)
    assert_remote(same.cold_units, host, "remote")
    assert_remote(same.warm_units, host, "hit")
    cold, warm = same.sent_bytes()
    save_measurement(
        f"trixie: codegen {' '.join(arguments)}",
        units=len(same.cold_units),
        equal_files=same.compared_files,
        cold_sent_bytes=cold,
        warm_sent_bytes=warm,
    )
    if arguments == ("build",):
        assert space.run(path / "target/debug/codegen").check().stdout == "3 of 4 kinds\n"
