"""Native libraries and what a linker reads: none of it stands in dep-info."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from wrong_hits import APP, Twin, macro_crate, package, workspace

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _script(*lines: str, rerun: str = "build.rs") -> str:
    said = "\n".join(
        f'    println!("{line}");' for line in (f"cargo:rerun-if-changed={rerun}", *lines)
    )
    return f"fn main() {{\n{said}\n}}\n"


_CALLS = """
unsafe extern "C" { fn answer() -> i32; }
fn main() { println!("{}", unsafe { answer() }); }
"""


def _archive(twin: Twin, path: Path, value: int) -> None:
    """A static library whose `answer` is `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = twin.project / "answer.c"
    source.write_text(f"int answer(void) {{ return {value}; }}\n")
    object_file = twin.project / "answer.o"
    twin.space.run("cc", "-c", "-fPIC", source, "-o", object_file).check()
    path.unlink(missing_ok=True)
    twin.space.run("ar", "crD", path, object_file).check()
    source.unlink()
    object_file.unlink()


def _shared(twin: Twin, path: Path, value: int, soname: str = "libanswer.so") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = twin.project / "answer.c"
    source.write_text(f"int answer(void) {{ return {value}; }}\n")
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{soname}"]
    twin.space.run("cc", *flags, source, "-o", path).check()
    source.unlink()


@pytest.mark.parametrize("noticed", [True, False], ids=["cargo-knows", "cargo-knows-nothing"])
@pytest.mark.parametrize("where", ["native", "../native"], ids=["inside", "outside"])
def test_a_static_library_changes(twin: Twin, where: str, noticed: bool) -> None:
    """`-l static=answer` from a `links` package, in it and beside it, noticed or not."""
    manifest = package("answer-sys", links='"answer"', build='"build.rs"')
    twin.write({"Cargo.toml": workspace("app", "answer-sys"), "answer-sys/Cargo.toml": manifest})
    folder = (twin.project / "answer-sys" / where).resolve()
    lines = (f"cargo:rustc-link-search=native={folder}", "cargo:rustc-link-lib=static=answer")
    rerun = f"{folder}/libanswer.a" if noticed else "build.rs"
    twin.write({"answer-sys/build.rs": _script(*lines, rerun=rerun)})
    twin.write({"answer-sys/src/lib.rs": 'unsafe extern "C" { pub fn answer() -> i32; }\n'})
    main = 'fn main() { println!("{}", unsafe { answer_sys::answer() }); }\n'
    twin.write({"app/Cargo.toml": package("app", "answer-sys"), "app/src/main.rs": main})
    for value in (1, 2, 1):
        _archive(twin, folder / "libanswer.a", value)
        twin.agree(str(value))
    assert "local" not in twin.space.where().values(), twin.reasons()


def test_a_static_library_found_by_flags(twin: Twin) -> None:
    """Named in the source, found through RUSTFLAGS: no build script speaks of it."""
    main = '#[link(name = "answer", kind = "static")]' + _CALLS.lstrip()
    twin.write({"Cargo.toml": APP, "src/main.rs": main})
    flags = f"-L native={twin.project}/lib -L {twin.project}/more"
    _archive(twin, twin.project / "lib" / "libanswer.a", 1)
    twin.agree("1", RUSTFLAGS=flags)
    _archive(twin, twin.project / "lib" / "libanswer.a", 2)
    twin.agree("2", RUSTFLAGS=flags)
    (twin.project / "more").mkdir()
    (twin.project / "lib" / "libanswer.a").rename(twin.project / "more" / "libanswer.a")
    twin.agree("2", RUSTFLAGS=flags)
    _archive(twin, twin.project / "lib" / "libanswer.a", 3)
    twin.agree("3", RUSTFLAGS=flags)
    shutil.rmtree(twin.project / "lib")
    (twin.project / "more" / "libanswer.a").unlink()
    twin.agree(None, RUSTFLAGS=flags, complains="unable to find library -lanswer")


def test_a_library_lies_at_the_top_of_the_workspace(twin: Twin) -> None:
    """A folder with a library in it is no system folder: what else lies there is looked at."""
    main = 'const TEXT: &str = include_str!("../../TEXT");\n' + _CALLS.replace(
        'println!("{}", unsafe { answer() })', 'println!("{} {TEXT}", unsafe { answer() })'
    )
    twin.write({"Cargo.toml": workspace("app"), "app/Cargo.toml": package("app")})
    lines = (f"cargo:rustc-link-search=native={twin.project}", "cargo:rustc-link-lib=answer")
    twin.write({"app/build.rs": _script(*lines), "app/src/main.rs": main, "TEXT": "one"})
    _archive(twin, twin.project / "libanswer.a", 1)
    twin.agree("1 one")
    twin.write({"TEXT": "two"}).agree("1 two")
    _archive(twin, twin.project / "libanswer.a", 2)
    twin.agree("2 two")


def test_a_linker_lies_at_the_top_of_the_workspace(twin: Twin) -> None:
    """Nor does a linker make its folder one; and another linker there makes another program."""
    read = """
    #[proc_macro] pub fn read(input: TokenStream) -> TokenStream {
        literal(fs::read_to_string(place(input)).unwrap())
    }
    """
    linker = shutil.which("ld.bfd")
    assert linker is not None
    twin.write({"Cargo.toml": workspace("app", "m"), **macro_crate("m", read)})
    lines = (f"cargo:rustc-link-arg=-B{twin.project}", "cargo:rustc-link-arg=-fuse-ld=bfd")
    twin.write({"app/Cargo.toml": package("app", "m"), "app/build.rs": _script(*lines)})
    twin.write({"app/src/main.rs": 'fn main() { println!("{}", m::read!("../TEXT")); }\n'})
    shutil.copy2(linker, twin.project / "ld.bfd")
    twin.write({"TEXT": "one"}).agree("one")
    twin.write({"TEXT": "two"}).agree("two")
    shutil.copy2(shutil.which("ld.gold") or linker, twin.project / "ld.bfd")
    twin.agree("two")


def test_a_shared_library_changes(twin: Twin) -> None:
    """Its soname is written into the program; without the symbol there is none."""
    folder = twin.project / "native"
    lines = (
        f"cargo:rustc-link-search=native={folder}",
        "cargo:rustc-link-lib=dylib=answer",
        f"cargo:rustc-link-arg=-Wl,-rpath,{folder}",
    )
    twin.write({"Cargo.toml": APP, "build.rs": _script(*lines), "src/main.rs": _CALLS})
    _shared(twin, folder / "libanswer.so", 1)
    twin.agree("1")
    _shared(twin, folder / "libanswer.so", 2)
    twin.agree("2")
    _shared(twin, folder / "libanswer.so", 3, soname="libanswer.so.3")
    (folder / "libanswer.so.3").symlink_to("libanswer.so")
    twin.agree("3")
    source = twin.project / "none.c"
    source.write_text("int other(void) { return 0; }\n")
    twin.space.run("cc", "-shared", "-fPIC", source, "-o", folder / "libanswer.so").check()
    twin.agree(None, complains="undefined")
    # A static one beside it is not taken while there is a shared one.
    _archive(twin, folder / "libanswer.a", 4)
    twin.agree(None, complains="undefined")
    (folder / "libanswer.so").unlink()
    twin.agree("4")


def test_a_linker_script_of_a_library(twin: Twin) -> None:
    """`libanswer.so` may be a text that names others, as glibc's own do."""
    folder = twin.project / "native"
    lines = (f"cargo:rustc-link-search=native={folder}", "cargo:rustc-link-lib=answer")
    twin.write({"Cargo.toml": APP, "build.rs": _script(*lines), "src/main.rs": _CALLS})
    for value in (1, 2):
        _archive(twin, twin.project / "parts" / f"libpart{value}.a", value)
    folder.mkdir()
    for value in (1, 2, 1):
        part = twin.project / "parts" / f"libpart{value}.a"
        (folder / "libanswer.so").write_text(f"INPUT({part})\n")
        twin.agree(str(value))
    _archive(twin, twin.project / "parts" / "libpart1.a", 5)
    twin.agree("5")


def _exported(twin: Twin) -> str:
    library = next(
        (twin.project.with_name(twin.project.name + ".targets")).glob("burst-empty/debug/libapp.so")
    )
    names = twin.space.run("nm", "-D", "--defined-only", library).check().stdout
    return " ".join(sorted(line.split()[-1] for line in names.splitlines()))


def test_a_version_script_changes(twin: Twin) -> None:
    """Named by a build script's link argument, read by the linker alone."""
    twin.write({"Cargo.toml": APP + '[lib]\ncrate-type = ["cdylib"]\n'})
    functions = "".join(
        f'#[unsafe(no_mangle)] pub extern "C" fn f{n}() -> u8 {{ {n} }}\n' for n in (1, 2)
    )
    script = _script(f"cargo:rustc-cdylib-link-arg=-Wl,--version-script={twin.project}/map")
    twin.write({"src/lib.rs": functions, "build.rs": script})
    for shown in ("f1; f2;", "f1;", "f2;", "f1; f2;"):
        twin.write({"map": f"V1 {{ global: {shown} }};\n"}).agree("")
    twin.write({"map": "no such syntax\n"}).agree(None)
    twin.write({"map": None}).agree(None)
    twin.write({"map": "V1 { global: f1; };\n"}).agree("")


def test_a_linker_script_changes(twin: Twin) -> None:
    """`-T` in addition to the linker's own, and a script that includes another one."""
    main = """
    unsafe extern "C" { static marker: u8; }
    fn main() { println!("{}", unsafe { &raw const marker as usize }); }
    """
    script = _script(
        f"cargo:rustc-link-arg=-Wl,-T,{twin.project}/app.ld",
        f"cargo:rustc-link-arg=-L{twin.project}/scripts",
        "cargo:rustc-link-arg=-no-pie",
        "cargo:rustc-link-arg=-fuse-ld=bfd",
    )
    twin.write({"Cargo.toml": APP, "build.rs": script, "src/main.rs": main})
    end = "SECTIONS { } INSERT AFTER .text;\n"
    for value in (4096, 8192):
        twin.write({"app.ld": f"marker = {value};\n{end}"}).agree(
            str(value), RUSTFLAGS="-C relocation-model=static"
        )
    for value in (16384, 32768):
        twin.write({"scripts/more.ld": f"marker = {value};\n"})
        twin.write({"app.ld": f"INCLUDE more.ld\n{end}"}).agree(
            str(value), RUSTFLAGS="-C relocation-model=static"
        )


def test_an_object_among_the_link_arguments(twin: Twin) -> None:
    """`cargo:rustc-link-arg=x.o`: compiled anew, it is another program."""
    twin.write({"Cargo.toml": APP, "src/main.rs": _CALLS})
    twin.write({"build.rs": _script(f"cargo:rustc-link-arg={twin.project}/x.o")})
    source = twin.project / "x.c"
    for value in (1, 2, 1):
        source.write_text(f"int answer(void) {{ return {value}; }}\n")
        twin.space.run("cc", "-c", "-fPIC", source, "-o", twin.project / "x.o").check()
        twin.agree(str(value))


def test_a_library_in_the_linkers_own_variable(twin: Twin) -> None:
    """LIBRARY_PATH, which neither cargo nor rustc looks at."""
    main = '#[link(name = "answer")]' + _CALLS.lstrip()
    twin.write({"Cargo.toml": APP, "src/main.rs": main})
    one, two = (twin.project / name for name in ("one", "two"))
    _archive(twin, one / "libanswer.a", 1)
    _archive(twin, two / "libanswer.a", 2)
    twin.agree("1", LIBRARY_PATH=str(one))
    twin.agree("2", LIBRARY_PATH=f"{two}:{one}")
    _archive(twin, one / "libanswer.a", 3)
    twin.agree("3", LIBRARY_PATH=str(one))
    twin.agree(None, complains="answer")


def test_a_static_library_made_by_a_build_script(twin: Twin) -> None:
    """The usual way: C compiled into OUT_DIR, from sources that change."""
    script = """
    use std::{env, path::PathBuf, process::Command};
    fn main() {
        println!("cargo:rerun-if-changed=x.c");
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
        let run = |program: &str, arguments: &[&str]| assert!(Command::new(program)
            .args(arguments).current_dir(&out).status().unwrap().success());
        let source = env::current_dir().unwrap().join("x.c");
        run("cc", &["-c", "-fPIC", "-o", "x.o", source.to_str().unwrap()]);
        let _ = std::fs::remove_file(out.join("libx.a"));
        run("ar", &["crD", "libx.a", "x.o"]);
        println!("cargo:rustc-link-search=native={}", out.display());
        println!("cargo:rustc-link-lib=static=x");
    }
    """
    twin.write({"Cargo.toml": APP, "build.rs": script, "src/main.rs": _CALLS})
    for value in (1, 2, 1):
        twin.write({"x.c": f"int answer(void) {{ return {value}; }}\n"}).agree(str(value))
    assert "local" not in twin.space.where().values(), twin.reasons()
