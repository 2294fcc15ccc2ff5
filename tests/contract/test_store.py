"""What every blob store promises, asked of the disk store and of the dict model alike."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from burst_agent import diskfile
from burst_agent.actions import ActionCache
from burst_agent.lists import InputLists
from burst_agent.materialise import Materialiser
from burst_agent.scan import count
from burst_agent.store import BlobStore, BlobWriter
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    BlobMissing,
    DigestMismatch,
    LocalProtocolError,
    RemoteProtocolError,
)
from burst_protocol.packing import pack
from burst_protocol.tree import (
    Directory,
    DirectoryNode,
    FileNode,
    SymlinkNode,
    TreeBuilder,
)
from memory_store import MemoryStore

KEY = bytes(range(32))


@attrs.define
class Clock:
    """Wall clock in the hands of a test."""

    now_ns: int = 1_800_000_000 * 10**9

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def folder() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as path:
        yield os.fsencode(path)


@pytest.fixture
def disk(folder: bytes) -> Iterator[BlobStore]:
    with BlobStore(folder + b"/store") as store:
        yield store


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, disk: BlobStore) -> BlobStore | MemoryStore:
    return disk if request.param == "disk" else MemoryStore()


def write(path: bytes, data: bytes) -> bytes:
    with open(path, "wb") as file:
        file.write(data)
    return path


# Both stores


@pytest.mark.parametrize("data", [b"", b"x", b"abc" * 100_000])
def test_bytes_come_back(store: BlobStore | MemoryStore, data: bytes) -> None:
    """What was put is there, and is what was put."""
    digest = store.put_bytes(data)
    assert digest == Digest.of(data)
    assert store.has(digest)
    assert store.read(digest) == data
    assert store.verify(digest)


def test_an_absent_blob_is_named(store: BlobStore | MemoryStore) -> None:
    """Reading what is not there is BlobMissing, and the error says which digest."""
    absent = Digest.of(b"never stored")
    assert not store.has(absent)
    assert not store.verify(absent)
    with pytest.raises(BlobMissing) as caught:
        store.read(absent)
    assert caught.value.facts["digests"] == (absent,)


def test_missing_keeps_order_and_names_each_once(store: BlobStore | MemoryStore) -> None:
    """`missing` answers in the order of the question, without the doubles."""
    a, b, c = (Digest.of(data) for data in (b"a", b"b", b"c"))
    store.put_bytes(b"b")
    assert store.missing([c, b, a, c]) == [c, a]


def test_a_wrong_digest_stores_nothing(store: BlobStore | MemoryStore, folder: bytes) -> None:
    """Bytes that are not what their digest says are refused, from memory and from files."""
    wrong = Digest.of(b"something else")
    with pytest.raises(DigestMismatch):
        store.put_bytes(b"data", wrong)
    with pytest.raises(DigestMismatch):
        store.put_file(write(folder + b"/f", b"data"), wrong)
    assert store.missing([wrong, Digest.of(b"data")]) == [wrong, Digest.of(b"data")]


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_files_are_stored(
    store: BlobStore | MemoryStore, folder: bytes, move: bool, named: bool, known: bool
) -> None:
    """A file is copied or moved in, whether its digest was told or not, known before or not."""
    data = b"content" * 1000
    digest = Digest.of(data)
    if known:
        store.put_bytes(data)
    path = write(folder + b"/f", data)
    assert store.put_file(path, digest if named else None, move=move) == digest
    assert store.read(digest) == data
    assert os.path.exists(path) is not move


class StoreMachine(RuleBasedStateMachine):
    """Any sequence of operations, with restarts, leaves the disk store equal to the model."""

    contents = st.sampled_from([b"", b"a", b"b" * 5000, b"c" * 70_000])

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # each close is a sync
        self.home = tempfile.TemporaryDirectory(dir=memory)
        self.root = os.fsencode(self.home.name) + b"/store"
        self.disk = BlobStore(self.root)
        self.model = MemoryStore()
        self.everything = [Digest.of(data) for data in (b"", b"a", b"b" * 5000, b"c" * 70_000)]

    def teardown(self) -> None:
        self.disk.close()
        self.home.cleanup()

    @rule(data=contents)
    def put_bytes(self, data: bytes) -> None:
        assert self.disk.put_bytes(data) == self.model.put_bytes(data)

    @rule(data=contents, move=st.booleans(), named=st.booleans())
    def put_file(self, data: bytes, move: bool, named: bool) -> None:
        path = write(os.fsencode(self.home.name) + b"/f", data)
        self.model.put_bytes(data)
        digest = Digest.of(data) if named else None
        assert self.disk.put_file(path, digest, move=move) == Digest.of(data)

    @rule(data=contents, cut=st.integers(0, 5))
    def stream(self, data: bytes, cut: int) -> None:
        with self.disk.open_writer(self.model.put_bytes(data)) as writer:
            for chunk in (data[:cut], data[cut:]):
                writer.write(chunk)

    @precondition(lambda self: self.model.blobs)
    @rule(data=st.data())
    def executable(self, data: st.DataObject) -> None:
        digest = data.draw(st.sampled_from(sorted(self.model.blobs)))
        with open(self.disk.path(digest, executable=True), "rb") as file:
            assert file.read() == self.model.blobs[digest]

    @rule(data=contents)
    def quarantine(self, data: bytes) -> None:
        self.disk.quarantine(Digest.of(data))
        self.model.quarantine(Digest.of(data))

    @rule(data=contents)
    def evict(self, data: bytes) -> None:
        there = self.disk.has(Digest.of(data))
        freed = self.disk.remove(Digest.of(data))
        assert (freed > 0) is there
        self.model.quarantine(Digest.of(data))
        count(self.disk.root)

    @rule()
    def reopen(self) -> None:
        self.disk.close()
        self.disk = BlobStore(self.root)

    @rule()
    def reopen_after_a_kill(self) -> None:
        self.disk.open_writer(Digest.of(b"never finished")).write(b"never")
        for fd in (self.disk.root._tmp_lock, self.disk.root._users):
            os.close(fd)  # what the kernel does for the dead
        self.disk = BlobStore(self.root)
        assert self.disk.root.counts.swept_temps == 1
        count(self.disk.root)

    @invariant()
    def equal_to_the_model(self) -> None:
        assert self.disk.missing(self.everything) == self.model.missing(self.everything)
        for digest, data in self.model.blobs.items():
            assert self.disk.read(digest) == data

    @invariant()
    def sizes_are_right(self) -> None:
        usage = self.disk.root.usage()
        assert count(self.disk.root) == usage

    @invariant()
    def no_temporary_files(self) -> None:
        assert os.listdir(self.disk.root.tmp) == []


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


# The disk store alone


def test_modes_and_times_are_fixed(disk: BlobStore) -> None:
    """Blobs are 0444, twins 0555 with their own inode, and all have one mtime."""
    digest = disk.put_bytes(b"#!/bin/sh\n")
    plain, twin = os.stat(disk.path(digest)), os.stat(disk.path(digest, executable=True))
    assert stat.S_IMODE(plain.st_mode) == 0o444
    assert stat.S_IMODE(twin.st_mode) == 0o555
    assert plain.st_ino != twin.st_ino
    assert plain.st_mtime_ns == twin.st_mtime_ns == diskfile.FIXED_MTIME_NS


def test_a_file_with_a_second_name_is_copied(disk: BlobStore, folder: bytes) -> None:
    """A moved file that somebody can still write through another name does not become the blob."""
    path = write(folder + b"/f", b"first")
    os.link(path, folder + b"/other")
    digest = disk.put_file(path, move=True)
    write(folder + b"/other", b"later")
    assert not os.path.exists(path)
    assert disk.read(digest) == b"first"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(b"f", path)])
def test_only_regular_files_are_stored(disk: BlobStore, folder: bytes, make: object) -> None:
    """A fifo, folder or symlink is an error at once; nothing waits for a writer."""
    write(folder + b"/f", b"data")
    assert callable(make)
    make(folder + b"/odd")
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        disk.put_file(folder + b"/odd")


def feed(writer: BlobWriter, chunks: list[bytes]) -> None:
    for chunk in chunks:
        writer.write(chunk)
    writer.commit()


def interrupted(writer: BlobWriter) -> None:
    writer.write(b"12345")
    raise KeyError


def test_a_writer_verifies(disk: BlobStore) -> None:
    """A stream that is too long, too short or wrong leaves nothing, and ends the writer."""
    digest = Digest.of(b"12345")
    for chunks in ([b"123456"], [b"1234"], [b"12", b"344"]):
        writer = disk.open_writer(digest)
        with pytest.raises(DigestMismatch):
            feed(writer, chunks)
        with pytest.raises(LocalProtocolError):
            writer.write(b"")
    with pytest.raises(KeyError), disk.open_writer(digest) as writer:
        interrupted(writer)
    assert not disk.has(digest)
    assert os.listdir(disk.root.tmp) == []


def test_a_lookup_with_a_wrong_size_harms_nothing(disk: BlobStore) -> None:
    """The right hash with a wrong size is another digest: missing, and the blob stays."""
    digest = disk.put_bytes(b"data")
    assert not disk.has(Digest(digest.hash, 5))
    assert disk.read(digest) == b"data"


def test_use_is_noted_once_an_hour(folder: bytes) -> None:
    """The warm path writes nothing: the second use within the hour leaves the atime alone."""
    clock = Clock()
    with BlobStore(folder, now_ns=clock) as disk:
        digest = disk.put_bytes(b"data")
        started_ns = clock.now_ns
        interval_s = diskfile.TOUCH_INTERVAL_NS // 10**9
        for later_s, noted_s in ((10, 0), (interval_s + 1, interval_s + 1)):
            clock.now_ns = started_ns + later_s * 10**9
            assert disk.has(digest)
            assert os.stat(disk.path(digest)).st_atime_ns == started_ns + noted_s * 10**9


def test_sizes_are_known_without_a_scan(folder: bytes) -> None:
    """The index survives a close, and equals what a scan counts."""
    with BlobStore(folder) as disk:
        disk.put_bytes(b"x" * 5000)
        disk.path(disk.put_bytes(b"y"), executable=True)
        InputLists(disk).add(KEY, b"list")
    with BlobStore(folder) as disk:
        assert disk.root.usage() == (4 * 4096 + 4096, 4)
        assert count(disk.root) == disk.root.usage()


def test_two_processes_share_a_root(folder: bytes) -> None:
    """Two stores over one folder see each other's blobs, and each cleans only its own temps."""
    with BlobStore(folder) as one:
        writer = one.open_writer(Digest.of(b"slow"))
        writer.write(b"sl")
        with BlobStore(folder) as two:
            assert two.root.counts.swept_temps == 0
            digest = two.put_bytes(b"data")
            assert one.read(digest) == b"data"
        writer.write(b"ow")
        writer.commit()
        assert one.has(Digest.of(b"slow"))


# Action cache and input lists


def packed(*digests: Digest) -> bytes:
    return b"".join(digest.packed() for digest in digests)


def unpacked(entry: bytes) -> list[Digest]:
    return [Digest.unpacked(entry[at : at + 40]) for at in range(0, len(entry), 40)]


def test_an_entry_is_given_out_while_complete(disk: BlobStore) -> None:
    """A hit needs all blobs; without one it is a miss, and stays one when the blob comes back."""
    cache = ActionCache(disk, unpacked)
    assert cache.get(KEY) is None
    blobs = [disk.put_bytes(b"a"), disk.put_bytes(b"b")]
    cache.put(KEY, packed(*blobs))
    assert cache.get(KEY) == packed(*blobs)
    disk.remove(blobs[1])
    assert cache.get(KEY) is None
    assert cache.incomplete == 1
    disk.put_bytes(b"b")
    assert cache.get(KEY) is None


def test_an_incomplete_entry_is_not_stored(disk: BlobStore) -> None:
    """A result whose blobs are not here cannot be put."""
    with pytest.raises(BlobMissing):
        ActionCache(disk, unpacked).put(KEY, packed(Digest.of(b"nowhere")))


def test_an_entry_of_another_version_is_a_miss(disk: BlobStore) -> None:
    """An entry that cannot be decoded is removed and counted, not raised."""
    cache = ActionCache(disk, unpacked)
    ActionCache(disk, lambda _: []).put(KEY, b"not digests")
    assert cache.get(KEY) is None
    assert disk.root.counts.damaged_entries == 1
    assert not cache.delete(KEY)


def test_entries_are_replaced_and_deleted(disk: BlobStore) -> None:
    """The last put wins; a deleted entry is gone; a key has 32 bytes."""
    cache = ActionCache(disk, lambda _: [])
    cache.put(KEY, b"one")
    cache.put(KEY, b"two")
    assert cache.get(KEY) == b"two"
    assert cache.delete(KEY)
    assert cache.get(KEY) is None
    with pytest.raises(ValueError, match="32 bytes"):
        cache.get(b"../../etc/passwd")


def test_input_lists_are_newest_first(disk: BlobStore) -> None:
    """New lists go in front, an equal one moves there, the oldest fall out."""
    lists = InputLists(disk, max_lists=3)
    assert lists.get(KEY) == []
    for one in (b"a", b"b", b"", b"a", b"a", b"c"):
        lists.add(KEY, one)
    assert lists.get(KEY) == [b"c", b"a", b""]
    lists.delete(KEY)
    assert lists.get(KEY) == []


# Trees


def store_tree(disk: BlobStore, builder: TreeBuilder) -> Digest:
    blobs: dict[Digest, bytes] = {}
    digest = builder.build(blobs)
    for data in blobs.values():
        disk.put_bytes(data)
    return digest


def sample_tree(disk: BlobStore) -> Digest:
    builder = TreeBuilder()
    builder.file(b"bin/cc", disk.put_bytes(b"program"), executable=True)
    builder.file(b"share/same", disk.put_bytes(b"program"), executable=False)
    builder.symlink(b"bin/c99", b"cc")
    builder.directory(b"empty")
    return store_tree(disk, builder)


def test_a_tree_becomes_a_folder(disk: BlobStore) -> None:
    """Files, modes, links and empty folders are as the digest says, files read-only, with fixed
    times; whoever owns the folders may remove them (`rm -rf ~/.cache/burst`), whatever the umask.
    """
    digest = sample_tree(disk)
    with Materialiser(disk).lease(digest) as tree:
        assert sorted(os.listdir(tree.path)) == [b"bin", b"empty", b"share"]
        assert os.readlink(tree.path + b"/bin/c99") == b"cc"
        for path, mode in ((b"", 0o755), (b"/bin", 0o755), (b"/bin/cc", 0o555), (b"/empty", 0o755)):
            status = os.stat(tree.path + path)
            assert stat.S_IMODE(status.st_mode) == mode
            assert status.st_mtime_ns == diskfile.FIXED_MTIME_NS
        assert stat.S_IMODE(os.stat(tree.path + b"/share/same").st_mode) == 0o444
        assert os.path.samefile(
            tree.path + b"/bin/cc", disk.path(Digest.of(b"program"), executable=True)
        )


def test_a_tree_is_laid_out_once(disk: BlobStore) -> None:
    """Every later lease, of this or another materialiser, is the same folder."""
    digest = sample_tree(disk)
    with Materialiser(disk).lease(digest) as first:
        inode = os.stat(first.path).st_ino
    with Materialiser(disk).lease(digest) as second:
        assert os.stat(second.path).st_ino == inode


def test_all_missing_blobs_of_a_tree_are_named(disk: BlobStore) -> None:
    """One question tells everything to upload; then the tree is complete."""
    builder = TreeBuilder()
    for number in range(3):
        builder.file(b"d%d/f" % number, Digest.of(b"%d" % number), executable=False)
    builder.file(b"again", Digest.of(b"0"), executable=True)
    digest = store_tree(disk, builder)
    trees = Materialiser(disk)
    absent = {Digest.of(b"%d" % number) for number in range(3)}
    assert set(trees.missing_in_tree(digest)) == absent
    assert len(trees.missing_in_tree(digest)) == 3
    with pytest.raises(BlobMissing) as caught:
        trees.lease(digest)
    assert set(caught.value.facts["digests"]) == absent  # type: ignore[call-overload]
    for number in range(3):
        disk.put_bytes(b"%d" % number)
    assert trees.missing_in_tree(digest) == []
    assert trees.missing_in_tree(Digest.of(b"unknown")) == [Digest.of(b"unknown")]


def test_a_complete_tree_is_forgotten_with_an_eviction(folder: bytes) -> None:
    """Known completeness ends when anybody removes blobs, or with its time."""
    clock = Clock()
    disk = BlobStore(folder, now_ns=clock)
    trees = Materialiser(disk)
    digest = sample_tree(disk)
    program = Digest.of(b"program")
    assert trees.missing_in_tree(digest) == []
    disk.remove(program)
    assert trees.missing_in_tree(digest) == []
    disk.root.removed_something()
    assert trees.missing_in_tree(digest) == [program]
    disk.put_bytes(b"program")
    assert trees.missing_in_tree(digest) == []
    disk.remove(program)
    clock.now_ns += 1801 * 10**9
    assert trees.missing_in_tree(digest) == [program]


def test_a_tree_whose_blob_vanished_since_is_missing(disk: BlobStore) -> None:
    """Blobs evicted behind a known-complete tree are named, and no half tree stays."""
    trees = Materialiser(disk)
    digest = sample_tree(disk)
    assert trees.missing_in_tree(digest) == []
    disk.remove(Digest.of(b"program"))
    with pytest.raises(BlobMissing) as caught:
        trees.lease(digest)
    assert caught.value.facts["digests"] == (Digest.of(b"program"),)
    assert os.listdir(disk.root.tmp) == []


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"a\0b"])
def test_impossible_names_never_become_paths(disk: BlobStore, name: bytes) -> None:
    """A Directory with a name that could leave the tree is refused in whole."""
    file = disk.put_bytes(b"data")
    evil = pack([1, [[name, file.packed(), False]], [], []])
    for data in (evil, pack([1, [], [[b"d", disk.put_bytes(evil).packed()]], []])):
        digest = disk.put_bytes(data)
        trees = Materialiser(disk)
        with pytest.raises(RemoteProtocolError):
            trees.missing_in_tree(digest)
        with pytest.raises(RemoteProtocolError):
            trees.lease(digest)
    assert os.listdir(disk.root.tmp) == []


def test_a_private_tree(disk: BlobStore, folder: bytes) -> None:
    """`lay_out` builds at a given place and leaves what stands there alone."""
    digest = sample_tree(disk)
    target = folder + b"/store/private"
    Materialiser(disk).lay_out(digest, target)
    write(target + b"/new", b"")
    with pytest.raises(FileExistsError):
        Materialiser(disk).lay_out(digest, target)
    assert os.path.exists(target + b"/new")


def test_a_bomb_of_folders_is_refused(disk: BlobStore) -> None:
    """A chain of folders deeper than any toolchain ends in an error, not in a full disk."""
    digest = disk.put_bytes(Directory().encode())
    for _ in range(300):
        digest = disk.put_bytes(Directory(directories=(DirectoryNode(b"d", digest),)).encode())
    with pytest.raises(RemoteProtocolError, match="levels"):
        Materialiser(disk).lease(digest)
    assert os.listdir(disk.root.tmp) == []


def test_symlinks_are_not_followed(disk: BlobStore, folder: bytes) -> None:
    """A symlink in a tree is only text: what it points to is neither read nor removed."""
    write(folder + b"/victim", b"keep")
    evil = Directory(
        files=(FileNode(b"f", disk.put_bytes(b"data"), executable=False),),
        symlinks=(SymlinkNode(b"up", folder),),
    )
    digest = disk.put_bytes(evil.encode())
    with Materialiser(disk).lease(digest) as tree:
        path = tree.path
    diskfile.remove_tree(path)
    assert os.path.exists(folder + b"/victim")
