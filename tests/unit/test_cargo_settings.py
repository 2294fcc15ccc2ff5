"""Cargo's configuration as cargo itself reads it: which file, variable or option is stronger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_wrapper.verbs.cargo_settings import CargoSettings, runner_variable
from burst_wrapper.verbs.cfg_expression import holds
from burst_wrapper.verbs.environment import forwarded, is_refused

FACTS = ("unix", 'target_os="linux"', 'target_arch="x86_64"')


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project below a folder that has a configuration, too, and a cargo home."""
    files = {
        "home/config.toml": 'alias.a = "build"\nalias.far = "check"\n',
        "up/.cargo/config.toml": 'alias.a = "test --lib"\n[build]\ntarget = "up"\n',
        "up/project/.cargo/config": 'include = "more.toml"\n[alias]\na = ["run", "--bin", "a b"]\n',
        "up/project/.cargo/config.toml": 'alias.a = "never read"\n',
        "up/project/.cargo/more.toml": 'alias.a = "weaker"\nalias.included = "doc"\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def settings(tree: Path, *given: str, below: str = "up/project", **env: str) -> CargoSettings:
    environ = {b"CARGO_HOME": os.fsencode(tree / "home")}
    environ |= {name.encode(): value.encode() for name, value in env.items()}
    return CargoSettings.read(os.fsencode(tree / below), environ, given)


def test_the_nearest_file_wins(tree: Path) -> None:
    """`config` before `config.toml`; an included file is weaker than who includes it."""
    found = settings(tree)
    assert found.alias("a") == ["run", "--bin", "a b"]
    assert found.alias("included") == ["doc"]
    assert found.alias("far") == ["check"]
    assert found.alias("none") is None
    assert settings(tree, below="up").alias("a") == ["test", "--lib"]
    assert found.build_targets() == ["up"]
    assert found.aliases()["a"] == "run --bin a b"


def test_variables_and_options_are_stronger(tree: Path) -> None:
    """`--config` with a value or a file, the last one first."""
    assert settings(tree, CARGO_ALIAS_A="clippy -q").alias("a") == ["clippy", "-q"]
    (tree / "given.toml").write_text('alias.a = "bench"')
    given = settings(tree, str(tree / "given.toml"))
    assert given.alias("a") == ["bench"]
    assert settings(tree, "alias.a='doc'", "alias.a='fix'").alias("a") == ["fix"]
    assert settings(tree, "build.target=['x', 'y']").build_targets() == ["x", "y"]
    assert settings(tree, CARGO_BUILD_TARGET="z").build_targets() == ["z"]


def test_what_cannot_be_read_is_cargos_affair(tree: Path) -> None:
    """It says so itself."""
    (tree / "up/project/.cargo/config").write_text("[alias")
    assert settings(tree, "no = toml", "/not/there").alias("a") == ["test", "--lib"]


def test_runners(tree: Path) -> None:
    """By triple, by a condition, by the variable."""
    triple = "x86_64-unknown-linux-gnu"
    assert not settings(tree).has_runner(triple, FACTS)
    assert settings(tree, f"target.{triple}.runner='r'").has_runner(triple, ())
    found = settings(tree, "target.'cfg(unix)'.runner='r'")
    assert found.has_conditional_runner
    assert found.has_runner(triple, FACTS)
    assert not found.has_runner("other", ("windows",))
    variable = runner_variable(triple).decode()
    assert variable == "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER"
    assert settings(tree, **{variable: "r"}).has_runner(triple, ())
    assert not settings(tree, **{variable: "/x/burst-runner"}).has_runner(triple, ())


def test_wrappers(tree: Path) -> None:
    """The variable first."""
    assert settings(tree).wrapper() == ""
    assert settings(tree, "build.rustc-wrapper='/x/burst-rustc'").wrapper() == "/x/burst-rustc"
    assert settings(tree, RUSTC_WRAPPER="sccache").wrapper() == "sccache"
    assert settings(tree, RUSTDOC="mine").rustdoc() == "mine"


@pytest.mark.parametrize(
    ("expression", "true"),
    [
        ("unix", True),
        ("windows", False),
        ('target_os = "linux"', True),
        ('all(unix, target_arch = "x86_64")', True),
        ('all(unix, target_arch = "arm")', False),
        ("any(windows, unix,)", True),
        ("any()", False),
        ("all()", True),
        ("not(windows)", True),
        ("true", True),
        ("not(unix, windows)", False),
        ("all(unix", False),
        ("unix)", False),
        ("", False),
        ("unix windows", False),
    ],
)
def test_conditions(expression: str, true: bool) -> None:
    """As rustc's; what is none is false."""
    assert holds(expression, FACTS) is true


def test_variables_for_programs() -> None:
    """The later the stronger; what is unset is passed over, or named if it was asked for."""
    environ = {b"A": b"1", b"B": b"2", b"PATH": b"/bin"}
    found = forwarded(
        [b"A", b"B", b"GONE", b"PATH"],
        [(b"B", b"3"), (b"A", None), (b"C\x1b", None), (b"HOME", b"/x"), (b"D", b"a\nb")],
        environ,
    )
    assert dict(found.variables) == {b"A": b"1", b"B": b"3", b"D": b"a\nb"}
    assert found.warnings == (
        "PATH in `forward_env` is never forwarded",
        "--env C\\x1b: it is not set here",
        "--env HOME: it is never forwarded",
    )
    assert is_refused(b"CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER")
    assert is_refused(b"BURST_SESSION")
    assert not is_refused(b"DATABASE_URL")


def test_where_a_target_directory_lies(tree: Path) -> None:
    """Relative to the folder that `.cargo` is in, wherever below it cargo is called; from options,
    which are stronger than variables, to the working directory."""
    below = "up/project/member"
    cwd = os.fsencode(tree / below)
    (tree / below).mkdir()
    assert settings(tree, below=below).target_dir(cwd) is None
    (tree / "up/project/.cargo/config").write_text('build.target-dir = "out"')
    assert settings(tree, below=below).target_dir(cwd) == os.fsencode(tree / "up/project/out")
    variable = settings(tree, below=below, CARGO_BUILD_TARGET_DIR="v")
    assert variable.target_dir(cwd) == cwd + b"/v"
    option = settings(tree, "build.target-dir='o'", below=below, CARGO_BUILD_TARGET_DIR="v")
    assert option.target_dir(cwd) == cwd + b"/o"
