"""Proc macros look around: files, folders, variables, programs, libraries. dep-info says nothing
of it, so a careless cache replays what they made of another world."""

from __future__ import annotations

import os

import pytest

from tiers import thorough
from wrong_hits import Twin, macro_crate, package, workspace

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def twin(twin: Twin) -> Twin:
    """With a program, and the macros it uses."""
    twin.write({"Cargo.toml": workspace("app", "m"), **macro_crate("m", _MACROS)})
    return twin.write({"app/Cargo.toml": package("app", "m")})


_MACROS = """
#[proc_macro] pub fn read(input: TokenStream) -> TokenStream {
    literal(fs::read_to_string(place(input)).map_or("absent".into(), |t| t.trim().to_string()))
}
#[proc_macro] pub fn read_from_cwd(input: TokenStream) -> TokenStream {
    literal(fs::read_to_string(text(input)).map_or("absent".into(), |t| t.trim().to_string()))
}
#[proc_macro] pub fn exists(input: TokenStream) -> TokenStream {
    literal(if place(input).exists() { "there" } else { "not there" })
}
#[proc_macro] pub fn kind(input: TokenStream) -> TokenStream {
    literal(match fs::metadata(place(input)) {
        Ok(found) if found.is_dir() => "folder", Ok(_) => "file", Err(_) => "nothing",
    })
}
#[proc_macro] pub fn size(input: TokenStream) -> TokenStream {
    literal(fs::metadata(place(input)).map_or("none".into(), |found| found.len().to_string()))
}
#[proc_macro] pub fn list(input: TokenStream) -> TokenStream {
    let Ok(entries) = fs::read_dir(place(input)) else { return literal("no folder") };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    literal(names.join(","))
}
fn walk(folder: PathBuf, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() { walk(entry.path(), found); }
        else { found.push(fs::read_to_string(entry.path()).unwrap().trim().to_string()); }
    }
}
#[proc_macro] pub fn read_all(input: TokenStream) -> TokenStream {
    let mut found = vec![];
    walk(place(input), &mut found);
    found.sort();
    literal(found.join(","))
}
#[proc_macro] pub fn leads_to(input: TokenStream) -> TokenStream {
    literal(fs::read_link(place(input)).map_or("no link".into(), |p| p.display().to_string()))
}
#[proc_macro] pub fn real_name(input: TokenStream) -> TokenStream {
    literal(place(input).canonicalize().map_or("nothing".into(),
        |p| p.file_name().unwrap().to_str().unwrap().to_string()))
}
#[proc_macro] pub fn variable(input: TokenStream) -> TokenStream {
    literal(match env::var(text(input)) {
        Ok(value) => format!("={value}"),
        Err(env::VarError::NotPresent) => "unset".into(),
        Err(env::VarError::NotUnicode(_)) => "odd".into(),
    })
}
#[proc_macro] pub fn git(_: TokenStream) -> TokenStream {
    let done = std::process::Command::new("git").args(["rev-parse", "HEAD"])
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").unwrap()).output();
    literal(match done {
        Ok(done) if done.status.success() => String::from_utf8(done.stdout).unwrap().trim().into(),
        _ => String::from("no version"),
    })
}
"""


def _main(*expressions: str) -> dict[str, str]:
    holes = " ".join("{}" for _ in expressions)
    text = f'fn main() {{ println!("{holes}", {", ".join(expressions)}); }}\n'
    return {"app/src/main.rs": text}


def test_a_macro_reads_a_file_beside_the_package(twin: Twin) -> None:
    """`../x`: absent, present, changed, absent, a folder."""
    twin.write(_main('m::read!("../x")')).agree("absent")
    twin.write({"x": "one"}).agree("one")
    twin.write({"x": "two"}).agree("two")
    twin.write({"x": None}).agree("absent")
    twin.write({"x/y": "in a folder"}).agree("absent")
    twin.write({"x": None})
    twin.write({"x": "one"})
    where = twin.agree("one")
    assert where["app bin"] == "hit"


def test_a_macro_reads_relative_to_the_working_directory(twin: Twin) -> None:
    """The compiler's working directory is the workspace."""
    twin.write(_main('m::read_from_cwd!("x")', 'm::read_from_cwd!("app/x")')).agree("absent absent")
    twin.write({"x": "outside", "app/x": "inside"}).agree("outside inside")
    twin.write({"x": "OUTSIDE"}).agree("OUTSIDE inside")
    twin.write({"app/x": None}).agree("OUTSIDE absent")


def test_a_macro_asks_what_is_there(twin: Twin) -> None:
    """Existence, kind and size, without reading."""
    twin.write(_main(*(f'm::{ask}!("../x")' for ask in ("exists", "kind", "size"))))
    twin.agree("not there nothing none")
    twin.write({"x": "123"}).agree("there file 3")
    twin.write({"x": "1234"}).agree("there file 4")
    twin.write({"x": None})
    twin.write({"x/y": ""})
    kept = twin.write(_main('m::exists!("../x")', 'm::kind!("../x")'))
    kept.agree("there folder")
    twin.write({"x": None}).agree("not there nothing")


@pytest.mark.parametrize("place", ["app/t", "t"], ids=["inside", "outside"])
def test_a_macro_lists_a_folder(twin: Twin, place: str) -> None:
    """Names appear, vanish, and change places, in the package and beside it."""
    asked = "t" if place == "app/t" else "../t"
    twin.write(_main(f'm::list!("{asked}")')).agree("no folder")
    twin.write({f"{place}/a": "1"}).agree("a")
    twin.write({f"{place}/b": "1"}).agree("a,b")
    twin.write({f"{place}/a": None, f"{place}/c": "1"}).agree("b,c")
    twin.write({f"{place}/b": "another content"}).agree("b,c")
    twin.write({place: None}).agree("no folder")


@pytest.mark.parametrize("place", thorough(["t"], ["app/t"]))
def test_a_macro_embeds_a_folder(twin: Twin, place: str) -> None:
    """All files of a tree: one more, in a new folder, another content, one less."""
    asked = "t" if place == "app/t" else "../t"
    twin.write(_main(f'm::read_all!("{asked}")'))
    twin.write({f"{place}/a": "1"}).agree("1")
    twin.write({f"{place}/s/b": "2"}).agree("1,2")
    twin.write({f"{place}/s/b": "3"}).agree("1,3")
    twin.write({f"{place}/a": None}).agree("3")


def test_a_macro_lists_the_workspace(twin: Twin) -> None:
    """A folder that holds the target folder cannot be shown whole: that unit runs at home."""
    twin.write(_main('m::list!("..")')).agree("Cargo.lock,Cargo.toml,app,m,target")
    assert "app" in twin.reasons()
    twin.write({"news": ""}).agree("Cargo.lock,Cargo.toml,app,m,news,target")


def test_a_macro_follows_links(twin: Twin) -> None:
    """What a link says, where a path ends: also when the file there holds the same."""
    twin.write(_main('m::leads_to!("l")', 'm::real_name!("l")', 'm::read!("l")'))
    twin.write({"one": "text", "two": "text", "three": "more"}).agree("no link nothing absent")
    link = twin.project / "app" / "l"
    for name, text in (("one", "text"), ("two", "text"), ("three", "more")):
        link.unlink(missing_ok=True)
        link.symlink_to(f"../{name}")
        twin.agree(f"../{name} {name} {text}")
    link.unlink()
    link.write_text("text")
    twin.agree("no link l text")


def test_a_macro_tells_the_age_of_files(twin: Twin) -> None:
    """As rust-embed does. A sandbox cannot show it, so that such units run at home; by the name of
    the macro, because most looks at a file are for its existence."""
    body = """
    #[proc_macro] pub fn age(input: TokenStream) -> TokenStream {
        let changed = fs::metadata(place(input)).unwrap().modified().unwrap();
        let age = changed.duration_since(std::time::UNIX_EPOCH).unwrap();
        literal(age.as_secs().to_string())
    }
    """
    twin.write({"Cargo.toml": workspace("app", "m", "rust-embed-impl")})
    twin.write(macro_crate("rust-embed-impl", body))
    twin.write({"app/Cargo.toml": package("app", "rust-embed-impl")})
    twin.write({**_main('rust_embed_impl::age!("page.html")'), "app/page.html": "text"})
    for seconds in (1_700_000_000, 1_700_000_001):
        os.utime(twin.project / "app/page.html", (seconds, seconds))
        twin.agree(str(seconds))
        assert "rust_embed_impl tells the age" in twin.reasons()["app"]


def test_a_macro_reads_a_variable(twin: Twin) -> None:
    """Unset, set, changed, empty, unset: of the user's, not of cargo's."""
    twin.write(_main('m::variable!("COLOUR")')).agree("unset")
    twin.agree("=red", COLOUR="red")
    twin.agree("=blue", COLOUR="blue")
    twin.agree("=", COLOUR="")
    assert twin.agree("unset")["app bin"] == "hit"
    assert twin.agree("=red", COLOUR="red")["app bin"] == "hit"


def test_a_macro_reads_a_secret(twin: Twin) -> None:
    """A variable that is never sent: the unit runs at home and sees it."""
    twin.write(_main('m::variable!("DEPLOY_TOKEN")')).agree("unset")
    twin.agree("=s3cret", DEPLOY_TOKEN="s3cret")
    assert "$DEPLOY_TOKEN" in twin.reasons()["app"]
    twin.agree("=other", DEPLOY_TOKEN="other")
    twin.agree("unset")


def test_a_macro_reads_home_and_user(twin: Twin) -> None:
    """What every process has: the sandbox's must not differ, or not be believed."""
    twin.write(_main('m::variable!("HOME")', 'm::variable!("USER")', 'm::variable!("LANG")'))
    twin.agree("=/h =u =C", HOME="/h", USER="u", LANG="C")
    twin.agree("=/i =u =", HOME="/i", USER="u", LANG="")


def test_a_macro_reads_what_linkers_read(twin: Twin) -> None:
    """TERM does not matter to a linker, but it may to a macro of a program that is linked."""
    twin.write(_main('m::variable!("TERM")', 'm::variable!("COLLECT_GCC")'))
    twin.agree("=dumb unset", TERM="dumb")
    twin.agree("=linux =x", TERM="linux", COLLECT_GCC="x")
    twin.write({"app/src/main.rs": 'fn main() { println!("plain"); }\n'})
    twin.agree("plain", TERM="dumb")
    where = twin.agree("plain", TERM="linux")
    assert where["app bin"] == "hit", where


def test_a_macro_runs_git(twin: Twin) -> None:
    """A started program cannot be keyed: such a unit runs at home, with its reason, and is right
    after each commit. Where git fails, the macro's fallback value is what plain cargo gets too."""
    twin.write(_main("m::git!()")).agree(
        "no version", GIT_CEILING_DIRECTORIES=str(twin.project.parent)
    )
    assert "git" in twin.reasons()["app"]
    for text in ("one", "two"):
        _commit(twin, text)
        head = _git(twin, "rev-parse", "HEAD")
        twin.agree(head)
    assert "git" in twin.reasons()["app"]


def _git(twin: Twin, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.invalid"]
    return twin.space.run("git", *who, *arguments).check().stdout.strip()


def _commit(twin: Twin, text: str) -> None:
    if not (twin.project / ".git").exists():
        _git(twin, "init", "-q")
    twin.write({"noted": text})
    _git(twin, "add", "noted")
    _git(twin, "commit", "-q", "-m", text)


_CRATE_NAME = """
// As proc-macro-crate does: what is the package `dep` called in this one?
fn name_of(wanted: &str) -> String {
    let mut folder = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let names: Vec<_> = manifest.lines().filter_map(|line| line.split_once(" = "))
        .filter(|(_, rest)| rest.contains("workspace = true")).map(|(name, _)| name).collect();
    let root = loop {
        assert!(folder.pop(), "no workspace");
        let Ok(root) = fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        if root.contains("[workspace]") { break root }
    };
    let is_wanted = |name: &&str| root.lines().any(|line| line.starts_with(&format!("{name} = "))
        && line.contains(&format!("package = \\"{wanted}\\"")));
    names.into_iter().find(is_wanted).unwrap_or_else(|| panic!("no {wanted}")).replace('-', "_")
}
#[proc_macro] pub fn define_say(_: TokenStream) -> TokenStream {
    let name = name_of("dep");
    format!("fn say() {{ println!(\\"{name} {{}}\\", {name}::NAME); }}").parse().unwrap()
}
"""


def _renamed(name: str, package_name: str) -> str:
    line = f'{name} = {{ path = "{package_name}", package = "{package_name}" }}'
    return workspace("app", "m", "dep", "other") + f"[workspace.dependencies]\n{line}\n"


def test_a_macro_looks_up_a_renamed_workspace_dependency(twin: Twin) -> None:
    """Both manifests are inputs, and the workspace's lies outside of the package."""
    twin.write(macro_crate("m", _CRATE_NAME))
    for name in ("dep", "other"):
        twin.write({f"{name}/Cargo.toml": package(name)})
        twin.write({f"{name}/src/lib.rs": f'pub const NAME: &str = "{name}";\n'})
    twin.write({"app/src/main.rs": "m::define_say!();\nfn main() { say(); }\n"})
    twin.write({"Cargo.toml": _renamed("first-name", "dep")})
    twin.write({"app/Cargo.toml": package("app", "m", "first-name = { workspace = true }")})
    twin.agree("first_name dep")
    twin.write({"Cargo.toml": _renamed("second", "dep")})
    twin.write({"app/Cargo.toml": package("app", "m", "second = { workspace = true }")})
    twin.agree("second dep")
    twin.write({"Cargo.toml": _renamed("second", "other")})
    twin.agree(None, complains="no dep")
    twin.write({"Cargo.toml": _renamed("second", "dep")})
    assert twin.agree("second dep")["app bin"] == "hit"


_LIBRARY = {
    "m/Cargo.toml": package("m", build='"build.rs"') + "[lib]\nproc-macro = true\n",
    "m/build.rs": """
use std::{env, path::PathBuf, process::Command};
fn main() {
    println!("cargo:rerun-if-changed=word.c");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    let done = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(out.join("libword.so"))
        .arg("word.c").status().unwrap();
    assert!(done.success());
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=dylib=word");
}
""",
    "m/src/lib.rs": """
use proc_macro::TokenStream;
extern "C" { fn word() -> i32; }
#[proc_macro] pub fn word_of_library(_: TokenStream) -> TokenStream {
    format!("{}", unsafe { word() }).parse().unwrap()
}
""",
}


def test_a_macro_with_a_shared_library_of_its_own(twin: Twin) -> None:
    """Found through the LD_LIBRARY_PATH that cargo sets for `-L native` of an OUT_DIR: it is as
    much the macro as its own code is."""
    twin.write({**_LIBRARY, **_main("m::word_of_library!()")})
    for value in (1, 2, 1):
        twin.write({"m/word.c": f"int word(void) {{ return {value}; }}\n"}).agree(str(value))


def test_a_library_of_a_macro_is_replaced_behind_cargos_back(twin: Twin) -> None:
    """The macro's own bytes stay as they are; what it loads does not."""
    twin.write({**_LIBRARY, **_main("m::word_of_library!()")})
    build = twin.project / "m" / "build.rs"
    native = twin.project / "native"
    native.mkdir()
    build.write_text(
        "fn main() {\n"
        f'    println!("cargo:rustc-link-search=native={native}");\n'
        '    println!("cargo:rustc-link-lib=dylib=word");\n'
        '    println!("cargo:rerun-if-changed=build.rs");\n'
        "}\n"
    )
    source = twin.project / "word.c"
    for value in (1, 2, 1):
        source.write_text(f"int word(void) {{ return {value}; }}\n")
        twin.space.run("cc", "-shared", "-fPIC", "-o", native / "libword.so", source).check()
        twin.agree(str(value), LD_LIBRARY_PATH=str(native))
