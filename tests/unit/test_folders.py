"""What folders are by their names, and where cargo's files lie: held for all who ask."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_lifecycle.folders import ancestors, outermost, within
from burst_wrapper.cargo_files import configurations
from burst_wrapper.mirror.roots import Manifests
from burst_wrapper.mirror.roots import configurations as above_a_workspace


def test_ancestors() -> None:
    assert list(ancestors(b"/a/b")) == [b"/a/b", b"/a", b"/"]
    assert list(ancestors("/")) == ["/"]


@pytest.mark.parametrize(
    ("path", "folder", "is_within"),
    [
        (b"/a", b"/a", True),
        (b"/a/b", b"/a", True),
        (b"/a/b", b"/a/", True),
        (b"/ab", b"/a", False),
        (b"/a", b"/a/b", False),
        (b"/a", b"/", True),
    ],
)
def test_within(path: bytes, folder: bytes, is_within: bool) -> None:
    assert within(path, folder) is is_within


def test_outermost_among_neighbours_with_one_beginning() -> None:
    """In a sorted list `/a-b` stands between `/a` and what is in it."""
    assert outermost([b"/a", b"/a-b", b"/a/c", b"/a"]) == (b"/a", b"/a-b")


def test_roots_are_never_in_each_other(tmp_path: Path) -> None:
    """A path dependency in the workspace, and one beside it whose name goes on after its name."""
    for name, rest in {
        "app": '[dependencies]\ninner = {path = "inner"}\nside = {path = "../app-side"}\n',
        "app/inner": "",
        "app-side": "",
    }.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "Cargo.toml").write_text(f'[package]\nname = "x"\n{rest}')
    roots = Manifests().roots(os.fsencode(tmp_path / "app"), [os.fsencode(tmp_path / "app/inner")])
    assert [os.path.basename(root) for root in roots] == [b"app", b"app-side"]


def test_of_two_names_of_a_configuration_cargo_takes_the_old_one(tmp_path: Path) -> None:
    """https://doc.rust-lang.org/cargo/reference/config.html: `config` is used if both exist."""
    for name in ("config", "config.toml"):
        (tmp_path / ".cargo").mkdir(exist_ok=True)
        (tmp_path / ".cargo" / name).write_text("")
    wanted = os.fsencode(tmp_path / ".cargo/config")
    assert next(configurations(os.fsencode(tmp_path / "below"))) == wanted
    assert above_a_workspace(os.fsencode(tmp_path / "workspace"))[0] == wanted
