"""A root at home as a tree, looked at again with one stat(2) per file and folder.

What was seen is kept between two looks: a folder that is what it was is not listed, a file that is
what it was is not hashed, and where nothing has changed nothing is encoded. What changed less than
two seconds before it was looked at is not believed the next time, because file systems stamp
coarsely.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from typing import Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import SourceUnreadable
from burst_protocol.tree import Directory, DirectoryNode, FileNode, SymlinkNode
from burst_wrapper.mirror.ignore import Level
from burst_wrapper.mirror.repository import Repository, read_patterns
from burst_wrapper.mirror.rules import Rules, Why
from burst_wrapper.statcache import StatCache

_SETTLED_NS: Final = 2_000_000_000
_IGNORE: Final = b".gitignore"
_MAX_DEPTH: Final = 200

Look = tuple[int, int, int, int, int]
"""Mode, inode, size, mtime and ctime (ns)."""


def _look(info: os.stat_result) -> Look:
    return (info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _settled(info: os.stat_result) -> Look | None:
    """The look, if a later change is sure to change it."""
    newest_ns = max(info.st_mtime_ns, info.st_ctime_ns)
    return _look(info) if time.time_ns() - newest_ns > _SETTLED_NS else None


@attrs.define(eq=False)
class File:
    look: Look | None = None
    """None: look again, and read again."""
    size_bytes: int = 0
    digest: Digest | None = None
    """None: to be hashed."""
    executable: bool = False


@attrs.define(eq=False)
class Folder:
    path: bytes
    levels: tuple[Level, ...]
    """The patterns that hold for it from above."""
    only_named: bool = False
    """It stays at home, but for what is wanted by name."""
    look: Look | None = None
    """None: list it again."""
    files: dict[bytes, File] = attrs.field(factory=dict)
    """By path, as `folders`."""
    folders: dict[bytes, Folder] = attrs.field(factory=dict)
    links: dict[bytes, bytes] = attrs.field(factory=dict)
    """Path to target."""
    held: dict[bytes, tuple[Why, str]] = attrs.field(factory=dict)
    """What stays at home, by path: why, and by which file's patterns."""
    ignore_look: Look | None = None
    """Of its `.gitignore`; None without one, or if it is to be read again."""
    own: Level | None = None
    """Its `.gitignore`."""
    data: bytes = b""
    digest: Digest | None = None
    """None: to be encoded again."""


class Scan:
    """One root. Blocking; not for two threads at once."""

    def __init__(
        self,
        rules: Rules,
        repository: Repository,
        stats: StatCache,
        inner: frozenset[bytes] = frozenset(),
    ) -> None:
        """`inner`: roots of their own below this one, which are not this one's business."""
        self.rules = rules
        self.repository = repository
        self.inner = inner
        self._stats = stats
        self._top = Folder(rules.root, repository.levels)

    # Looking

    def look(self) -> bool:
        """Finds what changed, by stat alone; whether anything did.

        SourceUnreadable for a folder that cannot be listed.
        """
        try:
            info = os.stat(self.rules.root)
        except OSError as error:
            raise _unreadable(self.rules.root, error) from error
        if not stat.S_ISDIR(info.st_mode):
            raise SourceUnreadable("it is no folder", path=os.fsdecode(self.rules.root))
        return self._visit(self._top, info, 0)

    def _visit(self, folder: Folder, info: os.stat_result, depth: int) -> bool:
        """Whether it, or anything below, is to be encoded again."""
        changed = folder.digest is None
        if folder.look != _look(info) or self._ignores_anew(folder):
            self._list(folder, info, depth)
            changed = True
        lstat = os.lstat
        gone = []
        for path, file in folder.files.items():
            try:
                info = lstat(path)
            except OSError:
                gone.append(path)
                continue
            if file.look != (
                info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns
            ):  # fmt: skip
                file.look = file.digest = None
                file.size_bytes = info.st_size
                changed = True
        for path, child in folder.folders.items():
            try:
                info = lstat(path)
            except OSError:
                gone.append(path)
                continue
            if not stat.S_ISDIR(info.st_mode):
                gone.append(path)
            elif self._visit(child, info, depth + 1):
                changed = True
        for path in gone:  # since the folder was looked at: it is listed again the next time
            folder.files.pop(path, None)
            folder.folders.pop(path, None)
            folder.look = None
            changed = True
        if changed:
            folder.digest = None
        return changed

    def _ignores_anew(self, folder: Folder) -> bool:
        if folder.own is None:
            return False
        try:
            return folder.ignore_look != _look(os.lstat(folder.own.origin))
        except OSError:
            return True

    def _list(self, folder: Folder, info: os.stat_result, depth: int) -> None:
        """Which names it shows now. Files and folders that were known stay what they are."""
        if depth > _MAX_DEPTH:
            raise SourceUnreadable("folders in folders without end", path=os.fsdecode(folder.path))
        try:
            with os.scandir(folder.path) as listing:
                entries = list(listing)
        except FileNotFoundError:
            entries = []
        except OSError as error:
            raise _unreadable(folder.path, error) from error
        levels = self._levels(folder, {entry.name for entry in entries})
        files, folders = folder.files, folder.folders
        folder.files, folder.folders, folder.links, folder.held = {}, {}, {}, {}
        for entry in entries:
            path = entry.path
            if path in self.inner:
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            verdict = self.rules.verdict(
                path, levels, folder=is_folder, only_named=folder.only_named
            )
            if verdict.why is not None:
                folder.held[path] = (verdict.why, verdict.origin)
                if not verdict.inside:
                    continue
            if entry.is_symlink():
                try:
                    folder.links[path] = os.readlink(path)
                except OSError:
                    continue  # gone since it was listed
            elif is_folder:
                child = folders.get(path)
                only_named = verdict.why is not None
                if child is None or child.levels != levels or child.only_named != only_named:
                    child = Folder(path, levels, only_named)
                folder.folders[path] = child
            elif entry.is_file(follow_symlinks=False):
                folder.files[path] = files.get(path) or File()
            else:
                folder.held[path] = (Why.ODD, "")
        folder.look = _settled(info)

    def _levels(self, folder: Folder, names: set[bytes]) -> tuple[Level, ...]:
        """The patterns that hold in it. A repository within begins anew, as it does for git."""
        levels = folder.levels
        if folder is not self._top and b".git" in names:
            levels = ()
        if _IGNORE not in names:
            folder.own = folder.ignore_look = None
            return levels
        path = folder.path.rstrip(b"/") + b"/" + _IGNORE
        try:
            info = os.lstat(path)
        except OSError:
            return levels
        if folder.own is None or folder.ignore_look != _look(info):
            base = os.fsdecode(folder.path).rstrip("/") + "/"
            folder.own = Level(base, read_patterns(path), os.fsdecode(path))
            folder.ignore_look = _settled(info)
        return (*levels, folder.own)

    # Reading

    def tree(self) -> Digest:
        """Hashes what changed and encodes the folders above it; after `look`.

        SourceUnreadable for a file that cannot be read.
        """
        return self._encode(self._top)

    def _encode(self, folder: Folder) -> Digest:
        if folder.digest is not None:
            return folder.digest
        skip = len(folder.path.rstrip(b"/")) + 1
        directories = []
        for path, child in folder.folders.items():
            digest = self._encode(child)
            if not (child.only_named and child.data == _EMPTY):
                directories.append(DirectoryNode(path[skip:], digest))
        files = []
        for path, file in folder.files.items():
            if file.digest is None and not self._read(path, file):
                folder.look = None
                continue
            assert file.digest is not None
            files.append(FileNode(path[skip:], file.digest, file.executable))
        links = [SymlinkNode(path[skip:], target) for path, target in folder.links.items()]
        folder.data = Directory(tuple(files), tuple(directories), tuple(links)).encode()
        folder.digest = Digest.of(folder.data)
        return folder.digest

    def _read(self, path: bytes, file: File) -> bool:
        """False if it is gone."""
        try:
            info = os.lstat(path)
        except OSError:
            return False
        state = self._stats.digest_of(path, info)
        if state is None:
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except FileNotFoundError:
                return False
            except OSError as error:
                raise _unreadable(path, error) from error
            return False  # no regular file any more
        file.digest, file.executable = state.digest, state.executable
        file.size_bytes = state.digest.size_bytes
        file.look = _settled(info)
        return True

    # What there is

    def folders(self) -> Iterator[Folder]:
        """All that are sent, outer ones first."""
        pending = [self._top]
        while pending:
            folder = pending.pop()
            yield folder
            pending += folder.folders.values()

    def file(self, path: bytes) -> File | None:
        """A file that goes, by its absolute path."""
        folder = self._top
        skip = len(self.rules.root.rstrip(b"/")) + 1
        parts = path[skip:].split(b"/")
        place = self.rules.root.rstrip(b"/")
        for part in parts[:-1]:
            place += b"/" + part
            child = folder.folders.get(place)
            if child is None:
                return None
            folder = child
        return folder.files.get(path)

    def would_go(self, path: bytes) -> bool:
        """Whether a file of this name would be sent if it were there now."""
        folder = self._top
        skip = len(self.rules.root.rstrip(b"/")) + 1
        place = self.rules.root.rstrip(b"/")
        only_named = False
        parts = path[skip:].split(b"/")
        for depth, part in enumerate(parts):
            place += b"/" + part
            levels = (*folder.levels, folder.own) if folder.own else folder.levels
            is_folder = depth < len(parts) - 1
            verdict = self.rules.verdict(place, levels, folder=is_folder, only_named=only_named)
            if verdict.why is not None and not (is_folder and verdict.inside):
                return False
            only_named = only_named or verdict.why is not None
            folder = folder.folders.get(place) or Folder(place, levels)
        return True


_EMPTY: Final = Directory().encode()


def _unreadable(path: bytes, error: OSError) -> SourceUnreadable:
    return SourceUnreadable(error.strerror or str(error), path=os.fsdecode(path))
