"""Files of JSON lines that several processes append to, and that survive all of them.

One `write(2)` on an O_APPEND descriptor per call, then fsync: lines of different writers never mix,
and what was appended is there after a power cut. A writer that died in the middle, or a full disk,
leaves a line without an end; the next writer ends it, readers skip it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from burst_protocol.errors import DiskFull

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@attrs.frozen
class Lines:
    """Objects in the order in which they were written, and how many lines were none."""

    objects: tuple[Mapping[str, Any], ...] = ()
    unreadable: int = 0

    def __add__(self, other: Lines) -> Lines:
        return Lines(self.objects + other.objects, self.unreadable + other.unreadable)


def append(path: str, objects: Iterable[Mapping[str, Any]]) -> int:
    """Durable when it returns; the file's size then. Makes file (0600) and folder (0700).

    DiskFull if there is no room: then nothing of it counts as written. OSError otherwise.
    """
    text = "".join(json.dumps(item, separators=(",", ":")) + "\n" for item in objects)
    data = text.encode()
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT, 0o600)
        _sync_folder(folder)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data
        written = os.write(fd, data)
        if written != len(data):
            # The rest would stand behind other writers' lines; the half is ended by the next one.
            raise DiskFull(f"{path}: only a part of a line was written")
        os.fsync(fd)
        return os.fstat(fd).st_size
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(path) from error
        raise
    finally:
        os.close(fd)


def read(path: str) -> Lines:
    """A missing file is an empty one. OSError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Lines()
    return parse(data)


def parse(data: bytes) -> Lines:
    """Of a file that was read elsewhere."""
    objects: list[Mapping[str, Any]] = []
    unreadable = 0
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            unreadable += 1
    return Lines(tuple(objects), unreadable)


def _sync_folder(folder: str) -> None:
    """So that the new name survives, too."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
