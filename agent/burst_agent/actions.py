"""The action cache: a strong key's encoded result, given out only while all its blobs are here.

An entry whose blobs were evicted is a miss, and is removed: the unit runs again. Callers survive it
as well if a blob vanishes between the answer and its reading (`BlobMissing`, then execute).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from burst_agent.entries import EntryFiles
from burst_agent.store import BlobStore, blob_missing
from burst_protocol.digest import Digest


class ActionCache:
    """Results below `root/actions`. Safe for threads and several processes, without locks."""

    def __init__(self, store: BlobStore, digests_of: Callable[[bytes], Iterable[Digest]]) -> None:
        """`digests_of(entry)` lists every blob an entry needs; it may raise for nonsense."""
        self._store = store
        self._digests_of = digests_of
        self._files = EntryFiles(store.root, b"actions")
        self.incomplete = 0
        """Entries that were misses only because blobs had gone."""

    def get(self, key: bytes) -> bytes | None:
        """The entry, if it is sound and complete; marks it and its blobs as used."""
        entry = self._files.read(key)
        if entry is None:
            return None
        try:
            digests = list(self._digests_of(entry))
        except Exception:  # written by another version, or by a bug: it must never come back
            self._files.damaged(key)
            return None
        if not all(map(self._store.has, digests)):
            self.incomplete += 1
            self.delete(key)
            return None
        self._files.touch(key)
        return entry

    def put(self, key: bytes, entry: bytes) -> None:
        """Stores or replaces. DiskFull; BlobMissing if the entry needs a blob that is not here."""
        absent = self._store.missing(self._digests_of(entry))
        if absent:
            raise blob_missing(absent)
        self._files.write(key, entry)

    def delete(self, key: bytes) -> bool:
        """True if there was one."""
        freed = self._files.remove(key)
        if freed:
            self._store.root.account(-freed, -1)
        return freed > 0
