"""Home is a Debian trixie machine, the server an older one: cargo itself runs on the newer glibc.

Home has its distribution's Python with our wheel, a C compiler, a Rust toolchain and a library of
its own; the server is this machine, reached over a cable between the two, and has neither that
library nor home's glibc. The other direction is in test_trixie.py.
"""

from __future__ import annotations

import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from newer_home import PROJECT, Home, as_root, home_tree, newer_home, write_project
from trixie import TrixieHost

pytestmark = [
    *(pytest.mark.root, pytest.mark.slow, pytest.mark.thorough),
    pytest.mark.timeout(1800),
]

RUST: Final = "/opt/rust"

LIBRARY: Final = """
#include <string.h>
#include <stdio.h>
/* strlcpy is glibc's since 2.38. */
const char *only_at_home(void) {
    static char text[8];
    strlcpy(text, "homemade words", sizeof text);
    return text;
}
"""
APP: Final = {
    "Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n',
    "build.rs": (
        "fn main() {\n"
        '    println!("cargo::rustc-link-search=native=/usr/local/lib");\n'
        '    println!("cargo::rustc-link-lib=dylib=onlyhome");\n}\n'
    ),
    "src/lib.rs": (
        "use std::ffi::{c_char, CStr};\n"
        'extern "C" {\n'
        "    fn only_at_home() -> *const c_char;\n"
        "    fn strlcpy(to: *mut c_char, from: *const c_char, size: usize) -> usize;\n}\n"
        '/// ```\n/// assert_eq!(app::words(), "homemad");\n/// ```\n'
        "pub fn words() -> String {\n"
        "    let mut text = [0 as c_char; 32];\n"
        "    unsafe {\n"
        "        strlcpy(text.as_mut_ptr(), only_at_home(), text.len());\n"
        "        CStr::from_ptr(text.as_ptr()).to_string_lossy().into()\n    }\n}\n"
        '#[test]\nfn says() { assert_eq!(words(), "homemad"); }\n'
    ),
    "src/main.rs": (
        "fn main() {\n"
        '    let release = std::fs::read_to_string("/etc/os-release").unwrap();\n'
        '    let name = release.lines().find(|line| line.starts_with("VERSION_CODENAME"));\n'
        '    println!("{} {}", app::words(), name.unwrap());\n'
        "    std::process::exit(3);\n}\n"
    ),
    "tests/starts.rs": (
        "#[test]\nfn starts() {\n"
        '    let tool = std::process::Command::new(env!("CARGO_BIN_EXE_app")).output().unwrap();\n'
        "    let said = String::from_utf8(tool.stdout).unwrap();\n"
        '    assert!(said.starts_with("homemad "), "{said}");\n'
        '    println!("tool: {said}");\n'
        '    let shell = std::process::Command::new("/bin/sh").args(["-c", "exit 4"]).status();\n'
        "    assert_eq!(shell.unwrap().code(), Some(4));\n}\n"
    ),
}
"""Its programs need home's library, and, themselves and by that, a function of home's glibc."""


HERE: Final = next(
    line
    for line in Path("/etc/os-release").read_text().splitlines()
    if line.startswith("VERSION_CODENAME=")
)
"""How the server says what it is."""


def furnish(host: TrixieHost) -> None:
    """Home's library, a project."""
    (host.root / "root" / "only.c").write_text(LIBRARY)
    words = ["-shared", "-fPIC", "-O1", "-o", "/usr/local/lib/libonlyhome.so.1", "/root/only.c"]
    as_root(host, "gcc", *words, "-Wl,-soname,libonlyhome.so.1")
    as_root(host, "ln", "-s", "libonlyhome.so.1", "/usr/local/lib/libonlyhome.so")
    as_root(host, "ldconfig")
    write_project(host, APP)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    sysroot = subprocess.run(
        ["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with newer_home(home_tree("trixie-home"), {Path(sysroot): RUST}, RUST) as opened:
        furnish(opened.host)
        yield opened


def glibc(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)\s*$", text.splitlines()[0])
    assert found is not None, text
    return tuple(map(int, found.groups()))


def test_home_is_newer_than_the_server(home: Home) -> None:
    """Or else these tests would show nothing."""
    assert glibc(home.run("ldd", "--version").stdout) >= (2, 38)
    assert glibc(" ".join(platform.libc_ver())) < (2, 38)
    assert home.run("test", "-r", "/usr/local/lib/libonlyhome.so.1").status == 0
    assert not list(Path("/usr").rglob("libonlyhome*"))


def test_tests_run_there_with_homes_library_and_glibc(home: Home) -> None:
    """Unit tests, an integration test and the program it starts; doctests; then plain cargo."""
    done = home.burst("test", "--", "--nocapture").check()
    assert "test says ... ok" in done.stdout, done.stdout + done.stderr
    assert "test starts ... ok" in done.stdout
    assert f"tool: homemad {HERE}" in done.stdout, done.stdout
    assert "src/lib.rs - words" in done.stdout
    assert re.search(rf"[2-9] programs run on {re.escape(home.address)}", done.stderr), done.stderr
    here = home.run("cargo", "test", "--", "--nocapture").check()
    assert "tool: homemad VERSION_CODENAME=trixie" in here.stdout


def test_a_program_runs_there(home: Home) -> None:
    """With its exit code; `run-local` has the real file here."""
    done = home.burst("run", "-q")
    assert (done.status, done.stdout) == (3, f"homemad {HERE}\n"), done.stderr
    done = home.burst("run-local", "-q")
    assert (done.status, done.stdout) == (3, "homemad VERSION_CODENAME=trixie\n"), done.stderr


def test_what_the_server_built_is_what_home_builds(home: Home) -> None:
    """The same file as plain cargo's, linked with home's library and glibc."""
    home.burst("build").check()
    program = f"{PROJECT}/target/debug/app"
    theirs = home.run("sha256sum", program).check().stdout
    home.run("cargo", "clean").check()
    home.run("cargo", "build").check()
    assert home.run("sha256sum", program).check().stdout == theirs
