"""Small keyed files with a checksum: what the action cache and the input lists are made of.

A file is `BENT1`, 16 bytes of BLAKE3 over key and payload, payload. The key is in the checksum, so
that an entry under another's name is as damaged as one with a flipped bit. Damaged means absent.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from blake3 import blake3

from burst_agent import diskfile
from burst_agent.root import StoreRoot

KEY_BYTES: Final = 32
_MAGIC: Final = b"BENT1"
_CHECK_BYTES: Final = 16
_HEADER_BYTES: Final = len(_MAGIC) + _CHECK_BYTES


class EntryFiles:
    """Files `root/<kind>/<two hex>/<hex key>`, replaced atomically. No locks."""

    def __init__(self, root: StoreRoot, kind: bytes) -> None:
        self.root = root
        self.kind = kind

    def path(self, key: bytes) -> bytes:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        name = key.hex().encode()
        return b"%s/%s/%s/%s" % (self.root.path, self.kind, name[:2], name)

    def read(self, key: bytes) -> bytes | None:
        """The payload; None if there is none or it was damaged, which is removed and counted."""
        path = self.path(key)
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            size = os.fstat(fd).st_size
            data = os.read(fd, size + 1)
        except OSError:  # a bad sector
            data = b""
        finally:
            os.close(fd)
        payload = _decode(key, data)
        if payload is None:
            self.damaged(key)
        return payload

    def write(self, key: bytes, payload: bytes) -> None:
        """DiskFull; the old entry stays then."""
        path = self.path(key)
        data = b"".join((_MAGIC, _check(key, payload), payload))
        with diskfile.disk_errors("storing an entry"):
            self.root.will_write()
            temp = self.root.temp_path()
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                diskfile.write_all(fd, data)
                os.utime(fd, ns=(self.root.now_ns(), diskfile.FIXED_MTIME_NS))
                before = _size_on_disk(path)
                try:
                    os.rename(temp, path)
                except FileNotFoundError:
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    os.rename(temp, path)
            except BaseException:
                diskfile.remove_file(temp)
                raise
            finally:
                os.close(fd)
        self.root.account(diskfile.disk_bytes(len(data)) - before, 0 if before else 1)

    def touch(self, key: bytes) -> None:
        """Notes a use, at most once an hour: the warm path writes nothing."""
        path = self.path(key)
        now_ns = self.root.now_ns()
        with contextlib.suppress(OSError):
            if abs(now_ns - os.stat(path).st_atime_ns) > diskfile.TOUCH_INTERVAL_NS:
                os.utime(path, ns=(now_ns, diskfile.FIXED_MTIME_NS))

    def remove(self, key: bytes, *, unless_used_after_ns: int | None = None) -> int:
        """Bytes freed; 0 if it was not there, or was used since."""
        path = self.path(key)
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(path)
            if unless_used_after_ns is not None and status.st_atime_ns > unless_used_after_ns:
                return 0
            os.unlink(path)
            return diskfile.disk_bytes(status.st_size)
        return 0

    def damaged(self, key: bytes) -> None:
        """Removes and counts an entry that cannot be used."""
        self.root.counts.damaged_entries += 1
        freed = self.remove(key)
        self.root.account(-freed, -1 if freed else 0)


def peek(root: bytes, kind: bytes, key: bytes) -> bytes | None:
    """The payload in a store that is not ours: nothing there is removed, marked or kept open."""
    name = key.hex().encode()
    try:
        with open(b"%s/%s/%s/%s" % (root, kind, name[:2], name), "rb") as file:
            return _decode(key, file.read())
    except OSError:
        return None


def _decode(key: bytes, data: bytes) -> bytes | None:
    payload = data[_HEADER_BYTES:]
    return payload if data[:_HEADER_BYTES] == _MAGIC + _check(key, payload) else None


def _check(key: bytes, payload: bytes) -> bytes:
    hasher = blake3(key)
    hasher.update(payload)
    return hasher.digest()[:_CHECK_BYTES]


def _size_on_disk(path: bytes) -> int:
    try:
        return diskfile.disk_bytes(os.stat(path).st_size)
    except FileNotFoundError:
        return 0
