"""burst_wrapper.argv against real cargo command lines and rustc's own rules."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_wrapper import argv
from burst_wrapper.argv import Extern, NativeLib, RustcCall, SearchPath

RUSTC = b"/home/u/.rustup/toolchains/1.95.0-x86_64-unknown-linux-gnu/bin/rustc"
CLIPPY = RUSTC[: -len(b"rustc")] + b"clippy-driver"
JSON = b"--error-format=json\n--json=diagnostic-rendered-ansi,artifacts,future-incompat\n"

# recorded from cargo 1.95, one argument a line
PROC_MACRO = (
    b"--crate-name\nmac_ro\n--edition=2021\nmac/src/lib.rs\n"
    + JSON
    + b"--crate-type\nproc-macro\n--emit=dep-info,link\n-C\nprefer-dynamic\n-C\nembed-bitcode=no\n"
    b"-C\ndebuginfo=2\n--check-cfg\ncfg(docsrs,test)\n--check-cfg\ncfg(feature, values())\n"
    b"-C\nmetadata=5fa5679e9fc94c0a\n-C\nextra-filename=-8ecee980baca14ee\n"
    b"--out-dir\n/ws/target/debug/deps\n-C\nincremental=/ws/target/debug/incremental\n"
    b"-L\ndependency=/ws/target/debug/deps\n--extern\nproc_macro"
)
BUILD_SCRIPT = (
    b"--crate-name\nbuild_script_build\n--edition=2021\nlib/build.rs\n"
    + JSON
    + b"--diagnostic-width=120\n--crate-type\nbin\n--emit=dep-info,link\n-C\nembed-bitcode=no\n"
    b'--cfg\nfeature="default"\n--cfg\nfeature="x"\n-C\nmetadata=6509a82051526c2e\n'
    b"-C\nextra-filename=-cb05c7ba39d547ef\n--out-dir\n/ws/target/debug/build/li-b-cb05c7ba39d547ef"
)
LIB_AND_CDYLIB = (
    b"--crate-name\nli_b\n--edition=2021\nlib/src/lib.rs\n"
    + JSON
    + b"--crate-type\nlib\n--crate-type\ncdylib\n--emit=dep-info,link\n-C\nembed-bitcode=no\n"
    b"-C\nmetadata=9a0e56904a12e943\n--out-dir\n/ws/target/debug/deps\n"
    b"-L\ndependency=/ws/target/debug/deps\n"
    b"--extern\nmac_ro=/ws/target/debug/deps/libmac_ro-8ecee980baca14ee.so\n"
    b"-L\nnative=/ws/target/debug/build/li-b-e8d3d4a21790a43b/out\n-C\nlink-arg=-Wl,--as-needed\n"
    b"--cfg\nfoo\n--check-cfg\ncfg(foo)\n-l\nstatic=foo"
)
CHECK_FOR_TARGET = (
    b"--crate-name\napp\n--edition=2021\napp/src/lib.rs\n"
    + JSON
    + b"--crate-type\nlib\n--emit=dep-info,metadata\n-C\nembed-bitcode=no\n"
    b"-C\nmetadata=bdfae644cf224cd7\n-C\nextra-filename=-dc20536ac761f081\n"
    b"--out-dir\n/ws/target/x86_64-unknown-linux-gnu/debug/deps\n"
    b"--target\nx86_64-unknown-linux-gnu\n"
    b"--extern\nli_b=/ws/target/x86_64-unknown-linux-gnu/debug/deps/libli_b-83.rmeta"
)
TEST_HARNESS = (
    b"--crate-name\nt\n--edition=2021\napp/tests/t.rs\n"
    + JSON
    + b"--emit=dep-info,link\n-C\nopt-level=3\n-C\nembed-bitcode=no\n--test\n"
    b"-C\nmetadata=bd97953cd02721e4\n-C\nextra-filename=-f9a48b18c4bd7fdc\n"
    b"--out-dir\n/ws/target/release/deps\n-C\nstrip=debuginfo"
)
REGISTRY_LIB = (
    b"--crate-name\nserde\n--edition=2021\n/r/serde-1/src/lib.rs\n"
    + JSON
    + b"--crate-type\nlib\n--emit=dep-info,metadata,link\n-C\nmetadata=1\n-C\nextra-filename=-2\n"
    b"--out-dir\n/ws/target/debug/deps\n--cap-lints\nallow"
)
CARGO_PROBE = (
    b"-\n--crate-name\n___\n--print=file-names\n--crate-type\nbin\n--crate-type\nrlib\n"
    b"--print=sysroot\n--print=split-debuginfo\n--print=cfg\n-Wwarnings"
)


def no_file(path: bytes) -> bytes:
    raise FileNotFoundError(2, "No such file or directory", path)


def parse(*args: bytes) -> RustcCall:
    return argv.parse([RUSTC, *args], no_file)


def lines(text: bytes) -> RustcCall:
    return parse(*text.split(b"\n"))


@pytest.mark.parametrize(
    ("text", "stem", "facts"),
    [
        (PROC_MACRO, b"mac_ro-8ecee980baca14ee", "links needs_rlibs is_proc_macro"),
        (BUILD_SCRIPT, b"build_script_build-cb05c7ba39d547ef", "links needs_rlibs is_build_script"),
        (LIB_AND_CDYLIB, b"li_b", "links needs_rlibs"),
        (CHECK_FOR_TARGET, b"app-dc20536ac761f081", "metadata_only"),
        (TEST_HARNESS, b"t-f9a48b18c4bd7fdc", "links needs_rlibs is_test"),
        (REGISTRY_LIB, b"serde-2", ""),
        (
            REGISTRY_LIB.replace(b"\nlib\n", b"\nstaticlib\n"),
            b"serde-2",
            "needs_rlibs",
        ),
    ],
)
def test_knows_what_each_of_cargos_calls_is(text: bytes, stem: bytes, facts: str) -> None:
    """Kind, stem and needs of the calls one cargo build makes."""
    call = lines(text)
    assert call.problem is None
    assert not call.unknown
    assert call.announces_artifacts
    assert call.stem == stem
    assert call.lib_stem == b"lib" + stem
    names = ["links", "needs_rlibs", "is_proc_macro", "is_build_script", "is_test", "metadata_only"]
    assert [name for name in names if getattr(call, name)] == [
        name for name in names if name in facts.split()
    ]


def test_takes_a_whole_call_apart() -> None:
    """Every part of a recorded call is where it should be."""
    call = lines(LIB_AND_CDYLIB)
    assert call.driver == call.rustc == RUSTC
    assert call.crate_types == (b"lib", b"cdylib")
    assert call.emit == ((b"dep-info", None), (b"link", None))
    assert call.input == b"lib/src/lib.rs"
    assert call.out_dir == b"/ws/target/debug/deps"
    assert call.metadata == b"9a0e56904a12e943"
    assert call.externs == (
        Extern(b"mac_ro", b"/ws/target/debug/deps/libmac_ro-8ecee980baca14ee.so"),
    )
    assert call.search_paths == (
        SearchPath(b"dependency", b"/ws/target/debug/deps"),
        SearchPath(b"native", b"/ws/target/debug/build/li-b-e8d3d4a21790a43b/out"),
    )
    assert call.native_libs == (NativeLib(b"foo", b"static"),)
    assert call.link_args == (b"-Wl,--as-needed",)
    assert call.json == {b"diagnostic-rendered-ansi", b"artifacts", b"future-incompat"}
    assert call.edition == b"2021"


def test_the_key_leaves_out_what_changes_only_stderr() -> None:
    """A resized terminal gives the same key; the order of the rest is kept."""
    narrow = lines(BUILD_SCRIPT)
    wide = lines(BUILD_SCRIPT.replace(b"--diagnostic-width=120", b"--diagnostic-width\n80"))
    plain = lines(BUILD_SCRIPT.replace(b"--diagnostic-width=120\n", b"--color\nnever\n"))
    assert argv.normalised_for_key(narrow) == argv.normalised_for_key(wide)
    assert argv.normalised_for_key(narrow) == argv.normalised_for_key(plain)
    assert argv.diagnostic_args(wide)[-2:] == [b"--diagnostic-width", b"80"]
    assert argv.diagnostic_args(plain)[-2:] == [b"--color", b"never"]
    assert [arg for arg in narrow.args if arg not in argv.diagnostic_args(narrow)] == (
        argv.normalised_for_key(narrow)
    )


@pytest.mark.parametrize(
    "spelling",
    [
        [b"-C", b"opt-level=3"],
        [b"-Copt-level=3"],
        [b"-C", b"opt_level=3"],
        [b"--codegen", b"opt-level=3"],
        [b"--codegen=opt-level=3"],
        [b"-O"],
        [b"-gO"],
        [b"-OC", b"debuginfo=1"],
        [b"-C", b"opt-level=s", b"-O"],
        [b"-O", b"-C", b"opt-level=3"],
    ],
)
def test_every_spelling_of_a_codegen_option_is_the_same(spelling: list[bytes]) -> None:
    """Glued, apart, long, short-hand, in a cluster; the last one wins."""
    assert parse(*spelling, b"x.rs").codegen_value(b"opt-level") == b"3"


def test_the_later_of_g_and_debuginfo_wins() -> None:
    """As in rustc's select_debuginfo."""
    assert parse(b"-g", b"-Cdebuginfo=1").debuginfo == b"1"
    assert parse(b"-Cdebuginfo=1", b"-g").debuginfo == b"2"
    assert parse().debuginfo == b"0"


def test_an_option_takes_the_next_argument_whatever_it_is() -> None:
    """getopts does not look at hyphens: `--extern -C` is an extern called `-C`."""
    call = parse(b"--extern", b"-C", b"x.rs")
    assert call.externs == (Extern(b"-C", None),)
    assert call.inputs == (b"x.rs",)


def test_after_two_hyphens_everything_is_an_input() -> None:
    """`rustc -- --test` compiles a file called `--test`."""
    call = parse(b"--", b"--test", b"x.rs")
    assert call.inputs == (b"--test", b"x.rs")
    assert call.input is None
    assert not call.is_test
    assert call.key_args == (b"--", b"--test", b"x.rs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a", Extern(b"a", None)),
        (b"a=/x/liba.rlib", Extern(b"a", b"/x/liba.rlib")),
        (b"a=/x=y:z", Extern(b"a", b"/x=y:z")),
        (b"priv:a=/x", Extern(b"a", b"/x", (b"priv",))),
        (b"priv,noprelude:a=/x", Extern(b"a", b"/x", (b"priv", b"noprelude"))),
        (b"noprelude:std", Extern(b"std", None, (b"noprelude",))),
        (b"a::b=/x", Extern(b"a::b", b"/x")),
    ],
)
def test_externs(text: bytes, expected: Extern) -> None:
    """Options before a colon, name, path after the first `=`."""
    assert parse(b"--extern", text).externs == (expected,)
    assert parse(b"--extern=" + text).externs == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"z", NativeLib(b"z")),
        (b"static=z", NativeLib(b"z", b"static")),
        (
            b"static:+whole-archive,-bundle=z",
            NativeLib(b"z", b"static", (b"+whole-archive", b"-bundle")),
        ),
        (b"dylib=a:b", NativeLib(b"a", b"dylib", (), b"b")),
        (b"a:b", NativeLib(b"a", None, (), b"b")),
    ],
)
def test_native_libraries(text: bytes, expected: NativeLib) -> None:
    """Kind, modifiers, name, rename."""
    assert parse(b"-l", text).native_libs == (expected,)
    assert parse(b"-l" + text).native_libs == (expected,)


def test_search_paths() -> None:
    """An unknown kind is part of the path."""
    call = parse(b"-L", b"/a", b"-L/b", b"-Lnative=/c=d", b"-L", b"odd=/e")
    assert call.search_paths == (
        SearchPath(b"all", b"/a"),
        SearchPath(b"all", b"/b"),
        SearchPath(b"native", b"/c=d"),
        SearchPath(b"all", b"odd=/e"),
    )


def test_lists_and_repeats_are_joined() -> None:
    """`--emit`, `--crate-type` and `--json` may be given several times, with commas."""
    call = parse(
        *(b"--emit=dep-info=/o/x.d,metadata", b"--emit", b"link"),
        *(b"--crate-type=lib,cdylib", b"--crate-type", b"lib", b"--json=artifacts,timings"),
        *(b"-Dwarnings", b"-A", b"dead_code", b"--warn=x", b"--force-warn", b"y"),
    )
    assert call.emit == ((b"dep-info", b"/o/x.d"), (b"metadata", None), (b"link", None))
    assert call.crate_types == (b"lib", b"cdylib")
    assert call.json == {b"artifacts", b"timings"}
    assert set(call.lints) == {
        (b"D", b"warnings"),
        (b"A", b"dead_code"),
        (b"W", b"x"),
        (b"force-warn", b"y"),
    }


def test_without_emit_rustc_links() -> None:
    """No --emit means link; no crate type may be a program."""
    call = parse(b"x.rs")
    assert call.emit == ((b"link", None),)
    assert call.links


def test_clippy_driver_is_followed_by_rustc() -> None:
    """Both paths are told apart, by clippy-driver's own test of the file stem."""
    call = argv.parse([CLIPPY, RUSTC, *LIB_AND_CDYLIB.split(b"\n")], no_file)
    assert call.is_clippy
    assert (call.driver, call.rustc) == (CLIPPY, RUSTC)
    assert call.args == lines(LIB_AND_CDYLIB).args
    alone = argv.parse([CLIPPY, b"x.rs"], no_file)
    assert alone.rustc is None
    assert alone.input == b"x.rs"


def test_argfiles_are_expanded_as_rustc_does() -> None:
    """One argument a line, CRLF cut, blank lines are empty arguments, a nested @ is plain."""
    files = {b"a.arg": b"--crate-name\r\nx y\n\n@b.arg\n", b"b.arg": b"never read"}
    call = argv.parse([RUSTC, b"@a.arg", b"m.rs"], files.__getitem__)
    assert call.args == (b"--crate-name", b"x y", b"", b"@b.arg", b"m.rs")
    assert call.used_argfile
    assert call.crate_name == b"x y"
    assert call.inputs == (b"", b"@b.arg", b"m.rs")
    inline = argv.parse([RUSTC, *LIB_AND_CDYLIB.split(b"\n")], no_file)
    from_file = argv.parse([RUSTC, b"@l"], lambda _: LIB_AND_CDYLIB)
    assert from_file.key_args == inline.key_args


@pytest.mark.parametrize(
    ("args", "part"),
    [
        ([b"--crate-name"], "without its value"),
        ([b"-C"], "without its value"),
        ([b"-gC"], "without its value"),
        ([b"--test=1"], "takes no value"),
        ([b"--out-dir", b"a", b"--out-dir=a"], "more than once"),
        ([b"--test", b"--test"], "more than once"),
        ([b"@nosuch"], "argfile"),
        ([b"\xff"], "UTF-8"),
    ],
)
def test_what_rustc_refuses_is_a_problem(args: list[bytes], part: str) -> None:
    """No exception, and the key holds the arguments unchanged."""
    call = parse(*args)
    assert part in (call.problem or "")
    assert call.key_args == call.args == tuple(args)


def test_shell_argfiles_are_left_to_rustc() -> None:
    """-Z shell-argfiles changes what `@` means."""
    call = argv.parse([RUSTC, b"-Zshell-argfiles", b"@shell:a"], lambda _: b"x")
    assert call.problem is not None


def test_unknown_flags_are_kept_and_listed() -> None:
    """A newer rustc may know them; we say so."""
    call = parse(b"--brand-new=1", b"-y", b"x.rs")
    assert call.unknown == (b"--brand-new=1", b"-y")
    assert call.key_args == (b"--brand-new=1", b"-y", b"x.rs")
    assert call.problem is None


@pytest.mark.parametrize(
    "text",
    [b"-vV", b"--version", b"-V", b"-h", b"--explain\nE0001", b"-Whelp", b"-C\nhelp", b"-Zhelp"],
)
def test_queries(text: bytes) -> None:
    """Calls that only print something."""
    assert lines(text).is_query


def test_cargos_probe_reads_stdin() -> None:
    """`rustc - --crate-name ___ --print=…`."""
    call = lines(CARGO_PROBE)
    assert call.is_stdin
    assert not call.is_query
    assert call.prints == (b"file-names", b"sysroot", b"split-debuginfo", b"cfg")


def test_codegen_helpers() -> None:
    """The options that policy and keys ask for by name."""
    call = parse(
        *(b"-Clinker=/usr/bin/clang", b"-Clink-args=-a -b", b"-Clink-arg=-c d", b"-Csave-temps"),
        *(b"-Cprofile-generate", b"-Cprofile-use=/p", b"-Clinker-plugin-lto", b"-Ctarget-cpu=x"),
        *(b"-Csplit-debuginfo=packed", b"-Cincremental=/i", b"-Zpre_link_arg=-e"),
    )
    assert call.linker == b"/usr/bin/clang"
    assert call.link_args == (b"-e", b"-a", b"-b", b"-c d")
    assert call.save_temps
    assert call.profile_generate
    assert call.profile_use == b"/p"
    assert call.linker_plugin_lto == b""
    assert call.target_cpu == b"x"
    assert call.split_debuginfo == b"packed"
    assert call.incremental == b"/i"
    assert not parse(b"-Csave-temps=no").save_temps


WORDS = [
    *LIB_AND_CDYLIB.split(b"\n"),
    b"-",
    b"--",
    b"@f",
    b"-C",
    b"-gO",
    b"--emit",
    b"--x",
    b"-\xff",
]


@given(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(WORDS)), max_size=20))
def test_never_raises(args: list[bytes]) -> None:
    """Any bytes give a call whose properties can be read and whose arguments are all kept."""
    call = argv.parse(args, lambda path: path * 3)
    for name in dir(call):
        getattr(call, name)
    if call.problem is None:
        assert sorted(call.key_args + call.stderr_args) == sorted(call.args)
    else:
        assert call.key_args == call.args


@given(st.lists(st.sampled_from(WORDS[:-8]), max_size=20))
def test_an_argfile_equals_its_lines(args: list[bytes]) -> None:
    """Cargo falls back to an argfile when the command line is too long."""
    inline = argv.parse([RUSTC, *args], no_file)
    from_file = argv.parse([RUSTC, b"@f"], lambda _: b"".join(arg + b"\n" for arg in args))
    assert from_file.key_args == inline.key_args
    assert from_file.externs == inline.externs
    assert from_file.problem == inline.problem


def rustc_help(*args: str) -> str:
    rustc = shutil.which("rustc")
    if rustc is None:
        pytest.skip("no rustc")
    done = subprocess.run([rustc, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no working rustc")
    return done.stdout


def test_knows_every_option_of_the_installed_rustc() -> None:
    """`rustc --help -v` names no option that we would call unknown."""
    found = re.findall(
        r"^ +(?:-(\w),? )? *(?:--([a-z-]+))?", rustc_help("--help", "-v"), re.MULTILINE
    )
    options = [f"--{long}" for _, long in found if long] + [
        f"-{short}" for short, _ in found if short
    ]
    assert len(options) > 30
    for option in options:
        assert not parse(option.encode(), b"x").unknown, option
