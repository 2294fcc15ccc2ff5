"""The store's root folder: who uses it, what a crash may have left, how much lies in it.

::

    root/
      lock          mutex for the few moments that change `state`
      users         shared lock of every process that has the store open
      state         56 + 16 bytes, see `State`
      generation    its size grows whenever something was removed
      tmp/<token>/  temporary files of one process, which holds a lock on that folder
      cas/ exe/     blobs (burst_protocol.layout)
      actions/ lists/ trees/

Durability, and why there is no fsync per blob: a killed process loses nothing, since the page cache
survives it. A crash of the machine can leave files short, zeroed or gone, whatever the names say.
Syncing every blob would cost milliseconds each, all day, for a rare event that only costs time; so
instead the crash is *detected*. The first write after a clean close marks the state dirty (the only
fsync), the last close syncs the filesystem and marks it clean. Dirty and another boot id: every
blob whose inode was last changed before this boot is hashed once, on its first use; trees go.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs
from blake3 import blake3

from burst_agent import diskfile

_MAGIC: Final = b"BSTORE1\0"
_LAYOUT: Final = struct.Struct("<8s36s??qQQ")
_CHECK_BYTES: Final = 16
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
# A killed process loses what it has not flushed; the next eviction scan corrects the figure.
_FLUSH_BYTES: Final = 64 << 20


@attrs.frozen
class State:
    """What outlives the processes. A damaged or missing file means: believe nothing."""

    boot_id: bytes
    clean: bool = True
    counted: bool = True
    """Whether the two figures below can be believed."""
    suspect_before_ns: int = 0
    """Blobs with an older ctime were written before a crash: verify them on first use."""
    size_bytes: int = 0
    files: int = 0

    def encode(self) -> bytes:
        body = _LAYOUT.pack(_MAGIC, *attrs.astuple(self))
        return body + blake3(body).digest()[:_CHECK_BYTES]

    @classmethod
    def decode(cls, data: bytes) -> State | None:
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if len(body) != _LAYOUT.size or blake3(body).digest()[:_CHECK_BYTES] != check:
            return None
        magic, boot_id, *rest = _LAYOUT.unpack(body)
        return cls(boot_id.rstrip(b"\0"), *rest) if magic == _MAGIC else None


@attrs.define
class Counts:
    """What went wrong and was put right; for `explain` and the tests."""

    damaged_blobs: int = 0
    damaged_entries: int = 0
    swept_temps: int = 0
    unclean_boots: int = 0


def current_boot_id() -> bytes:
    """Changes with every boot (Linux, random(4)); a fresh one if unreadable: then verify more."""
    try:
        with open(_BOOT_ID, "rb") as file:
            return file.read().strip()[:36]
    except OSError:
        return secrets.token_hex(16).encode()


class StoreRoot:
    """One process's hold on a store's folder. Safe for threads; any number of processes."""

    def __init__(
        self,
        path: bytes,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        boot_id: bytes | None = None,
    ) -> None:
        self.path = os.path.abspath(path)
        self.now_ns = now_ns
        self.counts = Counts()
        self._boot_id = current_boot_id() if boot_id is None else boot_id
        self._thread_lock = threading.RLock()
        self._numbers = itertools.count()
        self._pending_bytes = 0
        self._pending_files = 0
        self._wrote = False
        self._closed = False
        with diskfile.disk_errors("opening the store"):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            for folder in (b"tmp", b"trees"):
                os.makedirs(self.join(folder), exist_ok=True)
            self._users = os.open(self.join(b"users"), os.O_RDWR | os.O_CREAT, 0o600)
            self.tmp, self._tmp_lock = self._make_tmp()
            with self._mutex():
                fcntl.flock(self._users, fcntl.LOCK_SH)
                self.suspect_before_ns = self._meet_state().suspect_before_ns
            self.sweep()

    def join(self, *parts: bytes) -> bytes:
        return b"/".join((self.path, *parts))

    def temp_path(self) -> bytes:
        """A new name on the store's filesystem; swept by the next start if this process dies."""
        return b"%s/%d" % (self.tmp, next(self._numbers))

    def sweep(self) -> None:
        """Removes the temporary files of processes that ended.

        A lock tells the living from the dead, not a process id: containers that share a root see
        other process ids.
        """
        for name in os.listdir(self.join(b"tmp")):
            path = self.join(b"tmp", name)
            if path == self.tmp:
                continue
            with contextlib.suppress(FileNotFoundError), lock_folder(path) as alone:
                if alone:
                    self.counts.swept_temps += len(os.listdir(path))
                    diskfile.remove_tree(path)

    @property
    def generation(self) -> int:
        """Grows whenever anybody removed blobs: a reason to forget what was known to exist."""
        try:
            return os.stat(self.join(b"generation")).st_size
        except FileNotFoundError:
            return 0

    def removed_something(self) -> None:
        """Raises `generation`. By length, since a sparse byte needs no space on a full disk."""
        fd = os.open(self.join(b"generation"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, os.fstat(fd).st_size + 1)
        finally:
            os.close(fd)

    def will_write(self) -> None:
        """Before the first file is published: from here on a machine crash must be noticed."""
        if self._wrote:
            return
        with self._thread_lock, self._mutex():
            state = self._read()
            if state.clean:
                self._write(attrs.evolve(state, clean=False), durable=True)
            self._wrote = True

    def account(self, size_bytes: int, files: int) -> None:
        """Adds to (or takes from) the figures of `usage`."""
        with self._thread_lock:
            self._pending_bytes += size_bytes
            self._pending_files += files
            if abs(self._pending_bytes) >= _FLUSH_BYTES:
                self.flush()

    def usage(self) -> tuple[int, int] | None:
        """Bytes on disk and files; None if unknown until the next scan (`set_usage`)."""
        with self._thread_lock:
            state = self._read()
            if not state.counted:
                return None
            return (
                max(0, state.size_bytes + self._pending_bytes),
                max(0, state.files + self._pending_files),
            )

    def set_usage(self, size_bytes: int, files: int) -> None:
        """Replaces the estimate by counted figures. Best effort: a full disk keeps the old ones."""
        with self._thread_lock, contextlib.suppress(OSError), self._mutex():
            state = attrs.evolve(
                self._read(), counted=True, size_bytes=max(0, size_bytes), files=max(0, files)
            )
            self._write(state)

    def flush(self) -> None:
        """Writes the accounted sums to the index. Best effort: it is an estimate."""
        with self._thread_lock:
            if not (self._pending_bytes or self._pending_files):
                return
            with contextlib.suppress(OSError), self._mutex():
                state = self._read()
                self._write(
                    attrs.evolve(
                        state,
                        size_bytes=max(0, state.size_bytes + self._pending_bytes),
                        files=max(0, state.files + self._pending_files),
                    )
                )
                self._pending_bytes = self._pending_files = 0

    def close(self) -> None:
        """Gives the folder up. The last writer syncs the filesystem, which can take seconds."""
        if self._closed:
            return
        self._closed = True
        self.flush()
        with contextlib.suppress(OSError), self._mutex():
            if self._wrote:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _sync_filesystem(self._users)
                    self._write(attrs.evolve(self._read(), clean=True), durable=True)
        diskfile.remove_tree(self.tmp)
        os.close(self._tmp_lock)
        os.close(self._users)

    def _make_tmp(self) -> tuple[bytes, int]:
        while True:
            path = self.join(b"tmp", secrets.token_hex(8).encode())
            os.mkdir(path)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # a sweep came between
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(path).st_ino == os.fstat(fd).st_ino:
                    return path, fd
            except (BlockingIOError, FileNotFoundError):
                pass
            os.close(fd)

    @contextlib.contextmanager
    def _mutex(self) -> Iterator[None]:
        fd = os.open(self.join(b"lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _meet_state(self) -> State:
        """Reads the state at start and judges what happened since it was written."""
        found = self._decode_file()
        if found is not None and (found.clean or found.boot_id == self._boot_id):
            if found.boot_id != self._boot_id:
                found = attrs.evolve(found, boot_id=self._boot_id)
                self._write(found)
            return found
        fresh = found is None and not os.path.exists(self.join(b"cas"))
        state = State(self._boot_id)
        if not fresh:
            self.counts.unclean_boots += 1
            state = attrs.evolve(state, clean=False, counted=False, suspect_before_ns=self.now_ns())
            self._drop_trees()
        self._write(state, durable=not fresh)
        return state

    def _drop_trees(self) -> None:
        old = self.temp_path()
        os.rename(self.join(b"trees"), old)
        os.mkdir(self.join(b"trees"))
        diskfile.remove_tree(old)

    def _decode_file(self) -> State | None:
        try:
            with open(self.join(b"state"), "rb") as file:
                return State.decode(file.read(4096))
        except FileNotFoundError:
            return None

    def _read(self) -> State:
        # Damaged while in use: the figures are lost, and the next boot must not trust the blobs.
        return self._decode_file() or State(
            self._boot_id, clean=False, counted=False, suspect_before_ns=self.suspect_before_ns
        )

    def _write(self, state: State, *, durable: bool = False) -> None:
        temp = self.temp_path()
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            diskfile.write_all(fd, state.encode())
            if durable:
                os.fsync(fd)
            os.rename(temp, self.join(b"state"))
        except OSError:
            diskfile.remove_file(temp)
            raise
        finally:
            os.close(fd)
        if durable:
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextlib.contextmanager
def lock_folder(path: bytes) -> Iterator[bool]:
    """Whether nobody else holds a lock on this folder; then we do, until the end of the block.

    FileNotFoundError if it is gone. Locks of a dead process are gone with it, in every namespace.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def _sync_filesystem(fd: int) -> None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(fd) == 0:
            return
    except (OSError, AttributeError):
        pass
    os.sync()
