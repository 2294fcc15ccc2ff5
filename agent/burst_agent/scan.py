"""What lies in a store, slice by slice: the input of the eviction planner.

A slice is one fan-out folder or one tree, so that a caller can do other things in between. Readers,
writers and other removals go on meanwhile; what vanishes is skipped.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from typing import Final

import attrs

from burst_agent import diskfile, treedirs
from burst_agent.root import StoreRoot

_HEX_NAME: Final = 64


class Kind(Enum):
    """In the order of eviction among things last used at the same time: users before the used."""

    ACTION = 0
    LIST = 1
    TREE = 2
    BLOB = 3


@attrs.frozen
class Item:
    """One thing that can be evicted: an entry, a tree, or a blob together with its twin."""

    kind: Kind
    name: bytes
    """32 bytes: key or hash."""
    size_bytes: int
    """On disk. A tree's is 0: its files are links to blobs."""
    last_use_ns: int
    """Of a blob that a tree shows: at least the tree's."""
    files: int = 1


@attrs.define
class Scan:
    """Collects items; `items` is complete when `slices` is exhausted."""

    root: StoreRoot
    items: list[Item] = attrs.field(factory=list)
    _shown_ns: dict[int, int] = attrs.field(factory=dict)
    _shown_links: Counter[int] = attrs.field(factory=Counter)

    def slices(self) -> Iterator[None]:
        """Does one slice per step."""
        for name in treedirs.names(self.root):
            self._tree(name)
            yield
        for kind, folder in ((Kind.ACTION, b"actions"), (Kind.LIST, b"lists")):
            for shard in _shards(self.root.join(folder)):
                self.items += [
                    Item(kind, name, diskfile.disk_bytes(s.st_size), s.st_atime_ns)
                    for name, s in _files(shard)
                ]
                yield
        twins: dict[bytes, os.stat_result] = {}
        for shard in _shards(self.root.join(b"exe")):
            twins.update(_files(shard))
            yield
        for shard in _shards(self.root.join(b"cas")):
            for name, status in _files(shard):
                twin = twins.pop(name, None)
                self._blob(name, [status] if twin is None else [status, twin])
            yield
        for name, twin in twins.items():
            self._blob(name, [twin])

    def _tree(self, name: bytes) -> None:
        path = self.root.join(b"trees", name)
        try:
            last_use_ns = os.stat(path).st_atime_ns
            key = bytes.fromhex(name.decode())
        except (FileNotFoundError, ValueError):
            return
        if treedirs.in_use(path):
            last_use_ns = self.root.now_ns()
        for inode in treedirs.inodes(path):
            self._shown_links[inode] += 1
            self._shown_ns[inode] = max(self._shown_ns.get(inode, 0), last_use_ns)
        self.items.append(Item(Kind.TREE, key, 0, last_use_ns, files=0))

    def _blob(self, name: bytes, found: list[os.stat_result]) -> None:
        last_use_ns = 0
        for status in found:
            last_use_ns = max(last_use_ns, status.st_atime_ns, self._shown_ns.get(status.st_ino, 0))
            # More links than store and trees account for: some running action's input root.
            if status.st_nlink > 1 + self._shown_links[status.st_ino]:
                last_use_ns = self.root.now_ns()
        size_bytes = sum(diskfile.disk_bytes(status.st_size) for status in found)
        self.items.append(Item(Kind.BLOB, name, size_bytes, last_use_ns, len(found)))


def _shards(folder: bytes) -> list[bytes]:
    try:
        return sorted(b"%s/%s" % (folder, name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []


def _files(shard: bytes) -> list[tuple[bytes, os.stat_result]]:
    """Every file with a name of ours, as bytes, and its status."""
    found: list[tuple[bytes, os.stat_result]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(shard) as entries:
        for entry in entries:
            if len(entry.name) != _HEX_NAME:
                continue
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append((bytes.fromhex(entry.name.decode()), entry.stat()))
    return found


def count(root: StoreRoot) -> tuple[int, int]:
    """Bytes on disk and files, by looking at all of them; also repairs the index."""
    root.flush()
    scan = Scan(root)
    for _ in scan.slices():
        pass
    size_bytes = sum(item.size_bytes for item in scan.items)
    files = sum(item.files for item in scan.items)
    root.set_usage(size_bytes, files)
    return size_bytes, files
