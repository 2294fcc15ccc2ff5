"""burst_wrapper.policy: remote or local, and why."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_wrapper import argv, policy
from burst_wrapper.policy import Local, Reason, Remote

RUSTC = b"/t/bin/rustc"
BASE = (
    *(b"--crate-name", b"x", b"src/main.rs", b"--error-format=json", b"--json=artifacts"),
    *(b"--emit=dep-info,link", b"-C", b"metadata=1", b"--out-dir", b"/t/deps"),
)
BIN = (*BASE, b"--crate-type", b"bin")
LIB = (*BASE, b"--crate-type", b"lib")


def no_file(path: bytes) -> bytes:
    raise FileNotFoundError(path)


def decide(*args: bytes, env: dict[bytes, bytes] | None = None) -> policy.Decision:
    return policy.decide(argv.parse([RUSTC, *args], no_file), env or {})


def clippy(*args: bytes, env: dict[bytes, bytes] | None = None) -> policy.Decision:
    return policy.decide(argv.parse([b"/t/bin/clippy-driver", RUSTC, *args], no_file), env or {})


def test_another_compiler_runs_at_home() -> None:
    """RUSTC under a name of its own: counted, with the name."""
    for words in ([b"/t/my-rustc", *LIB], [b"/t/rustc-", *LIB]):
        decision = policy.decide(argv.parse(words, no_file), {})
        assert isinstance(decision, Local)
        assert decision.reason is Reason.COMPILER
        assert decision.reason.counted
        assert decision.detail == words[0].decode()


def reason(decision: policy.Decision) -> Reason | None:
    return decision.reason if isinstance(decision, Local) else None


@pytest.mark.parametrize(
    "more",
    [
        [],
        [b"-C", b"incremental=/t/inc"],
        [b"-C", b"save-temps"],
        [b"-C", b"target-cpu=x86-64-v3"],
        [b"-C", b"instrument-coverage"],
        [b"-C", b"linker-plugin-lto"],
        [b"-C", b"split-debuginfo=unpacked"],
        [b"-C", b"profile-generate=no"],
        [b"-C", b"link-arg=-Wl,-Map=/t/deps/x.map"],
        [b"--emit=asm,obj"],
        [b"--emit=asm=/t/deps/x.s"],
        [b"--print=native-static-libs"],
        [b"--target", b"aarch64-unknown-linux-gnu"],
        [b"-Zunstable-options", b"-Z", b"embed_metadata=no", b"-Zcodegen-backend=cranelift"],
        [b"--remap-path-prefix", b"/a=/b"],
        [b"-D", b"clippy::cargo"],
    ],
)
def test_ordinary_compiles_are_remote(more: list[bytes]) -> None:
    """What cargo and usual RUSTFLAGS ask for runs remotely."""
    assert isinstance(decide(*BIN, *more), Remote)
    assert isinstance(decide(*LIB, *more), Remote)


def test_targets_without_a_harness_are_remote() -> None:
    """Cargo gives no crate type for a bench or test with `harness = false`."""
    assert isinstance(decide(*BASE, b"--cfg", b"test"), Remote)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([b"-vV"], Reason.QUERY),
        ([b"--print=cfg"], Reason.QUERY),
        ([*BIN, b"--print=cfg"], Reason.QUERY),
        ([*BIN, b"--print=link-args=/tmp/f"], Reason.QUERY),
        ([b"-", b"--crate-name", b"___", b"--print=file-names"], Reason.STDIN),
        ([b"--crate-name", b"x", b"x.rs"], Reason.NO_ARTIFACT_LINES),
        ([*BIN, b"--crate-name", b"y"], Reason.MALFORMED),
        ([*BIN, b"--brand-new"], Reason.UNKNOWN_FLAG),
        ([*BIN, b"-C", b"brand-new=1"], Reason.UNKNOWN_FLAG),
        (BIN[2:], Reason.NO_CRATE_NAME),
        ([*BIN[:8], *BIN[10:]], Reason.NO_OUT_DIR),
        (BASE, Reason.NO_CRATE_TYPE),
        ([*BIN, b"more.rs"], Reason.INPUT_COUNT),
        ([*BIN[:2], *BIN[3:]], Reason.INPUT_COUNT),
        ([*BIN[:5], b"--emit=link", *BIN[6:]], Reason.NO_DEP_INFO),
        ([*BIN, b"--emit=sparkles"], Reason.UNKNOWN_EMIT),
        ([*BIN, b"-o", b"/t/deps/x"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"--emit=asm=/t/x.s"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"--emit=asm=-"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"--emit=asm=/t/deps/../x.s"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"--emit=asm=/t/deps2/x.s"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"-Cextra-filename=/../x"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"-Clink-arg=-Wl,-Map=/tmp/x.map"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"-Clink-args=-Wl,-Map,/tmp/x.map"], Reason.OUTPUT_ELSEWHERE),
        ([*BIN, b"-Ctarget-cpu=native"], Reason.TARGET_CPU_NATIVE),
        ([*BIN, b"-C", b"target_cpu=native"], Reason.TARGET_CPU_NATIVE),
        ([*BIN, b"-Ztune-cpu=native"], Reason.TUNE_CPU_NATIVE),
        ([*BIN, b"-Cprofile-generate"], Reason.PROFILE_GENERATE),
        ([*BIN, b"-Cprofile-generate=/tmp"], Reason.PROFILE_GENERATE),
        ([*BIN, b"--sysroot=/s"], Reason.SYSROOT),
        ([*BIN, b"-Zcodegen-backend=/x/lib.so"], Reason.CODEGEN_BACKEND),
        ([*BIN, b"-Clinker-plugin-lto=/x/lib.so"], Reason.LTO_PLUGIN),
        ([*BIN, b"-Cllvm-args=-load=/x.so"], Reason.LLVM_ARGS),
        ([*BIN, b"-Cpasses=x"], Reason.LLVM_ARGS),
        ([*BIN, b"-Zself-profile"], Reason.UNSTABLE_FLAG),
        ([*BIN, b"-Z", b"dump_mir=all"], Reason.UNSTABLE_FLAG),
        ([*BIN, b"-Zsplit-dwarf-out-dir=/tmp"], Reason.UNSTABLE_FLAG),
    ],
)
def test_local_with_its_reason(args: list[bytes], expected: Reason) -> None:
    """The closed list of command lines that run at home."""
    assert reason(decide(*args)) is expected


@pytest.mark.parametrize(
    ("env", "links", "compiles"),
    [
        ({b"RUSTC_LOG": b"info"}, Reason.RUSTC_LOG, Reason.RUSTC_LOG),
        ({b"RUSTC_LOG_COLOR": b"always"}, Reason.RUSTC_LOG, Reason.RUSTC_LOG),
        ({b"LD_PRELOAD": b"/usr/lib/mold/mold-wrapper.so"}, Reason.PRELOADED_LINK, None),
        ({b"LD_PRELOAD": b""}, None, None),
        ({b"LLD_REPRODUCE": b"/tmp/x.tar"}, Reason.LINKER_TRACE, None),
        ({b"SYSROOT": b"/s"}, None, None),
        ({b"CLIPPY_ARGS": b"-Wclippy::cargo"}, None, None),
    ],
)
def test_the_environment_may_keep_a_call_at_home(
    env: dict[bytes, bytes], links: Reason | None, compiles: Reason | None
) -> None:
    """Some variables concern every call, some only those that link."""
    assert reason(decide(*BIN, env=env)) is links
    assert reason(decide(*LIB, env=env)) is compiles


def test_a_target_name_may_mean_another_file() -> None:
    """RUST_TARGET_PATH: `--target name` may be name.json somewhere."""
    env = {b"RUST_TARGET_PATH": b"/specs"}
    assert reason(decide(*LIB, b"--target=mine", env=env)) is Reason.TARGET_UNSURE
    assert reason(decide(*LIB, b"--target=/a/mine.json", env=env)) is None


@pytest.mark.parametrize(
    "words",
    [
        [b"-W", b"clippy::cargo"],
        [b"-Wclippy::cargo"],
        [b"-D", b"warnings", b"--warn", b"clippy::multiple_crate_versions"],
        [b"--deny=clippy::wildcard-dependencies"],
        [b"-A", b"clippy::all", b"-W", b"clippy::cargo"],
    ],
)
def test_clippys_cargo_lints_run_at_home(words: list[bytes]) -> None:
    """In argv (from Cargo.toml's [lints]) and in CLIPPY_ARGS (after `--`)."""
    joined = b"".join(word + b"__CLIPPY_HACKERY__" for word in words)
    assert reason(clippy(*LIB, env={b"CLIPPY_ARGS": joined})) is Reason.CLIPPY_CARGO
    assert reason(clippy(*LIB, *words)) is Reason.CLIPPY_CARGO
    assert reason(decide(*LIB, *words)) is None


@pytest.mark.parametrize(
    "words", [[b"-D", b"warnings"], [b"-A", b"clippy::cargo"], [b"--allow=clippy::cargo"], []]
)
def test_other_clippy_runs_are_remote(words: list[bytes]) -> None:
    """Allowing a cargo lint starts nothing."""
    joined = b"".join(word + b"__CLIPPY_HACKERY__" for word in words)
    assert reason(clippy(*LIB, env={b"CLIPPY_ARGS": joined})) is None
    assert reason(clippy(*LIB, *words)) is None


def test_a_clippy_sysroot_from_the_environment_is_local() -> None:
    """clippy-driver reads SYSROOT."""
    assert reason(clippy(*LIB, env={b"SYSROOT": b"/s"})) is Reason.SYSROOT


@pytest.mark.parametrize(
    ("args", "files"),
    [
        ([], []),
        ([b"--target", b"/t/x.json"], [b"/t/x.json"]),
        ([b"-Cprofile-use=/p.profdata"], [b"/p.profdata"]),
        ([b"-Cprofile-use"], [b"default.profdata"]),
        ([b"-Clinker=clang"], []),
        ([b"-Clinker=/usr/bin/clang"], [b"/usr/bin/clang"]),
        ([b"-Clink-arg=extra.o"], [b"extra.o"]),
        ([b"-Clink-arg=-Wl,--version-script=v.map"], [b"v.map"]),
        ([b"-Clink-arg=-Wl,--version-script,v.map"], [b"v.map"]),
        ([b"-Clink-arg=-Tlink.x"], [b"link.x"]),
        ([b"-Clink-args=-T memory.x -Ttext=0x1000"], [b"memory.x"]),
        ([b"-Clink-arg=-Xlinker", b"-Clink-arg=--dynamic-list=d"], [b"d"]),
        ([b"-Clink-arg=@resp"], [b"resp"]),
        ([b"-Clink-arg=-fuse-ld=lld"], []),
        ([b"-Clink-arg=-fuse-ld=/opt/mold"], [b"/opt/mold"]),
        ([b"-Clink-arg=-Wl,-rpath=/x", b"-Clink-arg=-L/y", b"-Clink-arg=-lz"], []),
        ([b"-Clink-arg=-Wl,-Map=/t/deps/m", b"-Clink-arg=a.o", b"-Clink-arg=a.o"], [b"a.o"]),
    ],
)
def test_files_named_by_argv(args: list[bytes], files: list[bytes]) -> None:
    """They are inputs; scripts and objects only where a linker reads them."""
    assert policy.argv_input_files(argv.parse([RUSTC, *BIN, *args], no_file)) == files
    assert decide(*BIN, *args) == Remote(tuple(files))
    call = argv.parse([RUSTC, *LIB, *args], no_file)
    assert policy.argv_input_files(call) == [
        name for name in files if name.endswith((b".json", b".profdata"))
    ]


def test_codes_are_stable_names() -> None:
    """One code per reason, fit for counters; probes are not counted."""
    codes = [entry.code for entry in Reason]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert [entry for entry in Reason if not entry.counted] == [
        Reason.QUERY,
        Reason.STDIN,
        Reason.NO_ARTIFACT_LINES,
    ]
    assert str(Local(Reason.SYSROOT, "/s")) == "a sysroot of its own: /s"


@given(st.lists(st.one_of(st.sampled_from(BIN), st.binary(max_size=8)), max_size=16))
def test_decides_about_any_bytes(args: list[bytes]) -> None:
    """Never raises."""
    assert isinstance(decide(*args), Remote | Local)


def test_knows_every_codegen_option_of_the_installed_rustc() -> None:
    """`rustc -C help` names no option that we would refuse as unknown."""
    rustc = shutil.which("rustc")
    if rustc is None:
        pytest.skip("no rustc")
    done = subprocess.run([rustc, "-C", "help"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no working rustc")
    names = re.findall(r"^ +-C +([a-z-]+)=val", done.stdout, re.MULTILINE)
    assert len(names) > 30
    for name in names:
        if name != "help":
            assert reason(decide(*LIB, f"-C{name}=1".encode())) is not Reason.UNKNOWN_FLAG, name
