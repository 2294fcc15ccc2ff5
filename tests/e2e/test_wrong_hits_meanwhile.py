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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from space import BURST_RUSTC, Space
from wrong_hits import Twin, machines, macro_crate, package, twins, workspace

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


@pytest.fixture(scope="module")
def machine() -> Iterator[Space]:
    with machines() as space:
        yield space


@pytest.fixture
def twin(machine: Space, request: pytest.FixtureRequest) -> Iterator[Twin]:
    with twins(machine, request.node.name) as project:
        project.write({"Cargo.toml": workspace("app", "m"), **macro_crate("m", _HOLD)})
        project.write({"app/Cargo.toml": package("app", "m")})
        yield project


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


@pytest.mark.parametrize(
    ("reads", "files", "change", "before", "after"),
    [
        pytest.param(*row, id=name)
        for name, row in {
            "module": ("a::S", _MODULE, {"app/src/a.rs": _OTHER}, "old", "new"),
            "module-beside": ("a::S", _MODULE, {"app/src/a/mod.rs": _OTHER}, "old", None),
            "text": ('include_str!("../../T")', {"T": "old"}, {"T": "new"}, "old", "new"),
            "macro-reads": ('m::read!("../T")', {"T": "old"}, {"T": "new"}, "old", "new"),
            "macro-reads-inside": ('m::read!("T")', {"app/T": "1"}, {"app/T": "2"}, "1", "2"),
            "file-appears": ('m::read!("../T")', {}, {"T": "new"}, "absent", "new"),
            "file-vanishes": ('m::read!("../T")', {"T": "old"}, {"T": None}, "old", "absent"),
            "exists": ('m::exists!("../T")', {"T": "old"}, {"T": None}, "there", "not there"),
            "folder-exists": ('m::exists!("../d")', {}, {"d/x": "x"}, "not there", "there"),
            "listed-inside": ('m::list!("d")', _INSIDE, {"app/d/c": "x"}, "a,b", "a,b,c"),
            "listed-outside": ('m::list!("../d")', _OUTSIDE, {"d/c": "x"}, "a,b", "a,b,c"),
            "name-vanishes": ('m::list!("../d")', _OUTSIDE, {"d/b": None}, "a,b", "a"),
        }.items()
    ],
)
def test_what_a_compile_has_read_changes_before_its_end(
    twin: Twin,
    reads: str,
    files: dict[str, str],
    change: dict[str, str | None],
    before: str,
    after: str | None,
) -> None:
    """A result belongs to the world that its compile saw, which is either of the two. In the
    changed world the same sources are compiled anew; in the old one, restored, again."""
    modules = "mod a;" if reads == "a::S" else ""
    # Read first, then held: what changes meanwhile was seen.
    program = f"{modules}\nconst READ: &str = {reads};\nm::hold!();\n"
    program += 'fn main() { println!("{READ}"); }\n'
    twin.write({"app/src/main.rs": program + "// known by now: what is read outside\n", **files})
    _builds(twin, before)
    twin.write({"app/src/main.rs": program})
    _builds(twin, before, after, meanwhile=lambda: _change(twin, change))
    twin.space.fresh_target()
    _builds(twin, after)
    _change(twin, {name: files.get(name) for name in change})
    twin.space.fresh_target()
    _builds(twin, before)


def _change(twin: Twin, changes: dict[str, str | None]) -> None:
    twin.write({n: t for n, t in changes.items() if t is not None or (twin.project / n).exists()})
