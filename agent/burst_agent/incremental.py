"""Directories for `-C incremental`, kept from run to run under a lease.

::

    root/incremental/<key>/lock     held (flock) while a run uses the state
    root/incremental/<key>/dirty    made before a run, removed after one that ended by itself
    root/incremental/<key>/state/   what the sandbox shows

rustc works on the live directory: its own protocol (a new session directory, renamed when
complete) survives an ordinary compile error. It does not survive a kill or a panic
(rust-lang/rust#162601), and a machine crash can spoil files that had long been written; in all
these cases the whole state is thrown away, which costs one full compile.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import attrs

from burst_agent import diskfile, locks
from burst_agent.root import StoreRoot
from burst_protocol.digest import Digest

UNUSED_DAYS: Final = 14
LIMIT_SHARE: Final = 0.2
"""Of the store's limit, for all states together."""
_DAY_NS: Final = 86_400 * 10**9
_LONGEST_NAME: Final = 100


@attrs.define
class Lease:
    """One run's right to a state. `path` is bound at the action's incremental path."""

    path: bytes
    persistent: bool
    """False: somebody else holds the state, or the disk refused; this is an empty stand-in."""
    _folder: bytes = b""
    _lock: int = -1
    _ended: bool = False

    def end(self, *, intact: bool) -> None:
        """Blocking. `intact`: the compiler ended by itself with 0 or 1, so the state is good.

        A second call does nothing.
        """
        if self._ended:
            return
        self._ended = True
        if self._lock < 0:
            diskfile.remove_tree(self.path)
            return
        try:
            if intact:
                diskfile.remove_file(self._folder + b"/dirty")
                os.utime(self._folder + b"/lock")
            else:
                # The marker goes last: a crash in between leaves it, and the rest goes next time.
                diskfile.remove_tree(self.path)
                diskfile.remove_file(self._folder + b"/dirty")
        finally:
            os.close(self._lock)


@attrs.frozen
class IncrementalStates:
    """All states below a store's root. Safe for threads and for several agents."""

    root: StoreRoot

    @property
    def folder(self) -> bytes:
        return self.root.join(b"incremental")

    def lease(self, state_key: bytes) -> Lease:
        """The state under this key, or a fresh stand-in if it is in use. OSError if neither."""
        folder = self.folder + b"/" + _name(state_key)
        lock = locks.try_lock(folder + b"/lock")
        if lock is None:
            stand_in = self.root.temp_path()
            os.mkdir(stand_in, 0o700)
            return Lease(stand_in, persistent=False)
        state = folder + b"/state"
        try:
            if not self._trusted(folder, lock):
                diskfile.remove_tree(state)
            os.makedirs(state, mode=0o700, exist_ok=True)
            with open(folder + b"/dirty", "wb"):
                pass
            self.root.will_write()
        except BaseException:
            os.close(lock)
            raise
        return Lease(state, True, folder, lock)

    def evict(self, store_limit_bytes: int) -> int:
        """Removes states long unused, then the oldest until all fit their share. Bytes freed."""
        now_ns = self.root.now_ns()
        kept: list[tuple[int, int, bytes]] = []
        freed = 0
        for name in _listdir(self.folder):
            folder = self.folder + b"/" + name
            with contextlib.suppress(FileNotFoundError):
                used_ns = os.stat(folder + b"/lock").st_mtime_ns
                size = _tree_bytes(folder)
                if now_ns - used_ns > UNUSED_DAYS * _DAY_NS:
                    freed += size if _discard(folder) else 0
                else:
                    kept.append((used_ns, size, folder))
        excess = sum(size for _, size, _ in kept) - int(store_limit_bytes * LIMIT_SHARE)
        for _, size, folder in sorted(kept):
            if excess <= 0:
                break
            if _discard(folder):
                excess -= size
                freed += size
        return freed

    def _trusted(self, folder: bytes, lock: int) -> bool:
        if os.path.exists(folder + b"/dirty"):
            return False
        # The lock's ctime is the end of the last run: was that before a crash of the machine?
        return os.fstat(lock).st_ctime_ns >= self.root.suspect_before_ns


def _name(state_key: bytes) -> bytes:
    name = state_key.hex()
    return (name if name and len(name) <= _LONGEST_NAME else Digest.of(state_key).hex).encode()


def _discard(folder: bytes) -> bool:
    """Removes a state that nobody uses."""
    lock = locks.try_lock(folder + b"/lock")
    if lock is None:
        return False
    try:
        # Marked first: a kill half-way must not leave half a state that looks whole.
        with open(folder + b"/dirty", "wb"):
            pass
        diskfile.remove_tree(folder + b"/state")
        diskfile.remove_tree(folder)
    except OSError:  # somebody made it anew in this moment
        return False
    finally:
        os.close(lock)
    return True


def _listdir(folder: bytes) -> list[bytes]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _tree_bytes(folder: bytes) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += diskfile.disk_bytes(os.lstat(os.path.join(where, name)).st_size)
    return total
