"""Under a weak key: the encoded input lists that earlier runs were observed to use, newest first.

The lists are opaque here. A weak key has several because one call can depend on different files
(features behind `cfg`, a file that appeared): the first whose hashes all match is the right one.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable
from typing import Final

from burst_agent.entries import EntryFiles, peek
from burst_agent.store import BlobStore

MAX_LISTS: Final = 8
_LENGTH: Final = struct.Struct("<I")


class InputLists:
    """Lists below `root/lists`. Safe for threads and several processes; reading takes no lock."""

    def __init__(self, store: BlobStore, *, max_lists: int = MAX_LISTS) -> None:
        self._files = EntryFiles(store.root, b"lists")
        self._lock = store.root.join(b"lists.lock")
        self._max_lists = max_lists

    def get(self, weak_key: bytes) -> list[bytes]:
        """Most recent first; empty if none are known or the file was damaged."""
        payload = self._files.read(weak_key)
        if payload is None:
            return []
        self._files.touch(weak_key)
        return _decode(payload)

    def add(self, weak_key: bytes, encoded: bytes) -> None:
        """Puts a list in front, where an equal one moves; the oldest go. DiskFull."""
        # Two writers of one key would otherwise lose a list: a whole compile, later.
        fd = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            payload = self._files.read(weak_key)
            known = _decode(payload) if payload is not None else []
            if known[:1] == [encoded]:
                return
            lists = [encoded, *(one for one in known if one != encoded)]
            self._files.write(weak_key, _encode(lists[: self._max_lists]))
        finally:
            os.close(fd)

    def delete(self, weak_key: bytes) -> None:
        freed = self._files.remove(weak_key)
        self._files.root.account(-freed, -1 if freed else 0)


def peek_lists(root: bytes, weak_key: bytes) -> list[bytes]:
    """Those in a store that is not ours."""
    payload = peek(root, b"lists", weak_key)
    return [] if payload is None else _decode(payload)


def _encode(lists: Iterable[bytes]) -> bytes:
    return b"".join(_LENGTH.pack(len(one)) + one for one in lists)


def _decode(payload: bytes) -> list[bytes]:
    # The checksum held, so the lengths are ours.
    lists: list[bytes] = []
    offset = 0
    while offset < len(payload):
        (length,) = _LENGTH.unpack_from(payload, offset)
        offset += _LENGTH.size
        lists.append(payload[offset : offset + length])
        offset += length
    return lists
