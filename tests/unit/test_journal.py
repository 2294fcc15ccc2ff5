"""burst_wrapper.journal: one file per build, and nothing of it ever disturbs a build."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from burst_wrapper import journal
from burst_wrapper.journal import Journal, UnitRecord, builds

UNIT = UnitRecord(
    crate="serde",
    kind="lib",
    where="hit",
    executor="home store",
    why="",
    reason="hit",
    wall_ms=3,
    sent_bytes=0,
    received_bytes=10,
    started_ms=1000,
    key="ab",
    manifest=(("arg", "--edition=2021"), ("extern liba.rmeta", "0011")),
    detail="-0123",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "builds"


@pytest.fixture
def writer(folder: Path) -> Iterator[Journal]:
    writer = Journal(bytes(folder))
    yield writer
    writer.close()


def test_units_of_one_cargo_are_one_build(writer: Journal, folder: Path) -> None:
    """Every field comes back; builds are told apart by cargo's pid and start."""
    other = attrs.evolve(UNIT, crate="b\udcff\n", where="local")
    writer.record((5, 1), b"/project\xff", UNIT)
    writer.record((6, 1), b"/other", UNIT)
    writer.record((5, 1), b"/project\xff", other)
    found = {build.cwd: build for build in builds(bytes(folder))}
    assert set(found) == {"/project\udcff", "/other"}
    units = found["/project\udcff"].units
    assert [unit["crate"] for unit in units] == ["serde", "b\udcff\n"]
    assert units[0] == json.loads(json.dumps(attrs.asdict(UNIT)))
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_newest_first(folder: Path) -> None:
    """By the time in the name, as numbers."""
    folder.mkdir(parents=True)
    for stamp in (9, 100, 20):
        head = {"build": [stamp, 1], "cwd": f"/{stamp}", "time_s": stamp}
        (folder / f"{stamp}-{stamp}-1.jsonl").write_text(json.dumps(head) + "\n")
    assert [build.time_s for build in builds(bytes(folder))] == [100, 20, 9]


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"\n\n",
        b"\xff\xfe",
        b"[]\n5\nnull\n",
        b'{"build":[1,2]}\n',
        b'{"build":[1,2],"time_s":"x"}\n',
        b'{"build":7,"time_s":1}\n',
        b'{"build":[[],{}],"time_s":1}\n',
        b'{"crate":"orphan"}\n',
    ],
)
def test_damaged_files_are_passed_over(writer: Journal, folder: Path, junk: bytes) -> None:
    """The other builds are shown."""
    writer.record((5, 1), b"/project", UNIT)
    (folder / "99999999999999-1-1.jsonl").write_bytes(junk)
    (folder / "not-a-build").mkdir()
    assert [build.cwd for build in builds(bytes(folder))] == ["/project"]


def test_a_torn_line_costs_itself(writer: Journal, folder: Path) -> None:
    """As a kill in the middle of a write leaves it."""
    writer.record((5, 1), b"/project", UNIT)
    (path,) = folder.iterdir()
    with path.open("ab") as file:
        file.write(b'{"crate":"half')
    (build,) = builds(bytes(folder))
    assert len(build.units) == 1


def test_only_so_many_builds_are_kept(
    writer: Journal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go; file descriptors are not kept for ever either."""
    monkeypatch.setattr(journal, "KEEP_BUILDS", 5)
    folder.mkdir(parents=True)
    for stamp in range(1000000000000, 1000000000009):
        (folder / f"{stamp}-1-1.jsonl").write_text("")
    for pid in range(40):
        writer.record((pid, 1), b"/p", UNIT)
    assert len(list(folder.iterdir())) == 5
    assert len(writer._fds) <= 32
    assert [build.time_s > 10**9 for build in builds(bytes(folder))] == [True] * 5


def test_a_journal_that_cannot_be_written_is_not_missed(tmp_path: Path) -> None:
    """No room, no rights, a file in its place: the build goes on."""
    (tmp_path / "state").write_text("")
    writer = Journal(bytes(tmp_path / "state" / "builds"))
    writer.record((5, 1), b"/project", UNIT)
    writer.close()
    assert list(builds(bytes(tmp_path / "state" / "builds"))) == []
    assert list(builds(b"/nowhere")) == []
