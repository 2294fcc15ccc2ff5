"""`burst-admin image`: build with its log, list, prune."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from admin_stage import Stage
from burst_lifecycle import labels, recipe
from burst_lifecycle.admin.bakery import bakery, log_file
from burst_lifecycle.admin.live import Live
from burst_lifecycle.cloud.model import Kind


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def images(stage: Stage) -> list[int]:
    return sorted(stage.machine.account.held[Kind.IMAGE])


def test_build_list_prune(stage: Stage) -> None:
    """What the recipe says is on stderr and in a file; the result on stdout."""
    built = stage.run("image", "build")
    assert built.code == 0
    (image,) = images(stage)
    assert built.out == f"image {image} (2.5 GB) is current: the next server boots from it\n"
    assert "== 20-packages" in built.err
    (log,) = Path(stage.cloud_folder, "bakes").iterdir()
    assert log.stat().st_mode & 0o777 == 0o600
    assert str(log) in built.err
    assert "== 20-packages" in log.read_text()

    shown = stage.run("image", "list")
    fingerprint = recipe.packaged().fingerprint
    head, line = shown.out.splitlines()
    assert head.split() == ["id", "stage", "recipe", "size", "age", "euros", "a", "month"]
    for word in (str(image), "current", fingerprint, "2.5", "€0.04"):
        assert word in line.split()
    assert "from a stock image in" in shown.err
    (found,) = json.loads(stage.run("image", "list", "--json").out)["images"]
    assert found["recipe"] == fingerprint

    assert stage.run("image", "prune", "--yes").out == "no image is outdated\n"
    assert stage.run("image", "prune", "--keep", "0", answers="n\n").code == 1
    assert images(stage) == [image]
    pruned = stage.run("image", "prune", "--keep", "0", answers="y\n")
    assert f"image {image} (current, 2.5 GB)" in pruned.err
    assert images(stage) == []


def test_an_image_of_another_version(stage: Stage) -> None:
    """Is no use to this one, which says so."""
    stage.run("image", "build")
    held = stage.machine.account.held[Kind.IMAGE]
    (image,) = images(stage)
    held[image].labels[labels.RECIPE] = "0123456789abcdef"
    assert "none is of this version's recipe" in stage.run("image", "list").err


def test_a_mirror_that_is_none_costs_nothing(stage: Stage, tmp_path: Path) -> None:
    said = stage.run("image", "build", "--mirror", str(tmp_path))
    assert said.code == 2
    assert "SHA256SUMS" in said.err
    assert not stage.machine.account.held[Kind.SERVER]


def test_what_a_server_says_moves_no_cursor(stage: Stage) -> None:
    """Escape sequences stay in the file."""
    desk = stage.desk()
    with log_file(str(stage.folder / "logs")) as (path, file):
        show = bakery(Live(stage.machine.lifecycle, ""), desk)._shower(file)
        show(b"good\n\x1b[2Jevil\r\n")
    assert isinstance(desk.stderr, io.StringIO)
    assert desk.stderr.getvalue() == "good\n [2Jevil \n"
    assert Path(path).read_bytes() == b"good\n\x1b[2Jevil\r\n"


def test_ten_logs_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(15):
        (folder / f"20250101-0000{number:02}-1.log").write_text("")
    with log_file(str(folder)) as (path, _):
        assert len(list(folder.iterdir())) == 10
        assert Path(path).exists()
    assert (folder / "20250101-000014-1.log").exists()
