"""Home is a Debian trixie machine, the server an older one: cargo itself runs on the newer glibc.

Home has its distribution's Python with our wheel, a C compiler, a Rust toolchain and a library of
its own; the server is this machine, reached over a cable between the two, and has neither that
library nor home's glibc. The other direction is in test_trixie.py.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

import trixie
from space import Done
from sshd import SSHD, Sshd
from trixie import TrixieHost, Unavailable, cached_tree

pytestmark = [
    *(pytest.mark.root, pytest.mark.slow, pytest.mark.thorough),
    pytest.mark.timeout(1800),
]

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = 1
PACKAGES: Final = (*trixie.PACKAGES, "python3-venv", "gcc", "libc6-dev")
VENV: Final = "/opt/burst"
RUST: Final = "/opt/rust"
PROJECT: Final = f"/home/{trixie.USER}/app"

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


@attrs.frozen
class Home:
    """The developer's machine, and the server that it may use."""

    host: TrixieHost
    server: Sshd
    address: str

    def run(self, *argv: str, **environ: str) -> Done:
        """In the project, as the developer."""
        path = f"{VENV}/bin:{RUST}/bin:/usr/bin:/bin"
        done = self.host.run(argv, cwd=PROJECT, PATH=path, CARGO_INCREMENTAL="0", **environ)
        return Done(done.returncode, done.stdout, done.stderr)

    def burst(self, *words: str) -> Done:
        return self.run("cargo", "burst", *words, BURST_HOST=self.address)


def requirements() -> list[str]:
    with open(ROOT / "pyproject.toml", "rb") as file:
        found: list[str] = tomllib.load(file)["project"]["dependencies"]
    return found


def pip(*words: str | Path) -> None:
    pytest.importorskip("pip", reason="needs pip")
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"pip: {error.stderr[-1000:]}") from error


def make(root: Path) -> None:
    """trixie with a compiler, and an environment that lacks nothing but our wheel."""
    trixie.make(root, PACKAGES)
    python = subprocess.run(
        ["chroot", root, "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    wheels = root / "opt" / "wheels"
    machine = platform.machine()
    fits = [f"--platform=manylinux{which}_{machine}" for which in ("2014", "_2_28")]
    fits += ["--only-binary=:all:", f"--python-version={python}"]
    pip("download", "--dest", wheels, *fits, *requirements())
    subprocess.run(["chroot", root, "python3", "-m", "venv", VENV], check=True)
    install = [f"{VENV}/bin/pip", "install", "--quiet", "--no-index", "--find-links=/opt/wheels"]
    # Nothing of this machine's pip: its settings name files that are not there.
    bare = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(["chroot", root, *install, *requirements()], check=True, env=bare)
    shutil.rmtree(wheels)


def wheel(folder: Path) -> Path:
    pytest.importorskip("hatchling", reason="building the wheel needs hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def as_root(host: TrixieHost, *argv: str) -> None:
    done = host.run(argv, user=None)
    assert done.returncode == 0, done.stdout + done.stderr


def furnish(host: TrixieHost) -> None:
    """Our wheel, home's library, a project."""
    found = wheel(host.folder / "wheel")
    place = host.root / "root" / found.name
    shutil.copyfile(found, place)
    install = ["install", "--quiet", "--no-index", "--no-deps", f"/root/{found.name}"]
    as_root(host, f"{VENV}/bin/pip", *install)
    (host.root / "root" / "only.c").write_text(LIBRARY)
    words = ["-shared", "-fPIC", "-O1", "-o", "/usr/local/lib/libonlyhome.so.1", "/root/only.c"]
    as_root(host, "gcc", *words, "-Wl,-soname,libonlyhome.so.1")
    as_root(host, "ln", "-s", "libonlyhome.so.1", "/usr/local/lib/libonlyhome.so")
    as_root(host, "ldconfig")
    for name, text in APP.items():
        path = host.root / PROJECT.lstrip("/") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    as_root(host, "chown", "-R", f"{trixie.UID}:{trixie.UID}", PROJECT)


def acquaint(host: TrixieHost, server: Sshd) -> str:
    """The server's address, for a developer who has its key and a key for it."""
    server.extra = f"ListenAddress {host.our_ip}"
    server.restart()
    ssh = host.root / "home" / trixie.USER / ".ssh"
    shutil.copyfile(server.client_home / ".ssh" / "id_ed25519", ssh / "id_ed25519")
    (ssh / "id_ed25519").chmod(0o600)
    (ssh / "known_hosts").write_text(f"[{host.our_ip}]:{server.port} {server.host_key_line}\n")
    as_root(host, "chown", "-R", f"{trixie.UID}:{trixie.UID}", f"/home/{trixie.USER}/.ssh")
    return f"{server.user}@{host.our_ip}:{server.port}"


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    sysroot = subprocess.run(
        ["rustc", "--print", "sysroot"], check=True, capture_output=True, text=True
    ).stdout.strip()
    needs = hashlib.sha256(" ".join(requirements()).encode()).hexdigest()[:12]
    with tempfile.TemporaryDirectory(prefix="burst-newer-", dir="/var/tmp") as folder:
        try:
            lower = cached_tree(f"trixie-home-{RECIPE}-{needs}", make)
            with (
                TrixieHost.start(
                    Path(folder, "home"), lower=lower, shown={Path(sysroot): RUST}
                ) as host,
                Sshd.start(Path(folder, "server"), plain_user=True) as server,
            ):
                furnish(host)
                opened = Home(host, server, acquaint(host, server))
                yield opened
                opened.run("burst", "stop")
        except Unavailable as error:
            pytest.skip(str(error))


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
