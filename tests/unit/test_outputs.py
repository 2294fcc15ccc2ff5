"""burst_wrapper.outputs: from a blob to a file that cargo may use, or to none at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_protocol.digest import EMPTY, Digest
from burst_protocol.errors import BlobMissing, DigestMismatch, DiskFull, EnvironmentProblem
from burst_wrapper.outputs import TEMPORARY, Placed, Placer, discard, sweep

STAMP = 1_700_000_000_123_456_789
CONTENT = b"an artifact" * 1000


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """In a store of its own."""
    store = tmp_path / "store"
    store.mkdir()
    path = store / "blob"
    path.write_bytes(CONTENT)
    path.chmod(0o444)
    return path


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    place = tmp_path / "deps"
    place.mkdir()
    return place


def place(
    blob: Path,
    folder: Path,
    name: str = "libx.rlib",
    *,
    placer: Placer | None = None,
    digest: Digest | None = None,
    executable: bool = False,
    umask: int = 0o022,
) -> Placed:
    return (placer or Placer()).place(
        bytes(blob),
        digest or Digest.of(CONTENT),
        bytes(folder / name),
        executable=executable,
        umask=umask,
        mtime_ns=STAMP,
    )


def temporary(placed: Placed) -> Path:
    return Path(os.fsdecode(placed.temporary))


def test_the_file_is_complete_before_it_has_its_name(blob: Path, out_dir: Path) -> None:
    """Bytes and time stamp are those of the final file; only the name is not."""
    placed = place(blob, out_dir)
    path = temporary(placed)
    assert path.parent == out_dir
    assert os.fsencode(path.name).startswith(TEMPORARY)
    assert placed.final == bytes(out_dir / "libx.rlib")
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mtime_ns == STAMP
    assert placed.info.st_ino == path.stat().st_ino
    assert placed.info.st_ctime_ns == path.stat().st_ctime_ns
    assert not (out_dir / "libx.rlib").exists()
    path.rename(out_dir / "libx.rlib")
    assert (out_dir / "libx.rlib").stat().st_mtime_ns == STAMP


@pytest.mark.parametrize(
    ("umask", "executable", "mode"),
    [
        (0o022, False, 0o644),
        (0o022, True, 0o755),
        (0o077, False, 0o600),
        (0o077, True, 0o700),
        (0o002, True, 0o775),
        (0, False, 0o666),
        (0o777, False, 0),
    ],
)
def test_mode_is_the_callers(
    blob: Path, out_dir: Path, umask: int, executable: bool, mode: int
) -> None:
    """Under the umask of whoever called cargo, not of the daemon, nor as the store has it."""
    placed = place(blob, out_dir, executable=executable, umask=umask)
    assert stat.S_IMODE(temporary(placed).stat().st_mode) == mode


def test_the_store_is_never_shared(blob: Path, out_dir: Path) -> None:
    """A program that writes into target/ must not reach the store: no hard link, other bytes."""
    placed = place(blob, out_dir)
    path = temporary(placed)
    assert path.stat().st_ino != blob.stat().st_ino
    assert (path.stat().st_nlink, blob.stat().st_nlink) == (1, 1)
    path.write_bytes(b"changed")
    assert blob.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 1, 4096, 300_000, 70 * 1024 * 1024])
def test_sizes(tmp_path: Path, out_dir: Path, size: int) -> None:
    """From nothing to more than one copy call takes; holes are copied as zeros."""
    blob = tmp_path / "blob"
    with blob.open("wb") as file:
        file.truncate(size)
        if size:
            file.seek(size - 1)
            file.write(b"x")
    digest = Digest.of_file(bytes(blob))
    placed = place(blob, out_dir, digest=digest)
    assert Digest.of_file(placed.temporary) == digest


def test_an_empty_blob(tmp_path: Path, out_dir: Path) -> None:
    """Some artifacts are."""
    (tmp_path / "empty").write_bytes(b"")
    placed = place(tmp_path / "empty", out_dir, digest=EMPTY)
    assert placed.info.st_size == 0


def test_equal_names_do_not_meet(blob: Path, out_dir: Path) -> None:
    """Two units that place the same file at once each have their own."""
    long = "n" * 250
    one, two = place(blob, out_dir, long), place(blob, out_dir, long)
    assert one.temporary != two.temporary
    assert temporary(one).exists()
    assert temporary(two).exists()


# What is wrong with a blob


def test_a_missing_blob(tmp_path: Path, out_dir: Path) -> None:
    """Evicted, or never here."""
    with pytest.raises(BlobMissing):
        place(tmp_path / "none", out_dir)
    assert list(out_dir.iterdir()) == []


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"b" + CONTENT[1:]])
def test_a_damaged_blob_is_never_placed(blob: Path, out_dir: Path, content: bytes) -> None:
    """Shorter, longer, or one byte different; nothing is left in the target directory."""
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(DigestMismatch):
        place(blob, out_dir)
    assert list(out_dir.iterdir()) == []


def test_damage_after_the_first_use_is_seen(blob: Path, out_dir: Path) -> None:
    """What was verified once is verified again when it changed, though its mtime is put back."""
    placer = Placer()
    before = blob.stat()
    discard(place(blob, out_dir, placer=placer))
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.write(b"b")
    os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    while blob.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock ticks coarsely
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (blob.stat().st_size, blob.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(DigestMismatch):
        place(blob, out_dir, placer=placer)


def test_a_verified_blob_is_read_once(
    blob: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing hundreds of megabytes per build would be the slowest part of a warm one."""
    hashed: list[bytes | str] = []
    real = Digest.of_file

    def counting(path: bytes | str) -> Digest:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(Digest, "of_file", counting)
    placer = Placer()
    for _ in range(3):
        place(blob, out_dir, placer=placer)
    assert hashed == [bytes(blob)]


# What is wrong with the place


def test_what_was_just_made_is_not_read_again(
    blob: Path, out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store hashed it a moment ago; what lay there before is not believed."""
    hashed: list[bytes] = []
    original = Digest.of_file

    def counting(path: bytes | str) -> Digest:
        hashed.append(os.fsencode(path))
        return original(path)

    monkeypatch.setattr(Digest, "of_file", counting)
    made_ns = blob.stat().st_ctime_ns
    placer = Placer()
    placer.made(bytes(blob), made_ns + 1)
    place(blob, out_dir, "before", placer=placer)
    assert hashed == [bytes(blob)]
    placer = Placer()
    placer.made(bytes(blob), made_ns)
    place(blob, out_dir, "now", placer=placer)
    assert hashed == [bytes(blob)]
    blob.chmod(0o644)
    blob.write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(DigestMismatch):
        place(blob, out_dir, "damaged", placer=placer)
    placer.made(bytes(blob.with_name("gone")), 0)


def test_a_missing_folder(blob: Path, out_dir: Path) -> None:
    """`cargo clean` ran meanwhile: an error of the tree, that names the place."""
    with pytest.raises(EnvironmentProblem, match="gone"):
        place(blob, out_dir / "gone")


def test_discard(blob: Path, out_dir: Path) -> None:
    """Whatever was placed and is not wanted goes; twice is no error."""
    placed = place(blob, out_dir)
    discard(placed)
    discard(placed)
    assert list(out_dir.iterdir()) == []


def test_sweep_takes_what_dead_daemons_left(out_dir: Path) -> None:
    """Not what a living one is writing, not ours, nothing that only looks like it."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = f".burst-{child.pid}-1-libx.rlib"
    kept = [
        f".burst-{os.getpid()}-1-libx.rlib",
        # Our parent may be outside of our namespace: then it has no number.
        f".burst-{os.getppid() or 1}-1-libx.rlib",
        ".burst-notes",
        "libx.rlib",
    ]
    for name in (dead, *kept):
        (out_dir / name).write_text("")
    sweep(bytes(out_dir))
    assert {path.name for path in out_dir.iterdir()} == set(kept)
    sweep(bytes(out_dir / "none"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for little."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.root
def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """Named as such, and the half-written file is gone; a smaller one still fits."""
    blob = tmp_path / "blob"
    blob.write_bytes(bytes(200_000))
    placer = Placer()
    with pytest.raises(DiskFull):
        place(blob, small_disk, placer=placer, digest=Digest.of_file(bytes(blob)))
    assert list(small_disk.iterdir()) == []
    blob.write_bytes(CONTENT)
    place(blob, small_disk, placer=placer)


@pytest.mark.root
def test_across_file_systems(blob: Path, small_disk: Path) -> None:
    """The store and target/ need not share one, whatever shares extents on either."""
    placer = Placer()
    placed = place(blob, small_disk, placer=placer)
    assert temporary(placed).read_bytes() == CONTENT
    assert temporary(place(blob, blob.parent, placer=placer)).read_bytes() == CONTENT
