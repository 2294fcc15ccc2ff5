"""Changes to sources that a careless key does not hold. Nothing stale, no false error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from projects import CARGO_HOME, published
from space import Space
from sshd import Sshd
from wrong_hits import APP, Twin, package, stamp, twins, workspace

pytest_plugins = ("remote_hosts", "space_fixtures")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _says(text: str) -> str:
    return f'pub fn says() -> &\'static str {{ "{text}" }}\n'


_MAIN = 'mod a;\nfn main() { println!("{}", a::says()); }\n'


def test_a_module_moves_between_file_and_folder(twin: Twin) -> None:
    """`a.rs` becomes `a/mod.rs` and comes back: the program is always that of the sources."""
    twin.write({"Cargo.toml": APP, "src/main.rs": _MAIN, "src/a.rs": _says("one")}).agree("one")
    twin.write({"src/a.rs": None, "src/a/mod.rs": _says("two")}).agree("two")
    twin.write({"src/a": None, "src/a.rs": _says("three")}).agree("three")
    twin.write({"src/a.rs": None, "src/a/mod.rs": _says("one")}).agree("one")
    twin.write({"src/a": None, "src/a.rs": _says("one")})
    assert twin.agree("one")["app bin"] == "hit"


def test_a_module_file_appears_beside_another(twin: Twin) -> None:
    """With both `a.rs` and `a/mod.rs` rustc's own error is shown, and only while both are there."""
    twin.write({"Cargo.toml": APP, "src/main.rs": _MAIN, "src/a.rs": _says("file")}).agree("file")
    twin.write({"src/a/mod.rs": _says("folder")}).agree(None, complains="E0761")
    twin.write({"src/a.rs": None}).agree("folder")
    twin.write({"src/a": None}).agree(None, complains="E0583")
    twin.write({"src/a.rs": _says("file")})
    assert twin.agree("file")["app bin"] == "hit"


def test_two_modules_swap_their_contents(twin: Twin) -> None:
    """By renaming, which keeps every size and time of change, and by writing with old times."""
    main = 'mod a; mod b;\nfn main() { println!("{} {}", a::says(), b::says()); }\n'
    twin.write({"Cargo.toml": APP, "src/main.rs": main})
    twin.write({"src/a.rs": _says("x"), "src/b.rs": _says("y")}).agree("x y")
    a, b, aside = (twin.project / "src" / name for name in ("a.rs", "b.rs", "aside"))
    a.rename(aside)
    b.rename(a)
    aside.rename(b)
    twin.agree("y x")
    for path, text in ((a, "x"), (b, "y")):
        times = stamp(path)
        path.write_text(_says(text))
        os.utime(path, ns=times)
    twin.agree("x y")


def test_a_library_and_its_user_swap_a_name(twin: Twin) -> None:
    """Two crates of one workspace exchange their bodies; each is compiled as what it is now."""
    twin.write({"Cargo.toml": workspace("app", "one", "two")})
    main = 'fn main() { println!("{} {}", one::says(), two::says()); }\n'
    twin.write({"app/Cargo.toml": package("app", "one", "two"), "app/src/main.rs": main})
    twin.write({f"{name}/Cargo.toml": package(name) for name in ("one", "two")})
    twin.write({"one/src/lib.rs": _says("x"), "two/src/lib.rs": _says("y")}).agree("x y")
    twin.write({"one/src/lib.rs": _says("y"), "two/src/lib.rs": _says("x")}).agree("y x")


def test_text_and_bytes_from_outside_the_package(twin: Twin) -> None:
    """`include_str!("../../README.md")`: absent, present, changed, absent again."""
    main = (
        'const TEXT: &str = include_str!("../../README.md");\n'
        'const BYTES: &[u8] = include_bytes!("../../assets/x.bin");\n'
        'fn main() { println!("{} {}", TEXT.trim(), BYTES.len()); }\n'
    )
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/main.rs": main, "assets/x.bin": "123"})
    twin.agree(None, complains="couldn't read")
    twin.write({"README.md": "first\n"}).agree("first 3")
    twin.write({"README.md": "other\n"}).agree("other 3")
    twin.write({"assets/x.bin": "12345"}).agree("other 5")
    twin.write({"README.md": None}).agree(None, complains="couldn't read")
    twin.write({"README.md": "first\n", "assets/x.bin": "123"}).agree("first 3")


def test_a_module_from_outside_the_package(twin: Twin) -> None:
    """`#[path = "../../shared/x.rs"] mod x;`, and a module of that module."""
    main = (
        '#[path = "../../shared/x.rs"] mod x;\n'
        'fn main() { println!("{} {}", x::says(), x::y::says()); }\n'
    )
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/main.rs": main, "shared/x.rs": "pub mod y;\n" + _says("x1")})
    twin.write({"shared/y.rs": _says("y1")}).agree("x1 y1")
    twin.write({"shared/y.rs": _says("y2")}).agree("x1 y2")
    twin.write({"shared/y.rs": None, "shared/y/mod.rs": _says("y3")}).agree("x1 y3")
    twin.write({"shared/y.rs": _says("y4")}).agree(None, complains="E0761")
    twin.write({"shared/y": None}).agree("x1 y4")


def test_links_to_sources_elsewhere(twin: Twin) -> None:
    """A linked module and a linked text: what they lead to changes, then where they lead."""
    main = 'mod a;\nfn main() { println!("{} {}", a::says(), include_str!("../TEXT").trim()); }\n'
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/main.rs": main, "shared/a.rs": _says("one"), "shared/b.rs": _says("two")})
    twin.write({"TEXT": "long\n", "SHORT": "short\n"})
    source, text = twin.project / "app/src/a.rs", twin.project / "app/TEXT"
    source.symlink_to("../../shared/a.rs")
    text.symlink_to("../TEXT")
    twin.agree("one long")
    twin.write({"shared/a.rs": _says("ONE")}).agree("ONE long")
    source.unlink()
    source.symlink_to("../../shared/b.rs")
    text.unlink()
    text.symlink_to("../SHORT")
    twin.agree("two short")


def test_a_linked_folder_of_modules(twin: Twin) -> None:
    """`src/gen -> ../../shared`: rustc's own way through a link, changed behind it."""
    main = 'mod gen { pub mod a; }\nfn main() { println!("{}", gen::a::says()); }\n'
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    twin.write({"app/src/main.rs": main, "shared/a.rs": _says("one")})
    (twin.project / "app/src/gen").symlink_to("../../shared")
    twin.agree("one")
    twin.write({"shared/a.rs": _says("two")}).agree("two")
    twin.write({"shared/a.rs": None, "shared/a/mod.rs": _says("three")}).agree("three")


_STAMP = """
fn main() { println!("cargo:rustc-env=STAMP={}", std::env::var("OUT_DIR").unwrap().len()); }
"""


@pytest.mark.parametrize("target", ["link/t", "../elsewhere/t", "link/../t"])
def test_a_target_folder_behind_a_link_or_dots(twin: Twin, target: str) -> None:
    """Cargo passes both on as they are; what is built is what plain cargo builds there."""
    real = twin.project / "real" / "deep"
    real.mkdir(parents=True)
    (twin.project / "link").symlink_to("real/deep")
    (twin.project.parent / "elsewhere").mkdir(exist_ok=True)
    twin.target = target
    main = 'fn main() { println!("{} {}", one::says(), env!("STAMP").len() > 1); }\n'
    twin.write({"Cargo.toml": workspace("app", "one"), "one/Cargo.toml": package("one")})
    twin.write({"app/Cargo.toml": package("app", "one"), "app/build.rs": _STAMP})
    twin.write({"app/src/main.rs": main, "one/src/lib.rs": _says("x")})
    assert "local" not in twin.agree("x true").values(), twin.reasons()
    twin.write({"one/src/lib.rs": _says("y")}).agree("y true")
    twin.write({"one/src/lib.rs": _says("x")}).agree("x true")


def test_a_file_too_large_to_be_sent_unasked(twin: Twin) -> None:
    """`include_bytes!` of 17 MB, of which one byte changes."""
    main = (
        'static BYTES: &[u8] = include_bytes!("../big");\n'
        'fn main() { println!("{}", BYTES[BYTES.len() - 1] as char); }\n'
    )
    zeros = "0" * (17 << 20)
    twin.write({"Cargo.toml": APP, "src/main.rs": main, "big": zeros + "a"}).agree("a")
    twin.write({"big": zeros + "b"}).agree("b")


_GENERATES = """
fn main() {
    println!("cargo:rerun-if-changed=words");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let words = std::fs::read_to_string("words").unwrap();
    let made = format!("const WORDS: &str = {:?};", words.trim());
    std::fs::write(out.join("made.rs"), made).unwrap();
    let _ = std::fs::remove_dir_all(out.join("sub"));
    std::fs::create_dir(out.join("sub")).unwrap();
    std::fs::write(out.join("sub").join("text"), words.to_uppercase()).unwrap();
}
"""


def test_generated_sources(twin: Twin) -> None:
    """`include!(concat!(env!("OUT_DIR"), …))` follows what the build script made this time."""
    main = (
        'include!(concat!(env!("OUT_DIR"), "/made.rs"));\n'
        'fn main() { println!("{WORDS} {}", '
        'include_str!(concat!(env!("OUT_DIR"), "/sub/text")).trim()); }\n'
    )
    twin.write({"Cargo.toml": APP, "build.rs": _GENERATES, "src/main.rs": main, "words": "one\n"})
    twin.agree("one ONE")
    twin.write({"words": "two\n"}).agree("two TWO")
    twin.write({"words": "one\n"})
    assert twin.agree("one ONE")["app bin"] == "hit"


def test_an_edit_of_a_vendored_dependency(twin: Twin) -> None:
    """Cargo takes vendored sources as unchanging and builds what lies there; so do we."""
    twin.write({"Cargo.toml": package("app", 'dep = "1.0.0"'), "src/main.rs": ""})
    config = '[source.crates-io]\nreplace-with = "v"\n[source.v]\ndirectory = "vendor"\n'
    manifest = package("dep").replace("0.1.0", "1.0.0")
    twin.write({".cargo/config.toml": config, "vendor/dep/Cargo.toml": manifest})
    twin.write({"vendor/dep/.cargo-checksum.json": '{"files":{}}'})
    twin.write({"src/main.rs": 'fn main() { println!("{}", dep::says()); }\n'})
    twin.write({"vendor/dep/src/lib.rs": _says("published")}).agree("published")
    twin.write({"vendor/dep/src/lib.rs": _says("patched")}).agree("patched")
    twin.write({"vendor/dep/src/lib.rs": "mod more;\npub use more::says;\n"})
    twin.write({"vendor/dep/src/more.rs": _says("more")}).agree("more")
    twin.write({"vendor/dep/src/lib.rs": _says("published")}).agree("published")


def test_an_edit_of_an_unpacked_registry_package(twin: Twin, tmp_path: Path) -> None:
    """People debug in cargo's own copy of a dependency; a build from empty takes their edit."""
    _edit_in_the_registry(twin, tmp_path)


def test_an_edit_of_an_unpacked_registry_package_for_another_machine(
    twins_machine: Space, sshd: Sshd, tmp_path: Path
) -> None:
    """Another machine must be sent the edit, however immutable such packages usually are."""
    with twins(twins_machine, "elsewhere") as twin:
        shutil.copytree(Path.home() / ".ssh", twins_machine.home / ".ssh", dirs_exist_ok=True)
        twin.space.env = {**twins_machine.env, "BURST_HOST": sshd.address}
        _edit_in_the_registry(twin, tmp_path)
        twin.space.stop()


def _edit_in_the_registry(twin: Twin, folder: Path) -> None:
    version = published("macros", "itoa")
    home = _own_cargo_home(folder, f"itoa-{version}", "it/oa/itoa")
    (source,) = home.glob("registry/src/*/itoa-*/src/lib.rs")
    text = source.read_text()
    twin.write({"Cargo.toml": package("app", f'itoa = "={version}"')})
    twin.write({"src/main.rs": 'fn main() { println!("{}", itoa::Buffer::new().format(7)); }\n'})
    twin.agree("7", CARGO_HOME=str(home))
    for value in (8, 9):
        source.write_text(text + f"\npub fn patched() -> u8 {{ {value} }}\n")
        twin.write({"src/main.rs": 'fn main() { println!("{}", itoa::patched()); }\n'})
        # Cargo takes registry packages as unchanging: only from empty does it see the edit.
        shutil.rmtree(twin.project.with_name(twin.project.name + ".targets"))
        twin.agree(str(value), CARGO_HOME=str(home))


def _own_cargo_home(folder: Path, package: str, indexed: str) -> Path:
    """A cargo home with this one package of the machine's, for a test to edit."""
    machine, home = Path(CARGO_HOME), folder / "cargo"
    (source,) = machine.glob(f"registry/src/*/{package}")
    registry = source.parent.name
    for part in (
        f"src/{registry}/{package}",
        f"cache/{registry}/{package}.crate",
        f"index/{registry}/config.json",
        f"index/{registry}/.cache/{indexed}",
    ):
        theirs, ours = machine / "registry" / part, home / "registry" / part
        ours.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(theirs, ours) if theirs.is_dir() else shutil.copy2(theirs, ours)
    return home
