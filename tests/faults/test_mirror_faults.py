"""A mirror is right after the next sync, whatever happened to the last one."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_agent.mirror import ground as ground_module
from burst_agent.mirror import record as record_module
from burst_agent.mirror.ground import Ground
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest
from burst_protocol.errors import DiskFull
from burst_protocol.programs import Mirrored, SyncMirror
from mirrors import L, Lab, Tree, X, build, with_folders

OLD: Tree = {
    **{b"src/f%d.rs" % number: b"old %d" % number for number in range(6)},
    b"gone/a": b"gone",
    b"kind": b"a file",
    b"link": L(b"src/f1.rs"),
}
NEW: Tree = {
    **{b"src/f%d.rs" % number: b"new %d" % number for number in range(3)},
    **{b"src/f%d.rs" % number: b"old %d" % number for number in range(3, 6)},
    b"more/deep/b": X(b"more"),
    b"kind/inside": b"a folder now",
    b"link": L(b"src/f2.rs"),
}
MADE: Tree = {b"made/by/run": b"run", b"src/run.snap.new": b"run"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path / "store")
    yield made
    made.close()


def put_made(lab: Lab) -> None:
    for name, data in MADE.items():
        assert isinstance(data, bytes)
        path = lab.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may tidy up behind it."""


CALLS = ("rename", "unlink", "mkdir", "rmdir", "symlink")


def dying(monkeypatch: pytest.MonkeyPatch, at: int) -> list[str]:
    """From here on the `at`-th change of a name, and every later one, does not happen."""
    seen: list[str] = []

    def wrap(name: str) -> None:
        real = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            seen.append(name)
            if len(seen) > at:
                raise Killed
            return real(*args, **options)

        for module in (ground_module, record_module):
            monkeypatch.setattr(module.os, name, call)

    for name in CALLS:
        wrap(name)
    return seen


def count_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    lab = Lab(tmp_path / "count")
    lab.sync(OLD)
    with monkeypatch.context() as patch:
        seen = dying(patch, 1 << 30)
        lab.sync(NEW)
    lab.close()
    return len(seen)


def test_killed_at_every_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that stops between any two changes of names: the next one, of a third state, leaves
    just that state and what runs made."""
    third = {**OLD, b"kind": L(b"src"), b"third": b"3"}
    total = count_changes(tmp_path, monkeypatch)
    assert total > 15
    for at in range(total):
        root = tmp_path / f"at{at}"
        lab = Lab(root)
        lab.sync(OLD)
        put_made(lab)
        with monkeypatch.context() as patch:
            dying(patch, at)
            with pytest.raises(Killed):
                lab.sync(NEW)
        # Another process: nothing is remembered but what lies on the disk.
        again = Lab(root)
        target = third if at % 2 else NEW
        again.sync(target)
        assert again.tree() == with_folders({**target, **MADE}), at
        again.sync(OLD)
        assert again.tree() == with_folders({**OLD, **MADE}), at
        again.close()
        lab.close()


def test_killed_for_real(tmp_path: Path) -> None:
    """SIGKILL at a random moment, four times, in another process."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    lab = Lab(tmp_path / "store")
    blobs: dict[Digest, bytes] = {}
    states: list[Tree] = [
        {b"d%d/f%d" % (n % 7, n): b"%d %d" % (n, turn) for n in range(turn * 20, 150)}
        for turn in range(4)
    ]
    digests = [build(state, blobs) for state in states]
    for data in blobs.values():
        lab.store.put_bytes(data)
    program = textwrap.dedent("""
        import asyncio, sys
        from burst_agent.mirror.mirrors import Mirrors
        from burst_agent.store import BlobStore
        from burst_protocol.digest import Digest
        from burst_protocol.programs import SyncMirror
        mirrors = Mirrors(BlobStore(sys.argv[1].encode()), list)
        print("ready", flush=True)
        for turn in range(1000):
            digest = Digest.unpacked(bytes.fromhex(sys.argv[2 + turn % (len(sys.argv) - 2)]))
            roots = ((b"/home/u/proj", digest),)
            asyncio.run(mirrors.sync(SyncMirror(1, "proj", roots)))
    """)
    for turn in range(4):
        words = [digest.packed().hex() for digest in digests]
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "store"), *words],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        state = states[turn % len(states)]
        lab.sync(state)
        assert lab.tree() == with_folders(state)
    lab.close()


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "gone", "of another format"])
def test_a_damaged_manifest(lab: Lab, how: str) -> None:
    """All is laid out anew; what lay there is kept aside once, for nobody knows whose it is."""
    lab.sync(OLD)
    put_made(lab)
    manifest = lab.beside / "manifest"
    data = bytearray(manifest.read_bytes())
    if how == "cut":
        manifest.write_bytes(data[:-20])
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        manifest.write_bytes(data)
    elif how == "empty":
        manifest.write_bytes(b"")
    elif how == "gone":
        manifest.unlink()
    else:
        manifest.write_bytes(record_module.Record().encode())
    again = Lab(Path(os.fsdecode(lab.store.root.path)))
    again.sync(NEW)
    if how == "of another format":
        assert again.tree().items() >= with_folders({**NEW, **MADE}).items()
    else:
        assert again.tree() == with_folders(NEW)
        lost = again.beside / "lost/home/u/proj/made/by/run"
        assert lost.read_bytes() == b"run"
    again.sync(OLD)
    again.close()


def test_a_damaged_intent(lab: Lab, tmp_path: Path) -> None:
    """It was being written when the agent died, so nothing had begun."""
    lab.sync(OLD)
    (lab.beside / "intent").write_bytes(b"\x93half of it")
    again = Lab(Path(os.fsdecode(lab.store.root.path)))
    again.sync(NEW)
    assert again.tree() == with_folders(NEW)
    again.close()


def test_after_a_crash_of_the_machine(tmp_path: Path) -> None:
    """What was written before it is read once, whatever it looks like."""
    store = BlobStore(os.fsencode(tmp_path / "store"), boot_id=b"one")
    lab = Lab(tmp_path / "store")
    lab.sync(OLD)
    path = lab.folder / "src/f3.rs"
    info = path.stat()
    # As a journal may leave it: the old look with other bytes.
    path.write_bytes(b"\0" * info.st_size)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    record = lab.mirrors._of(lab.name).memory.load()
    record.looks[lab.top + b"/src/f3.rs"] = record_module.look(path.stat())
    lab.mirrors._of(lab.name).memory.save(record)
    store.close()
    again = Lab(tmp_path / "store")
    again.sync(OLD)
    assert again.tree()[b"src/f3.rs"] == b"\0" * info.st_size, "without a crash a look is enough"
    again.store.root.suspect_before_ns = again.store.root.now_ns()
    again.mirrors.touched(again.name)
    again.sync(OLD)
    assert again.tree() == with_folders(OLD)
    again.close()
    lab.close()


def test_two_clients_at_once(tmp_path: Path) -> None:
    """Each sync is whole: one state or the other, never a mixture; in one process and in two."""
    labs = [Lab(tmp_path / "store"), Lab(tmp_path / "store")]
    blobs: dict[Digest, bytes] = {}
    digests = [build(OLD, blobs), build(NEW, blobs)]
    for data in blobs.values():
        labs[0].store.put_bytes(data)
    wrong: list[object] = []

    def client(number: int) -> None:
        lab = labs[number % 2]
        for _ in range(25):
            message = SyncMirror(1, lab.name, ((lab.top, digests[number % 2]),))
            answer = asyncio.run(lab.mirrors.sync(message))
            if not isinstance(answer, Mirrored):
                wrong.append(answer)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert labs[0].tree() in (with_folders(OLD), with_folders(NEW))
    labs[0].sync(OLD)
    assert labs[0].tree() == with_folders(OLD)
    for lab in labs:
        lab.close()


def test_no_space_there(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """DiskFull, and the mirror is what it was, to the last file; with space it goes on."""
    lab.sync(OLD)
    put_made(lab)
    before = lab.tree()
    real = Ground.stage_file
    staged: list[int] = []

    def full(self: Ground, *args: object) -> bytes:
        staged.append(1)
        if len(staged) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Ground, "stage_file", full)
        with pytest.raises(DiskFull):
            lab.sync(NEW)
    assert lab.tree() == before
    assert not list((lab.beside).glob("tmp/*"))
    lab.sync(NEW)
    assert lab.tree() == with_folders({**NEW, **MADE})
