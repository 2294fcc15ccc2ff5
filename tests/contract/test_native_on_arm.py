"""Our native parts on aarch64: built by its compiler without a warning, and run under qemu-user.

qemu starts threads of its own, so namespaces are refused there: of the sandbox, `plain` is run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from burst_wrapper import native_build
from burst_wrapper.native_build import build_native

COMPILER = "aarch64-linux-gnu-gcc"
SYSROOT = Path("/usr/aarch64-linux-gnu")
LOOKS = """
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
int main(void) {
    struct stat unused;
    getenv("SPECIAL");
    stat("/nowhere", &unused);
    return open("/etc/passwd", O_RDONLY) < 0;
}
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which(COMPILER)
    if found is None:
        pytest.skip(f"{COMPILER} is not installed")
    return found


@pytest.fixture(scope="module")
def qemu() -> str:
    found = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if found is None:
        pytest.skip("qemu-user is not installed")
    return found


@pytest.fixture(scope="module")
def tools(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> native_build.NativeTools:
    folder = tmp_path_factory.mktemp("arm")
    built = build_native(os.fsencode(compiler), folder, folder / "nothing")
    assert built.reason == ""
    return built


@pytest.mark.parametrize("name", ["sandbox.c", "client.c", "observer.c"])
def test_no_compiler_warns(name: str, compiler: str, tmp_path: Path) -> None:
    """Neither home's own nor the other architecture's."""
    strict = ["-std=gnu11", "-O1", "-fno-builtin", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    source = native_build.SOURCES / name
    for cc in (compiler, shutil.which("cc") or compiler):
        argv = [cc, *strict, "-c", "-o", str(tmp_path / "o"), str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def sandboxed(
    qemu: str, tools: native_build.NativeTools, *words: str, script: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A shell under it, and what it said on its status descriptor, less what was used."""
    assert tools.sandbox is not None
    given, give = os.pipe()
    told, tell = os.pipe()
    tokens = ["plain", *words, "status", str(tell), "env", "A=b", "arg", "sh", "arg", "-c"]
    tokens += ["arg", script, "exec", "/bin/sh"]
    os.write(give, "\0".join([*tokens, ""]).encode())
    os.close(give)
    argv = [qemu, str(tools.sandbox), str(given)]
    done = subprocess.run(
        argv, pass_fds=(given, tell), capture_output=True, text=True, check=False, timeout=60
    )
    os.close(given)
    os.close(tell)
    with open(told, encoding="ascii") as records:
        said = records.read().split("\0")
    return done, [record for record in said if record and not record.startswith("usage ")]


@pytest.mark.slow
def test_the_sandbox_starts_and_tells(qemu: str, tools: native_build.NativeTools) -> None:
    """Streams, environment, limits, exit code, death by a signal."""
    done, said = sandboxed(qemu, tools, script="echo out $A; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out b\n", "err\n")
    assert said == ["started 0", "exit 7"]
    done, said = sandboxed(qemu, tools, script="kill -KILL $$")
    assert (done.returncode, said) == (137, ["started 0", "signal 9"])
    done, said = sandboxed(qemu, tools, "group", "rlimit", "7", "64", "64", script="ulimit -n")
    assert (done.returncode, done.stdout) == (0, "64\n")
    assert said == ["started 0", "running 0", "exit 0"]


@pytest.mark.slow
def test_the_client_becomes_the_compiler(
    qemu: str, tools: native_build.NativeTools, tmp_path: Path, home: Path
) -> None:
    """A question of cargo's, with its arguments, its exit code and its death."""
    assert tools.client is not None
    client = tmp_path / "burst-rustc"
    shutil.copy(tools.client, client)

    def call(*argv: str) -> subprocess.CompletedProcess[str]:
        whole = [qemu, str(client), *argv]
        return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=60)

    assert call("/bin/echo", "-vV").stdout == "-vV\n"
    assert call("sh", "-c", "exit 5").returncode == 5
    assert call("sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM


@pytest.mark.slow
def test_the_observer_sees(
    qemu: str, compiler: str, tools: native_build.NativeTools, tmp_path: Path
) -> None:
    """Preloaded into a program of that architecture's libc."""
    if not SYSROOT.is_dir():
        pytest.skip(f"{SYSROOT} is not there")
    source, program, log = tmp_path / "looks.c", tmp_path / "looks", tmp_path / "log"
    source.write_text(LOOKS)
    subprocess.run([compiler, "-O0", "-fno-builtin", "-o", program, source], check=True)
    descriptor = os.open(log, os.O_CREAT | os.O_RDWR | os.O_APPEND)
    variables = {"LD_PRELOAD": str(tools.observer), "BURST_OBSERVER_FD": str(descriptor)}
    given = [word for name, value in variables.items() for word in ("-E", f"{name}={value}")]
    argv = [qemu, "-L", str(SYSROOT), *given, str(program)]
    subprocess.run(argv, pass_fds=(descriptor,), check=True, timeout=60)
    os.close(descriptor)
    hello, *seen = log.read_text().split("\0")[:-1]
    assert hello.startswith("H-0 ")
    assert hello.endswith(f" 1 {program}")
    assert {"e-2 SPECIAL", "s-2 /nowhere", "o-0 /etc/passwd"} <= set(seen)
