"""Variables, flags, drivers and configuration: everything around a compile but its sources."""

from __future__ import annotations

import json
import shutil

import attrs
import pytest

from projects import CARGO_HOME, published
from space import BURST_RUSTC
from wrong_hits import APP, Twin, package, workspace

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _prints(expression: str) -> dict[str, str]:
    main = f'fn main() {{ println!("{{}}", {expression}); }}\n'
    return {"Cargo.toml": APP, "src/main.rs": main}


# --- variables ---


def test_a_variable_read_by_env(twin: Twin) -> None:
    """Unset is an error, rustc's own; then set, changed, empty, unset again."""
    twin.write(_prints('env!("COLOUR")'))
    twin.agree(None, complains="environment variable `COLOUR` not defined")
    twin.agree("red", COLOUR="red")
    twin.agree("blue", COLOUR="blue")
    twin.agree("", COLOUR="")
    twin.agree(None, complains="not defined")
    assert twin.agree("red", COLOUR="red")["app bin"] == "hit"


def test_a_variable_read_by_option_env(twin: Twin) -> None:
    """Without a value there is no error that could warn: `None` must be home's `None`."""
    twin.write(_prints('option_env!("COLOUR").map_or("none".into(), |c| format!("={c}"))'))
    twin.agree("none")
    twin.agree("=red", COLOUR="red")
    twin.agree("=", COLOUR="")
    twin.agree("=blue", COLOUR="blue")
    assert twin.agree("none")["app bin"] == "hit"
    assert twin.agree("=red", COLOUR="red")["app bin"] == "hit"


def test_variables_of_odd_values(twin: Twin) -> None:
    """Line breaks, backslashes, an equals sign, what is no UTF-8, the name of a secret."""
    twin.write(_prints('option_env!("MY_TOKEN").map_or("none".into(), |c| format!("{c:?}"))'))
    for value, says in (
        ("a\nb\\n=c", '"a\\nb\\\\n=c"'),
        ("a\nb\\n=d", '"a\\nb\\\\n=d"'),
        (" ", '" "'),
        ("é", '"é"'),
    ):
        twin.agree(says, MY_TOKEN=value)
        assert "$MY_TOKEN" in twin.reasons()["app"]
    twin.agree(None, MY_TOKEN="caf\udce9")
    twin.agree("none")


def test_a_file_of_the_kernel(twin: Twin) -> None:
    """It is this machine's, and a sandbox has few of them: neither another one's, nor an error."""
    twin.write(_prints('include_str!("/sys/class/net/lo/address").trim().to_owned()'))
    assert twin.agree("00:00:00:00:00:00")["app bin"] == "local"


def test_a_variable_in_a_dependency(twin: Twin) -> None:
    """It changes a library; the program that uses it follows."""
    twin.write({"Cargo.toml": workspace("app", "dep"), "dep/Cargo.toml": package("dep")})
    twin.write({"dep/src/lib.rs": 'pub const C: Option<&str> = option_env!("COLOUR");\n'})
    twin.write({"app/Cargo.toml": package("app", "dep")})
    twin.write({"app/src/main.rs": 'fn main() { println!("{:?}", dep::C); }\n'})
    twin.agree("None")
    twin.agree('Some("red")', COLOUR="red")
    twin.agree('Some("")', COLOUR="")


def test_variables_of_cargos_configuration(twin: Twin) -> None:
    """`[env]` in `.cargo/config.toml`."""
    twin.write(_prints('option_env!("COLOUR").unwrap_or("none")')).agree("none")
    for colour in ("red", "blue"):
        twin.write({".cargo/config.toml": f'[env]\nCOLOUR = "{colour}"\n'}).agree(colour)
    twin.write({".cargo/config.toml": None}).agree("none")


def test_variables_of_a_build_script(twin: Twin) -> None:
    """`cargo:rustc-env`: also one with a value that cargo's own environment happens to have."""
    script = """
    fn main() {
        println!("cargo:rerun-if-changed=colour");
        let colour = std::fs::read_to_string("colour").unwrap();
        if colour != "none" { println!("cargo:rustc-env=COLOUR={colour}"); }
    }
    """
    twin.write(_prints('option_env!("COLOUR").unwrap_or("none")'))
    twin.write({"build.rs": script, "colour": "red"}).agree("red")
    twin.write({"colour": "blue"}).agree("blue")
    twin.agree("blue", COLOUR="blue")
    twin.agree("blue", COLOUR="red")
    twin.write({"colour": "none"}).agree("none")
    twin.agree("red", COLOUR="red")
    twin.write({"colour": ""}).agree("")


def test_what_a_build_script_says_of_cfg(twin: Twin) -> None:
    """`cargo:rustc-cfg` and `cargo:rustc-check-cfg`: flags of the call, and what it warns of."""
    script = """
    fn main() {
        println!("cargo:rerun-if-changed=says");
        print!("{}", std::fs::read_to_string("says").unwrap());
    }
    """
    main = 'fn main() { println!("{}", if cfg!(fast) { "fast" } else { "slow" }); }\n'
    twin.write({"Cargo.toml": APP, "src/main.rs": main, "build.rs": script})
    twin.write({"says": ""}).agree("slow", complains="unexpected `cfg`")
    twin.write({"says": "cargo:rustc-check-cfg=cfg(fast)\n"}).agree("slow")
    twin.write({"says": "cargo:rustc-check-cfg=cfg(fast)\ncargo:rustc-cfg=fast\n"}).agree("fast")
    twin.write({"says": ""}).agree("slow", complains="unexpected `cfg`")


def test_an_unstable_feature_by_rustc_bootstrap(twin: Twin) -> None:
    """A stable compiler that is told to be unstable, and told no more."""
    main = "#![feature(never_type)]\n"
    main += 'fn main() { println!("{:?}", None::<!>); }\n'
    twin.write({"Cargo.toml": APP, "src/main.rs": main}).agree(None, complains="E0554")
    twin.agree("None", RUSTC_BOOTSTRAP="1")
    twin.agree(None, complains="E0554")
    twin.agree(None, RUSTC_BOOTSTRAP="another_crate", complains="E0554")
    assert twin.agree("None", RUSTC_BOOTSTRAP="1")["app bin"] == "hit"


# --- flags ---


_WARNS = 'fn unused() {}\nfn main() { let x = 1; println!("says"); }\n'


def test_the_level_of_lints(twin: Twin) -> None:
    """`--cap-lints` and `-D warnings` change what is said and what fails, not what is made."""
    twin.write({"Cargo.toml": APP, "src/main.rs": _WARNS})
    twin.agree("says", complains="unused variable")
    allowed = twin.agree("says", RUSTFLAGS="--cap-lints allow")
    assert allowed
    twin.agree(None, RUSTFLAGS="-D warnings", complains="error: unused variable")
    twin.agree("says", RUSTFLAGS="-D warnings --cap-lints warn", complains="warning: unused")
    twin.agree("says", RUSTFLAGS="-A unused_variables", complains="never used")
    assert twin.agree("says", complains="unused variable")["app bin"] == "hit"


def test_lints_of_the_manifest(twin: Twin) -> None:
    """`[lints]` reaches rustc by arguments."""
    twin.write({"Cargo.toml": APP, "src/main.rs": _WARNS})
    for level in ("allow", "warn", "deny", "allow"):
        lints = f'\n[lints.rust]\nunused_variables = "{level}"\ndead_code = "allow"\n'
        said = "unused variable" if level != "allow" else ""
        twin.write({"Cargo.toml": APP + lints})
        twin.agree(None if level == "deny" else "says", complains=said)


def test_flags_that_change_code(twin: Twin) -> None:
    """RUSTFLAGS by variable and by configuration; profiles."""
    twin.write(_prints("cfg!(debug_assertions) as u8 + 2 * cfg!(loud) as u8")).agree("1")
    twin.agree("3", RUSTFLAGS="--cfg loud")
    twin.agree("0", RUSTFLAGS="-C debug-assertions=off")
    twin.write({".cargo/config.toml": '[build]\nrustflags = ["--cfg", "loud"]\n'}).agree("3")
    twin.write({".cargo/config.toml": None})
    twin.write({"Cargo.toml": APP + "[profile.dev]\ndebug-assertions = false\n"}).agree("0")
    twin.write({"Cargo.toml": APP}).agree("1")


def test_features_and_editions(twin: Twin) -> None:
    """Features come by `--cfg`, the edition by its own option; both by the manifest."""
    main = 'fn main() { let r#async = 1; println!("{}{}", cfg!(feature = "f"), r#async); }\n'
    features = "[features]\nf = []\n"
    twin.write({"Cargo.toml": APP + features, "src/main.rs": main}).agree("false1")
    twin.agree("true1", "build", "--features", "f")
    twin.write({"Cargo.toml": APP + features + 'default = ["f"]\n'}).agree("true1")
    twin.write({"src/main.rs": main.replace("r#", "")}).agree(None, complains="async")
    twin.write({"Cargo.toml": APP.replace("2021", "2015") + features}).agree("false1")


def test_a_command_line_from_a_file(twin: Twin) -> None:
    """Cargo passes a line that is too long in a file; what that says is what counts."""
    twin.write(_prints("cfg!(loud)"))
    long = "x" * 140_000

    def flags(*more: str) -> dict[str, str]:
        words = ["--cfg", f'feature="{long}"', *more]
        return {".cargo/config.toml": f"[build]\nrustflags = {json.dumps(words)}\n"}

    said = twin.write(flags()).agree("false")
    assert "local" not in said.values()
    twin.write(flags("--cfg", "loud")).agree("true")
    twin.write(flags("--cap-lints", "allow")).agree("false")
    twin.write({".cargo/config.toml": None}).agree("false")


def test_the_same_argument_file_with_other_contents(twin: Twin) -> None:
    """A call by hand, as build tools other than cargo make them."""
    twin.write(_prints("cfg!(loud)"))
    out = twin.project / "out"
    out.mkdir()
    words = ["--crate-name", "app", "--edition=2021", "src/main.rs", "--crate-type", "bin"]
    words += ["--emit=dep-info,link", "--error-format=json", "--json=artifacts"]
    words += ["-C", "extra-filename=-1", "--out-dir", str(out)]
    for more, says in (([], "false"), (["--cfg", "loud"], "true"), ([], "false")):
        twin.write({"args": "\n".join([*words, *more]) + "\n"})
        (out / "app-1").unlink(missing_ok=True)
        call = [str(BURST_RUSTC), "rustc", "@args"]
        twin.space.run(*call, BURST_REQUIRE_REMOTE="1").check()
        assert twin.space.run(out / "app-1").stdout.strip() == says


# --- drivers ---


def test_build_check_and_clippy_in_turn(twin: Twin) -> None:
    """One crate, three commands, in each order: metadata of a check is no metadata of a build."""
    main = 'fn main() { let v = vec![1]; println!("{}", dep::len(v.len() == 0)); }\n'
    library = "pub fn len(empty: bool) -> usize { return if empty { 0 } else { 1 }; }\n"
    twin.write({"Cargo.toml": workspace("app", "dep"), "dep/Cargo.toml": package("dep")})
    twin.write({"app/Cargo.toml": package("app", "dep"), "app/src/main.rs": main})
    twin.write({"dep/src/lib.rs": library})
    twin.agree("1", "build")
    twin.agree("1", "clippy", complains="unneeded `return`")
    twin.agree("1", "check")
    twin.agree("1", "build")
    twin.agree(None, "clippy", "--", "-D", "warnings", complains="error: unneeded `return`")
    twin.agree("1", "clippy", "--", "-A", "clippy::needless_return", complains="len_zero")
    twin.agree("1", "check", "--profile", "test")
    twin.agree("1", "build", "--release")
    twin.write({"dep/src/lib.rs": library.replace("{ 1 }", "{ 2 }")})
    twin.agree("1", "clippy", complains="unneeded `return`")
    twin.agree("2", "build")


def test_clippys_configuration(twin: Twin) -> None:
    """`clippy.toml` appears, changes, stands in a folder above, is hidden, is called otherwise."""
    parameters = ", ".join(f"p{n}: u8" for n in range(4))
    library = f"pub fn f({parameters}) -> u8 {{ p0 + p1 + p2 + p3 }}\n"
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/lib.rs": library})
    complaint = "this function has too many arguments (4/3)"
    three, nine = (f"too-many-arguments-threshold = {n}\n" for n in (3, 9))

    def complains(*, yes: bool) -> None:
        twin.agree("", "clippy", complains=complaint if yes else "")
        assert yes == twin.complained(complaint)

    complains(yes=False)
    twin.write({"app/clippy.toml": three})
    complains(yes=True)
    twin.write({"app/clippy.toml": nine})
    complains(yes=False)
    twin.write({"app/clippy.toml": None, "clippy.toml": three})
    complains(yes=True)
    twin.write({"app/.clippy.toml": nine})
    complains(yes=False)
    twin.write({"app/.clippy.toml": None, "clippy.toml": None})
    complains(yes=False)
    twin.write({"elsewhere/clippy.toml": three})
    twin.agree("", "clippy", CLIPPY_CONF_DIR=str(twin.project / "elsewhere"), complains=complaint)
    twin.write({"elsewhere/clippy.toml": nine})
    twin.agree("", "clippy", CLIPPY_CONF_DIR=str(twin.project / "elsewhere"))
    assert not twin.complained(complaint)


def test_clippys_configuration_above_the_workspace(twin: Twin) -> None:
    """Clippy looks up to the root of the file system; the workspace is no border."""
    parameters = ", ".join(f"p{n}: u8" for n in range(4))
    above = twin.project
    twin.space.project = above / "ws"
    twin.space.project.mkdir()
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/lib.rs": f"pub fn f({parameters}) -> u8 {{ p0 + p1 + p2 + p3 }}\n"})
    complaint = "this function has too many arguments (4/3)"
    twin.agree("", "clippy")
    for threshold in (3, 9):
        (above / "clippy.toml").write_text(f"too-many-arguments-threshold = {threshold}\n")
        twin.agree("", "clippy")
        assert twin.complained(complaint) == (threshold == 3)
    (above / "clippy.toml").write_text("no-such-setting = 1\n")
    twin.agree(None, "clippy", complains="unknown field `no-such-setting`")


# --- targets ---

_TARGET = {
    "arch": "x86_64",
    "cpu": "x86-64",
    "crt-objects-fallback": "false",
    "data-layout": "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64"
    "-S128",
    "disable-redzone": True,
    "features": "-mmx,-sse,+soft-float",
    "llvm-target": "x86_64-unknown-none-elf",
    "max-atomic-width": 64,
    "panic-strategy": "abort",
    "rustc-abi": "softfloat",
    "target-pointer-width": 64,
}
_NO_CORE = """
#![feature(no_core, lang_items, intrinsics)]
#![allow(internal_features)]
#![no_core]
#[lang = "pointee_sized"] pub trait PointeeSized {}
#[lang = "meta_sized"] pub trait MetaSized: PointeeSized {}
#[lang = "sized"] pub trait Sized: MetaSized {}
#[lang = "copy"] pub trait Copy {}
impl Copy for u32 {}
#[lang = "legacy_receiver"] pub trait Receiver {}
#[unsafe(no_mangle)] pub extern "C" fn answer(x: u32) -> u32 { x }
"""


def test_a_target_of_ones_own(twin: Twin) -> None:
    """A target's JSON changes: what is compiled for it, also while its name stays."""
    twin.write({"Cargo.toml": APP, "src/lib.rs": _NO_CORE})
    arguments = ("build", "-Zunstable-options", "-Zjson-target-spec", "--target", "mine.json")

    def build(**changes: object) -> None:
        twin.write({"mine.json": json.dumps({**_TARGET, **changes})})
        where = twin.agree("", *arguments, RUSTC_BOOTSTRAP="1")
        assert where == {"app lib": "hit"}  # of what was compiled a moment before

    build()
    build(**{"disable-redzone": False})
    build(cpu="haswell")
    build(**{"panic-strategy": "unwind"})
    build()


# --- places ---


def test_two_worktrees(twin: Twin) -> None:
    """What comes from a registry is shared, what names its own place is not; neither says the
    other's words."""
    itoa = f'itoa = "={published("macros", "itoa")}"'
    main = "let x = itoa::Buffer::new().format(7).to_string();\n"
    main += 'println!("{} {x} {}", dep::says(), env!("CARGO_MANIFEST_DIR"))'
    for name in ("one", "two"):
        worktree = _worktree(twin, name)
        worktree.write({"Cargo.toml": workspace("app", "dep"), "dep/Cargo.toml": package("dep")})
        worktree.write({"app/Cargo.toml": package("app", "dep", itoa)})
        worktree.write({"app/src/main.rs": f"fn main() {{ {main}; }}\n"})
        worktree.write({"dep/src/lib.rs": "pub fn says() -> &'static str { file!() }\n"})
        place = worktree.project / "app"
        says = f"dep/src/lib.rs 7 {place}"
        _once(worktree, says, CARGO_HOME)
        where = worktree.space.where()
        assert where["itoa lib"] == ("remote" if name == "one" else "hit")
        assert where["app bin"] == "remote"
        worktree.agree(says, CARGO_HOME=CARGO_HOME)
        worktree.write({"dep/src/lib.rs": f'pub fn says() -> &\'static str {{ "{name}" }}\n'})
        worktree.agree(f"{name} 7 {place}", CARGO_HOME=CARGO_HOME)


def _worktree(twin: Twin, name: str) -> Twin:
    folder = twin.project / name
    folder.mkdir()
    return Twin(attrs.evolve(twin.space, project=folder))


def _once(twin: Twin, says: str, cargo_home: str) -> None:
    twin.space.cargo("build", "-q", "--offline", CARGO_HOME=cargo_home).check()
    assert twin.space.run(twin.project / "target/debug/app").stdout.strip() == says
    shutil.rmtree(twin.project / "target")
