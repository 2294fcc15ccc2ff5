"""A store after kills, crashes, full disks and flipped bits: missing at worst, never wrong."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

import store_crash_driver
from burst_agent import diskfile, treedirs
from burst_agent.actions import ActionCache
from burst_agent.entries import EntryFiles
from burst_agent.lists import InputLists
from burst_agent.materialise import Materialiser
from burst_agent.root import State, StoreRoot
from burst_agent.scan import Kind, Scan, count
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DiskFull
from burst_protocol.tree import TreeBuilder
from store_crash_driver import ENTRY_KEY, entry_digests


@pytest.fixture
def folder() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as path:
        yield os.fsencode(path)
        diskfile.remove_tree(os.fsencode(path) + b"/store")


def visible_blobs(root: bytes) -> Iterator[tuple[bytes, Digest]]:
    """Every file that has a blob's name, with the digest of what is in it."""
    for kind in (b"cas", b"exe"):
        for shard, _, names in os.walk(root + b"/" + kind):
            for name in names:
                yield name, Digest.of_file(shard + b"/" + name)


def assert_sound(root: bytes) -> None:
    """What must hold after any kill, as seen by the next process that opens the store."""
    for name, actual in visible_blobs(root):
        assert actual.hex.encode() == name
    store = BlobStore(root)
    assert os.listdir(root + b"/tmp") == [os.path.basename(store.root.tmp)]
    assert os.listdir(store.root.tmp) == []
    assert store.root.counts.damaged_blobs == 0
    entry = ActionCache(store, entry_digests).get(ENTRY_KEY)
    if entry is not None:
        assert entry == b"".join(
            store.put_bytes(store.read(d)).packed() for d in entry_digests(entry)
        )
    assert InputLists(store).get(ENTRY_KEY) in (
        [],
        [b"list of 2"],
        [b"list of 4", b"list of 2"],
    )
    assert store.root.counts.damaged_entries == 0
    treedirs.sweep_gone(store.root)
    for name in treedirs.names(store.root):
        tree = store.root.join(b"trees", name)
        assert sorted(os.listdir(tree)) == [b"bin", b"link", b"text"]
        assert os.stat(tree + b"/bin/tool").st_mode & 0o777 == 0o555
    size, files = count(store.root)
    assert store.root.usage() == (size, files)
    store.put_bytes(b"and it still works")
    store.close()


@pytest.fixture
def memory_folder() -> Iterator[bytes]:
    """A folder in memory where there is one: hundreds of stores, each synced at its close."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield os.fsencode(path)
        for name in os.listdir(path):
            diskfile.remove_tree(os.fsencode(path + "/" + name))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "half"])
def test_a_kill_at_any_filesystem_call_leaves_the_store_sound(
    memory_folder: bytes, when: str
) -> None:
    """For every n: killed at its n-th call, a writer leaves complete blobs, trees and entries."""
    driver = store_crash_driver.__file__
    assert driver is not None
    done = subprocess.run(
        [sys.executable, driver, os.fsdecode(memory_folder), when],
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    runs = int(done.stdout)
    assert runs > 150  # or the traps do not catch what the store does
    for number in range(1, runs + 1):
        root = b"%s/%d/store" % (memory_folder, number)
        if os.path.exists(root):
            assert_sound(root)


def test_a_killed_mover_keeps_the_bytes(folder: bytes) -> None:
    """Moving is one rename: before it the source stands where it stood, after it is a blob."""
    with BlobStore(folder + b"/store") as store:
        Path(os.fsdecode(folder + b"/f")).write_bytes(b"data")
        digest = store.put_file(folder + b"/f", move=True)
        assert store.has(digest) is not os.path.exists(folder + b"/f")


# A crash of the machine


def crashed(root: bytes) -> BlobStore:
    """The store as the next boot meets it, when nobody had closed it."""
    return BlobStore(root, boot_id=b"next boot")


def spoil(path: bytes, data: bytes) -> None:
    """Overwrites a read-only file in place and puts its times back."""
    status = os.stat(path)
    os.chmod(path, 0o644)
    with open(path, "r+b") as file:
        file.truncate(0)
        file.write(data)
    os.chmod(path, 0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip(path: bytes, at: int) -> None:
    data = bytearray(Path(os.fsdecode(path)).read_bytes())
    data[at] ^= 1
    spoil(path, bytes(data))


def abandon(store: BlobStore) -> None:
    """The locks of a dead process."""
    os.close(store.root._tmp_lock)
    os.close(store.root._users)


def test_after_a_crash_every_blob_is_verified_once(folder: bytes) -> None:
    """Zeroes of the right length, as a crash can leave them, are found on first use only."""
    store = BlobStore(folder + b"/store", boot_id=b"first boot")
    good, bad = store.put_bytes(b"good"), store.put_bytes(b"bad!")
    spoil(store.path(bad), b"\0\0\0\0")
    assert store.has(bad)  # nobody hashes on the warm path
    abandon(store)
    store = crashed(folder + b"/store")
    assert store.root.counts.unclean_boots == 1
    assert store.missing([good, bad]) == [bad]
    assert store.root.counts.damaged_blobs == 1
    spoil(store.path(good), b"\0\0\0\0")
    assert store.has(good)  # proved before
    store.close()


def test_a_clean_close_trusts_the_next_boot(folder: bytes) -> None:
    """What was synced by the last close is not hashed again after a reboot."""
    with BlobStore(folder + b"/store", boot_id=b"first boot") as store:
        store.put_bytes(b"data")
    with crashed(folder + b"/store") as store:
        assert store.root.counts.unclean_boots == 0
        assert store.root.suspect_before_ns == 0


def test_a_close_beside_another_user_is_not_clean(folder: bytes) -> None:
    """Only the last user may call the store clean; the other can still write."""
    store = BlobStore(folder + b"/store", boot_id=b"first boot")
    store.put_bytes(b"data")
    with BlobStore(folder + b"/store", boot_id=b"first boot") as other:
        other.put_bytes(b"more")
    abandon(store)
    with crashed(folder + b"/store") as store:
        assert store.root.counts.unclean_boots == 1


def test_a_crash_drops_the_trees(folder: bytes) -> None:
    """Laid-out trees are not verified file by file: they are laid out anew."""
    store = BlobStore(folder + b"/store", boot_id=b"first boot")
    tree = small_tree(store)
    Materialiser(store).lease(tree).close()
    abandon(store)
    with crashed(folder + b"/store") as store:
        assert treedirs.names(store.root) == []
        Materialiser(store).lease(tree).close()


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_short_file_is_missing_and_replaced(folder: bytes, size: int) -> None:
    """A blob of another length than its digest says is not there, and can be stored again."""
    with BlobStore(folder + b"/store") as store:
        digest = store.put_bytes(b"four")
        spoil(store.path(digest), b"x" * size)
        assert not store.has(digest)
        store.put_bytes(b"four")
        assert store.read(digest) == b"four"
        assert count(store.root) == (4096, 1)


# Flipped bits


def small_tree(store: BlobStore) -> Digest:
    builder, blobs = TreeBuilder(), dict[Digest, bytes]()
    builder.file(b"f", store.put_bytes(b"blob of a tree"), executable=False)
    digest = builder.build(blobs)
    for data in blobs.values():
        store.put_bytes(data)
    return digest


@pytest.mark.parametrize("find", [BlobStore.read, BlobStore.verify])
def test_a_flipped_bit_in_a_blob_is_found(
    folder: bytes, find: Callable[[BlobStore, Digest], object]
) -> None:
    """Reading or verifying finds it; the blob is gone, counted, and no tree shows it any more."""
    with BlobStore(folder + b"/store") as store:
        tree, digest = small_tree(store), Digest.of(b"blob of a tree")
        Materialiser(store).lease(tree).close()
        flip(store.path(digest), 3)
        with contextlib.suppress(BlobMissing):
            assert not find(store, digest)
        assert not store.has(digest)
        assert store.root.counts.damaged_blobs == 1
        assert treedirs.names(store.root) == []
        assert Materialiser(store).missing_in_tree(tree) == [digest]


def test_a_damaged_blob_is_not_copied_into_a_twin(folder: bytes) -> None:
    """Making the executable twin verifies; a damaged twin alone does not cost the blob."""
    with BlobStore(folder + b"/store") as store:
        first, second = store.put_bytes(b"first"), store.put_bytes(b"second")
        flip(store.path(first), 0)
        with pytest.raises(BlobMissing):
            store.path(first, executable=True)
        assert not store.has(first)
        flip(store.path(second, executable=True), 0)
        assert store.verify(second)
        assert store.root.counts.damaged_blobs == 2
        with open(store.path(second, executable=True), "rb") as file:
            assert file.read() == b"second"


def test_a_flipped_bit_in_an_entry_is_a_miss(folder: bytes) -> None:
    """At every offset: the damaged entry or list is absent, removed and counted."""
    with BlobStore(folder + b"/store") as store:
        cache, lists = ActionCache(store, lambda _: []), InputLists(store)
        kinds: list[tuple[EntryFiles, Callable[[bytes, bytes], None], Callable[[], object]]] = [
            (cache._files, cache.put, lambda: cache.get(ENTRY_KEY)),
            (lists._files, lists.add, lambda: lists.get(ENTRY_KEY)),
        ]
        for files, put, get in kinds:
            length = 5 + 16 + 5
            for at in range(length):
                put(ENTRY_KEY, b"entry")
                before = store.root.counts.damaged_entries
                flip(files.path(ENTRY_KEY), at)
                assert not get()
                assert not os.path.exists(files.path(ENTRY_KEY))
                assert store.root.counts.damaged_entries == before + 1


def test_an_entry_under_another_key_is_damaged(folder: bytes) -> None:
    """The checksum covers the key: a file that got another's name is not believed."""
    with BlobStore(folder + b"/store") as store:
        cache = ActionCache(store, lambda _: [])
        cache.put(ENTRY_KEY, b"entry")
        cache.put(b"o" * 32, b"other")
        os.rename(cache._files.path(b"o" * 32), cache._files.path(ENTRY_KEY))
        assert cache.get(ENTRY_KEY) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_index_is_rebuilt(folder: bytes, damage: str) -> None:
    """Without a believable index nothing is believed: blobs are verified, sizes counted anew."""
    with BlobStore(folder + b"/store") as store:
        digest = store.put_bytes(b"x" * 5000)
    state = folder + b"/store/state"
    if damage == "flip":
        flip(state, 60)
    elif damage == "cut":
        spoil(state, b"BSTORE1")
    else:
        os.unlink(state)
    with BlobStore(folder + b"/store") as store:
        assert store.root.usage() is None
        assert store.root.suspect_before_ns > 0
        assert count(store.root) == (8192, 1)
        assert store.root.usage() == (8192, 1)
        assert store.has(digest)


def test_the_state_survives_encoding() -> None:
    """All fields come back; another length or magic is nothing."""
    state = State(b"boot", clean=False, counted=True, suspect_before_ns=7, size_bytes=8, files=9)
    assert State.decode(state.encode()) == state
    assert State.decode(state.encode()[1:]) is None
    assert State.decode(b"") is None


# A full disk


@pytest.fixture
def small_disk(folder: bytes) -> Iterator[bytes]:
    """A filesystem of one megabyte."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    mount = folder + b"/mount"
    os.mkdir(mount)
    command = [b"mount", b"-t", b"tmpfs", b"-o", b"size=1m,nr_inodes=800", b"none", mount]
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("may not mount here")
    yield mount
    subprocess.run([b"umount", b"-l", mount], check=True)


@attrs.frozen
class Write:
    """One way to fill a disk."""

    name: str
    run: Callable[[BlobStore, bytes], object]


def stream(store: BlobStore, data: bytes) -> None:
    with store.open_writer(Digest.of(data)) as writer:
        for at in range(0, len(data), 10_000):
            writer.write(data[at : at + 10_000])


def put_file(store: BlobStore, data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        store.put_file(os.fsencode(file.name))


WRITES = [
    Write("bytes", lambda store, data: store.put_bytes(data)),
    Write("file", put_file),
    Write("stream", stream),
    Write("twin", lambda store, data: store.path(store.put_bytes(data[:600_000]), executable=True)),
    Write("entry", lambda store, data: ActionCache(store, lambda _: []).put(ENTRY_KEY, data)),
    Write("list", lambda store, data: InputLists(store).add(ENTRY_KEY, data)),
]


@pytest.mark.root
@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.name)
def test_a_full_disk_is_an_error_and_leaves_nothing(small_disk: bytes, write: Write) -> None:
    """DiskFull, no temporary file, and what was there before is intact and readable."""
    with BlobStore(small_disk + b"/store") as store:
        before = store.put_bytes(b"small")
        with pytest.raises(DiskFull):
            write.run(store, os.urandom(2_000_000))
        assert os.listdir(store.root.tmp) == []
        assert store.read(before) == b"small"
        assert InputLists(store).get(ENTRY_KEY) == []
        for name, actual in visible_blobs(store.root.path):
            assert actual.hex.encode() == name
        store.put_bytes(b"there is space again")


@pytest.mark.root
def test_a_full_disk_can_still_forget(small_disk: bytes) -> None:
    """With not one block free blobs can be read, quarantined and evicted."""
    with BlobStore(small_disk + b"/store") as store:
        digest = store.put_bytes(b"x" * 100_000)
        with pytest.raises(DiskFull):
            fill(store)
        generation = store.root.generation
        assert len(store.read(digest)) == 100_000
        store.quarantine(digest)
        assert store.root.generation == generation + 1
        store.put_bytes(b"y" * 50_000)


def fill(store: BlobStore) -> None:
    for number in range(1000):
        store.put_bytes(b"%d" % number)


@pytest.mark.root
def test_a_tree_on_a_full_disk_leaves_nothing(small_disk: bytes) -> None:
    """A tree that does not fit is DiskFull; its half is removed."""
    with BlobStore(small_disk + b"/store") as store:
        builder, blobs = TreeBuilder(), dict[Digest, bytes]()
        file = store.put_bytes(b"z" * 300_000)
        for number in range(1000):
            builder.file(b"d%d/f" % number, file, executable=False)
        tree = builder.build(blobs)
        for data in blobs.values():
            store.put_bytes(data)
        with pytest.raises(DiskFull):
            Materialiser(store).lease(tree)
        assert os.listdir(store.root.tmp) == []
        assert treedirs.names(store.root) == []


# Eviction under readers


def test_readers_survive_an_eviction_at_any_point(folder: bytes) -> None:
    """A blob that goes between look-up and use is BlobMissing, never another error."""
    with BlobStore(folder + b"/store") as store:
        digest = store.put_bytes(b"data")
        path = store.path(digest)

        class Vanishing(BlobStore):
            def path(self, digest: Digest, *, executable: bool = False) -> bytes:
                found = super().path(digest, executable=executable)
                os.unlink(found)
                return found

        store.close()
        reader = Vanishing(folder + b"/store")
        with pytest.raises(BlobMissing):
            reader.read(digest)
        reader.put_bytes(b"data")
        with pytest.raises(BlobMissing):
            reader.link(digest, folder + b"/out")
        reader.put_bytes(b"data")
        with pytest.raises(BlobMissing):
            BlobStore.path(reader, digest, executable=True)
        assert not os.path.exists(path)
        reader.close()


def test_a_scan_survives_what_vanishes(folder: bytes) -> None:
    """Blobs and trees that go while it runs are skipped."""
    with BlobStore(folder + b"/store") as store:
        tree = small_tree(store)
        Materialiser(store).lease(tree).close()
        scan = Scan(store.root)
        slices = scan.slices()
        next(slices)
        for kind in (b"cas", b"trees"):
            diskfile.remove_tree(store.root.join(kind))
        for _ in slices:
            pass
        assert [item.kind for item in scan.items] == [Kind.TREE]


def test_a_sweep_leaves_the_living_alone(folder: bytes) -> None:
    """Temporary files go when their process is dead, whatever their age, and not before."""
    living = StoreRoot(folder + b"/store")
    fd = os.open(living.temp_path(), os.O_CREAT | os.O_WRONLY)
    os.close(fd)
    for _ in range(2):
        StoreRoot(folder + b"/store").close()
    assert len(os.listdir(living.tmp)) == 1
    os.close(living._tmp_lock)
    other = StoreRoot(folder + b"/store")
    assert other.counts.swept_temps == 1
    assert not os.path.exists(living.tmp)
    os.close(living._users)
    other.close()
