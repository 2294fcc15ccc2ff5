"""Changing files in a folder that programs write to at the same time.

They can put a symbolic link where a folder was, at any moment; so every way down from the mirror's
top is gone step by step, never through a link. What takes a name is complete before it does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from types import TracebackType
from typing import Final, Self

from burst_agent import diskfile
from burst_agent.mirror.record import Look, look
from burst_agent.store import BlobStore
from burst_protocol.tree import FileNode

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_MODE: Final = 0o644
_EXECUTABLE_MODE: Final = 0o755
_FOLDER_MODE: Final = 0o755
_OPEN_FOLDERS: Final = 64
_SETTLED_NS: Final = 2_000_000_000


def mode_of(*, executable: bool) -> int:
    return _EXECUTABLE_MODE if executable else _FILE_MODE


class Ground:
    """The folder that stands for `/`, and a place on the same file system for what is not ready.

    All methods block. Paths are absolute, as at home. OSError for what the disk refuses.
    """

    def __init__(self, top: bytes, temp: bytes) -> None:
        self.top = top
        self._temp = temp
        self._numbers = 0
        self._held: dict[bytes, int] = {}
        os.makedirs(top, mode=0o755, exist_ok=True)
        diskfile.remove_tree(temp)  # of a change that was killed
        os.mkdir(temp, 0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._let_go()
        diskfile.remove_tree(self._temp)

    def _let_go(self) -> None:
        for fd in self._held.values():
            os.close(fd)
        self._held.clear()

    # Looking

    def same(self, path: bytes, file: FileNode) -> Look | None:
        """How it looks if these are its bytes, for long enough to be sure of its look; its
        executable bit is set right then."""
        try:
            fd = self._open(path)
        except OSError:
            return None
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode) or before.st_size != file.digest.size_bytes:
                return None
            if before.st_nlink > 1:
                return None  # it can be changed under another name
            if diskfile.digest_of_fd(fd) != file.digest:
                return None
            if stat.S_IMODE(before.st_mode) != mode_of(executable=file.executable):
                os.fchmod(fd, mode_of(executable=file.executable))
            after = os.fstat(fd)
            if look(before)[:4] != look(after)[:4] and before.st_mode == after.st_mode:
                return None
            # Two writes within one tick of the kernel's clock look alike.
            if time.time_ns() - after.st_mtime_ns < _SETTLED_NS:
                return None
            return look(after)
        except OSError:
            return None
        finally:
            os.close(fd)

    def same_link(self, path: bytes, target: bytes) -> Look | None:
        try:
            fd, name = self._parent(path, make=False)
            if os.readlink(name, dir_fd=fd) != target:
                return None
            return look(os.stat(name, dir_fd=fd, follow_symlinks=False))
        except OSError:
            return None

    def _open(self, path: bytes) -> int:
        fd, name = self._parent(path, make=False)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)

    # Preparing

    def stage_file(self, store: BlobStore, file: FileNode) -> bytes:
        """A complete copy under a name of our own. BlobMissing, OSError."""
        temp = self._temp_name()
        reading = os.open(store.path(file.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            mode = mode_of(executable=file.executable)
            writing = os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                diskfile.copy_bytes(reading, writing)
                os.fchmod(writing, mode)  # whatever the umask
                # Nanoseconds that a tick of the kernel's clock has only by chance: whoever writes
                # to it from now on, in this very tick too, changes its look.
                now_ns = time.time_ns()
                os.utime(writing, ns=(now_ns, now_ns))
            finally:
                os.close(writing)
        finally:
            os.close(reading)
        return temp

    def stage_link(self, target: bytes) -> bytes:
        temp = self._temp_name()
        os.symlink(target, temp)
        return temp

    def _temp_name(self) -> bytes:
        self._numbers += 1
        return b"%s/%d" % (self._temp, self._numbers)

    # Changing

    def place(self, temp: bytes, path: bytes) -> Look | None:
        """Gives what was staged its name. None if somebody changed it in the same moment."""
        fd, name = self._parent(path, make=True)
        staged = os.stat(temp, follow_symlinks=False)
        try:
            os.rename(temp, name, dst_dir_fd=fd)
        except IsADirectoryError:
            self._away(fd, name)
            os.rename(temp, name, dst_dir_fd=fd)
        with contextlib.suppress(FileNotFoundError):
            now = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if look(now)[:4] == look(staged)[:4]:
                return look(now)
        return None

    def make_folder(self, path: bytes) -> None:
        """It and all above it; what is in the way goes."""
        fd, name = self._parent(path, make=True)
        self._enter(fd, name, path, make=True)

    def remove(self, path: bytes) -> bool:
        """A file or link. Whether it was there."""
        try:
            fd, name = self._parent(path, make=False)
            os.unlink(name, dir_fd=fd)
        except IsADirectoryError:
            return False  # a run has put a folder there: that is not home's
        except OSError as error:
            if _absent(error):
                return False
            raise
        return True

    def remove_folder(self, path: bytes) -> bool:
        """If it is empty: what runs made in it stays. Whether it is gone."""
        held = self._held.pop(path, None)
        if held is not None:
            os.close(held)
        try:
            fd, name = self._parent(path, make=False)
            os.rmdir(name, dir_fd=fd)
        except OSError:
            return False
        return True

    def _away(self, fd: int, name: bytes) -> None:
        """Takes a folder out of the tree, whatever is in it."""
        self._let_go_but(fd)
        away = self._temp_name()
        _allow(fd, name)  # who may not write to a folder may not move it elsewhere
        os.rename(name, away, src_dir_fd=fd)
        diskfile.remove_tree(away)

    def _let_go_but(self, kept: int) -> None:
        """Folders below what goes may be held open."""
        for path, fd in list(self._held.items()):
            if fd != kept:
                os.close(fd)
                del self._held[path]

    def _parent(self, path: bytes, *, make: bool) -> tuple[int, bytes]:
        """The open folder that holds this name."""
        folder, _, name = path.rpartition(b"/")
        return self._folder(folder, make=make), name

    def _folder(self, path: bytes, *, make: bool) -> int:
        """Open; valid until the next call."""
        held = self._held.get(path)
        if held is not None:
            return held
        if len(self._held) >= _OPEN_FOLDERS:
            self._let_go()
        if not path:
            fd = os.open(self.top, _FOLDER)
            self._held[path] = fd
            return fd
        parent, _, name = path.rpartition(b"/")
        return self._enter(self._folder(parent, make=make), name, path, make=make)

    def _enter(self, parent: int, name: bytes, path: bytes, *, make: bool) -> int:
        held = self._held.get(path)
        if held is not None:
            return held
        try:
            fd = os.open(name, _FOLDER, dir_fd=parent)
        except PermissionError:
            _allow(parent, name)  # a run took our rights away
            fd = os.open(name, _FOLDER, dir_fd=parent)
        except OSError as error:
            if not make:
                raise
            if not isinstance(error, FileNotFoundError):
                os.unlink(name, dir_fd=parent)  # a file or a link where home has a folder
            os.mkdir(name, _FOLDER_MODE, dir_fd=parent)
            fd = os.open(name, _FOLDER, dir_fd=parent)
            os.fchmod(fd, _FOLDER_MODE)  # whatever the umask
        self._held[path] = fd
        return fd


def _allow(parent: int, name: bytes) -> None:
    """Gives us all rights on a folder again. chmod(2) by name would follow a link."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)
    finally:
        os.close(fd)


def _absent(error: OSError) -> bool:
    """No such name, or something on the way is no folder (any more)."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
