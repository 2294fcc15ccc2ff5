"""The stores of one owner's server: one per mounted volume, and one on the server's own disk.

A client works in the store of its project. What the others hold is fetched from there: a result
with all its blobs, or a blob that an action needs, is copied (and verified on the way) into the
store that wants it, so that every store stays complete by itself and its volume can leave at any
time. Nothing of a neighbour is kept open, marked or removed.

Not a volume: a folder without the marker that `host/volume.py` makes. Nothing is ever written below
the mount point of a volume that is not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from burst_agent import lists
from burst_agent.actions import ActionCache
from burst_agent.entries import peek
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest
from burst_protocol.errors import BurstError, EnvironmentProblem, RemoteProtocolError
from burst_protocol.layout import blob_path

MARKER: Final = b"burst-volume.json"
STORE: Final = b"store"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def volume_store(volumes: bytes | None, name: str) -> bytes:
    """The store on a mounted volume. RemoteProtocolError for no name, EnvironmentProblem for none
    that is mounted here."""
    if not _NAME.fullmatch(name):
        raise RemoteProtocolError(f"{name!r} is no name of a volume")
    if volumes is None:
        raise EnvironmentProblem("this agent has no volumes")
    folder = b"%s/%s" % (volumes, name.encode())
    if not os.path.exists(folder + b"/" + MARKER):
        raise EnvironmentProblem(f"volume {name} is not mounted")
    return folder + b"/" + STORE


def mounted(volumes: bytes | None) -> list[bytes]:
    """Stores of all mounted volumes."""
    if volumes is None:
        return []
    try:
        names = sorted(os.listdir(volumes))
    except FileNotFoundError:
        return []
    folders = [volumes + b"/" + name for name in names]
    return [
        folder + b"/" + STORE
        for folder in folders
        if os.path.exists(folder + b"/" + MARKER) and os.path.isdir(folder + b"/" + STORE)
    ]


@attrs.frozen
class Neighbours:
    """All stores but one, as that one sees them. Blocking; safe for threads."""

    store: BlobStore
    cache: ActionCache
    digests_of: Callable[[bytes], Iterable[Digest]]
    others: Callable[[], list[bytes]]
    """Roots of all stores there are now."""

    def roots(self) -> list[bytes]:
        return [root for root in self.others() if root != self.store.root.path]

    def bring(self, wanted: Iterable[Digest]) -> list[Digest]:
        """Copies blobs from wherever they are; those that are nowhere. DiskFull."""
        roots = self.roots()
        return [digest for digest in wanted if not self._bring(digest, roots)]

    def result(self, key: bytes) -> bytes | None:
        """The entry under that strong key, in our own store from now on, with all its blobs."""
        roots = self.roots()
        for root in roots:
            entry = peek(root, b"actions", key)
            if entry is None:
                continue
            try:
                lacking = self.store.missing(self.digests_of(entry))
                if all(self._bring(digest, roots) for digest in lacking):
                    self.cache.put(key, entry)
                    return entry
            except (BurstError, ValueError, TypeError):
                continue  # written by another version, or no space here: a miss, no more
        return None

    def lists(self, weak_key: bytes, known: Iterable[bytes]) -> list[bytes]:
        """`known`, and after them what the others know."""
        found = dict.fromkeys(known)
        for root in self.roots():
            found.update(dict.fromkeys(lists.peek_lists(root, weak_key)))
        return list(found)

    def _bring(self, digest: Digest, roots: list[bytes]) -> bool:
        for root in roots:
            path = blob_path(root, digest)
            try:
                if os.stat(path).st_size != digest.size_bytes:
                    continue
                self.store.put_file(path, digest)
            except OSError:  # not there, unmounted in this moment, a bad sector
                continue
            except BurstError as error:
                if error.code == "disk-full":
                    raise
                continue  # damaged there: its own readers will find out
            return True
        return False
