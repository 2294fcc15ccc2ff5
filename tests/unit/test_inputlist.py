"""burst_wrapper.inputlist: what a list names, what that is now, and the keys made of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.digest import Digest
from burst_protocol.packing import pack
from burst_wrapper.index import Index
from burst_wrapper.inputlist import (
    ABSENT,
    FILE,
    LISTING,
    PRESENT,
    VARIABLE,
    InputList,
    World,
    listing,
    strong_key,
    variant,
)
from burst_wrapper.statcache import StatCache

WEAK = b"w" * 32
KINDS = [FILE, ABSENT, PRESENT, LISTING, VARIABLE]


@pytest.fixture
def stats(tmp_path: Path) -> Iterator[StatCache]:
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    yield StatCache(index)
    index.close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


entries = st.tuples(
    st.sampled_from(KINDS),
    st.binary(min_size=1, max_size=6).filter(lambda name: b"\0" not in name),
)


# Lists


@given(st.lists(entries))
def test_a_list_is_a_set_that_travels(chosen: list[tuple[int, bytes]]) -> None:
    """Order and repeats do not matter; what an agent kept for us comes back as it was."""
    inputs = InputList.of(chosen)
    assert InputList.of(reversed(chosen)) == inputs
    assert InputList.decode(inputs.encode()) == inputs
    assert set(inputs.entries) == set(chosen)
    assert inputs.files() == inputs.names(FILE)
    assert sorted(name for kind in KINDS for name in inputs.names(kind)) == sorted(
        name for _, name in set(chosen)
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [2, []],
        [1, 5],
        [1, [5]],
        [1, [[0]]],
        [1, [[0, b"a", b"b"]]],
        [1, [[b"0", b"a"]]],
        [1, [[0, "a"]]],
        [1, [[True, b"a"]]],
        [1, [[7, b"a"]]],
        [1, [[-1, b"a"]]],
        [1, [[300, b"a"]]],
        [1, [[0, b""]]],
        [1, [[0, b"a\0b"]]],
    ],
)
def test_what_is_no_list_is_none(value: object) -> None:
    """A list of another release, or a damaged one: it is as if it were not there."""
    assert InputList.decode(pack(value)) is None


@given(st.binary(max_size=40))
def test_random_bytes_are_no_list(data: bytes) -> None:
    """Nothing is raised, and what passes can be looked up."""
    inputs = InputList.decode(data)
    assert inputs is None or all(kind in KINDS for kind, _ in inputs.entries)


# The world


def test_what_a_file_is(stats: StatCache, place: Path) -> None:
    """Its bytes, or that it is none."""
    (place / "f").write_bytes(b"abc")
    os.mkfifo(place / "odd")
    world = World(stats, {})
    assert world.value(FILE, bytes(place / "f")) == Digest.of(b"abc").hash
    assert world.value(FILE, bytes(place / "none")) == b""
    assert world.value(FILE, bytes(place)) == b"directory"
    assert world.value(FILE, bytes(place / "odd")) == b"odd"
    assert world.value(FILE, bytes(place / "f" / "below")) == b""


@pytest.mark.parametrize("kind", [ABSENT, PRESENT])
def test_what_an_absent_or_present_name_is(stats: StatCache, place: Path, kind: int) -> None:
    """Nothing, a folder, or something else; never its bytes."""
    (place / "f").write_bytes(b"abc")
    (place / "broken").symlink_to("none")
    world = World(stats, {})
    assert world.value(kind, bytes(place / "none")) == b"absent"
    assert world.value(kind, bytes(place / "broken")) == b"absent"
    assert world.value(kind, bytes(place / "f")) == b"file"
    assert world.value(kind, bytes(place)) == b"directory"


def test_what_a_listing_is(place: Path) -> None:
    """The names, not what they are; an empty folder differs from none."""
    assert listing(bytes(place / "none")) == b""
    empty = listing(bytes(place))
    assert len(empty) == 32
    (place / "a").write_text("")
    (place / "b").mkdir()
    two = listing(bytes(place))
    (place / "a").write_text("changed")
    assert listing(bytes(place)) == two
    (place / "a").rename(place / "c")
    assert len({empty, two, listing(bytes(place))}) == 3


def test_where_one_name_ends_is_part_of_a_listing(place: Path) -> None:
    """Folders that hold `ab`, `c` and `a`, `bc` differ."""
    for folder, names in (("one", ("ab", "c")), ("two", ("a", "bc"))):
        (place / folder).mkdir()
        for name in names:
            (place / folder / name).write_text("")
    assert listing(bytes(place / "one")) != listing(bytes(place / "two"))


def test_what_a_variable_is(stats: StatCache) -> None:
    """Unset, empty and the text `unset` are three things."""
    world = World(stats, {b"EMPTY": b"", b"WORD": b"unset"})
    values = [world.value(VARIABLE, name) for name in (b"NONE", b"EMPTY", b"WORD")]
    assert values == [b"unset", b"=", b"=unset"]


def test_a_look_is_taken_once_and_may_be_told(stats: StatCache, place: Path) -> None:
    """What a run was shown counts, whatever lies there by now."""
    path = bytes(place / "f")
    world = World(stats, {})
    assert world.value(PRESENT, path) == b"absent"
    (place / "f").write_text("")
    assert world.value(PRESENT, path) == b"absent"
    world.pin(FILE, path, b"as it was shown")
    assert world.value(FILE, path) == b"as it was shown"


# Keys


def key_of(stats: StatCache, env: dict[bytes, bytes], *chosen: tuple[int, bytes]) -> bytes:
    return strong_key(WEAK, InputList.of(chosen), World(stats, env), b"")


def test_every_change_of_what_is_listed_changes_the_key(stats: StatCache, place: Path) -> None:
    """One key per state of the world, and the old key again when the old state is back."""
    path, folder = bytes(place / "f"), bytes(place)
    chosen = [(FILE, path), (LISTING, folder), (VARIABLE, b"V"), (ABSENT, path + b"/x")]
    keys = [key_of(stats, {}, *chosen)]
    (place / "f").write_text("one")
    keys.append(key_of(stats, {}, *chosen))
    (place / "f").write_text("two")
    keys.append(key_of(stats, {}, *chosen))
    keys.append(key_of(stats, {b"V": b""}, *chosen))
    (place / "other").write_text("")
    keys.append(key_of(stats, {}, *chosen))
    (place / "f").unlink()
    (place / "f").mkdir()
    (place / "f" / "x").write_text("")
    keys.append(key_of(stats, {}, *chosen))
    assert len(set(keys)) == len(keys)
    (place / "f" / "x").unlink()
    (place / "f").rmdir()
    (place / "other").unlink()
    assert key_of(stats, {}, *chosen) == keys[0]


def test_what_is_not_listed_does_not_matter(stats: StatCache, place: Path) -> None:
    """Other files and variables are another unit's business."""
    chosen = (FILE, bytes(place / "f"))
    before = key_of(stats, {}, chosen)
    (place / "g").write_text("new")
    assert key_of(stats, {b"OTHER": b"x"}, chosen) == before


def test_kind_and_weak_key_are_in_the_strong_key(stats: StatCache, place: Path) -> None:
    """The same name looked at in another way is another list."""
    keys = [key_of(stats, {}, (kind, bytes(place / "none"))) for kind in KINDS]
    keys.append(key_of(stats, {}))
    keys.append(strong_key(b"x" * 32, InputList(()), World(stats, {}), b""))
    assert len(set(keys)) == len(keys)


def test_lists_of_shared_units_are_relative_to_the_target(stats: StatCache, place: Path) -> None:
    """Equal in two target directories if what lies there is; other paths stay as they are."""
    one, two = place / "one", place / "two"
    for folder in (one, two, place / "one-more"):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "f").write_text("same")
    names = (b"/sub/f", b"/sub", b"")
    kinds = (FILE, LISTING, PRESENT)
    outside = [(FILE, bytes(place) + b"/one-more/sub/f"), (VARIABLE, bytes(one))]
    lists = [
        InputList.of([*((k, bytes(t) + n) for k, n in zip(kinds, names, strict=True)), *outside])
        for t in (one, two)
    ]
    neutral = [inputs.neutral(bytes(t)) for inputs, t in zip(lists, (one, two), strict=True)]
    assert neutral[0] == neutral[1]
    assert set(outside) < set(neutral[0].entries)
    assert neutral[0].at(bytes(two)) == lists[1]
    assert InputList.decode(neutral[0].encode()) == neutral[0]
    world = World(stats, {})
    keys = [strong_key(WEAK, neutral[0], world, bytes(t)) for t in (one, two)]
    assert keys[0] == keys[1]
    (two / "sub" / "f").write_text("other")
    world = World(stats, {})
    keys = [strong_key(WEAK, neutral[0], world, bytes(t)) for t in (one, two)]
    assert keys[0] != keys[1]


def test_variants_of_a_key() -> None:
    """A result for everybody has the key itself; arguments and directories tell others apart."""
    strong = b"s" * 32
    keys = [
        variant(strong, stderr, target)
        for stderr in (None, b"", b"--json", b"-", b"=")
        for target in (None, b"", b"/t", b"--json")
    ]
    assert variant(strong, None, None) == strong
    assert len(set(keys)) == len(keys)
