"""`burst-admin cache` and the agent's own `cache`: a store, looked at from outside."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from admin_stage import Stage
from burst_agent import main
from burst_agent.cache_cli import by_age, by_kind
from burst_agent.scan import Item, Kind
from burst_agent.store import BlobStore

DAY_S = 86400


def fill(folder: Path, *, old: int = 0, young: int = 0) -> None:
    """A store of blobs of 10 kB, the old ones unused for ten days."""
    root = os.fsencode(folder)
    with BlobStore(root) as store:
        for number in range(old + young):
            digest = store.put_bytes(bytes([number]) * 10_000)
            if number < old:
                past = time.time() - 10 * DAY_S
                os.utime(store.path(digest), (past, past))


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main.main(["cache", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_list_and_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "store", old=2, young=3)
    root = str(tmp_path / "store")
    listed = asked(capsys, "list", "--root", root)
    kinds = listed["kinds"]
    assert isinstance(kinds, list)
    assert next((row["name"], row["items"]) for row in kinds) == ("blobs", 5)
    assert [row["items"] for row in listed["last_used"]] == [3, 0, 2, 0]  # type: ignore[attr-defined]
    size = asked(capsys, "size", "--root", root, "--store-bytes", "1000000")
    assert size["files"] == 5
    assert size["limit_bytes"] == 1_000_000
    assert main.main(["cache", "list", "--root", root]) == 0
    assert "blobs" in capsys.readouterr().out


def test_evict_what_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what was not used for so long; what is in use never."""
    fill(tmp_path / "store", old=2, young=3)
    root = str(tmp_path / "store")
    nothing = asked(capsys, "evict", "--root", root)
    assert nothing["freed_files"] == 0
    done = asked(capsys, "evict", "--root", root, "--older", str(5 * DAY_S))
    assert done["removed"] == {"blobs": 2}
    rest = asked(capsys, "evict", "--root", root, "--to-bytes", "0")
    assert rest["freed_files"] == 0
    assert rest["over_bytes"] == rest["size_bytes"] != 0


def test_no_store_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Looking makes none."""
    for verb in ("list", "size", "evict"):
        assert main.main(["cache", verb, "--root", str(tmp_path / "store")]) == 0
        assert "nothing is stored yet" in capsys.readouterr().out
    assert not (tmp_path / "store").exists()


def test_the_users_own_store(tmp_path: Path) -> None:
    """Found where the daemon has it, with the configuration's limit, by the agent's program."""
    stage = Stage(tmp_path)
    stage.configure("store_gb = 2\n")
    fill(tmp_path / "cache" / "burst" / "store", young=1)
    said = stage.run("cache", "size")
    assert said.code == 0
    assert " of 2.0 GB in 1 files " in said.out
    stage.configure("store_bg = 2\n")
    assert stage.run("cache", "size").code == 10


def test_rows() -> None:
    """Every kind has a row; ages do not overlap."""
    now = 100 * DAY_S * 10**9
    items = [
        Item(Kind.BLOB, b"a", 10, now - 3600 * 10**9, 2),
        Item(Kind.ACTION, b"b", 5, now - 3 * DAY_S * 10**9),
        Item(Kind.TREE, b"c", 0, 0, 0),
    ]
    assert [(row.name, row.items, row.files, row.size_bytes) for row in by_kind(items)] == [
        ("blobs", 1, 2, 10),
        ("trees", 1, 0, 0),
        ("results", 1, 1, 5),
        ("input lists", 0, 0, 0),
    ]
    assert [row.items for row in by_age(items, now)] == [1, 1, 0, 1]
