"""Eviction: what goes, in which order, and what never does."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from burst_agent import diskfile, treedirs
from burst_agent.actions import ActionCache
from burst_agent.entries import EntryFiles
from burst_agent.evict import Eviction, Limits, evict, evict_async, is_due, plan
from burst_agent.lists import InputLists
from burst_agent.materialise import Materialiser
from burst_agent.scan import Item, Kind, count
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest
from burst_protocol.tree import TreeBuilder

HOUR_S = 3600
BLOCK = 4096
KEY = b"k" * 32
# Nothing is too young by default, and the disk of the test machine does not matter.
LIMITS = Limits(limit_bytes=10 * BLOCK, keep_s=0, blind_s=0, min_free_bytes=0)
EVERYTHING = attrs.evolve(LIMITS, limit_bytes=0)


@attrs.define
class Clock:
    """Wall clock in the hands of a test."""

    now_ns: int = 2_000_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * 10**9)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[BlobStore]:
    with tempfile.TemporaryDirectory() as path:
        store = BlobStore(os.fsencode(path) + b"/store", now_ns=clock)
        yield store
        diskfile.remove_tree(store.root.path)


def item(name: int, last_use_s: float, blocks: int = 1, kind: Kind = Kind.BLOB) -> Item:
    return Item(kind, b"%032d" % name, blocks * BLOCK, int(last_use_s * 10**9))


def names(items: tuple[Item, ...]) -> list[int]:
    return [int(one.name) for one in items]


# The planner


def test_below_the_limit_nothing_goes() -> None:
    """A store at its limit is left alone, however old its things."""
    chosen = plan([item(n, 0) for n in range(10)], LIMITS, now_ns=10**18)
    assert chosen.victims == ()
    assert chosen.total_bytes == 10 * BLOCK


def test_the_oldest_go_down_to_ninety_percent() -> None:
    """One above the limit: the two least recently used go, so that the next unit does not evict."""
    chosen = plan([item(n, 100 - n) for n in range(11)], LIMITS, now_ns=10**18)
    assert names(chosen.victims) == [10, 9]


def test_an_entry_goes_before_blobs_of_its_age() -> None:
    """At equal last use: entries, lists, trees, then blobs."""
    kinds = [Kind.BLOB, Kind.TREE, Kind.LIST, Kind.ACTION]
    items = [item(n, 5, kind=kind) for n, kind in enumerate(kinds)]
    chosen = plan(items, EVERYTHING, now_ns=10**18)
    assert names(chosen.victims) == [3, 2, 1, 0]


def test_young_and_pinned_things_stay() -> None:
    """Neither goes, even if the store then stays above its limit."""
    limits = attrs.evolve(EVERYTHING, keep_s=50, blind_s=10)
    items = [item(0, 900), item(1, 939), item(2, 941), item(3, 1000), item(4, 2000)]
    chosen = plan(items, limits, now_ns=1000 * 10**9, pinned={items[0].name})
    assert names(chosen.victims) == [1]


def test_a_nearly_full_disk_shrinks_the_limit() -> None:
    """Other programs fill the disk too: what is missing to `min_free_bytes` goes."""
    limits = Limits(limit_bytes=10**9, keep_s=0, blind_s=0, min_free_bytes=8 * BLOCK, target=1.0)
    items = [item(n, n) for n in range(10)]
    for free_blocks, gone in ((8, 0), (5, 3), (0, 8)):
        chosen = plan(items, limits, now_ns=10**18, free_bytes=free_blocks * BLOCK)
        assert names(chosen.victims) == list(range(gone))


@given(
    st.lists(
        st.builds(
            item,
            st.integers(0, 50),
            st.floats(0, 1000),
            st.integers(0, 20),
            st.sampled_from(Kind),
        )
    ),
    st.integers(0, 300),
    st.floats(0, 500),
)
def test_any_plan_is_safe_and_sufficient(items: list[Item], blocks: int, keep_s: float) -> None:
    """Never a young one; old enough ones go until the target; none younger than one that stays."""
    limits = Limits(limit_bytes=blocks * BLOCK, keep_s=keep_s, blind_s=0)
    now_ns = 1000 * 10**9
    young_ns = now_ns - int(keep_s * 10**9)
    chosen = plan(items, limits, now_ns=now_ns)
    remaining = chosen.total_bytes - sum(one.size_bytes for one in chosen.victims)
    assert all(one.last_use_ns < young_ns for one in chosen.victims)
    old = [one for one in items if one.last_use_ns < young_ns]
    if chosen.total_bytes <= limits.limit_bytes:
        assert chosen.victims == ()
    else:
        assert remaining <= chosen.target_bytes or len(chosen.victims) == len(old)
    uses = [one.last_use_ns for one in chosen.victims]
    assert uses == sorted(uses)


# On disk


def test_blobs_go_with_their_twins(store: BlobStore, clock: Clock) -> None:
    """The least recently used blob and its executable twin go; sizes and generation follow."""
    old = store.put_bytes(b"old")
    store.path(old, executable=True)
    clock.pass_s(2 * HOUR_S)
    new = store.put_bytes(b"new")
    before = store.root.generation
    report = evict(store, attrs.evolve(LIMITS, limit_bytes=2 * BLOCK))
    assert store.missing([old, new]) == [old]
    assert (report.freed_bytes, report.freed_files) == (2 * BLOCK, 2)
    assert report.removed == {Kind.BLOB: 1}
    assert store.root.generation > before
    assert store.root.usage() == (BLOCK, 1) == count(store.root)


def test_a_use_of_the_twin_is_a_use_of_the_blob(store: BlobStore, clock: Clock) -> None:
    """Linking only the executable keeps both."""
    tool, other = store.put_bytes(b"tool"), store.put_bytes(b"other")
    store.path(tool, executable=True)
    clock.pass_s(2 * HOUR_S)
    store.path(tool, executable=True)
    clock.pass_s(1)
    evict(store, attrs.evolve(LIMITS, limit_bytes=2 * BLOCK, target=1.0))
    assert store.missing([tool, other]) == [other]


def test_pinned_blobs_stay(store: BlobStore, clock: Clock) -> None:
    """A digest in the pinned set is not removed, whatever its age."""
    digests = [store.put_bytes(b"%d" % n) for n in range(3)]
    clock.pass_s(HOUR_S)
    report = evict(store, EVERYTHING, pinned={digests[1]})
    assert store.missing(digests) == [digests[0], digests[2]]
    assert report.over_bytes == BLOCK


def test_something_used_lately_can_look_old(store: BlobStore, clock: Clock) -> None:
    """A use is noted once an hour; the default limits know, and keep what was used just now."""
    digest = store.put_bytes(b"data")
    clock.pass_s(HOUR_S - 1)
    assert store.has(digest)
    report = evict(store, Limits(limit_bytes=0, min_free_bytes=0))
    assert store.has(digest)
    assert report.over_bytes == BLOCK


def test_entries_and_their_blobs_age_together(store: BlobStore, clock: Clock) -> None:
    """A hit keeps entry and blobs; an entry never hit goes with its blobs, and is then a miss."""
    cache = ActionCache(store, lambda entry: [Digest.unpacked(entry)])
    keys = [b"%032d" % n for n in range(2)]
    for key in keys:
        cache.put(key, store.put_bytes(key).packed())
        InputLists(store).add(key, b"list")
    clock.pass_s(2 * HOUR_S)
    assert cache.get(keys[1]) is not None
    clock.pass_s(1)
    # The blob and entry of the first, and both lists, are older than the hit.
    report = evict(store, attrs.evolve(LIMITS, limit_bytes=2 * BLOCK, target=1.0))
    assert report.removed == {Kind.ACTION: 1, Kind.LIST: 2, Kind.BLOB: 1}
    assert cache.get(keys[0]) is None
    assert cache.get(keys[1]) is not None
    assert InputLists(store).get(keys[0]) == []


# Trees


def small_tree(store: BlobStore, name: bytes = b"tree") -> Digest:
    builder, blobs = TreeBuilder(), dict[Digest, bytes]()
    builder.file(b"d/" + name, store.put_bytes(b"in " + name), executable=False)
    digest = builder.build(blobs)
    for data in blobs.values():
        store.put_bytes(data)
    return digest


def test_a_tree_keeps_the_blobs_it_shows(store: BlobStore, clock: Clock) -> None:
    """A lease keeps files and Directory blobs: removing the files would free nothing."""
    trees, tree = Materialiser(store), small_tree(store)
    lonely = store.put_bytes(b"lonely")
    trees.lease(tree).close()
    clock.pass_s(2 * HOUR_S)
    trees.lease(tree).close()
    clock.pass_s(1)
    evict(store, attrs.evolve(LIMITS, limit_bytes=3 * BLOCK, target=1.0))
    assert store.missing([lonely]) == [lonely]
    assert trees.missing_in_tree(tree) == []


def test_an_unused_tree_goes_with_its_blobs(store: BlobStore, clock: Clock) -> None:
    """The folder, its Directory blobs and its files go; it can be laid out again from new blobs."""
    trees, tree = Materialiser(store), small_tree(store)
    trees.lease(tree).close()
    assert trees.missing_in_tree(tree) == []
    clock.pass_s(HOUR_S)
    report = evict(store, EVERYTHING)
    assert report.removed == {Kind.TREE: 1, Kind.BLOB: 3}
    assert os.listdir(store.root.join(b"trees")) == []
    assert trees.missing_in_tree(tree) == [tree]
    assert small_tree(store) == tree
    trees.lease(tree).close()


def test_a_leased_tree_stays(store: BlobStore, clock: Clock) -> None:
    """Whatever its age and the size of the store: neither the tree nor its files go."""
    trees, tree = Materialiser(store), small_tree(store)
    with trees.lease(tree) as leased:
        clock.pass_s(100 * HOUR_S)
        evict(store, EVERYTHING)
        with open(leased.path + b"/d/tree", "rb") as file:
            assert file.read() == b"in tree"
        assert store.has(Digest.of(b"in tree"))
    clock.pass_s(1)
    evict(store, EVERYTHING)
    assert treedirs.names(store.root) == []


def test_a_tree_leased_after_the_scan_is_spared(store: BlobStore, clock: Clock) -> None:
    """Chosen while nobody used it, leased before its turn: the folder stays complete."""
    trees, tree = Materialiser(store), small_tree(store)
    trees.lease(tree).close()
    clock.pass_s(HOUR_S / 2)  # a lease within the hour leaves no trace in the times
    eviction = Eviction(store, EVERYTHING)
    steps = eviction.steps()
    next(steps)  # the tree's slice is the first
    with trees.lease(tree) as leased:
        for _ in steps:
            pass
        assert eviction.report.spared == 1
        with open(leased.path + b"/d/tree", "rb") as file:
            assert file.read() == b"in tree"


def test_a_running_actions_files_stay(store: BlobStore, clock: Clock) -> None:
    """A blob hard-linked into some input root counts as used now."""
    linked, other = store.put_bytes(b"linked"), store.put_bytes(b"other")
    target = store.root.temp_path()
    store.link(linked, target)
    clock.pass_s(100 * HOUR_S)
    evict(store, EVERYTHING)
    assert store.missing([linked, other]) == [other]
    os.unlink(target)
    clock.pass_s(1)
    evict(store, EVERYTHING)
    assert not store.has(linked)


# Interruptions


def test_a_use_after_the_scan_spares(store: BlobStore, clock: Clock) -> None:
    """What is used between being chosen and being removed stays."""
    digests = [store.put_bytes(b"%d" % n) for n in range(100)]
    clock.pass_s(2 * HOUR_S)
    eviction = Eviction(store, EVERYTHING)
    left = digests
    for _ in eviction.steps():
        left = [one for one in digests if os.path.exists(path(store, one))]
        if len(left) < len(digests):
            assert store.missing(left) == []
    assert eviction.report.spared == len(left) > 0
    assert store.missing(left) == []
    assert store.root.usage() == count(store.root)


def path(store: BlobStore, digest: Digest) -> bytes:
    return store.root.join(b"cas", digest.hex[:2].encode(), digest.hex.encode())


def test_an_eviction_can_be_left_at_any_step(store: BlobStore, clock: Clock) -> None:
    """Dropped after the n-th step, for every n: sizes are right and the next one can start."""
    for n in range(6):
        tree = small_tree(store)
        Materialiser(store).lease(tree).close()
        ActionCache(store, lambda _: []).put(KEY, b"entry")
        store.path(store.put_bytes(b"tool"), executable=True)
        count(store.root)
        clock.pass_s(HOUR_S)
        steps = Eviction(store, EVERYTHING).steps()
        for _ in range(n):
            next(steps)
        steps.close()
        usage = store.root.usage()
        assert usage == count(store.root)
    assert not evict(store, EVERYTHING).busy
    assert store.root.usage() == (0, 0)


def test_only_one_evicts_at_a_time(store: BlobStore, clock: Clock) -> None:
    """A second eviction of the same root does nothing and says so."""
    digest = store.put_bytes(b"data")
    clock.pass_s(HOUR_S)
    first = Eviction(store, EVERYTHING).steps()
    next(first)
    assert evict(store, EVERYTHING).busy
    assert store.has(digest)
    first.close()
    assert not evict(store, EVERYTHING).busy


def test_the_loop_goes_on_during_an_eviction(store: BlobStore, clock: Clock) -> None:
    """Between slices other tasks run; the report is that of the synchronous form."""
    for n in range(200):
        store.put_bytes(b"%d" % n)
    clock.pass_s(HOUR_S)

    async def both() -> tuple[int, int]:
        task = asyncio.ensure_future(evict_async(store, EVERYTHING))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0)
        return turns, task.result().freed_files

    turns, freed = asyncio.run(both())
    assert turns > 10
    assert freed == 200


@pytest.mark.parametrize("turns", [0, 1, 5, 50, 500])
def test_an_eviction_can_be_cancelled(store: BlobStore, clock: Clock, turns: int) -> None:
    """Cancelled at any await it ends at once, gives its lock up, and the sizes are right."""
    for n in range(200):
        store.put_bytes(b"%d" % n)
    clock.pass_s(HOUR_S)

    async def cancelled() -> None:
        task = asyncio.ensure_future(evict_async(store, EVERYTHING))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancelled())
    assert store.root.usage() == count(store.root)
    assert not evict(store, EVERYTHING).busy


def test_it_is_due_when_too_large_or_unknown(store: BlobStore) -> None:
    """By the index alone, and when the index is lost."""
    store.put_bytes(b"data")
    assert not is_due(store, LIMITS)
    assert is_due(store, EVERYTHING)
    assert is_due(store, attrs.evolve(LIMITS, min_free_bytes=1 << 60))
    os.unlink(store.root.join(b"state"))
    assert is_due(store, LIMITS)


def test_foreign_files_are_left_alone(store: BlobStore, clock: Clock) -> None:
    """What has no name of ours in the folders is neither counted nor removed."""
    EntryFiles(store.root, b"actions").write(KEY, b"entry")
    foreign = store.root.join(b"actions", KEY.hex()[:2].encode(), b"README")
    with open(foreign, "wb"):
        pass
    clock.pass_s(HOUR_S)
    assert evict(store, EVERYTHING).freed_files == 1
    assert os.path.exists(foreign)
