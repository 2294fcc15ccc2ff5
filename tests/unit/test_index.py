"""burst_wrapper.index: what home remembers, and that it can always be made again."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from burst_wrapper.index import Index

ROW = (7, 5, 10**18, 10**18 + 1, b"h" * 32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "home.db"


def remembered(path: Path) -> Index:
    """An index with one file and one fact, written and closed."""
    index = Index(bytes(path))
    index.put_file(b"/a\xff", ROW)
    index.put_fact("closure", b"key", b"value\0\xff")
    index.flush(1)
    index.close()
    return index


def test_what_was_put_is_there_at_once_and_in_the_next_daemon(path: Path) -> None:
    """Before it is written, after it, and after a restart; a new value replaces the old one."""
    index = Index(bytes(path))
    assert index.file(b"/a") is None
    assert index.fact("closure", b"k") is None
    dirty = [index.dirty]
    for value in (b"old", b"new"):
        index.put_file(b"/a", ROW)
        index.put_fact("closure", b"k", value)
        dirty.append(index.dirty)
        assert index.fact("closure", b"k") == value
        index.flush(1)
        dirty.append(index.dirty)
    assert dirty == [False, True, False, True, False]
    index.close()
    again = Index(bytes(path))
    assert again.file(b"/a") == ROW
    assert again.fact("closure", b"k") == b"new"
    assert again.fact("package", b"k") is None
    again.close()


def test_threads_are_answered_too(path: Path) -> None:
    """Directories are scanned in threads; what an earlier daemon hashed serves them as well."""
    remembered(path)
    index = Index(bytes(path))
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(index.file(b"/a\xff")))
    thread.start()
    thread.join()
    assert found == [ROW]
    index.close()


@pytest.mark.parametrize("inode", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_inode_number_fits(path: Path, inode: int) -> None:
    """Some file systems number inodes by 64-bit hashes, SQLite's integers have a sign."""
    index = Index(bytes(path))
    index.put_file(b"/a", (inode, *ROW[1:]))
    index.flush(1)
    index.close()
    again = Index(bytes(path))
    assert again.file(b"/a") == (inode, *ROW[1:])
    again.close()


def test_a_date_beyond_the_format_is_not_remembered(path: Path) -> None:
    """`touch -d 2400-01-01` costs a hash per daemon, and nobody else's memory."""
    index = Index(bytes(path))
    index.put_file(b"/future", (7, 5, 2**63, 1, b"h" * 32))
    index.put_file(b"/past", (7, 5, -1, -1, b"h" * 32))
    index.flush(1)
    assert index.file(b"/future") is None
    assert index.file(b"/past") == (7, 5, -1, -1, b"h" * 32)
    index.close()


def test_a_kill_loses_only_what_was_not_written(path: Path) -> None:
    """What was flushed is there after SIGKILL; the file is usable at once."""
    script = (
        "import os, signal, sys\n"
        "from burst_wrapper.index import Index\n"
        "index = Index(os.fsencode(sys.argv[1]))\n"
        "index.put_fact('k', b'flushed', b'1')\n"
        "index.flush(1)\n"
        "index.put_fact('k', b'lost', b'1')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -9
    index = Index(bytes(path))
    assert index.fact("k", b"flushed") == b"1"
    assert index.fact("k", b"lost") is None
    index.put_fact("k", b"lost", b"2")
    index.flush(2)
    index.close()


@pytest.mark.parametrize("junk", [b"", b"not a database at all" * 100, b"SQLite format 3\0" * 50])
def test_a_file_that_is_no_index_is_begun_anew(path: Path, junk: bytes) -> None:
    """Without an error, and usable from then on."""
    path.parent.mkdir()
    path.write_bytes(junk)
    index = Index(bytes(path))
    assert index.file(b"/a\xff") is None
    index.close()
    remembered(path)
    again = Index(bytes(path))
    assert again.file(b"/a\xff") == ROW
    again.close()


def test_an_index_of_another_format_is_begun_anew(path: Path) -> None:
    """As a daemon of another release left it."""
    remembered(path)
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version=99")
    db.close()
    index = Index(bytes(path))
    assert index.file(b"/a\xff") is None
    index.close()


def test_damage_in_the_middle_is_noticed_when_it_is_read(path: Path) -> None:
    """It costs what was remembered, never an error, and the daemon remembers again at once."""
    index = Index(bytes(path))
    for number in range(3000):
        index.put_file(b"/file/%d" % number, ROW)
        index.put_fact("closure", b"%d" % number, b"v" * 50)
    index.flush(1)
    index.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(random.Random(7).randbytes(size - 8192))
    again = Index(bytes(path))
    answers = [again.file(b"/file/%d" % number) for number in range(3000)]
    answers += [again.file(b"/file/%d" % number) for number in range(3000)]
    assert set(answers) <= {None, ROW}
    again.put_file(b"/file/1", ROW)
    again.flush(2)
    again.close()
    last = Index(bytes(path))
    assert last.file(b"/file/1") == ROW
    last.close()


def test_one_changed_byte_in_a_value_is_noticed(path: Path) -> None:
    """SQLite itself would not: a digest or a closure must never be a little wrong."""
    index = Index(bytes(path))
    index.put_file(b"/path", ROW)
    index.put_fact("closure", b"key", b"some value")
    index.flush(1)
    index.close()
    data = path.read_bytes()  # closing it has emptied the log
    for old, new in ((b"h" * 32, b"h" * 31 + b"i"), (b"some value", b"sane value")):
        assert data.count(old) == 1
        data = data.replace(old, new)
    path.write_bytes(data)
    index = Index(bytes(path))
    assert index.file(b"/path") is None
    assert index.fact("closure", b"key") is None
    index.close()


def test_rows_that_are_no_rows_are_not_believed(path: Path) -> None:
    """A digest of another length, text where a number belongs, a value without its check."""
    index = Index(bytes(path))
    index.close()
    with sqlite3.connect(path) as db:
        db.execute("insert into files values(?,1,1,1,1,?)", (b"/short", b"x"))
        db.execute("insert into files values(?,'a',1,1,1,?)", (b"/text", b"x" * 40))
        db.execute("insert into facts values('k', ?, 'text', 1)", (b"text",))
        db.execute("insert into facts values('k', ?, ?, 1)", (b"bytes", b"x" * 20))
    db.close()
    index = Index(bytes(path))
    assert index.file(b"/short") is None
    assert index.file(b"/text") is None
    assert index.fact("k", b"text") is None
    assert index.fact("k", b"bytes") is None
    index.close()


def test_a_place_that_cannot_be_written_is_replaced_by_memory(tmp_path: Path) -> None:
    """A file where the folder should be: builds go on, nothing is remembered for later."""
    (tmp_path / "cache").write_text("")
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    index.put_file(b"/a", ROW)
    index.flush(1)
    assert index.file(b"/a") == ROW
    index.close()


def test_another_daemons_index_is_not_thrown_away(path: Path) -> None:
    """A container shares the home folder: its lock is no damage."""
    remembered(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    script = (
        "import os, sys, sqlite3\n"
        "from burst_wrapper import index\n"
        "real = sqlite3.connect\n"
        "index.sqlite3.connect = lambda *a, **k: real(*a, **{**k, 'timeout': 0})\n"
        "one = index.Index(os.fsencode(sys.argv[1]))\n"
        "one.put_fact('k', b'k', b'v'); one.flush(1)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    other.execute("rollback")
    other.close()
    again = Index(bytes(path))
    assert again.file(b"/a\xff") == ROW
    again.close()


def test_after_close_nothing_raises(path: Path) -> None:
    """The last units of a daemon that ends may still ask."""
    index = remembered(path)
    assert index.file(b"/other") is None
    index.put_file(b"/other", ROW)
    index.flush(3)
