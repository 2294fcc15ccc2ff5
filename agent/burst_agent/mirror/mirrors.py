"""All mirrors of one store: synced, looked through, and shown to programs.

A mirror is a plain folder, `<store root>/mirrors/<name>/files`, that stands for `/` at home; so it
lies on the volume with everything else. Its files are copies (the file system may share their
extents), never links into the store, because programs write to them.

`lock` is held for every change, `users` by everybody whose programs may write: several agents can
work in one store.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import attrs

from burst_agent import diskfile
from burst_agent.mirror.record import Memory
from burst_agent.mirror.syncing import Bring, Paths, Sync
from burst_agent.store import BlobStore
from burst_protocol import messages as m
from burst_protocol.errors import BurstError, EnvironmentProblem, RemoteProtocolError
from burst_protocol.programs import AskChanges, Changes, Fetched, Mirrored, SyncMirror
from burst_protocol.tree import FileNode

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_MAX_ROOTS: Final = 1000
_UNUSED_NS: Final = 30 * 24 * 3600 * 10**9
_SWEEP_EVERY_S: Final = 24 * 3600.0

_log = logging.getLogger("burst.agent")

T = TypeVar("T")


@attrs.define
class _Mirror:
    paths: Paths
    memory: Memory
    roots: tuple[bytes, ...] = ()
    quiet_since_ns: int = -1
    """The time on `users` when all was last found right; -1: not since we started."""


class Mirrors:
    """Methods of the event loop's thread, but for those that say blocking."""

    def __init__(self, store: BlobStore, bring: Bring, *, local: bool = False) -> None:
        """`local`: the agent is at home. Nothing is copied; a mirror is home's own folders."""
        self._store = store
        self._bring = bring
        self._local = local
        self._known: dict[str, _Mirror] = {}
        self._next_sweep_s = 0.0
        self._sweeping: asyncio.Task[None] | None = None

    def _of(self, name: str) -> _Mirror:
        if not _NAME.fullmatch(name):
            raise RemoteProtocolError(f"{name!r} is no name of a mirror")
        known = self._known.get(name)
        if known is None:
            folder = self._store.root.join(b"mirrors", name.encode())
            known = self._known[name] = _Mirror(Paths(folder), Memory(folder))
        return known

    # For programs

    def folder(self, mirror: str, path: bytes) -> bytes:
        """Where home's absolute path lies on this machine; whether it is there is not said."""
        if not path.startswith(b"/"):
            raise RemoteProtocolError(f"{path!r} is not absolute")
        return path if self._local else self._of(mirror).paths.top + path.rstrip(b"/")

    def roots(self, mirror: str) -> tuple[bytes, ...]:
        """Home's paths to show, outer ones before what lies in them. Empty before the first sync.

        Blocking: a small read, once.
        """
        known = self._of(mirror)
        if not known.roots and not self._local:
            with _shared(known.paths):
                known.roots = tuple(sorted(known.memory.load().roots))
        return known.roots

    @contextlib.contextmanager
    def using(self, mirror: str) -> Iterator[None]:
        """While programs run that may write to it. A few system calls."""
        if self._local:
            yield
            return
        paths = self._of(mirror).paths
        fd = _locked(paths, b"/users", fcntl.LOCK_SH)  # a sync holds it for an instant only
        try:
            os.utime(fd)
            yield
            os.utime(fd)
        finally:
            os.close(fd)

    def touched(self, mirror: str) -> None:
        """Something may have been written to it: the next sync looks at every file."""
        if not self._local:
            self._of(mirror).quiet_since_ns = -1

    def sweep(self) -> list[str]:
        """Takes away mirrors that nobody has synced for a month; their names. Blocking.

        They lie on a volume that costs by its size, and hold copies of what home has.
        """
        top = self._store.root.join(b"mirrors")
        gone = []
        for name in os.listdir(top) if os.path.isdir(top) else ():
            text = os.fsdecode(name)
            if _NAME.fullmatch(text) and self._retire(top + b"/" + name):
                self._known.pop(text, None)
                gone.append(text)
        return gone

    def _retire(self, folder: bytes) -> bool:
        """If it was not used for long, and nobody uses it now."""
        paths = Paths(folder)
        try:
            lock = os.open(folder + b"/lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            age_ns = self._store.root.now_ns() - os.fstat(lock).st_mtime_ns
            if age_ns < _UNUSED_NS or not _unused(lock):
                return False
            users = _open_users(paths)
            try:
                if not _unused(users):
                    return False
                away = self._store.root.temp_path()
                os.rename(folder, away)
            finally:
                os.close(users)
        except OSError:
            return False
        finally:
            os.close(lock)
        diskfile.remove_tree(away)
        return True

    # For home

    async def sync(self, message: SyncMirror) -> m.Missing | Mirrored:
        """Makes the mirror what home has. Nothing is changed before all blobs are here.

        DiskFull, and nothing has changed; EnvironmentProblem for what else the disk refuses;
        RemoteProtocolError for names, roots or trees that cannot be.
        """
        known = self._of(message.mirror)
        roots = tuple(sorted(path for path, _ in message.roots))
        _check_roots(roots)
        if self._local:
            known.roots = roots
            return Mirrored(message.id, 0, 0)
        answer = await _in_thread(lambda: self._sync(known, message))
        if isinstance(answer, Mirrored):
            known.roots = roots
            if time.monotonic() >= self._next_sweep_s:
                self._next_sweep_s = time.monotonic() + _SWEEP_EVERY_S
                self._sweeping = asyncio.create_task(asyncio.to_thread(self._sweep_quietly))
        return answer

    def _sweep_quietly(self) -> None:
        try:
            gone = self.sweep()
        except (BurstError, OSError) as error:
            _log.warning("sweeping mirrors: %s", error)
            return
        if gone:
            _log.info("not used for a month, removed: %s", ", ".join(gone))

    def _sync(self, known: _Mirror, message: SyncMirror) -> m.Missing | Mirrored:
        with _disk_trouble(), _alone(known.paths):
            fd = _open_users(known.paths)
            try:
                # Read before we look: who comes meanwhile makes it later than that.
                time_ns = os.fstat(fd).st_mtime_ns
                unused = _unused(fd)
                trusted = unused and time_ns == known.quiet_since_ns
                known.quiet_since_ns = -1
                sync = Sync(self._store, self._bring, known.paths, known.memory)
                answer = sync.run(message, trusted=trusted)
                if isinstance(answer, Mirrored) and unused:
                    known.quiet_since_ns = time_ns
            finally:
                os.close(fd)
        return answer

    async def changes(self, message: AskChanges) -> Changes:
        """What runs wrote, by pattern; the bytes are in the store then. Errors as of `sync`."""
        known = self._of(message.mirror)
        _check_roots(message.roots)
        if self._local:
            return Changes(message.id, ())  # it is home's own folder: there is nothing to fetch
        return await _in_thread(lambda: self._changes(known, message))

    def _changes(self, known: _Mirror, message: AskChanges) -> Changes:
        # Only who asks for changes needs the library.
        from burst_agent.mirror.changes import find_changes  # noqa: PLC0415

        with _disk_trouble(), _alone(known.paths):
            record = known.memory.load()
            found = find_changes(
                known.paths.top, record, message.roots, message.patterns, self._store
            )
        return Changes(message.id, tuple(found))

    async def fetched(self, message: Fetched) -> None:
        """These are home's from here on: removed or changed there, they are so here."""
        known = self._of(message.mirror)
        if not self._local:
            await _in_thread(lambda: self._fetched(known, message))

    def _fetched(self, known: _Mirror, message: Fetched) -> None:
        with _disk_trouble(), _alone(known.paths):
            record = known.memory.load()
            for file in message.files:
                if file.path in record.files or file.path in record.links:
                    continue  # a file of home's that a run changed: the next tree says the rest
                name = os.path.basename(file.path)
                record.fetched[file.path] = FileNode(name, file.digest, file.executable)
                record.looks.pop(file.path, None)
            known.memory.save(record)


def _check_roots(roots: tuple[bytes, ...]) -> None:
    if len(roots) > _MAX_ROOTS or len(set(roots)) != len(roots):
        raise RemoteProtocolError("too many roots, or one twice")
    for path in roots:
        if path != b"/" and (os.path.normpath(path) != path or path[:1] != b"/" or b"\0" in path):
            raise RemoteProtocolError(f"{path!r} is no path of a root")
        if path[:2] == b"//":
            raise RemoteProtocolError(f"{path!r} is no path of a root")


@contextlib.contextmanager
def _alone(paths: Paths) -> Iterator[None]:
    """Nobody else changes this mirror meanwhile, in this process or another one."""
    fd = _locked(paths, b"/lock", fcntl.LOCK_EX)
    try:
        os.utime(fd)  # the last use
        yield
    finally:
        os.close(fd)


def _locked(paths: Paths, name: bytes, kind: int) -> int:
    """An open file of the mirror's folder with this lock; both are made if need be."""
    while True:
        os.makedirs(paths.folder, mode=0o700, exist_ok=True)
        try:
            fd = os.open(paths.folder + name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, kind)
            if os.stat(paths.folder + name).st_ino == os.fstat(fd).st_ino:
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # the mirror was swept away while we waited


@contextlib.contextmanager
def _shared(paths: Paths) -> Iterator[None]:
    if not os.path.isdir(paths.folder):
        yield
        return
    with _alone(paths):
        yield


def _open_users(paths: Paths) -> int:
    return os.open(paths.folder + b"/users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _unused(fd: int) -> bool:
    """Whether no program that may write runs now. The lock is given back at once."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True


@contextlib.contextmanager
def _disk_trouble() -> Iterator[None]:
    with diskfile.disk_errors("the mirror"):
        try:
            yield
        except OSError as error:
            if error.errno in diskfile.NO_SPACE:
                raise
            raise EnvironmentProblem(f"the mirror: {error}") from error


async def _in_thread(work: Callable[[], T]) -> T:
    """A thread cannot be stopped: who is cancelled waits for its end, with the locks."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
