"""Our native parts: built by home's compiler, or taken from the installation where they fit."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from burst_wrapper import native_build
from burst_wrapper.native_build import build_native, ship

PATIENCE_S = 60


@pytest.fixture
def cc() -> bytes:
    found = shutil.which("cc")
    if found is None:
        pytest.skip("no C compiler")
    return os.fsencode(found)


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    """An installation that brought none."""
    return tmp_path / "nothing"


def test_tools_are_built_once_and_the_same(cc: bytes, nothing: Path, tmp_path: Path) -> None:
    """In another directory, by another call: equal bytes, and no second build in the same one."""
    first = build_native(cc, tmp_path / "cache", nothing)
    other = build_native(cc, tmp_path / "elsewhere", nothing)
    for here, there in ((first.sandbox, other.sandbox), (first.observer, other.observer)):
        assert here is not None
        assert there is not None
        assert here != there
        assert here.read_bytes() == there.read_bytes()
    assert first.sandbox is not None
    stamp = first.sandbox.stat().st_ino
    assert build_native(cc, tmp_path / "cache", nothing) == first
    assert first.sandbox.stat().st_ino == stamp
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith("build-")]


def test_without_a_compiler_there_is_a_reason(nothing: Path, tmp_path: Path) -> None:
    """Missing, not executable, or not able to compile: never an exception."""
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\ncase $1 in -*v*|-d*) echo x;; *) echo no >&2; exit 1;; esac\n")
    broken.chmod(0o755)
    for cc in (None, b"/nowhere/cc", os.fsencode(tmp_path), os.fsencode(broken)):
        tools = build_native(cc, tmp_path / "cache", nothing)
        assert tools.sandbox is None
        assert tools.observer is None
        assert tools.client is None
        assert tools.reason


def test_two_builds_at_once_do_no_harm(cc: bytes, nothing: Path, tmp_path: Path) -> None:
    """Two daemons start together."""
    script = """
import os, sys
from pathlib import Path
from burst_wrapper.native_build import build_native
tools = build_native(os.fsencode(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
assert tools.sandbox.is_file() and tools.observer.is_file() and tools.client.is_file(), tools
"""
    argv: list[str | Path] = [sys.executable, "-c", script, os.fsdecode(cc), tmp_path / "cache"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen([*argv, nothing], env=env) for _ in range(3)]
    assert [process.wait(PATIENCE_S) for process in running] == [0, 0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_what_was_installed_is_used(cc: bytes, tmp_path: Path) -> None:
    """Without a compiler, and without a file in the cache."""
    shipped = tmp_path / "shipped"
    assert len(ship(cc, shipped)) == 3
    tools = build_native(None, tmp_path / "cache", shipped)
    assert tools.reason == ""
    for path in (tools.sandbox, tools.observer, tools.client):
        assert path is not None
        assert path.is_relative_to(shipped)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("what", ["another libc", "another machine", "not executable"])
def test_what_was_installed_but_does_not_fit_is_built(
    what: str, cc: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel from another system, or unpacked by something that forgot the modes."""
    shipped = tmp_path / "shipped"
    built = ship(cc, shipped)
    if what == "another libc":
        monkeypatch.setattr(os, "confstr", lambda _name: "glibc 2.99")
    elif what == "another machine":
        uname = os.uname()
        other = os.uname_result((*uname[:4], "sparc64"))
        monkeypatch.setattr(os, "uname", lambda: other)
    else:
        for path in built:
            path.chmod(0o444)
    tools = build_native(cc, tmp_path / "cache", shipped)
    assert tools.reason == ""
    own = tmp_path / "cache"
    # The other two depend on no library.
    expected = {"another libc": {"libburst-observer.so"}}.get(
        what, {"burst-sandbox", "libburst-observer.so", "burst-client"}
    )
    products = [tools.sandbox, tools.observer, tools.client]
    assert {path.name for path in products if path and path.is_relative_to(own)} == expected
    assert all(products)


def test_changed_sources_do_not_use_old_products(
    cc: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who edits the C code of an editable installation runs what they wrote."""
    shipped = tmp_path / "shipped"
    ship(cc, shipped)
    sources = tmp_path / "native"
    shutil.copytree(native_build.SOURCES, sources, ignore=shutil.ignore_patterns("built"))
    monkeypatch.setattr(native_build, "SOURCES", sources)
    with open(sources / "sandbox.c", "a") as file:
        file.write("/* changed */\n")
    tools = build_native(cc, tmp_path / "cache", shipped)
    assert tools.sandbox is not None
    assert tools.sandbox.is_relative_to(tmp_path / "cache")
    assert tools.client is not None
    assert tools.client.is_relative_to(shipped)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aarch64-linux-gnu-gcc", "musl-gcc", "clang"])
def test_other_compilers_build_them_too(compiler: str, tmp_path: Path) -> None:
    """The other architecture, the other libc, the other family of compilers."""
    cc = shutil.which(compiler)
    if cc is None:
        pytest.skip(f"no {compiler}")
    tools = build_native(os.fsencode(cc), tmp_path, tmp_path / "nothing")
    assert tools.reason == ""
    assert tools.sandbox is not None
    assert tools.observer is not None
    assert tools.client is not None
