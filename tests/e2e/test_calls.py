"""Every kind of crate and of call, on small projects, by the embedded agent.

Each build is compared with plain cargo's at the same path: all files below target/, the output,
and that each is Fresh for the other; a third build comes from the store (see `builds.same_bits`).
Everything runs under BURST_REQUIRE_REMOTE=1, and nothing but what a test names runs at home.
BURST_TEST_ALL=1 adds the cases that differ little from others.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import wrong_hits
from builds import (
    assert_where,
    at,
    machine,
    normal,
    run_under,
    same_bits,
    same_failure,
    with_env,
    with_project,
)
from space import BURST_RUSTC, Done, Space
from tiers import thorough

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CALLS = {"CALLS_SET": "from the environment", "CALLS_EMPTY": ""}
RANDOM_FOLDER = re.compile(r"/(rustc|rmeta)\w{6}(?=/)")
KINDS = {
    ("generated", "lib"),
    ("plain", "rlib"),
    ("many", "lib,cdylib,staticlib"),
    ("macros", "proc-macro"),
    ("dynamic", "dylib"),
    ("loader", "bin"),
    ("native_sys", "lib"),
    ("build_script_build", "build script"),
    ("build_script_make", "build script"),
    ("app", "lib"),
    ("app", "bin"),
    ("second", "bin"),
}


@pytest.fixture(scope="module")
def home() -> None:
    """Not a home per test: all tests of this module share one machine with one daemon."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Space]:
    with machine() as space:
        yield space


@pytest.fixture(scope="module")
def calls(shared: Space) -> Space:
    """The workspace with every kind of crate; tests start from an empty target/."""
    return with_project(shared, "calls")


@pytest.fixture(scope="module")
def registry(shared: Space) -> Space:
    """The machine, with the packages of a real project fetched: cargo resolves offline."""
    return with_project(shared, "macros")


@pytest.fixture
def empty(shared: Space, request: pytest.FixtureRequest) -> Space:
    """A project folder of the test's own, on the shared machine."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return at(shared, shared.folder / f"w-{name}")


def package(name: str, more: str = "") -> str:
    return f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n{more}'


# -- the verbs ------------------------------------------------------------------------------------


def test_build_of_every_kind_of_crate(calls: Space) -> None:
    """All kinds of library, proc macro, programs, build scripts, C from a build script."""
    same = same_bits(calls, "build", env=CALLS)
    kinds = {(unit["crate"], unit["kind"]) for unit in same.cold_units}
    assert kinds == KINDS
    said = calls.run(calls.project / "target/debug/second")
    assert said.check().stdout.endswith("one two three\n")


@pytest.mark.parametrize("verb", thorough(["build", "clippy"], ["check"]))
def test_all_targets_incremental(calls: Space, verb: str) -> None:
    """Cargo's default profile: what differs between two plain builds is let pass, no more."""
    same_bits(calls, verb, "--all-targets", incremental=True, env=CALLS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--all-targets"),
        ("check", "--all-targets"),
        ("clippy", "--all-targets"),
        ("test", "--no-run"),
        ("build", "--release"),
        ("bench", "--no-run"),
        ("build", "--target", "x86_64-unknown-linux-gnu"),
        ("build", "-p", "dynamic"),
        ("build", "--examples", "--no-default-features"),
        ("rustc", "-p", "app", "--lib", "--", "--emit=asm,llvm-ir,mir"),
        # One crate's documentation after the other: which comes last is seen in its files.
        ("doc", "-p", "many"),
    ],
    ids=" ".join,
)
def test_verbs(calls: Space, arguments: tuple[str, ...]) -> None:
    """The same files, the same words, Fresh; whatever the verb."""
    same_bits(calls, *arguments, env=CALLS)


def test_a_program_under_test_finds_its_shared_libraries(calls: Space) -> None:
    """`cargo test` and `cargo run` work on what was built remotely."""
    calls = with_env(calls, CALLS)
    calls.fresh_target()
    calls.cargo("test").check()
    said = calls.cargo("run", "-q", "--bin", "app").check()
    assert 'Some("from the environment"), Some(""), None' in said.stdout
    assert calls.cargo("run", "-q", "-p", "loader").check().stdout == "ONE!TWO!1.2.3-rc.4\n"


def test_install_from_a_path(calls: Space) -> None:
    """What is installed is what plain cargo installs."""
    places = [calls.folder / "root", calls.project / "target"]
    install = ("install", "--quiet", "--force", "--path", "loader", "--root", str(places[0]))
    same_bits(calls, *install, folders=places, fresh=False, env=CALLS)


# -- profiles -------------------------------------------------------------------------------------

PROFILES = thorough(
    [
        "LTO=fat PANIC=abort STRIP=symbols CODEGEN_UNITS=1 OPT_LEVEL=s",
        "LTO=thin DEBUG=line-tables-only SPLIT_DEBUGINFO=unpacked",
        "PANIC=abort LTO=off CODEGEN_UNITS=1",
        "OPT_LEVEL=z STRIP=debuginfo DEBUG=1 RPATH=true DEBUG_ASSERTIONS=true",
        "DEBUG=2 OPT_LEVEL=0 SPLIT_DEBUGINFO=packed",
        "DEBUG=2 OPT_LEVEL=0 SPLIT_DEBUGINFO=unpacked",
        "DEBUG=1 OPT_LEVEL=1 SPLIT_DEBUGINFO=off",
    ],
    [
        "LTO=fat",
        "LTO=thin",
        "LTO=fat SPLIT_DEBUGINFO=packed DEBUG=2",
        "PANIC=abort",
        "DEBUG=0 OPT_LEVEL=1",
        "OVERFLOW_CHECKS=true STRIP=none",
        "CODEGEN_UNITS=256",
    ],
)


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles(calls: Space, profile: str) -> None:
    """Every profile setting that changes what rustc or the linker writes."""
    settings = (setting.partition("=") for setting in profile.split())
    env = {f"CARGO_PROFILE_RELEASE_{name}": value for name, _, value in settings}
    same_bits(calls, "build", "--release", "-p", "app", env={**CALLS, **env})


@pytest.mark.parametrize("split", thorough(["packed"], ["unpacked"]))
def test_split_debug_info_of_incremental_units(calls: Space, split: str) -> None:
    """Object files with random names beside the artifacts."""
    env = {"CARGO_PROFILE_DEV_SPLIT_DEBUGINFO": split}
    same_bits(calls, "build", "-p", "app", incremental=True, env={**CALLS, **env})


@pytest.mark.parametrize(
    "flags",
    [
        "-C prefer-dynamic",
        "-C link-arg=-Wl,--build-id=sha1 -C target-cpu=x86-64-v2",
        "--cfg special --remap-path-prefix=/var=/somewhere -C force-frame-pointers=yes",
        "-C linker=/usr/bin/cc -C link-arg=-fuse-ld=bfd",
    ],
)
def test_flags(calls: Space, flags: str) -> None:
    """RUSTFLAGS that change artifacts."""
    same_bits(calls, "build", "-p", "loader", "-p", "many", env={"RUSTFLAGS": flags, **CALLS})


def test_coverage(calls: Space) -> None:
    """Instrumented programs; an instrumented macro writes its profile and runs at home."""
    flags = "-C instrument-coverage -C symbol-mangling-version=v0"
    same_bits(calls, "build", "-p", "loader", env={"RUSTFLAGS": flags, **CALLS})
    profiles = str(calls.folder / "profiles" / "%p.profraw")
    for more in ({"LLVM_PROFILE_FILE": profiles}, {}):
        calls.fresh_target()
        said = calls.cargo("build", "-p", "many", RUSTFLAGS=flags, **more).check()
        reasons = {unit["crate"]: unit["reason"] for unit in calls.units()}
        assert reasons.pop("many") == "undeclared", calls.units()
        # Not run once in vain before, as it was at every build.
        many = next(unit for unit in calls.units() if unit["crate"] == "many")
        assert many["sent_bytes"] == 0, many
        assert reasons == {"macros": "hit" if more == {} else "executed"}, calls.units()
        # Without a name LLVM writes into the working folder, at rustc's very end: its complaint
        # about the sandbox comes when the run was found right long ago.
        assert "LLVM Profile Error" not in said.stderr
    for left in calls.project.glob("default_*.profraw"):
        left.unlink()


def test_saved_intermediate_files(calls: Space) -> None:
    """`-C save-temps` leaves folders with random names; all come home."""
    target = calls.project / "target"
    arguments = ("build", "-p", "loader", "-p", "many")
    found = []
    for build in (calls.plain, calls.cargo, calls.cargo):
        calls.fresh_target()
        build(*arguments, RUSTFLAGS="-C save-temps", CARGO_INCREMENTAL="0").check()
        files = {path.relative_to(target) for path in target.glob("*/deps/**/*") if path.is_file()}
        found.append(sorted(RANDOM_FOLDER.sub("/r", str(path)) for path in files))
    assert found[1] == found[0]
    assert found[2] == found[0]
    assert_where(calls, calls.units(), {}, only_hits=True)


# -- how the wrapper is called --------------------------------------------------------------------


def test_a_command_line_of_more_than_the_kernel_takes(empty: Space) -> None:
    """Cargo then calls rustc with an argument file; here one argument has 200 kB."""
    features = "\n".join(f"a-feature-with-a-long-name-{n} = []" for n in range(5000))
    empty.write(
        {
            "Cargo.toml": package("long", f"[features]\n{features}\n"),
            "src/lib.rs": "pub fn f() {}\n",
            "src/main.rs": "fn main() { long::f() }\n",
        }
    )
    same_bits(empty, "build")


@pytest.mark.parametrize("both", [False, True], ids=["alone", "with RUSTC_WRAPPER"])
@pytest.mark.parametrize("verb", thorough(["build"], ["check"]))
def test_as_workspace_wrapper(calls: Space, verb: str, both: bool) -> None:
    """RUSTC_WORKSPACE_WRAPPER is for the workspace's own crates; its path is in file names."""
    wrapper = calls.folder / "workspace-wrapper"
    nothing = calls.folder / "nothing"
    nothing.write_text('#!/bin/sh\nexec "$@"\n')
    nothing.chmod(0o755)

    def run(space: Space, *argv: str) -> Done:
        wrapper.unlink(missing_ok=True)
        wrapper.symlink_to(BURST_RUSTC if "BURST_REQUIRE_REMOTE" in space.env else nothing)
        return space.run(*argv)

    burst = {"RUSTC_WRAPPER": str(BURST_RUSTC)} if both else {}
    env = {"RUSTC_WORKSPACE_WRAPPER": str(wrapper), **CALLS}
    same_bits(calls, verb, run=run, burst=burst, env=env)


def test_workspace_wrapper_leaves_other_packages_alone(registry: Space, empty: Space) -> None:
    """With RUSTC_WORKSPACE_WRAPPER alone cargo calls us for the workspace only."""
    empty.write(
        {
            "Cargo.toml": package("mine", '[dependencies]\ncfg-if = "1"\n'),
            "src/main.rs": "fn main() { cfg_if::cfg_if! { if #[cfg(unix)] { } } }\n",
        }
    )
    build = ("cargo", "build", "--offline")
    empty.run(*build, RUSTC_WORKSPACE_WRAPPER=str(BURST_RUSTC)).check()
    assert set(empty.where()) == {"mine bin"}
    assert_where(empty, empty.units(), {})


# -- what manifests and configuration say ----------------------------------------------------------


def test_what_manifests_and_configuration_add(empty: Space) -> None:
    """`[env]`, renamed packages, lints, editions, cfgs and features that need RUSTC_BOOTSTRAP."""
    empty.write(
        {
            ".cargo/config.toml": '[env]\nFROM_CONFIG = "yes"\n'
            'PLACE = { value = "data", relative = true }\n'
            '[build]\nrustflags = ["--cfg", "from_config"]\n',
            "data/text": "of the project\n",
            "Cargo.toml": '[workspace]\nmembers = ["old", "new"]\nresolver = "3"\n',
            "old/Cargo.toml": '[package]\nname = "old-name"\nversion = "0.1.0"\n'
            '[lib]\nname = "other"\npath = "code.rs"\n',
            "old/code.rs": "extern crate alloc;\npub use alloc::string::String as Text;\n"
            "pub fn dyn(async: &str) -> Text { Text::from(async) }\n",
            "new/Cargo.toml": '[package]\nname = "new"\nversion = "0.1.0"\nedition = "2024"\n'
            '[lints.rust]\nunexpected_cfgs = { level = "warn", check-cfg = ["cfg(known)"] }\n'
            'unused_variables = "allow"\n'
            '[dependencies]\nrenamed = { package = "old-name", path = "../old" }\n',
            "new/src/main.rs": "#![feature(never_type)]\nfn end() -> ! { std::process::exit(0) }\n"
            "fn main() {\n    let unused = 1;\n    #[cfg(not(from_config))] compile_error!();\n"
            "    #[cfg(unknown)] end();\n"
            '    const TEXT: &str = include_str!(concat!(env!("PLACE"), "/text"));\n'
            '    println!("{} {}", renamed::r#dyn(env!("FROM_CONFIG")), TEXT);\n    end()\n}\n',
        }
    )
    same = same_bits(empty, "build", env={"RUSTC_BOOTSTRAP": "1"})
    assert "unexpected `cfg` condition name: `unknown`" in same.cold.stderr
    said = empty.run(empty.project / "target/debug/new").check()
    assert said.stdout == "yes of the project\n\n"


def test_fix_rewrites_what_it_rewrites_without_us(empty: Space) -> None:
    """`cargo fix` puts itself before rustc."""
    texts = []
    for cargo in (empty.plain, empty.cargo):
        empty.fresh_target()
        manifest = package("fixed", "[dependencies]\n")
        main = 'fn main() {\n    let mut x = 1;\n    (println!("{}", x));\n}\n'
        empty.write({"Cargo.toml": manifest, "src/main.rs": main})
        said = cargo("fix", "--allow-no-vcs", "--bin", "fixed").check()
        texts.append((normal(said.stderr), (empty.project / "src/main.rs").read_text()))
    assert texts[0] == texts[1]
    assert "let x = 1" in texts[1][1]


def test_an_edit_between_two_incremental_builds(calls: Space) -> None:
    """The state of the first build serves the second one; the result is that of plain cargo."""
    source = calls.project / "plain" / "src" / "lib.rs"
    text = source.read_text()

    def edit_between(space: Space, *argv: str) -> Done:
        source.write_text(text)
        space.run(*argv).check()
        source.write_text(text + '\npub fn more(x: u8) -> String { format!("{x:?}") }\n')
        return space.run(*argv)

    try:
        same_bits(calls, "build", "-p", "app", incremental=True, run=edit_between, fresh=False)
    finally:
        source.write_text(text)


# -- where projects lie ---------------------------------------------------------------------------


def test_target_folder_elsewhere(calls: Space) -> None:
    """CARGO_TARGET_DIR outside of the project."""
    target = calls.folder / "elsewhere" / "t"
    same_bits(calls, "build", folders=[target], env={"CARGO_TARGET_DIR": str(target), **CALLS})


def test_build_folder_besides_target_folder(calls: Space) -> None:
    """`build.build-dir`: intermediate files in one folder, final ones in another."""
    build = calls.folder / "intermediate"
    folders = [build, calls.project / "target"]
    same_bits(calls, "build", folders=folders, env={"CARGO_BUILD_BUILD_DIR": str(build), **CALLS})


@pytest.mark.parametrize(
    "name", thorough(["a=b & (c) $HOME #e !'f"], ["with some spaces", "mit Ümläuten und 漢字"])
)
def test_strange_paths(shared: Space, name: str) -> None:
    """Spaces, letters beyond ASCII, what shells and makefiles have a meaning for."""
    space = with_project(shared, "calls", shared.folder / "strange" / name)
    same_bits(space, "build", env=CALLS)


@pytest.mark.parametrize("parent", thorough(["/tmp"], ["/dev/shm", "/usr/src", "/opt", "/root"]))
def test_projects_in_unusual_places(shared: Space, parent: str) -> None:
    """Where the sandbox has folders of its own, and among the system's files."""
    if not os.access(parent, os.W_OK):
        pytest.skip(f"{parent} is not ours")
    with tempfile.TemporaryDirectory(prefix="burst-test-", dir=parent) as folder:
        space = with_project(shared, "calls", Path(folder, "p"))
        same_bits(space, "build", env=CALLS)


def test_a_linker_in_tmp(calls: Space) -> None:
    """A folder of tools as package managers make it, where the sandbox has a folder of its own."""
    linker = shutil.which("cc")
    assert linker is not None
    with tempfile.TemporaryDirectory(prefix="burst-test-", dir="/tmp") as folder:
        Path(folder, "cc").symlink_to(linker)
        path = f"{folder}:{calls.env['PATH']}"
        same_bits(calls, "build", "-p", "loader", "-p", "many", env={**CALLS, "PATH": path})


@pytest.mark.parametrize("umask", thorough(["077"], ["002", "000"]))
def test_umask(calls: Space, umask: str) -> None:
    """Modes follow the caller's umask, from the store too."""
    run = partial(run_under, umask=umask)
    same_bits(calls, "build", "-p", "app", run=run, env=CALLS)


def test_a_project_reached_through_a_link(calls: Space) -> None:
    """A symbolic link in the path of the project stays in the artifacts as plain cargo has it."""
    link = calls.folder / "link"
    link.symlink_to(calls.project)
    space = at(calls, link)
    same_bits(space, "build", env=CALLS)


# -- where packages come from ---------------------------------------------------------------------


def test_git_dependency(empty: Space) -> None:
    """A package from a git repository, with a workspace of its own around it."""
    upstream = empty.folder / "upstream"
    files = {
        "Cargo.toml": '[workspace]\nmembers = ["inner"]\npackage.version = "3.2.1"\n',
        "inner/Cargo.toml": '[package]\nname = "inner"\nversion.workspace = true\n',
        "inner/src/lib.rs": 'pub const TEXT: &str = include_str!("../../text.txt");\n',
        "text.txt": "from git\n",
    }
    for name, text in files.items():
        path = upstream / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git = ("git", "-C", str(upstream), "-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    dependency = f'[dependencies]\ninner = {{ git = "file://{upstream}" }}\n'
    empty.write(
        {
            "Cargo.toml": package("outer", dependency),
            "src/main.rs": 'fn main() { println!("{}", inner::TEXT) }\n',
        }
    )
    cargo_home = str(empty.home / ".cargo")
    empty.run("cargo", "fetch", CARGO_HOME=cargo_home).check()
    same_bits(empty, "build", env={"CARGO_HOME": cargo_home})


def test_vendored_dependencies(registry: Space, empty: Space) -> None:
    """`cargo vendor`: registry packages as folders of the project."""
    empty.write(
        {
            "Cargo.toml": package("vendored", '[dependencies]\nthiserror = "2"\n'),
            "src/main.rs": "#[derive(Debug, thiserror::Error)]\n"
            '#[error("none")]\nstruct None;\nfn main() { println!("{}", None) }\n',
        }
    )
    configuration = empty.run("cargo", "vendor", "--offline", "vendor").check().stdout
    empty.write({".cargo/config.toml": configuration})
    same_bits(empty, "build")


# -- toolchains -----------------------------------------------------------------------------------


def test_nightly(calls: Space) -> None:
    """Another toolchain, with unstable flags."""
    probe = calls.run("rustc", "--version", RUSTUP_TOOLCHAIN="nightly")
    if probe.status != 0:
        pytest.skip("no nightly toolchain")
    assert "nightly" in probe.stdout
    nightly = {"RUSTUP_TOOLCHAIN": "nightly", "RUSTFLAGS": "-Z location-detail=none"}
    same_bits(calls, "build", env={**nightly, **CALLS})


# -- what is said ---------------------------------------------------------------------------------

FORMATS = thorough(
    ["human", "short", "json", "json-diagnostic-rendered-ansi"],
    [
        "json-diagnostic-short",
        "json-diagnostic-short,json-diagnostic-rendered-ansi",
        "json-render-diagnostics",
    ],
)


@pytest.mark.parametrize("form", FORMATS)
def test_warnings_in_every_message_format(calls: Space, form: str) -> None:
    """Byte for byte, from the store too; here of units that run one after the other."""
    arguments = ("clippy", "-p", "app", "--bins", "--message-format", form)
    same_bits(calls, *arguments, fresh=False, env=CALLS)


@pytest.mark.parametrize("color", thorough(["always"], ["never"]))
def test_warnings_in_colour(calls: Space, color: str) -> None:
    """Escape sequences are rustc's own."""
    same_bits(calls, "check", "-p", "app", "--color", color, fresh=False, env=CALLS)


ERRORS = {
    "type": 'fn main() { let x: u32 = "text"; }\n',
    "syntax": "fn main() { let = ; }\n",
    "unresolved import": "use nothing::here;\nfn main() {}\n",
    "missing module": "mod nowhere;\nfn main() {}\n",
    "missing crate": "extern crate nowhere;\nfn main() {}\n",
    "unset variable": 'fn main() { println!("{}", env!("NOT_SET_ANYWHERE")) }\n',
    "compile_error": 'compile_error!("by hand");\nfn main() {}\n',
    "missing file": 'fn main() { println!("{}", include_str!("nowhere.txt")) }\n',
    "feature": "#![feature(never_type)]\nfn main() {}\n",
    "denied lint": "#![deny(unused_variables)]\nfn main() { let x = 1; }\n",
    "borrow": 'fn main() { let s = String::new(); drop(s); println!("{s}"); }\n',
    "constant": 'const X: u32 = 1 / 0;\nfn main() { println!("{X}") }\n',
    "undefined symbol": 'extern "C" { fn nowhere(); }\nfn main() { unsafe { nowhere() } }\n',
    "missing library": '#[link(name = "nowhere")]\nextern "C" {}\nfn main() {}\n',
}


@pytest.mark.parametrize("form", thorough(["human"], ["json", "short"]))
@pytest.mark.parametrize("what", ERRORS)
def test_errors(empty: Space, what: str, form: str) -> None:
    """A compile error is rustc's own, once, with its exit code."""
    empty.write({"Cargo.toml": package("wrong"), "src/main.rs": ERRORS[what]})
    same_failure(empty, "build", "--message-format", form)


def test_an_error_of_one_crate_among_others(calls: Space) -> None:
    """With --keep-going the others are built; the error is shown once."""
    broken = calls.project / "plain" / "src" / "lib.rs"
    text = broken.read_text()
    broken.write_text(text + "pub fn wrong() -> u32 { 1.5 }\n")
    try:
        same_failure(calls, "build", "--keep-going", exact=False, env=CALLS)
    finally:
        broken.write_text(text)


def test_what_a_macro_is_built_from_can_have_a_name_that_begins_as_its_own(empty: Space) -> None:
    """As `wasm_bindgen_macro_support`, `pyo3_macros_backend` or `sqlx_macros_core`: rustc opens
    such files while it looks for the macro, and the order of links in documentation depends on it.
    """
    links = "".join(f"//! [`m{n}::f{n}`]\n" for n in range(40))
    modules = "".join(f"pub mod m{n} {{ pub fn f{n}() {{}} }}\n" for n in range(40))
    macro = "[lib]\nproc-macro = true\n"
    package = wrong_hits.package
    empty.write(
        {
            "Cargo.toml": wrong_hits.workspace("mark", "mark_support", "middle", "documented"),
            "mark_support/Cargo.toml": package("mark_support"),
            "mark_support/src/lib.rs": "pub fn same<T>(tokens: T) -> T { tokens }\n",
            "mark/Cargo.toml": package("mark", "mark_support", more=macro),
            "mark/src/lib.rs": "use proc_macro::TokenStream;\n#[proc_macro_attribute]\npub fn mark"
            "(_: TokenStream, item: TokenStream) -> TokenStream { mark_support::same(item) }\n",
            "middle/Cargo.toml": package("middle", "mark"),
            "middle/src/lib.rs": "pub use mark::mark;\n",
            "documented/Cargo.toml": package("documented", "middle"),
            "documented/src/lib.rs": f"{links}{modules}#[middle::mark]\npub fn marked() {{}}\n",
        }
    )
    same_bits(empty, "build", "--offline")
