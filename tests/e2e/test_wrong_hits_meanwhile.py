"""The world changes while a compile runs, and builds that are killed in the middle.

`hold!()` stops the compiler from within (SIGSTOP), so that a test can do what it likes meanwhile
and let it go on (SIGCONT). It stops at home just the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from space import BURST_RUSTC, Space
from wrong_hits import Twin, macro_crate, package, workspace

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_PATIENCE_S = 120
_HOLD = """
extern "C" { fn raise(signal: i32) -> i32; }
#[proc_macro] pub fn hold(_: TokenStream) -> TokenStream {
    unsafe { raise(19); }
    TokenStream::new()
}
#[proc_macro] pub fn read(input: TokenStream) -> TokenStream {
    literal(fs::read_to_string(place(input)).unwrap_or("absent".into()))
}
#[proc_macro] pub fn list(input: TokenStream) -> TokenStream {
    let mut names: Vec<_> = fs::read_dir(place(input)).unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    literal(names.join(","))
}
#[proc_macro] pub fn exists(input: TokenStream) -> TokenStream {
    literal(if place(input).exists() { "there" } else { "not there" })
}
"""


@pytest.fixture
def twin(twin: Twin) -> Twin:
    """With a program, and the macros it uses."""
    twin.write({"Cargo.toml": workspace("app", "m"), **macro_crate("m", _HOLD)})
    return twin.write({"app/Cargo.toml": package("app", "m")})


def _main(expression: str, *, hold: bool, modules: str = "") -> str:
    held = "m::hold!();" if hold else "// no hold: as long"
    return f'{held}\n{modules}\nfn main() {{ println!("{{}}", {expression}); }}\n'


def _start(space: Space, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["cargo", *(arguments or ("build", "-q")), "--offline"],
        cwd=space.project,
        env={**space.env, "RUSTC_WRAPPER": str(BURST_RUSTC), "BURST_REQUIRE_REMOTE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _until(what: str, look: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not look():
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(0.01)


def _compilers(project: Path) -> dict[int, str]:
    """State letter of each process that compiles the app of this project, sandboxed or not."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)
            words = (entry / "cmdline").read_bytes().split(b"\0")
            program = os.path.basename(os.readlink(entry / "exe"))
            if program == "rustc" and any(os.fsencode(project) in word for word in words):
                found[pid] = (entry / "stat").read_text().rpartition(")")[2].split()[0]
    return found


def _held(project: Path) -> list[int]:
    return [pid for pid, state in _compilers(project).items() if state == "T"]


def _build(twin: Twin, meanwhile: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """A build whose compilers go on whenever they hold; `meanwhile` is done at the first hold."""
    cargo = _start(twin.space)
    try:
        while cargo.poll() is None:
            for pid in _held(twin.project):
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
        assert meanwhile is None, "no compiler was held"
        return cargo
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(cargo.pid, signal.SIGKILL)
        cargo.wait()


def _builds(twin: Twin, *says: str | None, meanwhile: Callable[[], None] | None = None) -> None:
    """The program says one of `says`; None among them: or rustc's E0761."""
    cargo = _build(twin, meanwhile)
    assert cargo.stderr is not None
    said = cargo.stderr.read().decode()
    cargo.stderr.close()
    if cargo.returncode == 0:
        assert _ran(twin) in says, twin.space.burst("explain").stdout
    else:
        assert None in says, said + twin.space.log()
        assert "E0761" in said


def _ran(twin: Twin) -> str:
    return twin.space.run(twin.project / "target/debug/app").check().stdout.strip()


def test_a_source_edited_during_its_compile(twin: Twin) -> None:
    """What was compiled is never taken for what lies there now: not fresh, and no hit."""
    source = twin.project / "app/src/main.rs"
    source.parent.mkdir()
    source.write_text(_main('"old"', hold=True))

    def edit() -> None:
        source.write_text(_main('"new"', hold=False))

    _builds(twin, "old", meanwhile=edit)
    _builds(twin, "new")
    twin.space.fresh_target()
    _builds(twin, "new")
    twin.space.fresh_target()
    twin.agree("new")
    source.write_text(_main('"old"', hold=True))
    twin.space.fresh_target()
    _builds(twin, "old")


_INSIDE = {"app/d/a": "x", "app/d/b": "x"}
_OUTSIDE = {"d/a": "x", "d/b": "x"}
_MODULE = {"app/src/a.rs": 'pub const S: &str = "old";\n'}
_OTHER = 'pub const S: &str = "new";\n'


@attrs.frozen
class Case:
    """An expression of the program, what lies there, what changes, and what it says then."""

    reads: str
    files: dict[str, str]
    change: dict[str, str | None]
    before: str
    after: str | None


_CASES = {
    "module": Case("a::S", _MODULE, {"app/src/a.rs": _OTHER}, "old", "new"),
    "module-beside": Case("a::S", _MODULE, {"app/src/a/mod.rs": _OTHER}, "old", None),
    "text": Case('include_str!("../../T")', {"T": "old"}, {"T": "new"}, "old", "new"),
    "macro-reads": Case('m::read!("../T")', {"T": "old"}, {"T": "new"}, "old", "new"),
    "macro-reads-inside": Case('m::read!("T")', {"app/T": "1"}, {"app/T": "2"}, "1", "2"),
    "file-appears": Case('m::read!("../T")', {}, {"T": "new"}, "absent", "new"),
    "file-vanishes": Case('m::read!("../T")', {"T": "old"}, {"T": None}, "old", "absent"),
    "exists": Case('m::exists!("../T")', {"T": "old"}, {"T": None}, "there", "not there"),
    "folder-exists": Case('m::exists!("../d")', {}, {"d/x": "x"}, "not there", "there"),
    "listed-inside": Case('m::list!("d")', _INSIDE, {"app/d/c": "x"}, "a,b", "a,b,c"),
    "listed-outside": Case('m::list!("../d")', _OUTSIDE, {"d/c": "x"}, "a,b", "a,b,c"),
    "name-vanishes": Case('m::list!("../d")', _OUTSIDE, {"d/b": None}, "a,b", "a"),
}


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES.keys())
def test_what_a_compile_has_read_changes_before_its_end(twin: Twin, case: Case) -> None:
    """A result belongs to the world that its compile saw, which is either of the two. In the
    changed world the same sources are compiled anew; in the old one, restored, again."""
    modules = "mod a;" if case.reads == "a::S" else ""
    # Read first, then held: what changes meanwhile was seen.
    program = f"{modules}\nconst READ: &str = {case.reads};\nm::hold!();\n"
    program += 'fn main() { println!("{READ}"); }\n'
    twin.write({"app/src/main.rs": program + "// known by now: what is read outside\n"})
    twin.write(case.files)
    _builds(twin, case.before)
    twin.write({"app/src/main.rs": program})
    _builds(twin, case.before, case.after, meanwhile=lambda: _change(twin, case.change))
    twin.space.fresh_target()
    _builds(twin, case.after)
    _change(twin, {name: case.files.get(name) for name in case.change})
    twin.space.fresh_target()
    _builds(twin, case.before)


def _change(twin: Twin, changes: dict[str, str | None]) -> None:
    for name, text in changes.items():
        path = twin.project / name
        if text is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif path.exists():
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time of change; cargo's locks apart."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-lock")
    }


@pytest.mark.parametrize("killed", ["cargo alone", "cargo and the wrapper"])
@pytest.mark.parametrize("goes_on", ["before the next build", "after the next build"])
@pytest.mark.parametrize("incremental", [False, True])
def test_a_build_killed_during_a_compile(
    twin: Twin, killed: str, goes_on: str, incremental: bool
) -> None:
    """Then an edit and a build: the new program, no late write, no temporary file, no process."""
    twin.incremental = incremental
    twin.space.env = {**twin.space.env, "CARGO_INCREMENTAL": "1" if incremental else "0"}
    source = twin.project / "app/src/main.rs"
    twin.write({"app/src/main.rs": _main('"first"', hold=False)})
    _builds(twin, "first")
    source.write_text(_main('"second"', hold=True))
    cargo = _start(twin.space)
    try:
        _until("the compiler is held", lambda: bool(_held(twin.project)))
        old = set(_held(twin.project))
        if killed == "cargo alone":
            cargo.kill()
        else:
            os.killpg(cargo.pid, signal.SIGKILL)
    finally:
        cargo.kill()
        cargo.wait()
        if cargo.stderr is not None:
            cargo.stderr.close()

    def release() -> None:
        for pid in old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    if goes_on == "before the next build":
        release()
    source.write_text(_main('"third"', hold=False))
    twin.space.cargo("build", "-q").check()
    assert _ran(twin) == "third"
    target = twin.project / "target"
    before = _contents(target)
    assert not [name for name in before if ".burst-" in name]
    release()
    _until("the killed build's compiler is gone", lambda: not old & _compilers(twin.project).keys())
    # The daemon ends only when it has nothing to do any more.
    twin.space.stop()
    assert _contents(target) == before
    twin.space.cargo("build", "-q").check()
    assert _ran(twin) == "third"
    twin.space.fresh_target()
    twin.agree("third")
    source.write_text(_main('"second"', hold=False))
    twin.agree("second")
