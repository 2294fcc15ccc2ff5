"""burst_wrapper.statcache: when a remembered digest is believed, and when a file is read again.

A digest that no file has, planted where a real one is remembered, shows whether a file was read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_protocol.digest import Digest
from burst_wrapper.index import Index
from burst_wrapper.statcache import FileState, StatCache

PLANTED = b"planted".ljust(32, b".")
# Files that nobody has touched for more than two seconds, and that nobody touches meanwhile.
OLD = os.fsencode(os.__file__)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    yield index
    index.close()


def state_of(content: bytes, *, executable: bool = False) -> FileState:
    return FileState(Digest.of(content), executable)


def row_of(path: bytes, digest: bytes) -> tuple[int, int, int, int, bytes]:
    info = os.stat(path)
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, digest)


def test_digest_and_mode_of_a_file(index: Index, tmp_path: Path) -> None:
    """Followed through links; one executable bit is enough."""
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    (tmp_path / "link").symlink_to("f")
    stats = StatCache(index)
    assert stats.digest(bytes(file)) == state_of(b"abc")
    file.chmod(0o641)
    assert stats.digest(bytes(tmp_path / "link")) == state_of(b"abc", executable=True)


def test_what_is_no_regular_file_has_no_digest(index: Index, tmp_path: Path) -> None:
    """Missing, a folder, a fifo (which is not opened: that would wait), a broken link."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to("none")
    stats = StatCache(index)
    for name in ("none", ".", "fifo", "broken"):
        assert stats.digest(bytes(tmp_path / name)) is None
    assert stats.digest(b"/dev/null") is None


def test_an_old_file_is_read_once(index: Index) -> None:
    """In this daemon from memory, in the next one from the index."""
    stats = StatCache(index)
    state = stats.digest(OLD)
    assert state is not None
    assert index.file(OLD) == row_of(OLD, state.digest.hash)
    index.put_file(OLD, row_of(OLD, PLANTED))
    assert stats.digest(OLD) == state
    again = StatCache(index).digest(OLD)
    assert again is not None
    assert again.digest.hash == PLANTED


def test_a_young_file_is_not_remembered(index: Index, tmp_path: Path) -> None:
    """Its time stamps cannot tell a second write in the same tick."""
    file = tmp_path / "f"
    file.write_bytes(b"one")
    stats = StatCache(index)
    assert stats.digest(bytes(file)) == state_of(b"one")
    assert index.file(bytes(file)) is None


def test_a_rewrite_in_the_same_tick_is_seen(index: Index, tmp_path: Path) -> None:
    """Same size, same inode, mtime put back: as often as one likes."""
    file = tmp_path / "f"
    file.write_bytes(b"000")
    stamp = file.stat().st_mtime_ns
    stats = StatCache(index)
    for number in range(30):
        content = b"%03d" % number
        with file.open("r+b") as writer:
            writer.write(content)
        os.utime(file, ns=(stamp, stamp))
        assert stats.digest(bytes(file)) == state_of(content)


@pytest.mark.parametrize("field", range(4))
def test_any_difference_of_stat_is_a_reason_to_read(index: Index, field: int) -> None:
    """Inode, size, mtime, ctime: all must be what they were."""
    inode, size, mtime, ctime, _ = row_of(OLD, PLANTED)
    off = [int(field == number) for number in range(4)]
    index.put_file(OLD, (inode + off[0], size + off[1], mtime + off[2], ctime + off[3], PLANTED))
    state = StatCache(index).digest(OLD)
    assert state is not None
    assert state.digest == Digest.of(Path(os.fsdecode(OLD)).read_bytes())


# What the daemon wrote itself


def written(stats: StatCache, file: Path) -> bytes:
    """A file that we wrote, remembered by a digest that tells whether it is read again."""
    file.write_bytes(b"abc")
    path = bytes(file)
    stats.wrote(path, file.stat(), Digest(PLANTED, 3))
    return path


def test_our_own_files_are_known_at_once(index: Index, tmp_path: Path) -> None:
    """However young they are, and by the next daemon too."""
    path = written(StatCache(index), tmp_path / "f")
    index.flush(1)
    assert StatCache(index).digest(path) == FileState(Digest(PLANTED, 3), executable=False)


def test_a_hard_link_does_not_make_us_read_again(index: Index, tmp_path: Path) -> None:
    """cargo links its artifacts to their final names, which changes the ctime only."""
    stats = StatCache(index)
    path = written(stats, tmp_path / "f")
    os.link(path, tmp_path / "linked")
    state = stats.digest(path)
    assert state is not None
    assert state.digest.hash == PLANTED
    linked = stats.digest(bytes(tmp_path / "linked"))
    assert linked == state_of(b"abc")


def test_our_own_file_changed_by_somebody_is_read(index: Index, tmp_path: Path) -> None:
    """Other bytes, another inode: seen as with any file."""
    stats = StatCache(index)
    path = written(stats, tmp_path / "f")
    (tmp_path / "f").write_bytes(b"abcd")
    assert stats.digest(path) == state_of(b"abcd")
    path = written(stats, tmp_path / "g")
    (tmp_path / "new").write_bytes(b"xyz")
    stamp = (tmp_path / "g").stat().st_mtime_ns
    os.utime(tmp_path / "new", ns=(stamp, stamp))
    (tmp_path / "new").rename(tmp_path / "g")
    assert stats.digest(path) == state_of(b"xyz")


def test_a_file_that_vanishes_or_is_forbidden(index: Index, tmp_path: Path) -> None:
    """None, as for one that never was."""
    stats = StatCache(index)
    path = written(stats, tmp_path / "f")
    (tmp_path / "f").unlink()
    assert stats.digest(path) is None
    if os.geteuid() != 0:
        (tmp_path / "g").write_bytes(b"")
        (tmp_path / "g").chmod(0)
        assert stats.digest(bytes(tmp_path / "g")) is None
