"""Folders on the volume that programs keep between runs, `<store root>/driver/<name>`: the target
directories of cargos that run here, and what these share (cargo home, sccache's files).

Swept are target directories only, which have the tag that cargo puts into its own; the others have
limits of their own. Who uses one holds a lock on it: a sweep never takes what is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from typing import Final

import attrs

from burst_agent import diskfile
from burst_agent.store import BlobStore
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.programs import AskChanges, ChangedFile, Changes

PREFIX: Final = "driver/"
MAX_AGE_S: Final = 30 * 86400.0
MAX_BYTES: Final = 50 * 10**9
"""Of all target directories together."""
SWEEP_EVERY_S: Final = 600.0
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_TAG: Final = b"CACHEDIR.TAG"
_TAG_CONTENT: Final = b"""\
Signature: 8a477f597d28d172789f06886806bc55
# This file is a cache directory tag created by cargo.
# For information about cache directory tags see https://bford.info/cachedir/
"""
"""As cargo's own (https://bford.info/cachedir/)."""
_FINGERPRINTS: Final = b".fingerprint"
_INCREMENTAL: Final = b"incremental"
_HASHED: Final = re.compile(rb".*-([0-9a-f]{16})(?:\..*)?", re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_MAGIC: Final = re.compile(r"(?<!\\)[*?\[]")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Keeps:
    """All methods block."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self.top = store.root.join(b"driver")

    def folder(self, name: str) -> bytes:
        """Made if need be. RemoteProtocolError for a name that cannot be; DiskFull."""
        if not _NAME.fullmatch(name):
            raise RemoteProtocolError(f"{name!r} is no name of a folder to keep")
        path = os.path.join(self.top, name.encode())
        with diskfile.disk_errors("making a folder that programs keep"):
            os.makedirs(path, mode=0o755, exist_ok=True)
            tag = os.path.join(path, _TAG)
            if not os.path.exists(tag):  # cargo writes it only into a folder that it makes itself
                with open(tag, "wb") as file:
                    file.write(_TAG_CONTENT)
        return path

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[None]:
        """While a program may write to it."""
        fd = os.open(self.folder(name), _FOLDER)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)  # a sweep holds it while it looks at this one
            os.utime(fd)
            yield
            os.utime(fd)
        finally:
            os.close(fd)

    def changes(self, message: AskChanges) -> Changes:
        """Files by name or pattern; their bytes are in the store then. DiskFull, LimitExceeded."""
        # Only who asks needs the library.
        from burst_agent.mirror.changes import find_changes  # noqa: PLC0415
        from burst_agent.mirror.record import Record  # noqa: PLC0415

        top = self.folder(message.mirror.removeprefix(PREFIX))
        with diskfile.disk_errors("storing what cargo made"):
            if any(_MAGIC.search(pattern) for pattern in message.patterns):
                found = find_changes(top, Record(), (b"/",), message.patterns, self._store)
            else:  # a target directory has many files, of which few are wanted
                names = (_ESCAPED.sub(r"\1", pattern) for pattern in message.patterns)
                files = (self._one(top, os.fsencode(name)) for name in names)
                found = [file for file in files if file is not None]
        return Changes(message.id, tuple(found))

    def _one(self, top: bytes, path: bytes) -> ChangedFile | None:
        *folders, name = [part for part in path.split(b"/") if part] or [b""]
        if not name or b".." in folders or name == b"..":
            return None
        try:
            fd = os.open(top, _FOLDER)
            try:
                for part in folders:
                    below = os.open(part, _FOLDER, dir_fd=fd)
                    os.close(fd)
                    fd = below
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if not stat.S_ISREG(info.st_mode):
                    return None
                digest = self._store.put_file(b"/proc/self/fd/%d/%s" % (fd, name))
            finally:
                os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            return None
        relative = b"/" + b"/".join((*folders, name))
        return ChangedFile(relative, digest, bool(info.st_mode & 0o111))


# -- sweeping --------------------------------------------------------------------------------------


@attrs.frozen
class Swept:
    folders: int = 0
    units: int = 0
    freed_bytes: int = 0


class Sweeper:
    """Of one agent; looks now and then, after programs that keep something."""

    def __init__(
        self, keeps: Keeps, max_bytes: int = MAX_BYTES, max_age_s: float = MAX_AGE_S
    ) -> None:
        self._keeps = keeps
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._next_s = 0.0

    def sweep_if_due(self) -> Swept:
        """Blocking. Best effort: what cannot be removed stays."""
        if time.monotonic() < self._next_s:
            return Swept()
        self._next_s = time.monotonic() + SWEEP_EVERY_S
        return self.sweep(time.time())

    def sweep(self, now_s: float) -> Swept:
        """Blocking. What was not used for too long goes; if that is not enough, of the least
        recently used first incremental states, then units, oldest first."""
        swept = Swept()
        sizes: dict[bytes, int] = {}
        targets = sorted(self._targets(), key=lambda target: target[1])
        for path, used_s in targets:
            sizes[path] = _size(path)
            if now_s - used_s > self._max_age_s:
                with _alone(path) as alone:
                    if alone:
                        shutil.rmtree(path, ignore_errors=True)
                        freed = sizes.pop(path)
                        swept = attrs.evolve(
                            swept,
                            folders=swept.folders + 1,
                            freed_bytes=swept.freed_bytes + freed,
                        )
        for path, _ in targets:
            excess = sum(sizes.values()) - self._max_bytes
            if excess > 0 and path in sizes:
                with _alone(path) as alone:
                    if alone:
                        units, freed = _shrink(path, excess)
                        sizes[path] -= freed
                        swept = attrs.evolve(
                            swept,
                            units=swept.units + units,
                            freed_bytes=swept.freed_bytes + freed,
                        )
        return swept

    def _targets(self) -> Iterator[tuple[bytes, float]]:
        """Path and time of the last use."""
        try:
            names = os.listdir(self._keeps.top)
        except FileNotFoundError:
            return
        for name in names:
            path = os.path.join(self._keeps.top, name)
            with contextlib.suppress(OSError):
                if os.path.isfile(os.path.join(path, _TAG)):
                    yield path, os.stat(path).st_mtime


@contextlib.contextmanager
def _alone(path: bytes) -> Iterator[bool]:
    """Whether nobody uses it; nobody begins to meanwhile."""
    try:
        fd = os.open(path, _FOLDER)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(fd)


def _shrink(target: bytes, excess_bytes: int) -> tuple[int, int]:
    """How many units went, and bytes."""
    freed = units = 0
    profiles = [folder for folder, names in _folders(target) if _FINGERPRINTS in names]
    for profile in profiles:
        states = os.path.join(profile, _INCREMENTAL)
        if freed < excess_bytes and os.path.isdir(states):
            freed += _size(states)
            shutil.rmtree(states, ignore_errors=True)
    ages = [unit for profile in profiles for unit in _units(profile)]
    for _, profile, unit in sorted(ages):
        if freed >= excess_bytes:
            break
        freed += _remove_unit(profile, unit)
        units += 1
    return units, freed


def _folders(target: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Itself and two levels below it: `<profile>`, `<triple>/<profile>`."""
    pending = [(target, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        yield folder, names
        if depth < 2 and _FINGERPRINTS not in names:
            pending += [(os.path.join(folder, name), depth + 1) for name in names]


def _units(profile: bytes) -> Iterator[tuple[float, bytes, bytes]]:
    """Last use, profile and name of each unit. Cargo reads a fingerprint whenever it asks whether
    the unit is fresh: that is a use, on file systems that count it."""
    folder = os.path.join(profile, _FINGERPRINTS)
    for name in os.listdir(folder):
        used_s = 0.0
        with contextlib.suppress(OSError), os.scandir(os.path.join(folder, name)) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                used_s = max(used_s, info.st_atime, info.st_mtime)
        yield used_s, profile, name


def _remove_unit(profile: bytes, unit: bytes) -> int:
    """Its fingerprint first: without that nothing of it counts any more."""
    freed = 0
    for folder in (_FINGERPRINTS, b"build"):
        path = os.path.join(profile, folder, unit)
        if os.path.isdir(path):
            freed += _size(path)
            shutil.rmtree(path, ignore_errors=True)
    match = _HASHED.fullmatch(unit)
    deps = os.path.join(profile, b"deps")
    if match is None or not os.path.isdir(deps):
        return freed
    for name in os.listdir(deps):
        other = _HASHED.fullmatch(name)
        if other is not None and other[1] == match[1]:
            with contextlib.suppress(OSError):
                path = os.path.join(deps, name)
                freed += os.lstat(path).st_blocks * 512
                os.unlink(path)
    return freed


def _size(path: bytes) -> int:
    """Bytes on disk of all that is below it."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
