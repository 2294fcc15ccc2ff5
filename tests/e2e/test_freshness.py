"""What cargo makes of our target folder afterwards: nothing is compiled that need not be, with the
wrapper or without it; and cargo is done when it is done."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import projects
from compare import compare_targets, report
from space import BURST_RUSTC, Space, without_waiting
from wrong_hits import machines, package, workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_STATUS = re.compile(r"^ +(Fresh|Dirty|Compiling|Checking|Documenting) ", re.MULTILINE)
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_TIMES = re.compile(r" in \d+(\.\d+)?m?s")
_PATIENCE_S = 300


@pytest.fixture(scope="module")
def machine() -> Iterator[Space]:
    with machines() as space:
        yield space


@pytest.fixture
def space(machine: Space, tmp_path: Path) -> Iterator[Space]:
    """With a project of its own, still empty."""
    folder = machine.folder / tmp_path.name
    yield attrs.evolve(machine, project=folder)
    shutil.rmtree(folder, ignore_errors=True)


def _statuses(stderr: str) -> dict[str, int]:
    """How often cargo says each of its words for a unit, with `-v`."""
    found = _STATUS.findall(stderr)
    return {word: found.count(word) for word in found}


def _tiny(space: Space) -> None:
    projects.checkout("tiny", space.project)


_VERBS = [
    ("build", "--all-targets"),
    ("build", "--release"),
    ("check",),
    ("clippy", "--all-targets"),
    ("test", "--no-run"),
    ("doc",),
]


@pytest.mark.parametrize("verb", _VERBS, ids=" ".join)
@pytest.mark.parametrize("first", ["burst", "plain"])
@pytest.mark.parametrize("incremental", ["0", "1"])
def test_the_second_build_is_all_fresh(
    space: Space, verb: tuple[str, ...], first: str, incremental: str
) -> None:
    """With the wrapper, without it, and the other way round; after the daemon's end too."""
    _tiny(space)
    arguments = [verb[0], "--offline", "-v", *verb[1:]]
    env = {"CARGO_INCREMENTAL": incremental}
    runs = {"burst": space.cargo, "plain": space.plain}
    built = _statuses(runs[first](*arguments, **env).check().stderr)
    assert "Fresh" not in built
    before = _stamps(space.project / "target")
    other = "plain" if first == "burst" else "burst"
    for who in (first, other, first):
        again = _statuses(runs[who](*arguments, **env).check().stderr)
        assert again.keys() == {"Fresh"}, f"{who} after {first}: {again}"
    space.stop()
    assert _statuses(space.cargo(*arguments, **env).check().stderr).keys() == {"Fresh"}
    assert _stamps(space.project / "target") == before


def _stamps(target: Path) -> dict[str, int]:
    """When each artifact was written: what rustc makes lies in `deps` and below `build`."""
    return {
        str(path.relative_to(target)): path.stat().st_mtime_ns
        for path in target.rglob("*")
        if path.is_file()
        and not {"deps", "build"}.isdisjoint(path.parts)
        # Cargo notes there when it looked at what last time.
        and ".fingerprint" not in path.parts
        and not path.name.endswith("-lock")
    }


@pytest.mark.parametrize("incremental", ["0", "1"])
def test_a_touched_source_is_built_again(space: Space, incremental: str) -> None:
    """Cargo goes by times; what it asks for then is a hit, new enough to be fresh afterwards."""
    _tiny(space)
    arguments = ["build", "--offline", "-v"]
    env = {"CARGO_INCREMENTAL": incremental}
    space.cargo(*arguments, **env).check()
    plain = space.project.with_name(space.project.name + ".first")
    shutil.copytree(space.project / "target", plain, symlinks=True)
    source = space.project / "library/src/lib.rs"
    for touch in range(2):
        now_ns = time.time_ns()
        os.utime(source, ns=(now_ns, now_ns))
        assert "Dirty" in _statuses(space.cargo(*arguments, **env).check().stderr), touch
        where = {unit["crate"]: unit["where"] for unit in space.units()}
        assert where.keys() == {"library", "app"}
        if incremental == "0":
            assert set(where.values()) == {"hit"}
        for run in (space.cargo, space.plain):
            assert _statuses(run(*arguments, **env).check().stderr).keys() == {"Fresh"}
    differences = _without_links(plain, space.project / "target", incremental=incremental == "1")
    assert not differences, differences
    source.write_text(source.read_text() + "\npub fn added() {}\n")
    space.cargo(*arguments, **env).check()
    assert {unit["where"] for unit in space.units()} == {"remote"}
    shutil.rmtree(plain)


@pytest.mark.parametrize("incremental", ["0", "1"])
@pytest.mark.parametrize("verb", ["build", "check"])
def test_edits_in_a_target_folder_that_plain_cargo_filled(
    space: Space, verb: str, incremental: str
) -> None:
    """Who enables burst has a warm target/, of which burst knows nothing; the unit's own earlier
    output is there, too."""
    names = [f"{name}_{verb}_{incremental}" for name in ("below", "middle", "above")]
    below, middle, above = names
    calls = f"pub fn f() -> u32 {{ {below}::f() + 1 }}\n"
    space.write(
        {
            "Cargo.toml": workspace(*names),
            f"{below}/Cargo.toml": package(below),
            f"{below}/src/lib.rs": "pub fn f() -> u32 { 1 }\n",
            f"{middle}/Cargo.toml": package(middle, below),
            f"{middle}/src/lib.rs": calls,
            f"{above}/Cargo.toml": package(above, middle),
            f"{above}/src/lib.rs": f"pub fn f() -> u32 {{ {middle}::f() }}\n",
            f"{above}/src/main.rs": f'fn main() {{ println!("{{}}", {above}::f()) }}\n',
        }
    )
    env = {"CARGO_INCREMENTAL": incremental}
    space.plain(verb, **env).check()
    for name, text in (
        (middle, calls.replace("+ 1", "+ 2")),
        (below, "pub fn f() -> u32 { 3 }\n"),
        (middle, calls.replace("+ 1", "+ 4")),
        (above, f"pub fn f() -> u32 {{ {middle}::f() * 5 }}\n"),
    ):
        (space.project / name / "src/lib.rs").write_text(text)
        space.cargo(verb, **env).check()
        assert {unit["where"] for unit in space.units()} == {"remote"}
    edited = space.project.with_name(space.project.name + ".edited")
    (space.project / "target").rename(edited)
    space.plain(verb, **env).check()
    same = compare_targets(space.project / "target", edited, incremental=incremental == "1")
    assert not same, report(same)
    shutil.rmtree(edited)


def _without_links(plain: Path, burst: Path, *, incremental: bool) -> str:
    """`plain` is a copy, so that it has none of cargo's hard links."""
    found = compare_targets(plain, burst, incremental=incremental)
    return report([difference for difference in found if difference.kind != "links"])


def test_a_removed_artifact_is_made_again(space: Space) -> None:
    """People clean up by hand; what is missing comes back with what it was."""
    _tiny(space)
    arguments = ["build", "--offline", "-v"]
    space.cargo(*arguments).check()
    before = _contents(space.project / "target/debug/deps")
    for pattern in ("app-*", "libderive-*.so"):
        for path in (space.project / "target/debug/deps").glob(pattern):
            path.unlink()
        said = space.cargo(*arguments).check().stderr
        assert "Dirty" in _statuses(said), pattern
        assert _contents(space.project / "target/debug/deps") == before, pattern
        assert _statuses(space.plain(*arguments).check().stderr).keys() == {"Fresh"}


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_cleaning_one_package(space: Space) -> None:
    """`cargo clean -p` and a build: the package anew, the rest fresh."""
    _tiny(space)
    arguments = ["build", "--offline", "-v"]
    space.cargo(*arguments).check()
    before = _contents(space.project / "target/debug/deps")
    space.cargo("clean", "--offline", "-p", "derive").check()
    space.cargo(*arguments).check()
    assert {unit["crate"] for unit in space.units()} >= {"derive"}
    assert {unit["where"] for unit in space.units()} == {"hit"}
    assert _contents(space.project / "target/debug/deps") == before
    assert _statuses(space.plain(*arguments).check().stderr).keys() == {"Fresh"}


def test_the_first_build_ends_when_cargo_does() -> None:
    """Nobody holds cargo's pipes once it is done: neither the daemon that its first wrapper
    started nor the agent. Whoever reads them sees their end."""
    with Space.open() as space:
        _tiny(space)
        cargo = subprocess.Popen(
            ["cargo", "build", "--offline"],
            cwd=space.project,
            env={**space.env, "RUSTC_WRAPPER": str(BURST_RUSTC), "BURST_REQUIRE_REMOTE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        pipes = [cargo.stdin, cargo.stdout, cargo.stderr]
        names = {f"pipe:[{os.fstat(pipe.fileno()).st_ino}]" for pipe in pipes if pipe is not None}
        assert len(names) == 3
        _, said = cargo.communicate(timeout=_PATIENCE_S)
        assert cargo.returncode == 0, said.decode()
        assert not _holders(names)
        assert {unit["where"] for unit in space.units()} == {"remote"}
        running = _processes_of(space)
        assert any("burst_wrapper.daemon.main" in line for line in running), running
        assert any(line.startswith("burst-agent ") for line in running), running


def _holders(names: set[str]) -> list[str]:
    """Processes that have one of these pipes open."""
    found = []
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(fd) in names:
                found.append((fd.parents[1] / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def _processes_of(space: Space) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(space.folder).encode() in (entry / "environ").read_bytes():
                words = (entry / "cmdline").read_text().replace("\0", " ")
                found.append(f"{(entry / 'comm').read_text().strip()} {words}")
        except OSError:
            continue
    return found


# --- the width of a terminal ---


def _in_terminal(space: Space, columns: int, *arguments: str, wrapper: bool) -> str:
    """Cargo's stderr on a terminal of that width, as text without escapes."""
    env = {**space.env, "CARGO_TERM_PROGRESS_WHEN": "never", "TERM": "xterm-256color"}
    if wrapper:
        env |= {"RUSTC_WRAPPER": str(BURST_RUSTC), "BURST_REQUIRE_REMOTE": "1"}
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    cargo = subprocess.Popen(
        ["cargo", *arguments],
        cwd=space.project,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 1 << 16):
            parts.append(part)
    except OSError:
        pass  # EIO: the last one who had the other end open is gone
    finally:
        os.close(ours)
    assert cargo.wait(_PATIENCE_S) == 0, b"".join(parts)
    return _told(_ESCAPES.sub("", b"".join(parts).decode()).replace("\r\n", "\n"))


def _told(stderr: str) -> str:
    """Without times, and without what cargo says of other cargos."""
    return "\n".join(_TIMES.sub("", without_waiting(stderr)).splitlines())


def _loud(space: Space) -> None:
    long = " + ".join(f"some_quite_long_name_{n}" for n in range(12))
    parameters = ", ".join(f"some_quite_long_name_{n}: u64" for n in range(12))
    files = {
        "Cargo.toml": workspace("app", "loud", "quiet"),
        "quiet/Cargo.toml": package("quiet"),
        "quiet/src/lib.rs": "pub fn f() -> u8 { 1 }\n",
        "loud/Cargo.toml": package("loud", "quiet"),
        "loud/src/lib.rs": f"pub fn g({parameters}) -> u64 {{ let unused = {long}; 1 }}\n",
        "app/Cargo.toml": package("app", "loud", "quiet"),
        "app/src/main.rs": 'fn main() { println!("{}", quiet::f()); }\n',
    }
    space.project.mkdir()
    space.write(files)


@pytest.mark.parametrize("verb", ["build", "clippy"])
def test_a_resized_terminal_compiles_again_only_what_spoke(space: Space, verb: str) -> None:
    """100 columns, then from an empty target folder 140, then a pipe: hits but for the unit with
    a diagnostic, whose text has another shape. Back at 100 all are hits. Each looks as cargo's."""
    _loud(space)
    arguments = (verb, "--offline", "-j1")
    plain = {}
    for columns in (100, 140):
        plain[columns] = _in_terminal(space, columns, *arguments, wrapper=False)
        space.fresh_target()
    assert plain[100] != plain[140], "the width makes no difference"
    spoke = {"quiet": "hit", "loud": "remote", "app": "hit"}
    first = dict.fromkeys(spoke, "remote")
    silent = dict.fromkeys(spoke, "hit")
    for columns, expected in ((100, first), (140, spoke), (100, silent), (140, silent)):
        said = _in_terminal(space, columns, *arguments, wrapper=True)
        assert _where(space) == expected, columns
        assert said == plain[columns]
        space.fresh_target()
    piped = space.cargo(*arguments).check().stderr
    assert _where(space) == spoke
    space.fresh_target()
    assert _told(piped) == _told(space.plain(*arguments).check().stderr)
    space.fresh_target()
    said = _in_terminal(space, 100, *arguments, wrapper=True)
    assert _where(space) == silent
    # A unit that is fresh says what it said, in the width of then, as without us.
    assert _in_terminal(space, 140, *arguments, wrapper=True).count("unused") == said.count(
        "unused"
    )


def _where(space: Space) -> dict[str, str]:
    return {unit["crate"]: unit["where"] for unit in space.units()}
