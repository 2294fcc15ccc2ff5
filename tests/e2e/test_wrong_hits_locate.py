"""Macros that ask cargo where the workspace is, as proc-macro-crate 3.2 and later do: they run in
the sandbox, and never with the answer of another day."""

from __future__ import annotations

import shutil

import pytest

from space import Space
from sshd import Sshd
from wrong_hits import Twin, macro_crate, package, twins, workspace

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# The very command of proc-macro-crate. Of the answer, a short name of a folder is told; a long one
# is the project's.
_MACROS = """
use std::process::{Command, Output};
fn manifest() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("Cargo.toml")
}
fn ask() -> Command {
    let mut command = Command::new(env::var("CARGO").unwrap());
    command.arg("locate-project").args(&["--workspace", "--message-format=plain"])
        .arg(format!("--manifest-path={}", manifest().display()));
    command
}
fn told(done: Output) -> TokenStream {
    let root = String::from_utf8(done.stdout).unwrap();
    let place = match root.trim().rsplit('/').nth(1) {
        None => "nothing", Some(name) if name.len() < 4 => name, Some(_) => "above",
    };
    literal(format!("{} {place}", done.status.code().unwrap()))
}
#[proc_macro] pub fn asked(_: TokenStream) -> TokenStream { told(ask().output().unwrap()) }
#[proc_macro] pub fn complaint(_: TokenStream) -> TokenStream {
    let done = ask().output().unwrap();
    literal(String::from_utf8(done.stderr).unwrap().lines().next().unwrap_or("none"))
}
#[proc_macro] pub fn in_another_form(input: TokenStream) -> TokenStream {
    let done = match text(input).as_str() {
        "environment" => ask().env("CARGO_TERM_QUIET", "true").output(),
        "directory" => ask().current_dir("/").output(),
        "variable" => { unsafe { env::set_var("CARGO_TERM_QUIET", "true") }; ask().output() }
        "option" => ask().arg("--quiet").output(),
        _ => panic!(),
    };
    told(done.unwrap())
}
// What is the package `dep` called in this one? The workspace's manifest may say so.
#[proc_macro] pub fn define_say(_: TokenStream) -> TokenStream {
    let root = String::from_utf8(ask().output().unwrap().stdout).unwrap();
    let root = fs::read_to_string(root.trim()).unwrap();
    let own = fs::read_to_string(manifest()).unwrap();
    let name = own.lines().filter_map(|line| line.strip_suffix(" = { workspace = true }"))
        .find(|name| root.lines().any(|line| line.starts_with(&format!("{name} = "))
            && line.contains("package = \\"dep\\"")));
    let name = name.unwrap_or_else(|| panic!("no dep")).replace('-', "_");
    format!("fn say() {{ println!(\\"{name} {{}}\\", {name}::NAME); }}").parse().unwrap()
}
"""


@pytest.fixture
def twin(twin: Twin) -> Twin:
    """With a program, and the macros it uses."""
    twin.write({"Cargo.toml": workspace("app", "m"), **macro_crate("m", _MACROS)})
    return twin.write({"app/Cargo.toml": package("app", "m"), **_main("m::asked!()")})


def _main(expression: str) -> dict[str, str]:
    return {"app/src/main.rs": f'fn main() {{ println!("{{}}", {expression}); }}\n'}


def test_a_macro_asks_cargo_for_its_workspace(twin: Twin) -> None:
    """It runs in the sandbox, and a second time it need not run at all."""
    space = twin.space
    space.cargo("build", "-q", "--offline").check()
    assert space.where()["app bin"] == "remote", space.burst("explain").stdout
    assert space.run(twin.project / "target/debug/app").check().stdout == "0 above\n"
    space.fresh_target()
    space.cargo("build", "-q", "--offline").check()
    assert space.where()["app bin"] == "hit"


def _away(where: dict[str, str]) -> bool:
    """Whether nothing ran at home. (What cargo takes for fresh is not compiled before the last
    build, from empty: then that is no hit.)"""
    return "local" not in where.values()


@pytest.mark.thorough
def test_a_folder_above_becomes_a_workspace(twin: Twin) -> None:
    """The package's own files stay as they are; then the workspace does not list it."""
    here = ("build", "--manifest-path=sub/app/Cargo.toml")
    twin.target = "t"
    twin.write({"Cargo.toml": None, "app": None, "m": None})
    twin.write({f"sub/{name}": text for name, text in macro_crate("m", _MACROS).items()})
    twin.write({"sub/app/Cargo.toml": package("app", "m")})
    twin.write({f"sub/{name}": text for name, text in _main("m::asked!()").items()})
    assert _away(twin.agree("0 app", *here))
    twin.write({"Cargo.toml": workspace("sub/app", "sub/m")})
    assert _away(twin.agree("0 above", *here))
    twin.write({"Cargo.toml": workspace("sub/m")})
    twin.agree(None, *here, complains="believes it's in a workspace")
    twin.write({"Cargo.toml": workspace("sub/m") + 'exclude = ["sub/app"]\n'})
    twin.agree("0 app", *here)
    twin.write({"Cargo.toml": None, "sub/Cargo.toml": workspace("app", "m")})
    twin.agree("0 sub", *here)


@pytest.mark.thorough
def test_a_package_names_another_workspace(twin: Twin) -> None:
    """`package.workspace` leads to a folder that is not above it."""
    twin.target = "t"
    twin.write({"Cargo.toml": None})
    for name in ("w1", "w2", "w1"):
        twin.write({f"{name}/Cargo.toml": workspace("../app", "../m")})
        more = {"workspace": f'"../{name}"'}
        twin.write({"app/Cargo.toml": package("app", "m", **more)})
        twin.write({"m/Cargo.toml": package("m", **more) + "[lib]\nproc-macro = true\n"})
        here = ("build", "-p=app", f"--manifest-path={name}/Cargo.toml")
        assert _away(twin.agree(f"0 {name}", *here))


@pytest.mark.thorough
def test_a_vendored_package_is_in_no_workspace(twin: Twin) -> None:
    """Cargo fails there and says nothing on stdout, until the workspace excludes the folder."""
    checksum = '{"package": null, "files": {}}'
    replaced = '[source.crates-io]\nreplace-with = "v"\n[source.v]\ndirectory = "vendor"\n'
    twin.write({"m": None, ".cargo/config.toml": replaced, "Cargo.toml": workspace("app")})
    for name, text in macro_crate("m", _MACROS).items():
        twin.write({f"vendor/{name}": text})
    twin.write({"vendor/v/Cargo.toml": package("v", 'm = "0.1"')})
    code = "pub fn asked() -> &'static str { m::asked!() }\n"
    code += "pub fn complaint() -> &'static str { m::complaint!() }\n"
    twin.write({"vendor/v/src/lib.rs": code})
    for name in ("m", "v"):
        twin.write({f"vendor/{name}/.cargo-checksum.json": checksum})
    twin.write({"app/Cargo.toml": package("app", 'v = "0.1"')})
    twin.write(_main('format!("{}, {}", v::asked(), v::complaint())'))
    why = "error: current package believes it's in a workspace when it's not:"
    assert _away(twin.agree(f"101 nothing, {why}"))
    twin.write({"Cargo.toml": workspace("app") + 'exclude = ["vendor"]\n'})
    assert _away(twin.agree("0 v, none"))
    twin.write({"Cargo.toml": workspace("app")})
    assert _away(twin.agree(f"101 nothing, {why}"))


@pytest.mark.thorough
def test_a_renamed_dependency_of_the_workspace(twin: Twin) -> None:
    """What cargo answers stays the same, and the manifest that it names does not."""
    for name in ("dep", "other"):
        twin.write({f"{name}/Cargo.toml": package(name)})
        twin.write({f"{name}/src/lib.rs": f'pub const NAME: &str = "{name}";\n'})
    twin.write({"app/src/main.rs": "m::define_say!();\nfn main() { say(); }\n"})
    for name, dependency in (("first-name", "dep"), ("second", "dep"), ("second", "other")):
        line = f'{name} = {{ path = "{dependency}", package = "{dependency}" }}'
        members = workspace("app", "m", "dep", "other")
        twin.write({"Cargo.toml": f"{members}[workspace.dependencies]\n{line}\n"})
        twin.write({"app/Cargo.toml": package("app", "m", f"{name} = {{ workspace = true }}")})
        says = f"{name.replace('-', '_')} dep" if dependency == "dep" else None
        where = twin.agree(says, complains="no dep" if says is None else "")
        # A program that fails without an error of rustc's own is always tried at home, too.
        assert _away(where) or says is None, twin.reasons()


@pytest.mark.thorough
def test_another_cargo_answers(twin: Twin) -> None:
    """Another program, another state of it at the same path, and one that cannot be shown."""
    cargo = twin.project / "cargo-of-mine"
    script = f'fn main() {{ println!("cargo:rustc-env=CARGO={cargo}"); }}\n'
    twin.write({"app/build.rs": script})
    for says in ("0 w1", "0 w2", "0 w1"):
        cargo.write_text(f"#!/bin/sh\necho /{says[2:]}/Cargo.toml\n")
        cargo.chmod(0o755)
        assert _away(twin.agree(says))
    other = cargo.rename(twin.project / "other")
    other.write_text("#!/bin/sh\necho /w3/Cargo.toml\n")
    twin.write({"app/build.rs": script.replace("cargo-of-mine", "other")})
    assert _away(twin.agree("0 w3"))
    other.write_text("#!/bin/sh\nprintf '/w\\0/Cargo.toml'\n")
    twin.agree("0 w\0")
    assert "cargo" in twin.reasons()["app"]


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["environment", "directory", "variable", "option"])
def test_another_question_runs_at_home(twin: Twin, form: str) -> None:
    """Only what home's cargo was asked is answered."""
    twin.write(_main(f'm::in_another_form!("{form}")')).agree("0 above")
    assert "cargo" in twin.reasons()["app"]


def _num_enum(twin: Twin, name: str) -> Twin:
    """The real proc-macro-crate, which looks up what num_enum is called in the workspace."""
    line = f'{name} = {{ version = "=0.7.6", package = "num_enum" }}'
    root = f"{workspace('app')}[workspace.dependencies]\n{line}\n"
    body = f"""#[derive({name}::TryFromPrimitive, Debug)] #[repr(u8)] enum Number {{ One = 1 }}
    fn main() {{ println!("{{:?}}", Number::try_from(1).unwrap()); }}
    """
    twin.write({"Cargo.toml": root, "app/src/main.rs": body})
    return twin.write({"app/Cargo.toml": package("app", f"{name} = {{ workspace = true }}")})


@pytest.mark.thorough
def test_num_enum(twin: Twin) -> None:
    """Under one name and then another, which only the manifests tell."""
    for name in ("num_enum", "numbers"):
        _num_enum(twin, name).space.plain("fetch", "-q").check()
        assert _away(twin.agree("One"))


@pytest.mark.thorough
def test_num_enum_over_ssh() -> None:
    """Nothing of it runs at home or twice, and the second time nothing runs at all."""
    with (
        Sshd.for_user() as server,
        Space.open(CARGO_INCREMENTAL="0", BURST_HOST=server.address) as machine,
    ):
        shutil.copytree(server.client_home / ".ssh", machine.home / ".ssh", dirs_exist_ok=True)
        with twins(machine, "ssh") as twin:
            space = _num_enum(twin, "numbers").space
            space.plain("fetch", "-q").check()
            for where in ("remote", "hit"):
                space.fresh_target()
                space.cargo("build", "-q", "--offline").check()
                units = space.units()
                places = {(unit["where"], unit["executor"]) for unit in units}
                assert places == {(where, server.address)}
                assert not any("cargo's answer" in unit["why"] for unit in units)
                space.forget_store()
            space.fresh_target()
            assert _away(twin.agree("One"))
