"""All roots of a project as trees: what the mirror shall be now.

One `Snapshots` per project lives as long as the daemon: what it saw is what makes the next look
cheap. Roots lie anywhere: the workspace, packages outside it that it depends on, single files that
units read or cargo is configured by (a folder with only these), and what of the target directory
programs need.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from burst_lifecycle.folders import within
from burst_lifecycle.setting_keys import SECRET_EXCLUDES
from burst_protocol.digest import Digest
from burst_protocol.tree import TreeBuilder
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.mirror import weight
from burst_wrapper.mirror.ignore import Patterns
from burst_wrapper.mirror.part import Part
from burst_wrapper.mirror.repository import Repository, look_again, look_up
from burst_wrapper.mirror.roots import Manifests, configurations, readable
from burst_wrapper.mirror.rules import Rules, Why, Wishes
from burst_wrapper.mirror.scan import Scan
from burst_wrapper.mirror.target import scan_target
from burst_wrapper.statcache import StatCache

_SECRETS: Final = Patterns.of(sorted(SECRET_EXCLUDES))


@attrs.frozen
class Project:
    """What is mirrored."""

    workspace_root: bytes
    target_dir: bytes
    """Cargo's; it stays at home."""
    burst_target: bytes = b""
    """Of it, the folder whose programs run on the agent; empty: none."""
    more_roots: tuple[bytes, ...] = ()
    """Packages outside the workspace, as `cargo metadata` names them; what the manifests say is
    found without it."""
    exclude: tuple[str, ...] = ()
    unexclude: tuple[str, ...] = ()
    umask: int = attrs.field(default=0o022, eq=False)
    """The user's: for what comes back."""
    environ: Mapping[bytes, bytes] = attrs.field(factory=dict, eq=False, repr=False)
    """The user's: HOME and what else git and cargo look at."""


@attrs.frozen(eq=False)
class Snapshot:
    """What was there, at one moment."""

    roots: tuple[tuple[bytes, Digest], ...]
    sources: tuple[Sources, ...]
    """Where the bytes of all that is named are."""
    paths: Mapping[bytes, Digest]
    """Every file by its absolute path."""
    size_bytes: int
    held: tuple[tuple[bytes, Why, str], ...] = ()
    """What stays at home, though it is not below something that does; why, and by which file."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return tuple(path for path, why, _ in self.held if why is Why.SECRET)


class Snapshots:
    """Of one project. Blocking; safe for threads."""

    def __init__(self, stats: StatCache, observed: Callable[[], Iterable[bytes]] = tuple) -> None:
        """`observed`: absolute paths that units of this project were seen to read."""
        self._stats = stats
        self._observed = observed
        self._lock = threading.Lock()
        self._project: Project | None = None
        self._wishes: Wishes | None = None
        self._scans: dict[bytes, Scan] = {}
        self._scanned: Part | None = None
        self._seen: tuple[bytes, ...] = ()
        self._outside: tuple[bytes, ...] = ()
        """Of `_seen`, what lies in no root."""
        self._manifests = Manifests()

    def take(self, project: Project, allowance: weight.Allowance = weight.USUAL) -> Snapshot:
        """As it is now. SourceUnreadable; TooMuch beyond the allowance."""
        with self._lock:
            return self._take(project, allowance)

    def look(self, project: Project) -> tuple[Scan, ...]:
        """What would go, by name and size: nothing is read. SourceUnreadable."""
        with self._lock:
            self._prepare(project)
            for scan in self._scans.values():
                scan.look()
            return tuple(self._scans.values())

    def would_go(self, path: bytes) -> bool:
        """Whether a file of this name is, or would be, part of the mirror by the last rules."""
        scan = self._scan_of(path)
        return scan is not None and scan.would_go(path)

    def _take(self, project: Project, allowance: weight.Allowance) -> Snapshot:
        changed = self._prepare(project)
        for scan in self._scans.values():
            changed |= scan.look()
        observed = tuple(self._observed())
        if changed or observed != self._seen:
            if self._force(observed):
                changed = True
                for scan in self._scans.values():
                    scan.look()
            self._seen = observed
            readings = readable(
                observed, project.workspace_root, project.target_dir, project.environ
            )
            self._outside = tuple(path for path in readings if self._scan_of(path) is None)
        if changed:
            weight.check(self._scans.values(), allowance)
        if changed or self._scanned is None:
            self._scanned = self._collect_scans()
        parts = [self._scanned]
        single = self._single_files(project)
        if single:
            parts.append(_single_trees(single))
        if project.burst_target:
            parts.append(scan_target(project.burst_target, self._stats))
        return Snapshot(
            roots=tuple(sorted(root for part in parts for root in part.roots)),
            sources=tuple(part.sources for part in parts),
            paths={**self._scanned.paths, **single} if single else self._scanned.paths,
            size_bytes=sum(part.size_bytes for part in parts),
            held=self._scanned.held,
        )

    def _prepare(self, project: Project) -> bool:
        """The scans that this project needs; those that are still right stay."""
        found = self._manifests.roots(project.workspace_root, project.more_roots)
        outputs = frozenset(path for path in (project.target_dir, project.burst_target) if path)
        old = self._project
        same = old is not None and (old.exclude, old.unexclude, old.target_dir) == (
            project.exclude, project.unexclude, project.target_dir,
        )  # fmt: skip
        if not same or self._wishes is None:
            self._wishes = Wishes.of(project.exclude, project.unexclude)
        inner = frozenset(found)
        scans: dict[bytes, Scan] = {}
        for root in found:
            known = self._scans.get(root)
            if known is None:
                self._stats.warm(root)
                repository = look_up(root, project.environ)
            else:
                repository = look_again(known.repository, root, project.environ)
                if same and known.inner == inner and _alike(repository, known.repository):
                    known.repository = repository
                    scans[root] = known
                    continue
            rules = Rules.of(root, self._wishes, repository.tracked, outputs)
            scans[root] = Scan(rules, repository, self._stats, inner)
        changed = scans != self._scans
        self._scans = scans
        self._project = project
        return changed

    def _force(self, observed: Iterable[bytes]) -> bool:
        """What units read goes, though it is ignored; whether that changed any rules."""
        wanted: dict[bytes, set[bytes]] = {}
        for path in observed:
            scan = self._scan_of(path)
            if scan is not None and scan.file(path) is None and not _inside(path, scan):
                wanted.setdefault(scan.rules.root, set()).add(path)
        changed = False
        for root, paths in wanted.items():
            old = self._scans[root]
            there = {path for path in paths if os.path.isfile(path) and not os.path.islink(path)}
            forced = old.rules.forced | there
            if forced != old.rules.forced:
                rules = Rules.of(root, old.rules.wishes, forced, old.rules.outputs)
                self._scans[root] = Scan(rules, old.repository, self._stats, old.inner)
                changed = True
        return changed

    def _scan_of(self, path: bytes) -> Scan | None:
        """The innermost root that holds it."""
        best: Scan | None = None
        for root, scan in self._scans.items():
            if within(path, root) and (best is None or len(root) > len(best.rules.root)):
                best = scan
        return best

    def _single_files(self, project: Project) -> dict[bytes, Digest]:
        """Files outside all roots: cargo's configurations above the workspace, and what units
        read there."""
        found: dict[bytes, Digest] = {}
        for path in (*configurations(project.workspace_root), *self._outside):
            if path in found or self._scan_of(path) is not None or _is_secret(path):
                continue
            state = self._stats.digest(path)
            if state is not None:
                found[path] = state.digest
        return found

    def _collect_scans(self) -> Part:
        sources = Sources()
        paths: dict[bytes, Digest] = {}
        roots: list[tuple[bytes, Digest]] = []
        held: list[tuple[bytes, Why, str]] = []
        size = 0
        for root, scan in self._scans.items():
            roots.append((root, scan.tree()))
            for folder in scan.folders():
                if folder.digest is not None:
                    sources.blobs[folder.digest] = folder.data
                for path, file in folder.files.items():
                    if file.digest is not None:
                        paths[path] = file.digest
                        sources.files[file.digest] = path
                        size += file.size_bytes
                held += [(path, why, origin) for path, (why, origin) in folder.held.items()]
        return Part(tuple(roots), sources, paths, size, tuple(held))


def _single_trees(single: Mapping[bytes, Digest]) -> Part:
    """Each file in a tree of its folder."""
    sources = Sources()
    builders: dict[bytes, TreeBuilder] = {}
    for path, digest in single.items():
        folder, name = os.path.split(path)
        builder = builders.setdefault(folder, TreeBuilder())
        builder.file(name, digest, executable=os.access(path, os.X_OK))
        sources.files[digest] = path
    roots = tuple((path, builder.build(sources.blobs)) for path, builder in builders.items())
    return Part(roots, sources, dict(single), sum(d.size_bytes for d in single.values()))


def _alike(one: Repository, other: Repository) -> bool:
    """Whether what a scan has judged by the one is right by the other."""
    return one.levels is other.levels and one.tracked == other.tracked


def _inside(path: bytes, scan: Scan) -> bool:
    """Whether it lies in a target directory: those have their own root."""
    return any(path.startswith(folder + b"/") for folder in scan.rules.outputs)


def _is_secret(path: bytes) -> bool:
    name = os.fsdecode(os.path.basename(path))
    return bool(_SECRETS.verdict(name, folder=False))
