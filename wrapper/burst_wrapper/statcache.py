"""Digests of files at home, remembered by stat.

A digest is believed while inode, size, mtime and ctime are the same, and not at all if the file was
changed less than two seconds before it was hashed: file systems stamp coarsely, and a second write
within one tick would go unseen. Files that the daemon itself wrote are believed without the ctime,
because cargo hard-links them (which changes only that).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from typing import Final

import attrs

from burst_protocol.digest import Digest
from burst_wrapper.index import Index, Row

_SETTLED_NS: Final = 2_000_000_000
_OURS: Final = -1
"""In place of a ctime: written by us."""


@attrs.frozen
class FileState:
    """A regular file as it was when looked at."""

    digest: Digest
    executable: bool


class StatCache:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._memory: dict[bytes, Row] = {}

    def warm(self, folder: bytes) -> None:
        """Before all files below are asked for: one look into the index instead of one each."""
        for path, row in self._index.files_below(folder).items():
            self._memory.setdefault(path, row)

    def digest(self, path: bytes) -> FileState | None:
        """The file's digest now; None if it is not a readable regular file."""
        try:
            info = os.stat(path)
        except OSError:
            return None
        return self.digest_of(path, info)

    def digest_of(self, path: bytes, info: os.stat_result) -> FileState | None:
        """Same, for a caller that already has the (followed) stat."""
        if not stat.S_ISREG(info.st_mode):
            return None
        known = self._memory.get(path)
        if known is None:
            known = self._index.file(path)
            if known is not None:
                self._memory[path] = known
        executable = bool(info.st_mode & 0o111)
        if (
            known is not None
            and known[0] == info.st_ino
            and known[1] == info.st_size
            and known[2] == info.st_mtime_ns
            and known[3] in (info.st_ctime_ns, _OURS)
        ):
            return FileState(Digest(known[4], known[1]), executable)
        began_ns = time.time_ns()
        try:
            digest = Digest.of_file(path)
            after = os.stat(path)
        except (OSError, ValueError):
            return None
        row = (after.st_ino, after.st_size, after.st_mtime_ns, after.st_ctime_ns, digest.hash)
        settled = began_ns - after.st_ctime_ns > _SETTLED_NS
        if settled and digest.size_bytes == after.st_size and after.st_ctime_ns == info.st_ctime_ns:
            self._memory[path] = row
            self._index.put_file(path, row)
        return FileState(digest, executable)

    def learn(self, rows: Mapping[bytes, Row]) -> None:
        """What another process has hashed by the same rules."""
        for path, row in rows.items():
            self._memory[path] = row
            self._index.put_file(path, row)

    def wrote(self, path: bytes, info: os.stat_result, digest: Digest) -> None:
        """We wrote these bytes there; `info` is the finished file's."""
        row = (info.st_ino, info.st_size, info.st_mtime_ns, _OURS, digest.hash)
        self._memory[path] = row
        self._index.put_file(path, row)
