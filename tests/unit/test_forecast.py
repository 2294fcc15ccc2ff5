"""What a build has still before it: when a server is worth its boot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_wrapper.argv import RustcCall, parse
from burst_wrapper.forecast import Durations, Expectations, Outlook, locked_crates, optimised
from burst_wrapper.index import Index

LOCK = """
version = 4
[[package]]
name = "app"
version = "0.1.0"
dependencies = ["serde-json", "syn 1.0.0", "syn 2.0.0"]
[[package]]
name = "serde-json"
version = "1.0.0"
[[package]]
name = "syn"
version = "1.0.0"
[[package]]
name = "syn"
version = "2.0.0"
[[package]]
name = "windows-sys"
version = "0.60.0"
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(bytes(tmp_path / "home.db"))
    yield opened
    opened.close()


@pytest.fixture
def lock(tmp_path: Path) -> bytes:
    path = tmp_path / "Cargo.lock"
    path.write_text(LOCK)
    return bytes(path)


def call(name: str, *more: str) -> RustcCall:
    argv = ["rustc", "--crate-name", name, "--edition=2021", "src/lib.rs", *more]
    return parse([word.encode() for word in argv], lambda _: b"")


class Time:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_lock_file_names_crates(lock: bytes, tmp_path: Path) -> None:
    """Each once, whatever its versions; a file that is none names nothing."""
    assert locked_crates(lock) == (b"app", b"serde_json", b"syn", b"windows_sys")
    assert locked_crates(bytes(tmp_path / "absent")) == ()
    (tmp_path / "bad").write_text("[[package]\nname=")
    assert locked_crates(bytes(tmp_path / "bad")) == ()
    (tmp_path / "odd").write_text("package = 3")
    assert locked_crates(bytes(tmp_path / "odd")) == ()


def test_what_was_built_here_is_not_expected(index: Index, lock: bytes, tmp_path: Path) -> None:
    """Cargo keeps a fingerprint folder of every package it has built in a profile."""
    profile = tmp_path / "target/debug"
    expectations = Expectations(index)
    assert expectations.of(lock, bytes(profile)) == {b"app", b"serde_json", b"syn", b"windows_sys"}
    (profile / ".fingerprint/serde-json-0123456789abcdef").mkdir(parents=True)
    (profile / ".fingerprint/syn-0123456789abcdef").mkdir()
    assert expectations.of(lock, bytes(profile)) == {b"app", b"windows_sys"}


def test_what_no_build_asks_for_is_learned(index: Index, lock: bytes, tmp_path: Path) -> None:
    """Packages of other platforms must not boot a server for every edit; an empty target may."""
    profile = tmp_path / "target/debug"
    expectations = Expectations(index)
    expectations.ended(bytes(profile), frozenset({b"windows_sys"}))
    assert b"windows_sys" in expectations.of(lock, bytes(profile))
    (profile / ".fingerprint/app-0123456789abcdef").mkdir(parents=True)
    assert expectations.of(lock, bytes(profile)) == {b"serde_json", b"syn"}
    index.flush(1)
    assert Expectations(index).of(lock, bytes(profile)) == {b"serde_json", b"syn"}


def test_seconds_are_remembered(index: Index) -> None:
    """By crate and optimisation; the other kind is a better guess than none."""
    durations = Durations(index)
    guess = durations.expected_s(b"syn", optimise=False)
    assert durations.expected_s(b"syn", optimise=True) > guess > 0
    durations.learn(call("syn"), 4000)
    assert durations.expected_s(b"syn", optimise=False) == pytest.approx(4)
    assert durations.expected_s(b"syn", optimise=True) == pytest.approx(10)
    durations.learn(call("syn", "-Copt-level=3"), 6000)
    assert durations.expected_s(b"syn", optimise=True) == pytest.approx(6)
    durations.learn(call("syn"), 2000)
    index.flush(1)
    assert Durations(index).expected_s(b"syn", optimise=False) == pytest.approx(3)
    durations.learn(call("syn"), 0)
    assert durations.expected_s(b"syn", optimise=False) == pytest.approx(3)


def test_optimisation_is_read_off_the_call() -> None:
    """As rustc reads it: the last one counts, `-O` too."""
    assert not optimised(call("a"))
    assert not optimised(call("a", "-C", "opt-level=0"))
    assert optimised(call("a", "-Copt-level=s"))
    assert optimised(call("a", "-O"))


def test_nothing_missing_means_nothing_left(index: Index) -> None:
    """A warm build of a thousand packages boots nothing."""
    outlook = Outlook([b"p%d" % n for n in range(1000)], Durations(index), optimise=False)
    assert outlook.forecast().left_s == 0
    for n in range(20):
        outlook.hit(b"p%d" % n)
    assert outlook.forecast().left_s == 0


def test_an_edit_of_one_crate_is_small(index: Index) -> None:
    """All else was built in this target before: what is left is that crate's own seconds."""
    durations = Durations(index)
    durations.learn(call("app"), 7000)
    clock = Time()
    outlook = Outlook([], durations, optimise=False, now_s=clock)
    outlook.missed("unit", b"app")
    assert outlook.forecast().left_s == pytest.approx(7)
    clock.now += 5
    assert outlook.forecast().left_s == pytest.approx(2)
    clock.now += 5
    assert outlook.forecast().left_s == 0
    outlook.ended("unit")
    assert outlook.idle
    assert outlook.forecast().running_units == 0


def test_a_cold_build_is_large_and_shrinks(index: Index) -> None:
    """Each unit that comes is not to come any more; the wall depends on home's cores."""
    durations = Durations(index)
    names = [b"p%d" % n for n in range(200)]
    for name in names:
        durations.learn(call(name.decode()), 3000)
    clock = Time()
    outlook = Outlook(names, durations, optimise=False, now_s=clock)
    outlook.missed(0, names[0])
    first = outlook.forecast()
    assert first.left_s == pytest.approx(600)
    assert first.wall_s(4) == pytest.approx(150)
    assert "199 units to come, 1 running, 100% " in first.text
    for n in range(1, 100):
        outlook.missed(n, names[n])
        outlook.ended(n - 1)
        clock.now += 3
    assert outlook.forecast().left_s < first.left_s / 1.9
    assert len(outlook.unasked) == 100


def test_hits_make_the_rest_probable_hits(index: Index) -> None:
    """Half of what came was in a store: half of what comes will be."""
    outlook = Outlook([b"p%d" % n for n in range(100)], Durations(index), optimise=False)
    for n in range(10):
        outlook.hit(b"p%d" % n)
        outlook.missed(n, b"p%d" % (n + 10))
        outlook.ended(n)
    found = outlook.forecast()
    assert found.missing_share == pytest.approx(0.5)
    assert found.left_s == pytest.approx(
        80 * 0.5 * Durations(index).expected_s(b"x", optimise=False)
    )
