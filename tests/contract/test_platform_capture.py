"""A sandbox of captured entries links the same bytes as home. Needs rustc, cc and bubblewrap."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import attrs
import pytest

from burst_protocol.errors import PlatformProblem
from burst_wrapper.linkenv import LinkRequest
from burst_wrapper.pathwalk import CapturedEntry, tidy, walk
from burst_wrapper.platform_capture import (
    LinkEnvironment,
    PlatformCapture,
    SystemTree,
    capture_paths,
    extend,
)
from burst_wrapper.processes import Completed, run_program
from burst_wrapper.toolchain import Toolchain, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    shutil.which("rustc") is None or shutil.which("cc") is None, reason="needs rustc and cc"
)

ENV = {b"PATH": os.environb[b"PATH"], b"HOME": os.environb.get(b"HOME", b"/")}
DEFAULT = LinkRequest()


@pytest.fixture(scope="module")
def toolchain() -> Toolchain:
    return resolve(b"rustc", b"/", dict(os.environb))


@pytest.fixture
def capture(tmp_path: Path) -> PlatformCapture:
    return PlatformCapture(os.fsencode(tmp_path / "platform"))


# --- paths -------------------------------------------------------------------------------------


def test_walk_remembers_each_link_and_folders_passed_upwards(tmp_path: Path) -> None:
    """`a/link/../f` goes through the link's folder, which must exist in a sandbox as well."""
    base = os.path.realpath(os.fsencode(tmp_path))
    os.makedirs(base + b"/deep/inner")
    with open(base + b"/deep/f", "wb"):
        pass
    os.symlink(b"deep/inner", base + b"/link")
    os.symlink(b"link/../f", base + b"/alias")
    way = walk(base + b"/alias")
    assert way.real == base + b"/deep/f"
    assert way.entries == (
        CapturedEntry(base + b"/alias", "symlink", b"link/../f"),
        CapturedEntry(base + b"/link", "symlink", b"deep/inner"),
        CapturedEntry(base + b"/deep/inner", "directory"),
        CapturedEntry(base + b"/deep/f", "file"),
    )


def test_walk_fails_as_the_kernel_does(tmp_path: Path) -> None:
    """Loops, missing parts and files used as folders are errors, not wrong answers."""
    base = os.fsencode(tmp_path)
    os.symlink(b"loop", base + b"/loop")
    with open(base + b"/f", "wb"):
        pass
    for path in (b"/loop", b"/nothing", b"/f/x"):
        with pytest.raises(OSError, match=r"."):
            walk(base + path)


def test_tidy_sorts_and_drops_implied_folders() -> None:
    """Equal sets give equal trees, however they were found."""
    one = CapturedEntry(b"/a/b", "directory")
    two = CapturedEntry(b"/a/b/c", "file")
    alone = CapturedEntry(b"/x", "directory")
    assert tidy([alone, two, one, two]) == (two, alone)


# --- requests ----------------------------------------------------------------------------------


def test_request_keeps_what_chooses_tools_and_nothing_else() -> None:
    """Units of one workspace must share one capture, so paths of the unit stay out."""
    argv = b"--crate-name x src/main.rs -C opt-level=3 -Clinker=clang -C link-arg=-fuse-ld=mold"
    argv += b" -C link-args=-Wl,-T,/p/x.ld|-B|/tools -C link-arg=/p/x.o --target=wasm32-wasip1"
    argv += b" -L native=/p --codegen linker-flavor=gcc -C target-feature=+crt-static"
    words = [word.replace(b"|", b" ") for word in argv.split()]
    assert LinkRequest.of_argv(words) == LinkRequest(
        b"clang",
        (
            *(b"-C", b"linker=clang"),
            *(b"--target", b"wasm32-wasip1"),
            *(b"-C", b"linker-flavor=gcc"),
            *(b"-C", b"target-feature=+crt-static"),
        ),
        (b"-fuse-ld=mold", b"-B", b"/tools"),
    )


# --- captures ----------------------------------------------------------------------------------


def test_every_entry_of_a_capture_resolves_within_it(
    capture: PlatformCapture, toolchain: Toolchain
) -> None:
    """No link of the trees leads to a file that a sandbox would not have."""
    environment = capture.link(toolchain, DEFAULT, b"/", ENV)
    tree = capture.runtime(toolchain, ENV).merged(environment.tree)
    files = {entry.path for entry in tree.files if entry.kind == "file"}
    for entry in tree.files:
        if entry.kind == "symlink" and os.path.isfile(entry.path):
            assert walk(entry.path).real in files
    assert [e.path for e in tree.files] == sorted(e.path for e in tree.files)
    assert not any(e.path.startswith(toolchain.sysroot) for e in tree.files)


def test_a_sysroot_that_holds_the_linker_too(
    capture: PlatformCapture, toolchain: Toolchain, tmp_path: Path
) -> None:
    """A distribution's rustc: its sysroot is /usr, and so is what everything else lies in. All was
    taken for the toolchain's own, nothing was captured, and every link ran at home."""
    request = LinkRequest.of_argv([b"-Clinker-features=-lld"])
    usual = capture.link(toolchain, request, b"/", ENV)
    packaged = attrs.evolve(toolchain, sysroot=b"/usr")
    other = PlatformCapture(os.fsencode(tmp_path / "other")).link(packaged, request, b"/", ENV)
    assert other.tools.flavour == usual.tools.flavour != "ld"
    assert other.tools.programs == usual.tools.programs
    assert other.tools.library_folders == usual.tools.library_folders
    assert other.tree == usual.tree


def test_what_a_probing_rustc_leaves_lies_in_the_probes_folder(
    capture: PlatformCapture, toolchain: Toolchain
) -> None:
    """rustc 1.85 keeps `symbols.o` in a folder of TMPDIR with a random name: it became a part of
    the system, so that links of no two machines, and of none before and after a reboot, had a key
    in common."""
    places: list[tuple[bytes, bytes]] = []

    def noting(argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Completed:
        if b"--out-dir" in argv:
            places.append((argv[argv.index(b"--out-dir") + 1], env.get(b"TMPDIR", b"")))
        return run_program(argv, cwd, env)

    PlatformCapture(capture.folder, run=noting).link(toolchain, DEFAULT, b"/", ENV)
    assert places
    assert all(folder == temporary for folder, temporary in places), places


def test_a_repeat_starts_nothing_and_a_new_process_neither(
    capture: PlatformCapture, toolchain: Toolchain
) -> None:
    """Results are kept in memory and on disk."""
    first = capture.link(toolchain, DEFAULT, b"/", ENV), capture.runtime(toolchain, ENV)

    def no_run(argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Completed:
        raise AssertionError(argv)

    again = PlatformCapture(capture.folder, run=no_run)
    for _ in range(2):
        got = again.link(toolchain, DEFAULT, b"/", ENV), again.runtime(toolchain, ENV)
        assert got == first


def test_damaged_records_are_taken_for_none(capture: PlatformCapture, toolchain: Toolchain) -> None:
    """A half-written file of a crashed process costs a new capture, never a wrong one."""
    first = capture.runtime(toolchain, ENV)
    for name in os.listdir(capture.folder):
        with open(os.path.join(capture.folder, name), "r+b") as file:
            file.truncate(40)
    assert PlatformCapture(capture.folder).runtime(toolchain, ENV) == first


@pytest.mark.slow
def test_a_changed_file_or_a_new_linker_in_front_ends_a_capture(
    capture: PlatformCapture, toolchain: Toolchain, tmp_path: Path
) -> None:
    """Another `cc` earlier on PATH is seen at once, though nothing captured has changed."""
    tools = os.fsencode(tmp_path / "bin")
    os.mkdir(tools)
    env = {**ENV, b"PATH": tools + b":" + ENV[b"PATH"]}
    plain = capture.link(toolchain, DEFAULT, b"/", env)
    os.symlink(os.path.realpath(shutil.which(b"cc") or b""), tools + b"/cc")
    other = capture.link(toolchain, DEFAULT, b"/", env)
    assert plain.tools.linker != other.tools.linker == tools + b"/cc"
    os.unlink(tools + b"/cc")
    shutil.copy(os.path.realpath(shutil.which(b"ld") or b""), tools + b"/ld")
    bfd = LinkRequest.of_argv([b"-Clinker-features=-lld"])
    got = capture.link(toolchain, bfd, b"/", env)
    assert tools + b"/ld" in got.tools.programs
    os.utime(tools + b"/ld", (1, 1))
    os.unlink(tools + b"/ld")
    assert tools + b"/ld" not in capture.link(toolchain, bfd, b"/", env).tools.programs


def test_scripts_and_compiler_caches_stay_at_home(
    capture: PlatformCapture, toolchain: Toolchain, tmp_path: Path
) -> None:
    """What a script starts cannot be known; the reason says so, and is not asked for every unit."""
    script = os.fsencode(tmp_path / "cc")
    with open(script, "wb") as file:
        file.write(b'#!/bin/sh\nexec gcc "$@"\n')
    os.chmod(script, 0o755)
    env = {**ENV, b"PATH": os.fsencode(tmp_path) + b":" + ENV[b"PATH"]}
    started: list[Sequence[bytes]] = []

    def counting(argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Completed:
        started.append(argv)
        return run_program(argv, cwd, env)

    counted = PlatformCapture(capture.folder, run=counting)
    for _ in range(3):
        with pytest.raises(PlatformProblem, match="is a script"):
            counted.link(toolchain, DEFAULT, b"/", env)
    assert len(started) == 1  # rustc, for its command
    cache = os.fsencode(tmp_path / "ccache")
    shutil.copy(os.path.realpath(shutil.which(b"cc") or b""), cache)
    with pytest.raises(PlatformProblem, match="is ccache"):
        capture.link(toolchain, LinkRequest(cache, (b"-C", b"linker=" + cache)), b"/", ENV)
    with pytest.raises(PlatformProblem, match="not found"):
        capture.link(toolchain, LinkRequest(b"no-such-cc", (b"-Clinker=no-such-cc",)), b"/", ENV)


def test_linker_scripts_bring_what_they_name(tmp_path: Path) -> None:
    """`libx.so` may be a text that names other libraries by path, by file name or with -l."""
    base = os.path.realpath(os.fsencode(tmp_path))
    for name in (b"libreal.so.1", b"liby.a", b"named.o"):
        with open(os.path.join(base, name), "wb") as file:
            file.write(b"x")
    with open(base + b"/libx.so", "wb") as file:
        file.write(b"/* GNU ld script */\nGROUP ( " + base + b"/libreal.so.1 AS_NEEDED ( -ly ) )\n")
        file.write(b"INPUT(named.o)\n")
    got = capture_paths([base + b"/libx.so"], library_folders=[base])
    names = [os.path.basename(e.path) for e in got if e.path.startswith(base)]
    assert names == [b"libreal.so.1", b"libx.so", b"liby.a", b"named.o"]


# --- the proof: the same bytes ------------------------------------------------------------------

PROGRAM = b"""
use std::collections::HashMap;
fn main() {
    let mut map = HashMap::new();
    map.insert(1, std::thread::spawn(|| (0.5f64).sin().powf(1.5)).join().unwrap());
    println!("{map:?}");
}
"""
LIBRARY = b'#[no_mangle] pub extern "C" fn twice(x: i32) -> i32 { println!("{x}"); x * 2 }\n'
MACRO = b"""
extern crate proc_macro;
#[proc_macro] pub fn nothing(_: proc_macro::TokenStream) -> proc_macro::TokenStream {
    "fn made() -> u8 { 7 }".parse().unwrap()
}
"""
ZLIB = b"""
#[link(name = "z")] extern "C" { fn zlibVersion() -> *const u8; }
fn main() { println!("{:?}", unsafe { zlibVersion() }.is_null()); }
"""


@attrs.frozen
class Bench:
    """A project folder that exists at the same path at home and in a sandbox of captured trees."""

    root: bytes
    project: bytes
    toolchain: Toolchain

    def put(self, name: bytes, text: bytes) -> bytes:
        path = os.path.join(self.project, name)
        with open(path, "wb") as file:
            file.write(text)
        return path

    def lay_out(self, tree: SystemTree) -> None:
        for entry in tree.files:
            place = self.root + entry.path
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if entry.kind == "directory":
                os.makedirs(place, exist_ok=True)
            elif entry.kind == "symlink":
                if not os.path.islink(place):
                    os.symlink(entry.target, place)
            elif not os.path.exists(place):
                shutil.copy2(entry.path, place)

    def lay_out_toolchain(self) -> None:
        for source in self.toolchain.sources():
            place = self.root + source.path
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if source.kind == "symlink":
                os.symlink(os.readlink(source.path), place)
            elif source.kind == "file":
                _link_or_copy(source.path, place)
            else:
                shutil.copytree(
                    os.fsdecode(source.path),
                    os.fsdecode(place),
                    symlinks=True,
                    copy_function=_link_or_copy,
                )

    def outputs(
        self, args: Sequence[bytes], *, inside: bool
    ) -> tuple[Completed, dict[bytes, bytes]]:
        """Run rustc with these arguments, `--out-dir` added; the files it made, by name."""
        out = os.path.join(self.project, b"out")
        shutil.rmtree(out, ignore_errors=True)
        os.mkdir(out)
        argv = [self.toolchain.rustc, *args, b"--out-dir", out]
        if inside:
            sandbox = [b"bwrap", b"--ro-bind", self.root, b"/", b"--unshare-all", b"--clearenv"]
            sandbox += [b"--proc", b"/proc", b"--dev", b"/dev", b"--tmpfs", b"/tmp"]
            sandbox += [b"--bind", self.project, self.project, b"--chdir", self.project]
            sandbox += [b"--setenv", b"PATH", ENV[b"PATH"], b"--"]
            done = run_program([*sandbox, *argv], self.project, ENV)
        else:
            done = run_program(argv, self.project, ENV)
        made: dict[bytes, bytes] = {}
        for name in os.listdir(out):
            path = os.path.join(out, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    made[name] = file.read()
        return done, made

    def same(self, args: Sequence[bytes]) -> None:
        home, made_at_home = self.outputs(args, inside=False)
        assert home.status == 0, home.stderr.decode()
        there, made_there = self.outputs(args, inside=True)
        assert there.status == 0, there.stderr.decode()
        assert (there.stdout, there.stderr) == (home.stdout, home.stderr)
        assert made_there.keys() == made_at_home.keys()
        assert [n for n in made_at_home if made_at_home[n] != made_there[n]] == []


def _link_or_copy(source: bytes | str, place: bytes | str) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copy2(os.fsdecode(source), os.fsdecode(place))


def _bubblewrap_works() -> bool:
    program = shutil.which("bwrap")
    return (
        program is not None
        and subprocess.run([program, "--ro-bind", "/", "/", "true"], check=False).returncode == 0
    )


@pytest.fixture
def bench(toolchain: Toolchain, capture: PlatformCapture) -> Iterator[Bench]:
    if not _bubblewrap_works():
        pytest.skip("needs a working bubblewrap")
    # Not below /tmp: the sandbox has its own.
    base = os.path.realpath(tempfile.mkdtemp(prefix=b"burst-test-", dir=b"/var/tmp"))
    try:
        root, project = base + b"/root", base + b"/project"
        os.mkdir(project)
        for place in (b"/proc", b"/dev", b"/tmp", project):
            os.makedirs(root + place)
        bench = Bench(root, project, toolchain)
        bench.lay_out_toolchain()
        bench.lay_out(capture.runtime(toolchain, ENV))
        yield bench
    finally:
        shutil.rmtree(base)


def _linked(
    bench: Bench, capture: PlatformCapture, args: Sequence[bytes]
) -> tuple[LinkEnvironment, list[bytes]]:
    environment = capture.link(bench.toolchain, LinkRequest.of_argv(args), bench.project, ENV)
    bench.lay_out(environment.tree)
    return environment, list(args)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        pytest.param([], id="default"),
        pytest.param([b"-Clinker-features=-lld"], id="ld.bfd"),
        pytest.param([b"-Clink-arg=-fuse-ld=gold"], id="gold"),
        pytest.param([b"-Clink-arg=-fuse-ld=mold"], id="mold"),
        pytest.param([b"-Clinker=clang"], id="clang"),
    ],
)
def test_links_are_byte_identical(
    bench: Bench, capture: PlatformCapture, flags: list[bytes]
) -> None:
    """Program, C library, proc macro and static library: the same files and messages as at home."""
    try:
        environment, args = _linked(bench, capture, flags)
    except PlatformProblem as problem:
        if not flags or b"-Clinker-features=-lld" in flags:
            raise
        pytest.skip(f"not installed: {problem}")
    assert environment.tools.flavour == ("clang" if b"-Clinker=clang" in flags else "gcc")
    for name, text, crate_type in (
        (b"prog.rs", PROGRAM, b"bin"),
        (b"clib.rs", LIBRARY, b"cdylib"),
        (b"slib.rs", LIBRARY, b"staticlib"),
        (b"mac.rs", MACRO, b"proc-macro"),
        (b"dyl.rs", LIBRARY, b"dylib"),
    ):
        source = bench.put(name, text)
        bench.same([source, b"--crate-type", crate_type, b"-g", *args])


@pytest.mark.slow
def test_static_and_optimised_links_are_byte_identical(
    bench: Bench, capture: PlatformCapture
) -> None:
    """crt-static needs archives that a dynamic link does not; LTO and split debuginfo do not."""
    source = bench.put(b"prog.rs", PROGRAM)
    if os.path.exists(b"/usr/lib/x86_64-linux-gnu/libc.a"):
        _, args = _linked(bench, capture, [b"-Ctarget-feature=+crt-static"])
        bench.same([source, *args])
    _, args = _linked(bench, capture, [b"-Crelocation-model=static"])
    bench.same([source, *args])
    _linked(bench, capture, [])
    bench.same([source, b"-O", b"-Clto=thin", b"-Cpanic=abort", b"-Cstrip=symbols"])
    bench.same([source, b"-g", b"-Csplit-debuginfo=packed"])
    bench.same([source, b"--test", b"-Cprefer-dynamic"])


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], [b"-Clinker-features=-lld"]], ids=["lld", "bfd"])
def test_a_missing_system_library_is_found_at_home_and_added(
    bench: Bench, capture: PlatformCapture, flags: list[bytes]
) -> None:
    """A failed remote link names a library; with it added the link gives home's bytes."""
    environment, args = _linked(bench, capture, flags)
    found = environment.find_library(b"z")
    if not found:
        pytest.skip("needs zlib's development files")
    source = bench.put(b"z.rs", ZLIB)
    failed, _ = bench.outputs([source, *args], inside=True)
    assert failed.status != 0
    bench.lay_out(
        extend(environment.tree, found, library_folders=environment.tools.library_folders)
    )
    bench.same([source, *args])


@pytest.mark.slow
def test_clippy_driver_runs_on_the_runtime_tree(bench: Bench) -> None:
    """clippy-driver is part of the toolchain and loads nothing more."""
    if bench.toolchain.clippy_driver is None:
        pytest.skip("no clippy")
    source = bench.put(b"lib.rs", b"pub fn f(x: &Vec<u8>) -> bool { x.len() == 0 }\n")
    other = attrs.evolve(
        bench, toolchain=attrs.evolve(bench.toolchain, rustc=bench.toolchain.clippy_driver)
    )
    other.same([source, b"--crate-type=lib", b"--emit=metadata", b"-Wclippy::all"])
