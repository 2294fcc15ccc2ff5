"""What home remembers between daemons: file digests, crate closures, learned names.

One SQLite file in the cache directory. All of it can be made again, so a damaged file is dropped
and begun anew; writes are batched and a kill loses at most the last seconds of memory, never truth:
every remembered digest is guarded by the file's stat.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any, Final

from xxhash import xxh3_64_digest

_SCHEMA: Final = """
create table if not exists files(
  path blob primary key, ino integer, size integer, mtime integer, ctime integer, hash blob
) without rowid;
create table if not exists facts(
  kind text, key blob, value blob, used integer, primary key(kind, key)
) without rowid;
"""
_FORMAT: Final = 4


_CHECK_BYTES: Final = 8
_INTEGER_LIMIT: Final = 2**63

Row = tuple[int, int, int, int, bytes]
"""inode, size, mtime_ns, ctime_ns, hash"""


class Index:
    """Key-value facts and file digests, written behind."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._files: dict[bytes, Row] = {}
        self._facts: dict[tuple[str, bytes], bytes] = {}
        self._lock = threading.Lock()
        """Digests are looked up by the threads that scan directories."""
        self._db = self._open()
        # What is known to be there, as long as nothing else is: the first build of all asks for
        # thousands of files that no index has.
        self._all_files: set[bytes] | None = set() if self._is_empty() else None

    def _is_empty(self) -> bool:
        try:
            return self._db.execute("select 1 from files limit 1").fetchone() is None
        except sqlite3.Error:
            return False

    def _open(self) -> sqlite3.Connection:
        """The file, or a new one in place of a damaged one, or memory if the disk has no room."""
        for _ in range(2):
            db: sqlite3.Connection | None = None
            try:
                os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
                db = sqlite3.connect(
                    os.fsdecode(self._path),
                    timeout=5,
                    isolation_level=None,
                    check_same_thread=False,  # `_lock` sees to it
                )
                db.execute("pragma journal_mode=wal")
                db.execute("pragma synchronous=off")
                if db.execute("pragma user_version").fetchone()[0] not in (0, _FORMAT):
                    raise sqlite3.DatabaseError("another format")
                db.executescript(_SCHEMA)
                db.execute(f"pragma user_version={_FORMAT}")
            except (sqlite3.Error, OSError) as error:
                if db is not None:
                    db.close()
                if not _is_damage(error):
                    break
                self._remove()
            else:
                return db
        # A disk that cannot hold an index must not stop a build: remember in memory only.
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        db.executescript(_SCHEMA)
        return db

    def _remove(self) -> None:
        for suffix in (b"", b"-wal", b"-shm"):
            with contextlib.suppress(OSError):
                os.unlink(self._path + suffix)

    def _failed(self, error: sqlite3.Error) -> None:
        """What is damaged in the middle shows only when that page is read: begin anew."""
        if _is_damage(error):
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._remove()
            self._db = self._open()

    def file(self, path: bytes) -> Row | None:
        """What was last remembered."""
        known = self._files.get(path)
        if known is not None:
            return known
        if self._all_files is not None and path not in self._all_files:
            return None
        row = self._one("select ino, size, mtime, ctime, hash from files where path=?", (path,))
        return None if row is None else _row(path, row)

    def files_below(self, folder: bytes) -> dict[bytes, Row]:
        """Of all files in this folder and below, by one question instead of thousands."""
        if self._all_files is not None and not self._all_files:
            return {}
        first, last = folder.rstrip(b"/") + b"/", folder.rstrip(b"/") + b"0"  # "0" follows "/"
        query = "select path, ino, size, mtime, ctime, hash from files where path>? and path<?"
        with self._lock:
            try:
                rows = self._db.execute(query, (first, last)).fetchall()
            except sqlite3.Error as error:
                self._failed(error)
                return {}
        found = {path: known for path, *row in rows if (known := _row(path, row)) is not None}
        found.update((p, row) for p, row in tuple(self._files.items()) if p.startswith(first))
        return found

    def put_file(self, path: bytes, row: Row) -> None:
        if max(row[1], row[2], row[3]) < _INTEGER_LIMIT:  # later than the year 2262
            self._files[path] = row

    def fact(self, kind: str, key: bytes) -> bytes | None:
        known = self._facts.get((kind, key))
        if known is not None:
            return known
        row = self._one("select value from facts where kind=? and key=?", (kind, key))
        return None if row is None else _checked(kind.encode() + key, row[0])

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            try:
                row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            except sqlite3.Error as error:
                self._failed(error)
                return None
        return row

    def put_fact(self, kind: str, key: bytes, value: bytes) -> None:
        self._facts[kind, key] = value

    @property
    def dirty(self) -> bool:
        return bool(self._files or self._facts)

    def flush(self, now_s: int) -> None:
        """Write what is new. Errors are swallowed: the index only saves work."""
        if not self.dirty:
            return
        files, self._files = self._files, {}
        if self._all_files is not None:
            self._all_files.update(files)
        facts, self._facts = self._facts, {}
        with self._lock:
            self._write(files, facts, now_s)

    def _write(
        self, files: dict[bytes, Row], facts: dict[tuple[str, bytes], bytes], now_s: int
    ) -> None:
        try:
            self._db.execute("begin")
            self._db.executemany(
                "insert or replace into files values(?,?,?,?,?,?)",
                [_file_row(path, row) for path, row in files.items()],
            )
            self._db.executemany(
                "insert or replace into facts values(?,?,?,?)",
                [
                    (kind, key, value + _check(kind.encode() + key, value), now_s)
                    for (kind, key), value in facts.items()
                ],
            )
            self._db.execute("commit")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")
            self._failed(error)

    def close(self) -> None:
        with self._lock, contextlib.suppress(sqlite3.Error):
            self._db.close()


def _row(path: bytes, row: Sequence[Any]) -> Row | None:
    """What was written by `_file_row`; None for anything else."""
    ino, size, mtime, ctime, stored = row
    if not (type(ino) is type(size) is type(mtime) is type(ctime) is int):
        return None
    digest = _checked(repr((ino, size, mtime, ctime)).encode() + path, stored)
    return None if digest is None else (ino % 2**64, size, mtime, ctime, digest)


def _file_row(path: bytes, row: Row) -> tuple[bytes, int, int, int, int, bytes]:
    numbers = (_signed(row[0]), row[1], row[2], row[3])
    return (path, *numbers, row[4] + _check(repr(numbers).encode() + path, row[4]))


def _check(name: bytes, value: bytes) -> bytes:
    """SQLite notices a damaged page only where its structure breaks; a value may change unseen."""
    return xxh3_64_digest(name + b"\0" + value)


def _checked(name: bytes, stored: object) -> bytes | None:
    if not isinstance(stored, bytes):
        return None
    value = stored[:-_CHECK_BYTES]
    return value if stored[-_CHECK_BYTES:] == _check(name, value) else None


def _is_damage(error: Exception) -> bool:
    """As opposed to a full disk, a lock, or a folder that cannot be written: all subclasses."""
    return type(error) is sqlite3.DatabaseError


def _signed(inode: int) -> int:
    """SQLite's integers have a sign; some file systems number inodes by 64-bit hashes."""
    return inode - 2**64 if inode >= _INTEGER_LIMIT else inode
