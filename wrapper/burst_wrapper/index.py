"""What home remembers between daemons: file digests, crate closures, learned names.

One SQLite file in the cache directory. All of it can be made again, so a damaged file is dropped
and begun anew; writes are batched and a kill loses at most the last seconds of memory, never truth:
every remembered digest is guarded by the file's stat.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Final

_SCHEMA: Final = """
create table if not exists files(
  path blob primary key, ino integer, size integer, mtime integer, ctime integer, hash blob
) without rowid;
create table if not exists facts(
  kind text, key blob, value blob, used integer, primary key(kind, key)
) without rowid;
"""
_FORMAT: Final = 3


class Index:
    """Key-value facts and file digests, written behind."""

    def __init__(self, path: bytes) -> None:
        self._path = path
        self._files: dict[bytes, tuple[int, int, int, int, bytes]] = {}
        self._facts: dict[tuple[str, bytes], bytes] = {}
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        for attempt in (1, 2):
            try:
                db = sqlite3.connect(os.fsdecode(self._path), timeout=5, isolation_level=None)
                db.execute("pragma journal_mode=wal")
                db.execute("pragma synchronous=off")
                if db.execute("pragma user_version").fetchone()[0] not in (0, _FORMAT):
                    db.close()
                    raise sqlite3.DatabaseError("another format")
                db.executescript(_SCHEMA)
                db.execute(f"pragma user_version={_FORMAT}")
            except sqlite3.DatabaseError:
                if attempt == 2:
                    break
                for suffix in (b"", b"-wal", b"-shm"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._path + suffix)
            else:
                return db
        # A disk that cannot hold an index must not stop a build: remember in memory only.
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(_SCHEMA)
        return db

    def file(self, path: bytes) -> tuple[int, int, int, int, bytes] | None:
        """(inode, size, mtime_ns, ctime_ns, hash) as last remembered."""
        known = self._files.get(path)
        if known is not None:
            return known
        try:
            row = self._db.execute(
                "select ino, size, mtime, ctime, hash from files where path=?", (path,)
            ).fetchone()
        except sqlite3.Error:
            return None
        return None if row is None else (row[0], row[1], row[2], row[3], bytes(row[4]))

    def put_file(self, path: bytes, row: tuple[int, int, int, int, bytes]) -> None:
        self._files[path] = row

    def fact(self, kind: str, key: bytes) -> bytes | None:
        known = self._facts.get((kind, key))
        if known is not None:
            return known
        try:
            row = self._db.execute(
                "select value from facts where kind=? and key=?", (kind, key)
            ).fetchone()
        except sqlite3.Error:
            return None
        return None if row is None else bytes(row[0])

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
        facts, self._facts = self._facts, {}
        try:
            self._db.execute("begin")
            self._db.executemany(
                "insert or replace into files values(?,?,?,?,?,?)",
                [(path, *row) for path, row in files.items()],
            )
            self._db.executemany(
                "insert or replace into facts values(?,?,?,?)",
                [(kind, key, value, now_s) for (kind, key), value in facts.items()],
            )
            self._db.execute("commit")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("rollback")

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
