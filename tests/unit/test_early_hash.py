"""A toolchain's large files, hashed by a child before the daemon has loaded: only true rows."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from blake3 import blake3

from burst_wrapper.daemon.early_hash import EarlyHash, large_files, parse_rows
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache

SIZE = 1_500_000


@pytest.fixture
def sysroot(tmp_path: Path) -> Path:
    """Laid out like a toolchain, long ago."""
    machine = os.uname().machine
    lib = tmp_path / "toolchain/lib"
    for name in (
        "librustc_driver-1.so",
        "libother.so",
        f"rustlib/{machine}-unknown-linux-gnu/lib/libcore-1.rlib",
        "rustlib/wasm32-unknown-unknown/lib/libcore-2.rlib",
    ):
        path = lib / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() + bytes(SIZE))
    (lib / "librustc-small.so").write_bytes(b"small")
    rustc = tmp_path / "toolchain/bin/rustc"
    rustc.parent.mkdir()
    rustc.write_bytes(b"")
    return rustc.parents[1]


def begun(sysroot: Path) -> EarlyHash:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    try:
        early = EarlyHash.begin(str(sysroot / "bin/rustc"), descriptor)
    finally:
        os.close(descriptor)
    assert early is not None
    return early


def test_only_what_this_machine_compiles_with(sysroot: Path) -> None:
    """The compiler's own libraries and the standard library of its own target."""
    names = sorted(Path(path).name for path in large_files(str(sysroot)))
    assert names == ["libcore-1.rlib", "librustc_driver-1.so"]


def test_a_distributions_libraries_too(sysroot: Path) -> None:
    """Debian has them in a folder per architecture, beside everybody else's."""
    folder = sysroot / "lib" / f"{os.uname().machine}-linux-gnu"
    folder.mkdir()
    for name in ("librustc_driver-2.so", "libLLVM.so.19.1", "libgtk.so"):
        (folder / name).write_bytes(bytes(SIZE))
    names = {Path(path).name for path in large_files(str(sysroot))}
    assert {"librustc_driver-2.so", "libLLVM.so.19.1"} <= names
    assert "libgtk.so" not in names


def test_a_file_just_written_is_not_believed(sysroot: Path) -> None:
    """File systems stamp coarsely: a second write within a tick would go unseen."""
    assert begun(sysroot).rows() == {}


def test_rows_are_what_the_stat_cache_would_have_found(
    sysroot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later_ns = time.time_ns() + 60 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: later_ns)
    rows = begun(sysroot).rows()
    assert len(rows) == 2
    path = os.fsencode(next(sysroot.glob("lib/librustc_driver*")))
    assert rows[path][4] == blake3(Path(os.fsdecode(path)).read_bytes()).digest()
    stats = StatCache(Index(os.fsencode(tmp_path / "home.db")))
    stats.learn(rows)
    state = stats.digest(path)
    assert state is not None
    assert state.digest.hash == rows[path][4]
    # And believed only as long as the file is that one.
    Path(os.fsdecode(path)).write_bytes(b"x" * SIZE)
    changed = stats.digest(path)
    assert changed is not None
    assert changed.digest.hash == blake3(b"x" * SIZE).digest()


@pytest.mark.parametrize("name", ["cargo", "rustc-1.80", "../bin/rustc"])
def test_no_guess_where_the_toolchain_cannot_be_told(tmp_path: Path, name: str) -> None:
    """A relative name, another program, a rustc without libraries beside it."""
    assert EarlyHash.begin(name, 0) is None
    program = tmp_path / "bin" / Path(name).name
    program.parent.mkdir()
    program.write_bytes(b"")
    assert EarlyHash.begin(str(program), 0) is None


def test_a_child_that_was_killed_in_mid_row() -> None:
    whole = b"/lib/a\x001 2 3 4\n" + bytes(32)
    assert parse_rows(whole) == {b"/lib/a": (1, 2, 3, 4, bytes(32))}
    for end in range(len(whole)):
        assert parse_rows(whole + whole[:end]) == parse_rows(whole)
    assert parse_rows(b"") == {}
