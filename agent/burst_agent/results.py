"""What a run leaves in its out-dir: each file into the store, once, and again if it changed."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
from collections.abc import Iterator
from typing import Final

import attrs

from burst_agent.store import BlobStore
from burst_protocol.action import OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import LimitExceeded

MAX_OUTPUT_FILES: Final = 100_000
_ARTIFACT_PREFIXES: Final = (b'{"$message_type":"artifact"', b'{"artifact":')


@attrs.frozen
class Artifact:
    """An announcement on rustc's stderr: this file is complete now."""

    path: bytes
    emit: str


def parse_artifact(line: bytes) -> Artifact | None:
    """None for every other line. Format: rustc book, "JSON output", "Artifact notifications"."""
    if not line.startswith(_ARTIFACT_PREFIXES):
        return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    path, emit = value.get("artifact"), value.get("emit")
    if not isinstance(path, str) or not isinstance(emit, str):
        return None
    return Artifact(os.fsencode(path), emit)


def relative_to(path: bytes, folder: bytes) -> bytes | None:
    """The path below `folder`, or None if it is not below."""
    prefix = folder.rstrip(b"/") + b"/"
    path = os.path.normpath(path)
    return path[len(prefix) :] if path.startswith(prefix) else None


@attrs.define
class OutputCollector:
    """Takes the files of one run into the store. All methods block; use a thread."""

    store: BlobStore
    folder: bytes
    """Where the out-dir really lies."""
    scan_for: bytes = b""
    mount_points: frozenset[bytes] = frozenset()
    """Relative paths at which inputs are mounted inside the out-dir: no outputs."""
    only_stem: bytes | None = None
    """Given where there is no sandbox: the out-dir is the real one, with everybody's files in it;
    only names with this stem are ours, and they stay where they are."""
    not_before_ns: int = 0
    """What was modified before that is from an earlier run."""
    _seen: dict[bytes, tuple[int, int, int]] = attrs.field(factory=dict, init=False)

    def take(self, relative: bytes, *, move: bool = False) -> OutputFile | None:
        """One file, unless it is unchanged since it was last taken, or is none.

        While the command runs files are copied (reflinked where possible): an inode of the store
        must never be writable by what runs in the sandbox.
        """
        if relative in self.mount_points:
            return None
        path = self.folder + b"/" + relative
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode) or status.st_mtime_ns < self.not_before_ns:
            return None
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        if self._seen.get(relative) == mark:
            return None
        digest = self.store.put_file(path, move=move)
        self._seen[relative] = mark
        return OutputFile(
            relative, digest, bool(status.st_mode & stat.S_IXUSR), self._mentions(digest)
        )

    def size_bytes(self, relative: bytes) -> int:
        """How long taking it may last; 0 if there is nothing to take."""
        try:
            return os.lstat(self.folder + b"/" + relative).st_size
        except OSError:
            return 0

    def rest(self, *, failed: bool) -> Iterator[OutputFile]:
        """After the end: everything not taken yet, by name; of a failed run only dep-info."""
        for count, relative in enumerate(self._walk()):
            if count >= MAX_OUTPUT_FILES:
                raise LimitExceeded(f"more than {MAX_OUTPUT_FILES} output files")
            if failed and not relative.endswith(b".d"):
                continue
            if self.only_stem is not None and not _has_stem(relative, self.only_stem):
                continue
            output = self.take(relative, move=self.only_stem is None)
            if output is not None:
                yield output

    def _walk(self) -> Iterator[bytes]:
        # Links are not followed and not returned: rustc writes none that cargo would want, and one
        # that points elsewhere would make us read what the sandbox could not.
        for where, folders, names in os.walk(self.folder):
            folders.sort()
            base = where[len(self.folder) + 1 :]
            for name in sorted(names):
                yield os.path.join(base, name)

    def _mentions(self, digest: Digest) -> bool:
        if not self.scan_for:
            return False
        if digest.size_bytes < len(self.scan_for):
            return False
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.store.path(digest), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return data.find(self.scan_for) >= 0
        return False


def _has_stem(relative: bytes, stem: bytes) -> bool:
    name = os.path.basename(relative).removeprefix(b"lib")
    return name == stem or name.startswith(stem + b".")
