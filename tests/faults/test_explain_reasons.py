"""What `explain` must be able to say: who compiled, how much at once, and whose tokens were used.

Two cargos share their work; at -j1 a remote host is filled and home is not; make gets its tokens
back.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import faults
from builds import at
from faults import MANIFEST, Running, same, until
from projects import CARGO_HOME, checkout
from space import BURST_RUSTC, Space
from sshd import SSHD, Proxy

if TYPE_CHECKING:
    from ssh_lab import Lab

pytest_plugins = ("ssh_lab",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
needs_sshd = pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")

WIDE = 5
"""Libraries that nothing orders, each with a second of checking to do."""


def wide() -> dict[str, str]:
    spin = faults.held_project("checking")["held/src/lib.rs"]
    names = [f"part{number}" for number in range(WIDE)]
    files = {
        "Cargo.toml": f'[workspace]\nresolver = "2"\nmembers = {[*names, "app"]!r}\n',
        "app/Cargo.toml": MANIFEST.format(name="app")
        + "[dependencies]\n"
        + "".join(f'{name} = {{ path = "../{name}" }}\n' for name in names),
        "app/src/main.rs": 'fn main() {\n    println!("{}", part0::seven());\n}\n',
    }
    for name in names:
        files[f"{name}/Cargo.toml"] = MANIFEST.format(name=name)
        files[f"{name}/src/lib.rs"] = spin
    return files


def most_at_once(units: list[dict[str, Any]]) -> int:
    """How many wrappers were waiting at the same time, by the times that explain tells."""
    ends = [(u["started_ms"] + u["wall_ms"], -1) for u in units]
    edges = sorted([*((u["started_ms"], 1) for u in units), *ends])
    now = most = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


@pytest.fixture
def space() -> Iterator[Space]:
    with Space.open(CARGO_INCREMENTAL="0", CARGO_HOME=CARGO_HOME) as opened:
        yield opened


# --- two cargos ---


@pytest.mark.thorough
def test_two_cargos_compile_equal_units_once(space: Space) -> None:
    """Two checkouts at once: what plain cargo makes equal in both is compiled once, the other cargo
    gets what the first one's run says while it runs, or what it stored. (The rest is serde_core,
    whose OUT_DIR is in its metadata, and what needs it.)"""
    first, second = (at(space, space.folder / name) for name in ("one", "two"))
    for checked_out in (first, second):
        checkout("macros", checked_out.project)
    arguments = ("build", "--offline", "--locked", "-p", "serde_json", "-p", "futures-util")
    expected = [faults.plain(each, *arguments) for each in (first, second)]
    metadata = [
        {path.name: path.read_bytes() for path in (plain.target / "debug/deps").glob("*.rmeta")}
        for plain in expected
    ]
    assert metadata[0].keys() == metadata[1].keys()
    equal = {
        name.removeprefix("lib").rpartition("-")[0]
        for name, data in metadata[0].items()
        if data == metadata[1][name]
    }
    assert len(equal) > 12
    with (
        Running.start(first, *arguments, BURST_REQUIRE_REMOTE="1") as one,
        Running.start(second, *arguments, BURST_REQUIRE_REMOTE="1") as two,
    ):
        done = [one.finish(240), two.finish(240)]
    for each, plain, ended in zip((first, second), expected, done, strict=True):
        same(each, plain, ended)
    units = [*space.units(1), *space.units(2)]
    libraries = [u for u in units if u["kind"] == "lib" and u["crate"] in equal]
    executed = Counter(u["crate"] for u in libraries if u["reason"] == "executed")
    assert executed == Counter(equal)
    others = {u["reason"] for u in libraries} - {"executed"}
    assert others <= {"hit", "coalesced"}


def test_two_builds_of_one_folder_after_each_other(space: Space) -> None:
    """cargo itself makes the second wait; what it finds is Fresh."""
    space.write(faults.held_project("checking"))
    with Running.start(space) as one, Running.start(space) as two:
        assert one.finish().status == two.finish().status == 0
    assert space.cargo("build", "-v").check().stderr.count(" Fresh ") == 3


# --- how much at once ---


@needs_sshd
def test_one_job_fills_the_host(lab: Lab) -> None:
    """At -j1 several units are in flight over there: their wrappers give cargo its token back."""
    lab.space.cargo("build").check()
    lab.write(wide())
    expected = faults.plain(lab.space, "build", "-j1")
    same(lab.space, expected, lab.space.cargo("build", "-j1"))
    units = lab.space.units()
    assert {u["where"] for u in units} == {"remote"}
    assert most_at_once(units) >= 3


@needs_sshd
def test_donation_can_be_switched_off(lab: Lab) -> None:
    """`donate = false`: cargo's -j holds for remote units too."""
    faults.configure(lab.space, "donate = false\n")
    lab.space.cargo("build").check()
    lab.write(wide())
    lab.space.cargo("build", "-j1").check()
    assert most_at_once(lab.space.units()) == 1


def test_one_job_is_one_job_at_home(space: Space) -> None:
    """The embedded agent is this machine: -j1 means one at a time."""
    space.write(wide())
    space.cargo("build", "-j1").check()
    assert most_at_once(space.units()) == 1


@needs_sshd
def test_what_comes_home_stays_within_the_jobs(lab: Lab) -> None:
    """The link breaks with many units in flight at -j1: at home they run one at a time."""
    faults.configure(lab.space, "silence_s = 4\n")
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        lab.space.cargo("build").check()
        lab.write(wide())
        expected = faults.plain(lab.space, "build", "-j1")
        with Running.start(lab.space, "build", "-j1") as cargo:
            until(lambda: len(flying(lab)) >= 2, "several units over there")
            proxy.cut()
            until(lambda: not flying(lab), "the end of all over there")
            most = 0
            while cargo.process.poll() is None:
                home = [n for n in range(WIDE) if faults.rustcs(lab.space, f"part{n}")]
                most = max(most, len(home))
            same(lab.space, expected, cargo.finish())
        lab.space.stop()
    assert most == 1


def flying(lab: Lab) -> list[int]:
    return [pid for number in range(WIDE) for pid in lab.remote_rustcs(f"part{number}")]


# --- make ---

MAKEFILE = """\
all: built
\t+@python3 ../tokens.py after
built:
\t+@python3 ../tokens.py before
\t+@cargo build
"""
TOKENS = """\
import json, os, re, sys
flags = os.environ["MAKEFLAGS"]
found = re.search(r"--jobserver-(?:auth|fds)=(?:fifo:(\\S+)|(\\d+),\\d+)", flags)
path = found[1] or f"/proc/self/fd/{found[2]}"
fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
taken = b""
try:
    while True:
        taken += os.read(fd, 1)
except BlockingIOError:
    pass
os.write(fd, taken)
with open(f"../{sys.argv[1]}.json", "w") as file:
    json.dump(len(taken), file)
"""


def make(space: Space, jobs: int, *, required: bool = False) -> tuple[int, int]:
    """`make -jN` around a cargo build: free tokens before it and after it."""
    (space.project / "Makefile").write_text(MAKEFILE)
    (space.folder / "tokens.py").write_text(TOKENS)
    space.run(
        "make",
        f"-j{jobs}",
        RUSTC_WRAPPER=str(BURST_RUSTC),
        BURST_REQUIRE_REMOTE=str(int(required)),
    ).check()
    before, after = (
        json.loads((space.folder / f"{name}.json").read_text()) for name in ("before", "after")
    )
    return before, after


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("jobs", [2, 4])
def test_make_has_its_tokens_back(space: Space, jobs: int) -> None:
    """The embedded agent under GNU make's jobserver."""
    space.write(wide())
    assert make(space, jobs, required=True) == (jobs - 1, jobs - 1)


@needs_sshd
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("breaks", [False, True])
def test_make_has_its_tokens_back_from_a_host(lab: Lab, breaks: bool) -> None:
    """With a remote host, and with one that is lost in the middle: nothing is donated to make,
    which counts, and nothing is kept."""
    faults.configure(lab.space, "silence_s = 4\n")
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        lab.space.cargo("build").check()
        lab.write(wide())
        if breaks:
            proxy.cut_after(5_000)
        assert make(lab.space, 2) == (1, 1)
        units = lab.space.units()
        assert most_at_once(units) <= 2
        if not breaks:
            assert {u["where"] for u in units} == {"remote"}
        lab.space.stop()


@needs_sshd
def test_tokens_of_a_cargo_that_fails(lab: Lab) -> None:
    """Errors among units in flight at -j1: cargo ends by itself, with each error once."""
    lab.space.cargo("build").check()
    files = wide()
    for number in (1, 3):
        files[f"part{number}/src/lib.rs"] += f"pub fn wrong() -> u32 {{\n    missing{number}\n}}\n"
    lab.write(files)
    arguments = ("build", "-j1", "--keep-going")
    expected = faults.plain(lab.space, *arguments)
    done = lab.space.cargo(*arguments)
    assert done.status == expected.done.status == 101
    for number in (1, 3):
        assert done.stderr.count(f"cannot find value `missing{number}`") == 1
    assert faults.words(done.stderr) == faults.words(expected.done.stderr)
    assert Path(lab.space.project / "target").exists()
