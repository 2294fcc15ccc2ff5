"""`--target` other than home's: home is a Debian trixie with its distribution's Rust, the standard
libraries of arm64 and wasm32, their linkers and qemu; the server has none of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import newer_home
from newer_home import PROJECT, Home, named, write_project
from trixie import Unavailable, cached_tree, run_or_unavailable

pytestmark = [
    *(pytest.mark.root, pytest.mark.slow, pytest.mark.thorough),
    pytest.mark.timeout(1800),
]

ARM: Final = "aarch64-unknown-linux-gnu"
WASM: Final = "wasm32-unknown-unknown"
RUNNER: Final = "qemu-aarch64 -L /usr/aarch64-linux-gnu"
PACKAGES: Final = (
    *newer_home.PACKAGES,
    *("rustc", "cargo", "libstd-rust-dev-wasm32", "lld"),
    *("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
)
APP: Final = {
    "Cargo.toml": '[workspace]\nmembers = ["app", "part", "web"]\nresolver = "2"\n',
    ".cargo/config.toml": (
        f'[target.{ARM}]\nlinker = "aarch64-linux-gnu-gcc"\n[target.{WASM}]\nlinker = "wasm-ld"\n'
    ),
    "part/Cargo.toml": (
        '[package]\nname = "part"\nversion = "0.1.0"\nedition = "2021"\n[lib]\nproc-macro = true\n'
    ),
    "part/src/lib.rs": (
        "use proc_macro::TokenStream;\n#[proc_macro]\n"
        "pub fn host(_: TokenStream) -> TokenStream {\n"
        '    format!("{:?}", std::env::consts::ARCH).parse().unwrap()\n}\n'
    ),
    "app/Cargo.toml": (
        '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n'
        '[dependencies]\npart = { path = "../part" }\n'
    ),
    "app/build.rs": (
        "fn main() {\n"
        '    println!("cargo::rustc-env=TARGET_OF_BUILD={}", std::env::var("TARGET").unwrap());\n'
        '    println!("cargo::rerun-if-changed=build.rs");\n}\n'
    ),
    "app/src/lib.rs": (
        "pub fn places() -> (&'static str, &'static str, &'static str) {\n"
        '    (part::host!(), std::env::consts::ARCH, env!("TARGET_OF_BUILD"))\n}\n'
        "#[test]\nfn of_arm() {\n"
        f'    assert_eq!(places(), ("x86_64", "aarch64", "{ARM}"));\n}}\n'
        "#[test]\n#[should_panic]\nfn unwinds() { panic!() }\n"
    ),
    "app/src/main.rs": ('fn main() { println!("{:?}", app::places()); std::process::exit(3); }\n'),
    "app/tests/starts.rs": (
        "#[test]\nfn is_of_arm() {\n"
        '    assert!(std::fs::read(env!("CARGO_BIN_EXE_app")).unwrap()[18] == 183);\n}\n'
    ),
    "web/Cargo.toml": (
        '[package]\nname = "web"\nversion = "0.1.0"\nedition = "2021"\n'
        '[lib]\ncrate-type = ["cdylib", "rlib"]\n'
    ),
    "web/src/lib.rs": (
        '#[no_mangle]\npub extern "C" fn answer(x: i32) -> i32 { format!("{x}").len() as i32 }\n'
    ),
}


def make(root: Path) -> None:
    """Debian has the other architecture's standard library in that architecture's package."""
    newer_home.make(root, PACKAGES)
    inside = ["chroot", str(root)]
    resolv = root / "etc/resolv.conf"
    resolv.write_text(Path("/etc/resolv.conf").read_text())
    run_or_unavailable([*inside, "dpkg", "--add-architecture", "arm64"])
    run_or_unavailable([*inside, "apt-get", "-qq", "update"])
    download = "cd /root && apt-get -qq download libstd-rust-dev:arm64 && dpkg-deb -x *.deb /"
    run_or_unavailable([*inside, "sh", "-c", f"{download} && rm *.deb && apt-get clean"])


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    try:
        lower = cached_tree(named("trixie-cross"), make)
    except Unavailable as error:
        pytest.skip(str(error))
    with newer_home.newer_home(lower, {}, "/usr") as opened:
        write_project(opened.host, APP)
        opened.run("cargo", "generate-lockfile", "--offline").check()
        yield opened


def made(home: Home) -> dict[str, str]:
    """Digests of all that rustc has written, by path."""
    which = r"\( -perm /111 -o -name *.rlib -o -name *.rmeta -o -name *.wasm -o -name *.d \)"
    find = f"find target -type f {which} -exec sha256sum {{}} +"
    lines = home.run("sh", "-f", "-c", find).check().stdout.splitlines()
    return {line[66:]: line[:64] for line in lines}


def executors(home: Home) -> set[tuple[str, str]]:
    """Crates of the last build, and whether they were compiled there."""
    told = home.burst("explain", "--json").check().stdout
    return set(re.findall(r'"crate": "(\w+)".*?"where": "(\w+)"', told, re.DOTALL))


@pytest.mark.parametrize("words", [("-p", "app", "--target", ARM), ("-p", "web", "--target", WASM)])
def test_what_is_built_is_what_cargo_builds(home: Home, words: tuple[str, ...]) -> None:
    """Every file, those of home's own architecture (a build script, a proc macro) too."""
    home.run("cargo", "clean").check()
    required = {"BURST_HOST": home.address, "BURST_REQUIRE_REMOTE": "1"}
    home.run("cargo", "burst", "build", *words, **required).check()
    theirs = made(home)
    if ARM in words:
        assert ("app", "remote") in executors(home), executors(home)
    home.run("cargo", "clean").check()
    home.run("cargo", "build", *words).check()
    plain = made(home)
    assert len(plain) > 4
    assert theirs == plain


def test_tests_are_started_by_the_users_emulator(home: Home) -> None:
    """Here, where it is; and it is said."""
    words = ("-p", "app", "--target", ARM)
    runner = {f"CARGO_TARGET_{ARM.upper().replace('-', '_')}_RUNNER": RUNNER}
    plain = home.run("cargo", "test", *words, **runner).check()
    done = home.run("cargo", "burst", "test", *words, BURST_HOST=home.address, **runner).check()
    for test in ("of_arm", "unwinds", "is_of_arm"):
        assert re.search(rf"test {test}.* \.\.\. ok", plain.stdout)
        assert re.search(rf"test {test}.* \.\.\. ok", done.stdout), done.stdout + done.stderr
    assert f"{ARM}: programs are started by your own runner, here" in done.stderr
    ended = home.run("cargo", "burst", "run", "-q", *words, BURST_HOST=home.address, **runner)
    assert (ended.status, ended.stdout) == (3, f'("x86_64", "aarch64", "{ARM}")\n')


@pytest.mark.parametrize("verb", ["run", "test"])
def test_what_nobody_can_run_ends_as_with_cargo(home: Home, verb: str) -> None:
    """cargo's own words and code, and real files here."""
    words = (verb, "-p", "app", "--target", ARM)
    plain = home.run("cargo", *words)
    done = home.burst(*words)
    if plain.status in (0, 3):
        pytest.skip("this kernel knows an emulator")
    # `cargo run` is replaced by execvp(3), which then tries a shell.
    assert ("Exec format error" if verb == "test" else "Syntax error") in plain.stderr
    assert done.status == plain.status
    assert plain.stderr.splitlines()[-1] in done.stderr, done.stderr
    assert f"{ARM}: cargo starts programs here: the other machine cannot run them" in done.stderr
    program = home.host.root / PROJECT.lstrip("/") / f"target/{ARM}/debug/app"
    assert program.read_bytes()[:4] == b"\x7fELF"
    refused = home.burst("run-remote", *words[1:])
    assert refused.status not in (0, 3)
    assert f"that runs programs for {ARM}" in refused.stderr


def test_home_and_another_at_once(home: Home) -> None:
    """`--target` twice: one verb, two standard libraries."""
    own = subprocess.run(
        ["rustc", "-vV"], check=True, capture_output=True, text=True
    ).stdout.split("host: ")[1].split()[0]  # fmt: skip
    home.run("cargo", "clean").check()
    words = ("build", "-p", "app", "--target", ARM, "--target", own)
    home.burst(*words).check()
    theirs = made(home)
    home.run("cargo", "clean").check()
    home.run("cargo", *words).check()
    assert theirs == made(home)
    ended = home.run(f"{PROJECT}/target/{own}/debug/app")
    assert (ended.status, ended.stdout) == (3, f'("x86_64", "x86_64", "{own}")\n')
