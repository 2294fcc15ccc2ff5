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
    found: dict[bytes, ChangedFile] = {}
    for root in roots:
        for path, folder, name in _files(top, root, spec):
            if path in found:
                continue
            changed = _changed(record, path, folder, name, store)
            if changed is not None:
                found[path] = changed
            if len(found) > _MAX_FILES:
                raise LimitExceeded(f"the patterns match more than {_MAX_FILES} files")
    return [found[path] for path in sorted(found)]


def _changed(
    record: Record, path: bytes, folder: int, name: bytes, store: BlobStore
) -> ChangedFile | None:
    try:
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode) or record.looks.get(path) == look(info):
            return None
        # Through the open folder: a run may replace what is above it at any moment.
        digest = store.put_file(b"/proc/self/fd/%d/%s" % (folder, name))
    except OSError:
        return None  # gone again, or not readable
    executable = bool(info.st_mode & 0o111)
    known = record.files.get(path) or record.fetched.get(path)
    if known is not None and (known.digest, known.executable) == (digest, executable):
        return None
    return ChangedFile(path, digest, executable)


def _files(
    top: bytes, root: bytes, spec: pathspec.GitIgnoreSpec
) -> Iterator[tuple[bytes, int, bytes]]:
    """Path at home, open folder and name of every file that matches."""
    try:
        start = _descend(top, root)
    except OSError:
        return
    yield from _walk(start, root, b"", spec, 0)


def _walk(
    fd: int, root: bytes, relative: bytes, spec: pathspec.GitIgnoreSpec, depth: int
) -> Iterator[tuple[bytes, int, bytes]]:
    """Takes the descriptor over."""
    try:
        if depth > _MAX_DEPTH:
            return
        with os.scandir(fd) as entries:
            names = sorted((os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in entries)
        for name, is_folder in names:
            below = relative + name
            if is_folder:
                with contextlib.suppress(OSError):
                    child = os.open(name, _FOLDER, dir_fd=fd)
                    yield from _walk(child, root, below + b"/", spec, depth + 1)
            elif spec.match_file(os.fsdecode(below)):
                yield b"%s/%s" % (root.rstrip(b"/"), below), fd, name
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
