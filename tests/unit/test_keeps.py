"""What programs keep on an agent's volume: handed out by name, and swept by age and size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_agent.programs.keeps import Keeps, Sweeper
from burst_agent.store import BlobStore
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.programs import AskChanges

NOW_S = 1_000_000_000.0
DAY_S = 86400.0


@pytest.fixture
def keeps(tmp_path: Path) -> Iterator[Keeps]:
    store = BlobStore(bytes(tmp_path / "store"))
    yield Keeps(store)
    store.close()


def target(keeps: Keeps, name: str, *, used_s: float, units: dict[str, float]) -> Path:
    """A target directory as cargo lays it out, every file of 64 KiB."""
    top = Path(os.fsdecode(keeps.folder(name)))
    files = ["debug/incremental/app-1/state", "debug/app"]
    for unit in units:
        files += [
            f"debug/.fingerprint/{unit}/lib",
            f"debug/build/{unit}/out/x",
            f"debug/deps/lib{unit}.rlib",
            f"debug/deps/{unit}.d",
        ]
    for file in files:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 65536)
    for unit, unit_s in units.items():
        os.utime(top / "debug/.fingerprint" / unit / "lib", (unit_s, unit_s))
    os.utime(top, (used_s, used_s))
    return top


def test_what_nobody_used_for_long_goes(keeps: Keeps) -> None:
    old = target(keeps, "old-1", used_s=NOW_S - 40 * DAY_S, units={})
    held = target(keeps, "held-1", used_s=NOW_S - 40 * DAY_S, units={})
    young = target(keeps, "young-1", used_s=NOW_S - DAY_S, units={})
    cargo_home = Path(os.fsdecode(keeps.top), "cargo")
    cargo_home.mkdir()
    os.utime(cargo_home, (0, 0))
    with keeps.using("held-1"):
        os.utime(held, (0, 0))
        swept = Sweeper(keeps).sweep(NOW_S)
    assert not old.exists()
    assert held.exists()
    assert young.exists()
    assert cargo_home.exists()
    assert swept.folders == 1
    assert swept.freed_bytes > 0


def test_too_large_loses_states_first_then_the_oldest_units(keeps: Keeps) -> None:
    units = {f"{name}-{n:016x}": NOW_S - n * DAY_S for n, name in enumerate(("a", "b", "c"))}
    top = target(keeps, "one-1", used_s=NOW_S, units=units)
    whole = 3 * 4 * 65536 + 2 * 65536 + 4096
    Sweeper(keeps, max_bytes=whole - 1000).sweep(NOW_S)
    assert not (top / "debug/incremental").exists()
    assert len(list((top / "debug/deps").iterdir())) == 6
    swept = Sweeper(keeps, max_bytes=whole - 2 * 65536).sweep(NOW_S)
    assert swept.units == 1
    left = sorted(path.name for path in (top / "debug/deps").iterdir())
    assert left == sorted(f for unit in list(units)[:2] for f in (f"lib{unit}.rlib", f"{unit}.d"))
    assert not (top / "debug/.fingerprint" / list(units)[2]).exists()
    assert not (top / "debug/build" / list(units)[2]).exists()
    assert (top / "debug/app").exists()


def test_the_least_recently_used_one_pays_first(keeps: Keeps) -> None:
    one = target(keeps, "one-1", used_s=NOW_S - DAY_S, units={"a-0000000000000001": NOW_S})
    two = target(keeps, "two-1", used_s=NOW_S, units={"a-0000000000000001": 0.0})
    size = 2 * (4 + 2) * 65536
    Sweeper(keeps, max_bytes=size - 3 * 65536).sweep(NOW_S)
    assert not (one / "debug/deps/a-0000000000000001.d").exists()
    assert (two / "debug/deps/a-0000000000000001.d").exists()
    assert (two / "debug/incremental").exists()


def test_files_by_name_and_by_pattern(keeps: Keeps, tmp_path: Path) -> None:
    top = target(keeps, "one-1", used_s=NOW_S, units={})
    (top / "debug/app").chmod(0o755)
    (top / "debug/[odd]").write_text("odd")
    (top / "debug/back\\slash").write_text("odd")
    (top / "debug/out").symlink_to("/etc")
    (tmp_path / "secret").write_text("x")

    def ask(*patterns: str) -> dict[bytes, bool]:
        question = AskChanges(1, "driver/one-1", (), patterns)
        return {file.path: file.executable for file in keeps.changes(question).files}

    assert ask("/debug/app", "/debug/none", "/debug/out/passwd") == {b"/debug/app": True}
    assert ask("/debug/\\[odd\\]") == {b"/debug/[odd]": False}
    assert ask("/debug/back\\\\slash") == {b"/debug/back\\slash": False}
    assert ask("/../../secret", "/debug/../../x") == {}
    assert ask("/debug/a*") == {b"/debug/app": True}
    with pytest.raises(RemoteProtocolError):
        keeps.changes(AskChanges(1, "driver/../x", (), ("a",)))
