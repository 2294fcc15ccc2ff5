"""burst_wrapper.callers: who called, seen through /proc with real processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from burst_wrapper.callers import Caller, Callers, nearest_target_dir, same_process

# A cargo that starts one wrapper: says the wrapper's pid and lives until its stdin ends.
CARGO = """
import subprocess, sys
name = sys.argv[1] if len(sys.argv) > 1 else "cargo"
with open("/proc/self/comm", "w") as comm:
    comm.write(name)
child = subprocess.Popen(["/bin/sleep", "600"], stdin=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@attrs.frozen
class Process:
    popen: subprocess.Popen[str]
    wrapper: int


@contextmanager
def cargo(name: str = "cargo", **env: str) -> Iterator[Process]:
    popen = subprocess.Popen(
        [sys.executable, "-c", CARGO, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )
    with popen:
        assert popen.stdout is not None
        assert popen.stdin is not None
        yield Process(popen, int(popen.stdout.readline()))
        popen.stdin.close()
        popen.wait()


def test_the_parent_of_a_wrapper() -> None:
    """Its pid, name and environment; the same object for every wrapper of one cargo."""
    callers = Callers()
    with cargo(FAMOUS="yes", EMPTY="") as process:
        caller = callers.of(process.wrapper)
        assert caller is not None
        assert caller.pid == process.popen.pid
        assert caller.cwd == os.getcwdb()
        assert caller.is_cargo
        assert caller.environ is not None
        assert caller.environ[b"FAMOUS"] == b"yes"
        assert caller.environ[b"EMPTY"] == b""
        assert callers.of(process.wrapper) is caller
        assert callers.known(process.wrapper) is caller
        assert callers.known(1) is None
        assert same_process(caller)
    assert not same_process(caller)


@pytest.mark.parametrize("name", ["make", "a) R 1 (b", "))", "cargo-clippy"])
def test_names_that_look_like_something_else(name: str) -> None:
    """A process may call itself as it likes; only cargo is cargo."""
    with cargo(name) as process:
        caller = Callers().of(process.wrapper)
        assert caller is not None
        assert caller.pid == process.popen.pid
        assert caller.name == name.encode()
        assert not caller.is_cargo


def test_nobody_there() -> None:
    """A wrapper that ended, a pid that never was, one whose parent is the first process."""
    callers = Callers()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert callers.of(child.pid) is None
    assert callers.of(-1) is None
    assert callers.of(2**22 + 1) is None
    assert callers.of(1) is None


FIRST = """
import os, subprocess, sys
from burst_wrapper.callers import Callers
with open("/proc/self/comm", "w") as comm:
    comm.write(sys.argv[1])
child = subprocess.Popen(["/bin/sleep", "600"], stdin=subprocess.DEVNULL)
caller = Callers().of(child.pid)
child.kill()
print(caller and (os.getpid(), caller.pid, caller.is_cargo, caller.environ[b"FAMOUS"]))
"""


@pytest.mark.parametrize(("name", "expected"), [("cargo", (1, 1, True, b"yes")), ("sh", None)])
def test_cargo_is_the_first_process_of_a_container(name: str, expected: object) -> None:
    """`docker run … cargo build`: it is cargo all the same. Any other first process adopted the
    wrapper of a cargo that is gone."""
    spaces = ["unshare", "-Urpfm", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*spaces, "true"], check=False).returncode:
        pytest.skip("no user namespaces")
    done = subprocess.run(
        [*spaces, sys.executable, "-c", FIRST, name],
        env={**os.environ, "FAMOUS": "yes"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(expected)


def test_a_zombie_no_longer_runs() -> None:
    """A killed cargo whose parent has not looked yet wants nothing any more."""
    with cargo() as process:
        caller = Callers().of(process.wrapper)
        assert caller is not None
        process.popen.kill()
        os.waitid(os.P_PID, process.popen.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.popen.pid}").exists()
        assert not same_process(caller)
        os.kill(process.wrapper, 9)


def test_a_later_process_with_that_pid_is_another_one() -> None:
    """The start time tells them apart."""
    with cargo() as process:
        callers = Callers()
        caller = callers.of(process.wrapper)
        assert caller is not None
        later = attrs.evolve(caller, start_ticks=caller.start_ticks + 1)
        assert not same_process(later)
        assert later != caller
        callers._known[caller.pid] = later
        assert callers.of(process.wrapper) == caller


# Target directories


def test_the_target_directory_is_the_one_cargo_marked(tmp_path: Path) -> None:
    """Above deps, examples or a build script's folder; with a target triple in between."""
    target = tmp_path / "target"
    out_dir = target / "x86_64-unknown-linux-gnu" / "debug" / "deps"
    out_dir.mkdir(parents=True)
    assert nearest_target_dir(bytes(out_dir)) == bytes(out_dir)
    (target / "CACHEDIR.TAG").write_text("")
    assert nearest_target_dir(bytes(out_dir)) == bytes(target)
    (target / "CACHEDIR.TAG").unlink()
    (target / ".rustc_info.json").write_text("")
    assert nearest_target_dir(bytes(target / "debug" / "build" / "x-1")) == bytes(target)
    assert nearest_target_dir(b"/") == b"/"
    assert nearest_target_dir(b"/nowhere/deps") == b"/nowhere/deps"


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [
        ([b"build"], b"build"),
        ([b"+nightly", b"check", b"--tests"], b"check"),
        ([b"--color", b"always", b"-Z", b"unstable-options", b"c"], b"c"),
        ([b"--config", b"net.offline=true", b"-q", b"test"], b"test"),
        ([b"-C", b"sub", b"build"], b"build"),
        ([b"--version"], b""),
        ([], b""),
    ],
)
def test_the_verb_of_a_cargo(arguments: list[bytes], verb: bytes) -> None:
    """Behind cargo's own options and their values."""
    assert Caller(1, 2, None, b"cargo", b"/", tuple(arguments)).verb == verb
