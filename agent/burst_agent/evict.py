"""Eviction: least recently used first, down to 90 % of the limit, never what may be in use.

One queue for everything. Action entries and input lists are a few KB and lead to blobs worth
megabytes, so they get no rule of their own: a hit marks an entry together with its blobs, hence
they age together, and at equal age the entry goes first. An entry whose blobs went earlier is a
miss, by the completeness check of the action cache. A tree keeps the blobs it shows as young as
itself: removing those would free nothing, because its hard links hold them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from typing import Final

import attrs

from burst_agent import diskfile, treedirs
from burst_agent.entries import EntryFiles
from burst_agent.materialise import KNOWN_COMPLETE_S
from burst_agent.scan import Item, Kind, Scan
from burst_agent.store import BlobStore
from burst_protocol.digest import Digest

DEFAULT_LIMIT_BYTES: Final = 40 * 10**9
_REMOVALS_PER_SLICE: Final = 64


@attrs.frozen
class Limits:
    """How large the store may be, and what is too young to go."""

    limit_bytes: int = DEFAULT_LIMIT_BYTES
    """The size that starts an eviction."""
    target: float = 0.9
    """The share of the limit at which it ends: a full store must not evict at every unit."""
    keep_s: float = 600
    """Things used in the last so many seconds stay, whatever the size."""
    min_free_bytes: int = 2 * 10**9
    """The filesystem should keep this much free; the limit shrinks accordingly."""
    blind_s: float = diskfile.TOUCH_INTERVAL_NS / 10**9 + KNOWN_COMPLETE_S
    """A use is noted at most once an hour, and a known tree's blobs are not looked at for half an
    hour: something in use right now can look this old, so it is added to `keep_s`."""


@attrs.frozen
class Plan:
    """What to remove, in order."""

    victims: tuple[Item, ...]
    total_bytes: int
    """All that was scanned."""
    target_bytes: int
    """What should remain; more remains if the rest is pinned or too young."""


@attrs.define
class Report:
    """What an eviction did."""

    scanned_bytes: int = 0
    scanned_files: int = 0
    freed_bytes: int = 0
    freed_files: int = 0
    removed: Counter[Kind] = attrs.field(factory=Counter)
    spared: int = 0
    """Victims that were used between scan and removal."""
    over_bytes: int = 0
    """What remains above the target, because all of it is pinned or too young."""
    busy: bool = False
    """Another process was at it; nothing was done."""


def plan(
    items: Iterable[Item],
    limits: Limits,
    *,
    now_ns: int,
    free_bytes: int | None = None,
    pinned: Collection[bytes] = frozenset(),
) -> Plan:
    """Chooses victims. Pure; `pinned` holds hashes and keys, `free_bytes` is the filesystem's."""
    everything = list(items)
    total = sum(item.size_bytes for item in everything)
    limit = limits.limit_bytes
    if free_bytes is not None:
        limit = min(limit, max(0, total + free_bytes - limits.min_free_bytes))
    target = int(limit * limits.target)
    if total <= limit:
        return Plan((), total, target)
    young_ns = now_ns - int((limits.keep_s + limits.blind_s) * 10**9)
    candidates = sorted(
        (item for item in everything if item.last_use_ns < young_ns and item.name not in pinned),
        key=lambda item: (item.last_use_ns, item.kind.value, item.name),
    )
    victims: list[Item] = []
    remaining = total
    for item in candidates:
        if remaining <= target:
            break
        victims.append(item)
        remaining -= item.size_bytes
    return Plan(tuple(victims), total, target)


class Eviction:
    """One run: scan, plan, remove. Drive `steps` to its end, or leave it at any step."""

    def __init__(
        self, store: BlobStore, limits: Limits, *, pinned: Collection[Digest] = ()
    ) -> None:
        self.report = Report()
        self._store = store
        self._root = store.root
        self._limits = limits
        self._pinned = frozenset(digest.hash for digest in pinned)
        self._entries = {
            Kind.ACTION: EntryFiles(store.root, b"actions"),
            Kind.LIST: EntryFiles(store.root, b"lists"),
        }

    def steps(self) -> Generator[None, None, None]:
        """Works a few milliseconds per step. Whatever happens in between, the store is sound."""
        with self._alone() as alone:
            if not alone:
                self.report.busy = True
                return
            treedirs.sweep_gone(self._root)
            self._root.flush()
            scan = Scan(self._root)
            yield from scan.slices()
            self.report.scanned_files = sum(item.files for item in scan.items)
            chosen = plan(
                scan.items,
                self._limits,
                now_ns=self._root.now_ns(),
                free_bytes=_free_bytes(self._root.path),
                pinned=self._pinned,
            )
            self.report.scanned_bytes = chosen.total_bytes
            try:
                yield from self._remove(chosen.victims)
            finally:
                report = self.report
                self._root.set_usage(
                    report.scanned_bytes - report.freed_bytes,
                    report.scanned_files - report.freed_files,
                )
            if chosen.victims or chosen.total_bytes > self._limits.limit_bytes:
                remaining = chosen.total_bytes - self.report.freed_bytes
                self.report.over_bytes = max(0, remaining - chosen.target_bytes)

    def _remove(self, victims: tuple[Item, ...]) -> Iterator[None]:
        for start in range(0, len(victims), _REMOVALS_PER_SLICE):
            # Before: were we killed in the middle, everybody would still look again. After: who
            # looked meanwhile must not believe it.
            self._root.removed_something()
            try:
                for item in victims[start : start + _REMOVALS_PER_SLICE]:
                    self._remove_one(item)
            finally:
                self._root.removed_something()
            yield

    def _remove_one(self, item: Item) -> None:
        if item.kind is Kind.TREE:
            path = self._root.join(b"trees", item.name.hex().encode())
            try:
                gone = os.stat(path).st_atime_ns <= item.last_use_ns
            except FileNotFoundError:
                return
            gone = gone and treedirs.retire(self._root, path)
            freed = 0
        else:
            freed = (
                self._store.remove(Digest(item.name, 0), unless_used_after_ns=item.last_use_ns)
                if item.kind is Kind.BLOB
                else self._entries[item.kind].remove(
                    item.name, unless_used_after_ns=item.last_use_ns
                )
            )
            gone = freed > 0
        if gone:
            self.report.removed[item.kind] += 1
            self.report.freed_bytes += freed
            self.report.freed_files += item.files
        else:
            self.report.spared += 1

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        fd = os.open(self._root.join(b"evict.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(fd)


def is_due(store: BlobStore, limits: Limits) -> bool:
    """Whether an eviction would find something to do. Cheap: two small reads, no scan."""
    usage = store.root.usage()
    if usage is None or usage[0] > limits.limit_bytes:
        return True
    return _free_bytes(store.root.path) < limits.min_free_bytes


def evict(store: BlobStore, limits: Limits, *, pinned: Collection[Digest] = ()) -> Report:
    """A whole run at once, for command lines and tests."""
    eviction = Eviction(store, limits, pinned=pinned)
    for _ in eviction.steps():
        pass
    return eviction.report


async def evict_async(
    store: BlobStore, limits: Limits, *, pinned: Collection[Digest] = ()
) -> Report:
    """The same in slices, each in a thread, so that the loop is never held.

    Cancellable at every await: the slice that runs is finished first, then nothing more happens.
    """
    eviction = Eviction(store, limits, pinned=pinned)
    steps = eviction.steps()
    end = object()
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, steps, end))
            try:
                if await asyncio.shield(step) is end:
                    return eviction.report
            except asyncio.CancelledError:
                await asyncio.wait([step])
                raise
    finally:
        with contextlib.suppress(ValueError):  # cancelled twice: its thread still runs, and ends
            steps.close()


def _free_bytes(path: bytes) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


__all__ = [
    "DEFAULT_LIMIT_BYTES",
    "Eviction",
    "Limits",
    "Plan",
    "Report",
    "evict",
    "evict_async",
    "is_due",
    "plan",
]
