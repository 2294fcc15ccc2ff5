"""A mirror on the agent: what home has, whatever runs do to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_agent.mirror.record import look
from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from mirrors import L, Lab, Tree, X, with_folders

TREE: Tree = {
    b"Cargo.toml": b"[package]\n",
    b"src/lib.rs": b"pub fn f() {}\n",
    b"src/deep/er/mod.rs": b"// deep\n",
    b"run.sh": X(b"#!/bin/sh\n"),
    b"link": L(b"src/lib.rs"),
    b"dangling": L(b"/nowhere/at all"),
    b"empty": None,
    b"odd \n name \xff": b"\0",
}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "store")
    yield made
    made.close()


def test_first_sync(lab: Lab) -> None:
    """Bytes, executable bits, links, empty folders, names with any byte."""
    answer = lab.sync(TREE)
    assert lab.tree() == with_folders(TREE)
    assert answer.written == len([e for e in TREE.values() if e is not None])
    assert lab.mirrors.roots(lab.name) == (lab.top,)
    assert os.stat(lab.folder / "src/lib.rs").st_nlink == 1, "never a link into the store"


def test_an_unchanged_tree_takes_one_question(lab: Lab) -> None:
    """Its digest says it all, and nothing is asked for, written or removed."""
    lab.sync(TREE)
    lab.asked.clear()
    before = look(os.lstat(lab.folder / "src/lib.rs"))
    answer = lab.sync(TREE)
    assert (answer.written, answer.removed, lab.asked) == (0, 0, [])
    assert look(os.lstat(lab.folder / "src/lib.rs")) == before


def test_one_changed_file(lab: Lab) -> None:
    """Only that file is written, and only folders above it are asked for besides."""
    lab.sync(TREE)
    lab.asked.clear()
    before = look(os.lstat(lab.folder / "Cargo.toml"))
    changed = {**TREE, b"src/deep/er/mod.rs": b"// changed\n"}
    answer = lab.sync(changed)
    assert (answer.written, answer.removed) == (1, 0)
    assert lab.tree() == with_folders(changed)
    assert look(os.lstat(lab.folder / "Cargo.toml")) == before
    assert len(lab.asked) == 5, "src/deep/er, src/deep, src, the top, the file"


def test_deletions_and_changed_kinds(lab: Lab) -> None:
    """Files become folders, folders files or links, and back."""
    lab.sync(TREE)
    other: Tree = {
        b"src": b"a file now",
        b"link/inside": b"a folder now",
        b"run.sh": b"#!/bin/sh\n",
        b"empty": L(b"run.sh"),
        b"Cargo.toml": X(b"[package]\n"),
    }
    lab.sync(other)
    assert lab.tree() == with_folders(other)
    lab.sync(TREE)
    assert lab.tree() == with_folders(TREE)
    lab.sync({})
    assert lab.tree() == {}


def test_what_runs_made_stays(lab: Lab) -> None:
    """Files in folders of home's, in new ones, and in a folder that home has no longer."""
    lab.sync(TREE)
    (lab.folder / "src/new.snap.new").write_bytes(b"snap")
    (lab.folder / "out").mkdir()
    (lab.folder / "out/report").write_bytes(b"r")
    (lab.folder / "src/deep/er/left").write_bytes(b"l")
    smaller = {path: entry for path, entry in TREE.items() if not path.startswith(b"src/deep")}
    lab.sync(smaller)
    made: Tree = {b"src/new.snap.new": b"snap", b"out/report": b"r", b"src/deep/er/left": b"l"}
    assert lab.tree() == with_folders({**smaller, **made})


def test_what_runs_changed_is_set_right(lab: Lab) -> None:
    """Bytes, with and without a new time; modes; removed files; links and folders replaced."""
    lab.sync(TREE)
    file = lab.folder / "src/lib.rs"
    times = os.stat(file)
    file.write_bytes(b"pub fn g() {}\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    (lab.folder / "run.sh").chmod(0o600)
    (lab.folder / "Cargo.toml").unlink()
    (lab.folder / "link").unlink()
    (lab.folder / "link").mkdir()
    (lab.folder / "empty").rmdir()
    (lab.folder / "empty").write_bytes(b"")
    (lab.folder / "src/deep/er").chmod(0)
    lab.mirrors.touched(lab.name)
    lab.sync(TREE)
    assert lab.tree() == with_folders(TREE)


def test_a_folder_replaced_by_a_link_is_not_followed(lab: Lab, tmp_path: Path) -> None:
    """A run may leave a link to anywhere: nothing outside the mirror is written or removed."""
    lab.sync(TREE)
    outside = tmp_path / "outside"
    (lab.folder / "src").rename(outside)
    (lab.folder / "src").symlink_to(outside)
    kept = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    lab.mirrors.touched(lab.name)
    lab.sync({**TREE, b"src/lib.rs": b"other\n", b"src/more.rs": b"more\n"})
    assert lab.tree()[b"src/lib.rs"] == b"other\n"
    assert not (lab.folder / "src").is_symlink()
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == kept
    (lab.folder / "src/deep").rename(tmp_path / "deep")
    (lab.folder / "src/deep").symlink_to(tmp_path / "deep")
    lab.mirrors.touched(lab.name)
    lab.sync({})
    assert (tmp_path / "deep/er/mod.rs").read_bytes() == b"// deep\n"


def test_using_is_noticed(lab: Lab) -> None:
    """While a program runs, and after it, nothing is believed without a look."""
    lab.sync(TREE)
    with lab.mirrors.using(lab.name):
        (lab.folder / "run.sh").write_bytes(b"x")
        lab.sync(TREE)
        assert lab.tree() == with_folders(TREE)
        (lab.folder / "run.sh").write_bytes(b"y")
        lab.sync(TREE)
        assert lab.tree() == with_folders(TREE)
        (lab.folder / "run.sh").write_bytes(b"z")
    lab.sync(TREE)
    assert lab.tree() == with_folders(TREE)


def test_changes_by_pattern(lab: Lab) -> None:
    """Created and changed files, their bytes in the store; what only looks changed is none."""
    lab.sync(TREE)
    (lab.folder / "src/a.snap.new").write_bytes(b"snap")
    (lab.folder / "src/other").write_bytes(b"other")
    (lab.folder / "src/lib.rs").write_bytes(b"changed\n")
    os.utime(lab.folder / "Cargo.toml")
    (lab.folder / "tool").write_bytes(b"tool")
    (lab.folder / "tool").chmod(0o755)
    (lab.folder / "up").symlink_to("/etc/passwd")
    found = lab.changes("**/*.snap.new", "/src/lib.rs", "tool", "Cargo.toml", "up")
    assert set(found) == {b"src/a.snap.new", b"src/lib.rs", b"tool"}
    assert found[b"src/a.snap.new"].digest == Digest.of(b"snap")
    assert found[b"tool"].executable
    assert lab.store.read(Digest.of(b"changed\n")) == b"changed\n"
    assert set(lab.changes("*", "!src/**")) == {b"tool"}


def test_what_was_fetched_is_homes(lab: Lab) -> None:
    """Home's next tree says whether it stays."""
    lab.sync(TREE)
    for name in ("kept", "dropped"):
        (lab.folder / name).write_bytes(name.encode())
    lab.fetched(*lab.changes("kept", "dropped").values())
    assert lab.changes("kept", "dropped") == {}
    tree = {**TREE, b"kept": b"kept"}
    lab.sync(tree)
    assert lab.tree() == with_folders(tree)


def test_nested_roots(lab: Lab) -> None:
    """A target directory in the workspace, and single files around it: each root is its own."""
    target = lab.top + b"/target/burst"
    outside: Tree = {b".cargo/config.toml": b"[build]\n"}
    also: dict[bytes, Tree] = {target: {b"debug/tool": X(b"elf")}, b"/home/u": outside}
    lab.sync(TREE, also=also)
    assert lab.tree() == with_folders({**TREE, b"target/burst/debug/tool": X(b"elf")})
    assert (lab.folder.parent / ".cargo/config.toml").read_bytes() == b"[build]\n"
    assert lab.mirrors.roots(lab.name) == (b"/home/u", lab.top, target)
    lab.sync({**TREE, b"new": b""}, also=also)
    assert lab.tree()[b"target/burst/debug/tool"] == X(b"elf")
    lab.sync(TREE)
    assert lab.tree() == with_folders({**TREE, b"target": None})
    assert not (lab.folder.parent / ".cargo").exists()


@pytest.mark.parametrize("path", [b"relative", b"/a/../b", b"/a/", b"//a", b"/a/./b", b"/nul\0"])
def test_roots_that_cannot_be(lab: Lab, path: bytes) -> None:
    """What would lead out of the mirror is refused before anything is done."""
    with pytest.raises(RemoteProtocolError):
        lab.sync({}, also={path: {}})
    assert not lab.folder.exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "-x", "x" * 101])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    lab = Lab(tmp_path / "store", name)
    with pytest.raises(RemoteProtocolError):
        lab.sync({})
    lab.close()


def test_a_mirror_that_nobody_used_for_a_month_goes(tmp_path: Path) -> None:
    """Not one that was synced since, nor one whose programs run."""
    labs = [Lab(tmp_path / "store", name) for name in ("old", "used", "running")]
    for lab in labs:
        lab.sync(TREE)
    month_ns = 31 * 24 * 3600 * 10**9
    for lab in labs:
        info = os.stat(lab.beside / "lock")
        os.utime(lab.beside / "lock", ns=(info.st_atime_ns, info.st_mtime_ns - month_ns))
    labs[1].sync({})
    with labs[2].mirrors.using("running"):
        assert labs[0].mirrors.sweep() == ["old"]
    assert not labs[0].beside.exists()
    assert labs[1].tree() == {}
    assert labs[2].tree() == with_folders(TREE)
    labs[0].sync(TREE)
    assert labs[0].tree() == with_folders(TREE)
    for lab in labs:
        lab.close()
