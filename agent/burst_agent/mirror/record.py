"""What a mirror remembers: what home sent, and how each file looked when it was laid out.

Two files beside the mirror. `manifest` is the whole memory, replaced by rename. `intent` is written
before a change begins and removed after the manifest that holds it: it names what that change adds,
so that a sync that was killed in the middle leaves nothing that nobody knows to be home's.

Paths are absolute, as at home. Both files end in a check; what does not fit it is not believed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from typing import Any, Final, cast

import attrs
from blake3 import blake3

from burst_agent import diskfile
from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack, unpack
from burst_protocol.tree import Directory, FileNode, SymlinkNode

_FORMAT: Final = 1
_CHECK_BYTES: Final = 16

Look = tuple[int, int, int, int, int]
"""Mode, inode, size, mtime and ctime (ns) of what we laid out: another one means that somebody has
written to it. Our mtimes have nanoseconds that no kernel's clock tick has."""


def look(info: os.stat_result) -> Look:
    return (info.st_mode, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@attrs.frozen
class Folder:
    """One that home sent: its names tell what of it is home's."""

    digest: Digest
    data: bytes
    directory: Directory

    @classmethod
    def of(cls, data: bytes) -> Folder:
        """RemoteProtocolError if these bytes are no directory."""
        return cls(Digest.of(data), data, Directory.decode(data))


@attrs.frozen
class Intent:
    """Paths that a change may add."""

    files: frozenset[bytes] = frozenset()
    """And links."""
    folders: frozenset[bytes] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.files or self.folders)


@attrs.define
class Record:
    """The mirror as home wants it, and how it looked."""

    roots: dict[bytes, Digest] = attrs.field(factory=dict)
    folders: dict[bytes, Folder] = attrs.field(factory=dict)
    files: dict[bytes, FileNode] = attrs.field(factory=dict)
    links: dict[bytes, SymlinkNode] = attrs.field(factory=dict)
    fetched: dict[bytes, FileNode] = attrs.field(factory=dict)
    """What runs made and home has now: home's, though in no tree yet."""
    looks: dict[bytes, Look] = attrs.field(factory=dict)
    """Of files, links and fetched ones, where it is known."""
    verified_ns: int = 0
    """When all looks were last known to be right; a machine that crashed since may have lost what
    was written."""
    damaged: bool = False
    """It could not be read: whose the files are that lie there is not known."""
    intended: Intent = Intent()
    """What a change that did not end may have made for home."""

    def encode(self) -> bytes:
        looks = self.looks
        body = pack(
            [
                _FORMAT,
                self.verified_ns,
                [[path, digest.packed()] for path, digest in self.roots.items()],
                [[path, folder.data] for path, folder in self.folders.items()],
                [[path, list(looks[path])] for path in (*self.files, *self.links) if path in looks],
                [
                    [path, file.digest.packed(), file.executable, list(looks.get(path, ()))]
                    for path, file in self.fetched.items()
                ],
            ]
        )
        return body + blake3(body).digest()[:_CHECK_BYTES]

    @classmethod
    def decode(cls, data: bytes) -> Record | None:
        """None for what `encode` has not written."""
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if blake3(body).digest()[:_CHECK_BYTES] != check:
            return None
        try:
            value: Any = unpack(body)
            version, verified_ns, roots, folders, looks, fetched = value
            if version != _FORMAT:
                return None
            record = cls(verified_ns=verified_ns)
            record.roots = {path: Digest.unpacked(digest) for path, digest in roots}
            for path, encoded in folders:
                record.add_folder(path, Folder.of(encoded))
            record.looks = {path: tuple(row) for path, row in looks}
            for path, digest, executable, row in fetched:
                name = os.path.basename(path)
                record.fetched[path] = FileNode(name, Digest.unpacked(digest), executable)
                if row:
                    record.looks[path] = tuple(row)
        except (ValueError, TypeError, RemoteProtocolError):
            return None
        return record

    def add_folder(self, path: bytes, folder: Folder) -> None:
        """The folder, its files and its links; not what is below."""
        self.folders[path] = folder
        prefix = path if path.endswith(b"/") else path + b"/"
        for node in folder.directory.files:
            self.files[prefix + node.name] = node
        for link in folder.directory.symlinks:
            self.links[prefix + link.name] = link

    def owned(self) -> set[bytes]:
        """Every name that is home's; folders are not among them."""
        return {*self.files, *self.links, *self.fetched, *self.intended.files}

    def unlike(self, old: Record) -> list[bytes]:
        """What was not laid out as it is wanted now, if everything looks as it did: no stat."""
        found = [path for path in (*self.files, *self.links) if path not in self.looks]
        found += [path for path in self.folders if path not in old.folders]
        return found

    def strangers(self, base: bytes) -> list[bytes]:
        """What of home's does not look as it was laid out: files, links, folders; some twice.
        Blocking."""
        known = self.looks
        found = []
        for path in (*self.files, *self.links, *self.fetched):
            try:
                info = os.stat(base + path, follow_symlinks=False)
            except OSError:
                found.append(path)
                continue
            if known.get(path) != look(info):
                found.append(path)
        for path in self.folders:
            try:
                mode = os.lstat(base + path).st_mode
            except OSError:
                found.append(path)
                continue
            if not stat.S_ISDIR(mode):
                # It was moved, perhaps, with a link left in its place: all below looks right.
                below = path + b"/"
                found += [p for p in (*self.files, *self.links) if p.startswith(below)]
                found.append(path)
        return found


@attrs.define
class Memory:
    """The two files, and the last record read or written. Only under the mirror's lock."""

    folder: bytes
    _record: Record | None = None
    _stamp: tuple[int, int, int] = (0, 0, 0)

    @property
    def _manifest(self) -> bytes:
        return self.folder + b"/manifest"

    @property
    def _intent(self) -> bytes:
        return self.folder + b"/intent"

    def load(self) -> Record:
        """What is known. Blocking; OSError if it cannot be looked for."""
        try:
            info = os.stat(self._manifest)
            stamp = (info.st_ino, info.st_size, info.st_mtime_ns)
        except FileNotFoundError:
            stamp = (0, 0, 0)
        if self._record is None or stamp != self._stamp:
            self._record = self._read()
            self._stamp = stamp
        # Of another process, perhaps, that was killed since.
        self._record.intended = self._read_intent()
        return self._record

    def _read(self) -> Record:
        try:
            with open(self._manifest, "rb") as file:
                record = Record.decode(file.read())
        except FileNotFoundError:
            # New, or lost: what is there without it is nobody's.
            record = Record(damaged=os.path.exists(self.folder + b"/files"))
        if record is None:
            record = Record(damaged=True)
        return record

    def _read_intent(self) -> Intent:
        try:
            with open(self._intent, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return Intent()
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if blake3(body).digest()[:_CHECK_BYTES] != check:
            return Intent()  # killed while it was written: nothing had begun
        files, folders = cast("Any", unpack(body))
        return Intent(frozenset(files), frozenset(folders))

    def intend(self, files: Iterable[bytes], folders: Iterable[bytes]) -> None:
        """Before a change: what it may add, besides what an unfinished one may have. OSError."""
        before = self._read_intent()
        intent = Intent(before.files.union(files), before.folders.union(folders))
        if intent:
            body = pack([sorted(intent.files), sorted(intent.folders)])
            self._replace(self._intent, body + blake3(body).digest()[:_CHECK_BYTES])

    def save(self, record: Record) -> None:
        """After a change."""
        record.intended = Intent()
        record.damaged = False
        self._replace(self._manifest, record.encode())
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._intent)
        info = os.stat(self._manifest)
        self._record, self._stamp = record, (info.st_ino, info.st_size, info.st_mtime_ns)

    def forget(self) -> None:
        """The next `load` reads again: what is in memory may be half changed."""
        self._record = None

    def _replace(self, path: bytes, data: bytes) -> None:
        temp = path + b".new"
        fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            diskfile.write_all(fd, data)
        except BaseException:
            diskfile.remove_file(temp)
            raise
        finally:
            os.close(fd)
        os.rename(temp, path)
