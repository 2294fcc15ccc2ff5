"""What is said before a mirror is made: the listing, the biggest entries, the question."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.places import Places
from burst_protocol.errors import TooMuch
from burst_wrapper.index import Index
from burst_wrapper.mirror import answers, before, weight
from burst_wrapper.mirror.snapshot import Project, Snapshots
from burst_wrapper.mirror.weight import Heavy
from burst_wrapper.statcache import StatCache
from mirror_home import put


def sparse(path: Path, size_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size_bytes)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    top = tmp_path / "ws"
    put(top, {b"Cargo.toml": b"", b"src/lib.rs": b"lib", b"odd\nname \xff": b"x", b".env": b"s"})
    return Project(os.fsencode(top), os.fsencode(top / "target"))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(*(str(tmp_path / name) for name in ("config", "data", "state")))


def test_listing(project: Project) -> None:
    """Every file on a line of its own, what is kept at home and why, and the sum."""
    put(Path(os.fsdecode(project.workspace_root)), {b".gitignore": b"*.log\n", b"a.log": b""})
    lines = list(before.preview(project).lines())
    root = os.fsdecode(project.workspace_root)
    assert f"      3 B  {root}/src/lib.rs" in lines
    assert f"      1 B  {root}/odd\\nname \\xff" in lines
    assert f"  {root}/.env (looks like a secret)" in lines
    assert f"  {root}/a.log (ignored by git, {root}/.gitignore)" in lines
    assert "10 B in 4 files" in lines
    assert not any("\n" in line for line in lines)


def test_the_biggest_fifteen(project: Project, tmp_path: Path) -> None:
    """Folders count as a whole; what is beyond the allowance is an error that names them."""
    top = Path(os.fsdecode(project.workspace_root))
    for number in range(20):
        sparse(top / f"data{number:02}/part/file", (number + 1) * 10**6)
    index = Index(os.fsencode(tmp_path / "index.db"))
    snapshots = Snapshots(StatCache(index))
    heaviest = before.preview(project).weight.heaviest
    assert len(heaviest) == weight.SHOWN
    assert heaviest[0].path == os.fsencode(top / "data19")
    assert heaviest[-1].path == os.fsencode(top / "data05")
    with pytest.raises(TooMuch) as caught:
        snapshots.take(project, weight.Allowance(10**8, 1000))
    assert "210.0 MB in 23 files" in str(caught.value)
    assert str(caught.value).count("\n") == weight.SHOWN
    assert "--yes" in caught.value.hint
    with pytest.raises(TooMuch):
        snapshots.take(project, weight.Allowance(10**9, 10))
    snapshots.take(project, weight.Allowance(10**9, 1000))
    index.close()


def test_asked_once(project: Project, places: Places) -> None:
    """Folders of other tools' outputs, from 50 MiB on; the answer is kept, yes or no."""
    top = Path(os.fsdecode(project.workspace_root))
    asked: list[tuple[Heavy, ...]] = []

    def agree(found: tuple[Heavy, ...]) -> bool:
        asked.append(found)
        return True

    assert before.ask(project, places, agree) == ()
    assert asked == [], "there is nothing to ask"
    other = attrs.evolve(project, workspace_root=os.fsencode(top.parent / "other"))
    put(top.parent / "other", {b"Cargo.toml": b""})
    sparse(top.parent / "other/dist/bundle", weight.SUGGESTED_FROM_BYTES)
    sparse(top.parent / "other/build/small", 1000)
    sparse(top.parent / "other/src/huge", weight.SUGGESTED_FROM_BYTES)
    assert before.ask(other, places, agree) == ("/dist/",)
    assert before.ask(other, places, agree) == ("/dist/",)
    assert [[os.path.basename(heavy.path) for heavy in found] for found in asked] == [[b"dist"]]
    assert answers.load(places, other.workspace_root).exclude == ("/dist/",)
    excluded = attrs.evolve(other, exclude=("/dist/",))
    assert before.preview(excluded).weight.suggestions == ()


def test_a_damaged_answer_is_none(project: Project, places: Places) -> None:
    answers.save(places, project.workspace_root, ("/dist/",))
    (file,) = Path(places.state, "mirrors").iterdir()
    for content in ("", "[]", '{"exclude": 1}', '{"exclude": [1]}'):
        file.write_text(content)
        assert answers.load(places, project.workspace_root) == answers.Answers()
