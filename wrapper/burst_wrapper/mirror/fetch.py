"""What runs wrote comes home: never over a file that changed here meanwhile.

A file is written if home's is still what it was when the mirror was last synced. Otherwise the
fetched one goes to `<target>/burst/conflicts/`, and is named: neither is lost. Names that an agent
tells lie below the project's own folders, in no `.git`, and are reached through no symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from burst_lifecycle.folders import within
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DigestMismatch, DiskFull, EnvironmentProblem
from burst_protocol.programs import ChangedFile

USUAL_UMASK: Final = 0o022
CONFLICTS: Final = b"conflicts"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_COPY_BYTES: Final = 1 << 20
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


@attrs.frozen
class Conflict:
    """`path` was left as it is; what the run wrote lies at `kept`. Empty: it was not taken."""

    path: bytes
    kept: bytes
    reason: str


@attrs.frozen
class Base:
    """Home as it was when the mirror was synced."""

    paths: dict[bytes, Digest]
    at_ns: int
    """Wall clock, before the first look."""
    roots: tuple[bytes, ...] = ()


def expected(path: bytes, base: Base, digest_now: Callable[[bytes], Digest | None]) -> bool:
    """Whether home's file is still what it was then. Blocking."""
    try:
        info = os.lstat(path)
    except OSError:
        return path not in base.paths  # deleted meanwhile is changed, too
    known = base.paths.get(path)
    if known is None:
        # It was there and not sent (an output, say), unless it is younger than that.
        return stat.S_ISREG(info.st_mode) and info.st_ctime_ns < base.at_ns
    return digest_now(path) == known


@contextlib.contextmanager
def folder_of(path: bytes, root: bytes, umask: int = USUAL_UMASK) -> Iterator[int]:
    """The open folder for a file below `root`, made if need be, as who has this umask would make
    it; never through a link.

    OSError: something in the way is no folder.
    """
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path[len(root) :].strip(b"/").split(b"/")[:-1]:
            try:
                below = os.open(part, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                    os.chmod(part, 0o777 & ~umask, dir_fd=fd)  # the daemon's own umask is strict
                below = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def write(
    blob: bytes,
    file: ChangedFile,
    folder: int,
    name: bytes,
    unless: Callable[[], bool],
    *,
    umask: int = USUAL_UMASK,
) -> bool:
    """Puts a verified copy in place by a rename; False if `unless` says no at the last moment.

    What it takes the place of leaves it its permissions; else they are those of `umask`.

    BlobMissing, DigestMismatch, DiskFull, OSError. Nothing half is left.
    """
    temporary = b".burst-fetch-" + secrets.token_hex(8).encode()
    try:
        source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise BlobMissing(file.digest.hex) from error
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(temporary, flags, 0o600, dir_fd=folder)
        try:
            with open(target, "wb") as writing:
                os.fchmod(target, _mode(folder, name, umask, executable=file.executable))
                while data := os.read(source, _COPY_BYTES):
                    writing.write(data)
            if Digest.of_file(b"/proc/self/fd/%d/%s" % (folder, temporary)) != file.digest:
                raise DigestMismatch(f"{os.fsdecode(file.path)} as it came")
            if unless():
                return False
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(source)
    return True


def _mode(folder: int, name: bytes, umask: int, *, executable: bool) -> int:
    mode = 0o666 & ~umask
    with contextlib.suppress(OSError):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(info.st_mode):
            mode = info.st_mode & 0o666
    # Who may read a program may start it.
    return mode | (mode & 0o444) >> 2 if executable else mode


def place(
    blob: bytes,
    file: ChangedFile,
    base: Base,
    digest_now: Callable[[bytes], Digest | None],
    conflicts: bytes,
    *,
    umask: int = USUAL_UMASK,
) -> Conflict | None:
    """One file. Blocking; None: it lies where it belongs. DiskFull, BlobMissing, DigestMismatch."""
    root = _root_of(file.path, base.roots)
    if root is None or b".git" in file.path.split(b"/"):
        return Conflict(file.path, b"", "it is not in the project")
    try:
        with folder_of(file.path, root, umask) as folder:
            name = os.path.basename(file.path)
            if digest_now(file.path) == file.digest:
                return None
            if write(
                blob,
                file,
                folder,
                name,
                lambda: not expected(file.path, base, digest_now),
                umask=umask,
            ):
                return None
            reason = "it changed here meanwhile"
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{os.fsdecode(file.path)}: {error.strerror}") from error
        reason = error.strerror or str(error)
    kept = os.path.join(conflicts, file.path.lstrip(b"/"))
    try:
        os.makedirs(conflicts, exist_ok=True)
        with folder_of(kept, conflicts, umask) as folder:
            write(blob, file, folder, os.path.basename(kept), lambda: False, umask=umask)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"{os.fsdecode(kept)}: {error.strerror}") from error
        raise EnvironmentProblem(f"{os.fsdecode(kept)}: {error}") from error
    return Conflict(file.path, kept, reason)


def _root_of(path: bytes, roots: tuple[bytes, ...]) -> bytes | None:
    if os.path.normpath(path) != path or b"\0" in path:
        return None
    inside = [root for root in roots if path != root and within(path, root)]
    return max(inside, key=len, default=None)
