"""What runs wrote into a mirror: found by pattern, told apart from what home sent by its bytes."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Final

import pathspec

from burst_agent.mirror.record import Record, look
from burst_agent.store import BlobStore
from burst_protocol.errors import LimitExceeded, RemoteProtocolError
from burst_protocol.programs import ChangedFile

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH: Final = 256
_MAX_FILES: Final = 100_000


def find_changes(
    top: bytes,
    record: Record,
    roots: tuple[bytes, ...],
    patterns: tuple[str, ...],
    store: BlobStore,
) -> list[ChangedFile]:
    """Regular files below these roots that runs created or changed; their bytes are stored.

    Blocking. DiskFull; RemoteProtocolError for a bad pattern; LimitExceeded for a pattern that
    matches more than a person can want.
    """
    try:
        spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise RemoteProtocolError(f"a bad pattern: {error}") from error
    found: list[ChangedFile] = []
    for root in roots:
        for path, folder, info in _unlike(top, root, frozenset(roots), record):
            relative = path[len(root.rstrip(b"/")) + 1 :]
            if not spec.match_file(os.fsdecode(relative)):
                continue
            changed = _changed(record, path, folder, info, store)
            if changed is not None:
                found.append(changed)
            if len(found) > _MAX_FILES:
                raise LimitExceeded(f"the patterns match more than {_MAX_FILES} files")
    return sorted(found, key=lambda file: file.path)


def _changed(
    record: Record, path: bytes, folder: int, info: os.stat_result, store: BlobStore
) -> ChangedFile | None:
    try:
        # Through the open folder: a run may replace what is above it at any moment.
        digest = store.put_file(b"/proc/self/fd/%d/%s" % (folder, os.path.basename(path)))
    except OSError:
        return None  # gone again, or not readable
    executable = bool(info.st_mode & 0o111)
    known = record.files.get(path) or record.fetched.get(path)
    if known is not None and (known.digest, known.executable) == (digest, executable):
        return None
    return ChangedFile(path, digest, executable)


def _unlike(
    top: bytes, root: bytes, roots: frozenset[bytes], record: Record
) -> Iterator[tuple[bytes, int, os.stat_result]]:
    """Path at home, open folder and status of every regular file that does not look as it was laid
    out: most do, and a look costs less than a pattern."""
    try:
        start = _descend(top, root)
    except OSError:
        return
    yield from _walk(start, root.rstrip(b"/"), roots, record, 0)


def _walk(
    fd: int, path: bytes, roots: frozenset[bytes], record: Record, depth: int
) -> Iterator[tuple[bytes, int, os.stat_result]]:
    """Takes the descriptor over."""
    looks = record.looks
    folders = []
    try:
        if depth > _MAX_DEPTH:
            return
        for name in os.listdir(fd):
            below = b"%s/%s" % (path, os.fsencode(name))
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError:
                continue  # gone again
            if stat.S_ISDIR(info.st_mode):
                folders.append((name, below))
            elif stat.S_ISREG(info.st_mode) and looks.get(below) != look(info):
                yield below, fd, info
        for name, below in folders:
            if below not in roots:  # which is asked for by itself
                with contextlib.suppress(OSError):
                    child = os.open(name, _FOLDER, dir_fd=fd)
                    yield from _walk(child, below, roots, record, depth + 1)
    finally:
        os.close(fd)


def _descend(top: bytes, path: bytes) -> int:
    """A folder below the top, opened without going through a link."""
    fd = os.open(top, _FOLDER)
    for part in path.split(b"/"):
        if not part:
            continue
        try:
            below = os.open(part, _FOLDER, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    return fd
