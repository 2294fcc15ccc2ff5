"""A project's mirror on one agent, from home: synced before programs run, fetched from after."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.digest import EMPTY, Digest, KeyHasher
from burst_protocol.errors import (
    AgentBug,
    BlobMissing,
    BurstError,
    DigestMismatch,
    DiskFull,
    EnvironmentProblem,
    LinkLost,
    RemoteProtocolError,
)
from burst_protocol.messages import Message
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.link import AgentLink
from burst_wrapper.mirror import weight
from burst_wrapper.mirror.fetch import CONFLICTS, Base, Conflict, place
from burst_wrapper.mirror.snapshot import Project, Snapshot, Snapshots
from burst_wrapper.statcache import StatCache

DEFAULT_FETCH: Final = (
    "**/*.snap.new",
    "**/.*.pending-snap",
    "**/proptest-regressions/**",
    "**/*.proptest-regressions",
    "**/wip/*.stderr",
    "**/junit.xml",
    "**/criterion/**",
)
"""What comes back unless the user says otherwise: snapshots of insta, in files and inline; failing
seeds of proptest, which writes those of `tests/x.rs` beside it; what trybuild expected nothing of;
reports, baselines."""
_TRIES: Final = 5
_EAGER_BLOBS: Final = 500
_EAGER_BYTES: Final = 8 << 20


@attrs.frozen
class Synced:
    bytes_sent: int
    files: int
    """Written there."""
    removed: int
    round_trips: int
    secrets: tuple[bytes, ...] = ()
    """Files that were held back because they look like secrets: worth a note."""


@attrs.frozen
class FetchedBack:
    files: tuple[bytes, ...]
    """Written at home, absolute."""
    conflicts: tuple[Conflict, ...]
    bytes_received: int
    conflicts_folder: bytes = b""
    """Where what came lies instead, by its whole path."""


class Mirror:
    """One project, any number of agents; lives as long as the daemon. For the event loop."""

    def __init__(
        self, name: str, stats: StatCache, observed: Callable[[], Iterable[bytes]] = tuple
    ) -> None:
        """`observed`: absolute paths of files that units of this project were seen to read."""
        self.name = name
        self._stats = stats
        self._snapshots = Snapshots(stats, observed)
        self._there: weakref.WeakKeyDictionary[AgentLink, Snapshot] = weakref.WeakKeyDictionary()
        """What each agent has, since it said so."""
        self._base: Base | None = None

    async def snapshot(
        self, project: Project, allowance: weight.Allowance = weight.USUAL
    ) -> Snapshot:
        """What would be sent now, for listings. Errors as of `sync`, for home's part."""
        return await asyncio.to_thread(self._snapshots.take, project, allowance)

    async def sync(
        self,
        executor: Executor,
        project: Project,
        allowance: weight.Allowance = weight.USUAL,
    ) -> Synced:
        """Makes the mirror what home is now. One round trip if the agent has all of it, or has it
        but for a few files that it lacks since the last time.

        SourceUnreadable, TooMuch; DiskFull of either side; what ends a link.
        """
        link = executor.link
        if executor.local:
            roots = tuple((root, EMPTY) for root in _roots_at_home(project))
            answer = await link.ask(p.SyncMirror(link.new_id(), self.name, roots))
            if not isinstance(answer, p.Mirrored):
                raise _failure(answer, link.name)
            return Synced(0, 0, 0, 1)
        sent = link.sent_bytes
        for attempt in range(_TRIES):
            at_ns = time.time_ns()
            snapshot = await asyncio.to_thread(self._snapshots.take, project, allowance)
            try:
                mirrored, trips = await self._bring(executor, snapshot)
            except BlobMissing:
                if attempt == _TRIES - 1:
                    raise  # a file changes all the time
                self._there.pop(link, None)
                continue
            self._there[link] = snapshot
            self._base = Base(
                dict(snapshot.paths), at_ns, tuple(path for path, _ in snapshot.roots)
            )
            bytes_sent = link.sent_bytes - sent
            return Synced(bytes_sent, mirrored.written, mirrored.removed, trips, snapshot.secrets)
        raise AssertionError("unreachable")

    async def _bring(self, executor: Executor, snapshot: Snapshot) -> tuple[p.Mirrored, int]:
        link = executor.link
        identity = link.new_id()
        complaints = link.open_stream(identity)
        try:
            return await self._bring_by(executor, snapshot, identity, complaints)
        finally:
            link.close_stream(identity)

    async def _bring_by(
        self,
        executor: Executor,
        snapshot: Snapshot,
        identity: int,
        complaints: asyncio.Queue[Message | None],
    ) -> tuple[p.Mirrored, int]:
        """`complaints`: what the agent says about the blobs that come with this identity."""
        link = executor.link
        complaint = link.complaint
        sources = list(snapshot.sources)
        eager = self._news(link, snapshot)
        if eager:
            await executor.uploader.send(identity, eager, sources)
        trips = 0
        asked_all = False
        brought: set[Digest] = set()
        while True:
            answer = await link.ask(p.SyncMirror(link.new_id(), self.name, snapshot.roots))
            trips += 1
            if isinstance(answer, p.Mirrored):
                return answer, trips
            if not isinstance(answer, m.Missing):
                raise _failure(answer, link.name)
            wanted = answer.digests
            if not brought.isdisjoint(wanted):
                raise _not_stored(link, complaints, complaint)
            folders = [digest for source in sources for digest in source.blobs]
            if not asked_all and any(digest in set(folders) for digest in wanted):
                # What lies below a folder that it lacks it cannot know: all at once, not by level.
                question = p.AskMissing(link.new_id(), tuple(dict.fromkeys(folders)))
                answer = await link.ask(question)
                trips += 1
                if not isinstance(answer, m.Missing):
                    raise _failure(answer, link.name)
                wanted = tuple(dict.fromkeys((*wanted, *answer.digests)))
                asked_all = True
            await executor.uploader.send(identity, wanted, sources)
            brought.update(wanted)

    def _news(self, link: AgentLink, snapshot: Snapshot) -> list[Digest]:
        """What this agent has not been told of, if it is little: sent before it asks."""
        before = self._there.get(link)
        if before is None or before.roots == snapshot.roots:
            return []
        news: list[Digest] = []
        for old, new in zip(before.sources, snapshot.sources, strict=False):
            if old is new:
                continue
            news += new.blobs.keys() - old.blobs.keys()
            news += new.files.keys() - old.files.keys()
            if len(news) > _EAGER_BLOBS:
                return []
        return news if sum(digest.size_bytes for digest in news) <= _EAGER_BYTES else []

    async def fetch(
        self, executor: Executor, project: Project, patterns: Iterable[str] = DEFAULT_FETCH
    ) -> FetchedBack:
        """What runs wrote there and the patterns (as in `.gitignore`) name comes home.

        After `sync`. A file that changed at home meanwhile is a conflict, never overwritten.
        DiskFull of either side; DigestMismatch; what ends a link.
        """
        base, link = self._base, executor.link
        if executor.local or base is None:
            return FetchedBack((), (), 0)
        patterns = tuple(patterns)
        if not patterns:
            return FetchedBack((), (), 0)
        answer = await link.ask(p.AskChanges(link.new_id(), self.name, base.roots, patterns))
        if not isinstance(answer, p.Changes):
            raise _failure(answer, link.name)
        conflicts: list[Conflict] = []
        written: list[p.ChangedFile] = []
        received = link.received_bytes
        folder = os.path.join(project.burst_target or project.target_dir, CONFLICTS)
        for file in answer.files:
            if await asyncio.to_thread(self._now, file.path) == file.digest:
                continue
            conflict = await self._fetch_one(executor, file, base, folder, project.umask)
            if conflict is None:
                written.append(file)
                base.paths[file.path] = file.digest
            else:
                conflicts.append(conflict)
        known = tuple(file for file in written if self._snapshots.would_go(file.path))
        if known:
            link.send(p.Fetched(self.name, known))
        return FetchedBack(
            tuple(file.path for file in written),
            tuple(conflicts),
            link.received_bytes - received,
            folder,
        )

    async def _fetch_one(
        self,
        executor: Executor,
        file: p.ChangedFile,
        base: Base,
        folder: bytes,
        umask: int,
    ) -> Conflict | None:
        spool = executor.spool
        assert spool is not None
        identity = executor.link.new_id()
        queue = executor.link.open_stream(identity)
        try:
            if not spool.has(file.digest):
                executor.link.send(m.Fetch(identity, file.digest))
                answer = await queue.get()
                if not isinstance(answer, m.BlobChunk):
                    raise _failure(answer, executor.link.name)
            blob = spool.path(file.digest)
            return await asyncio.to_thread(place, blob, file, base, self._now, folder, umask=umask)
        finally:
            executor.link.close_stream(identity)
            spool.drop([file.digest])
            spool.forget(identity)

    def _now(self, path: bytes) -> Digest | None:
        if os.path.islink(path):
            return None
        state = self._stats.digest(path)
        return None if state is None else state.digest


def mirror_name(workspace_root: bytes, machine: bytes) -> str:
    """Of the project at this path on this machine: two machines never share one."""
    hasher = KeyHasher(b"mirror")
    hasher.add(machine, os.path.normpath(workspace_root))
    leaf = os.fsdecode(os.path.basename(os.path.normpath(workspace_root))).lower()
    spoken = "".join(c if c in "abcdefghijklmnopqrstuvwxyz0123456789" else "-" for c in leaf)
    return f"{spoken.strip('-')[:40] or 'project'}-{hasher.key().hex()[:16]}"


def _roots_at_home(project: Project) -> list[bytes]:
    found = {project.workspace_root, *project.more_roots}
    if project.burst_target:
        found.add(project.burst_target)
    return sorted(os.path.normpath(path) for path in found)


def _not_stored(
    link: AgentLink, complaints: asyncio.Queue[Message | None], before: m.Failed | None
) -> BurstError:
    """Why a blob that was sent is not there: the agent has said so without being asked."""
    while not complaints.empty():
        said = complaints.get_nowait()
        if isinstance(said, m.Failed):
            return _failure(said, link.name)
    if link.complaint is not None and link.complaint is not before:
        return _failure(link.complaint, link.name)
    return AgentBug("it has stored what was sent and does not have it")


_BY_CODE: Final = {cls.code: cls for cls in (DiskFull, BlobMissing, DigestMismatch, AgentBug)}


def _failure(answer: object, name: str) -> BurstError:
    """What an agent's answer means that is none."""
    if answer is None:
        return LinkLost("it ended meanwhile", host=name)
    if isinstance(answer, m.Failed):
        cls = _BY_CODE.get(answer.code, EnvironmentProblem)
        return cls(answer.detail if cls is not EnvironmentProblem else f"{name}: {answer.detail}")
    return RemoteProtocolError(f"{type(answer).__name__} is no answer")
