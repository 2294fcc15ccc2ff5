"""One change of a mirror, from the trees that home names to the files that lie there.

Everything that may fail for want of a blob or of space happens before the first name changes: the
new files are complete beside the mirror then. A kill in the middle is healed by the next sync: the
intent names what may have been made, and a file whose look is not known is read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from burst_agent import diskfile
from burst_agent.mirror.ground import Ground
from burst_agent.mirror.record import Folder, Memory, Record
from burst_agent.store import BlobStore
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, RemoteProtocolError
from burst_protocol.programs import Mirrored, SyncMirror

_MAX_DEPTH: Final = 256
_MAX_ENTRIES: Final = 2_000_000

_log = logging.getLogger("burst.agent")

Bring = Callable[[Iterable[Digest]], list[Digest]]
"""Copies blobs from neighbouring stores; those that are nowhere."""


@attrs.frozen
class Paths:
    """Where one mirror's parts lie."""

    folder: bytes

    @property
    def top(self) -> bytes:
        """Stands for `/`."""
        return self.folder + b"/files"

    @property
    def temp(self) -> bytes:
        return self.folder + b"/tmp"

    @property
    def lost(self) -> bytes:
        """What lay there when its manifest was damaged: nobody knows any more whose it is."""
        return self.folder + b"/lost"


class Sync:
    """Blocking; only under the mirror's lock."""

    def __init__(self, store: BlobStore, bring: Bring, paths: Paths, memory: Memory) -> None:
        self._store = store
        self._bring = bring
        self._paths = paths
        self._memory = memory

    def run(self, message: SyncMirror, *, trusted: bool) -> m.Missing | Mirrored:
        """`trusted`: nobody can have written to the mirror since it was last looked at.

        OSError, DiskFull; if that comes before the first name changes (as it does for want of
        space), nothing has changed. RemoteProtocolError for impossible trees.
        """
        memory = self._memory
        old = memory.load()
        if old.damaged:
            self._set_aside()
            old = Record()
            memory.save(old)
        roots = dict(message.roots)
        # After a crash of the machine: what was written before it may not be what it looks like.
        sound = old.verified_ns >= self._store.root.suspect_before_ns
        finished = not (old.intended or old.fetched)
        if trusted and sound and finished and roots == old.roots:
            return Mirrored(message.id, 0, 0)
        new, missing = self._wanted(roots, old)
        if missing:
            return m.Missing(message.id, tuple(missing))
        try:
            known = trusted and sound and not old.intended
            return self._change(message.id, old, new, sound=sound, known=known)
        except BaseException:
            memory.forget()
            raise

    def _set_aside(self) -> None:
        top, lost = self._paths.top, self._paths.lost
        if os.path.exists(top):
            _log.warning("the manifest of %s is damaged: laid out anew", os.fsdecode(top))
            diskfile.remove_tree(lost)
            os.rename(top, lost)

    # What home wants

    def _wanted(self, roots: dict[bytes, Digest], old: Record) -> tuple[Record, list[Digest]]:
        new = Record(roots=roots)
        missing: dict[Digest, None] = {}
        pending = [(path, digest, 0) for path, digest in roots.items()]
        entries = 0
        while pending:
            path, digest, depth = pending.pop()
            folder = old.folders.get(path)
            if folder is None or folder.digest != digest:
                try:
                    folder = Folder.of(self._read(digest))
                except BlobMissing:
                    missing[digest] = None
                    continue
            directory = folder.directory
            entries += len(directory.files) + len(directory.directories) + len(directory.symlinks)
            if depth > _MAX_DEPTH or entries > _MAX_ENTRIES:
                raise RemoteProtocolError("a tree with too many entries or levels")
            new.add_folder(path, folder)
            prefix = path if path.endswith(b"/") else path + b"/"
            for child in directory.directories:
                below = prefix + child.name
                if below not in roots:  # the inner of two roots says what lies there
                    pending.append((below, child.digest, depth + 1))
        return new, list(missing)

    def _read(self, digest: Digest) -> bytes:
        try:
            return self._store.read(digest)
        except BlobMissing:
            if self._bring((digest,)):
                raise
            return self._store.read(digest)

    # What has to be done

    def _change(
        self, request_id: int, old: Record, new: Record, *, sound: bool, known: bool
    ) -> m.Missing | Mirrored:
        """`sound`: what looks as it did is what it was. `known`: everything looks as it did."""
        wanted_names = {*new.files, *new.links}
        gone = [path for path in old.owned() if path not in wanted_names]
        ours = {*old.folders, *old.intended.folders}
        gone_folders = [path for path in ours if path not in new.folders]
        new.looks = {
            path: seen
            for path, seen in old.looks.items()
            if sound and path in wanted_names and _kept(path, old, new)
        }
        strangers = set(new.unlike(old) if known else new.strangers(self._paths.top))
        for path in strangers:
            new.looks.pop(path, None)
        files = [path for path in new.files if path in strangers]
        links = [path for path in new.links if path in strangers]
        folders = sorted(path for path in new.folders if path in strangers)
        if not (strangers or gone or gone_folders):
            return self._done(request_id, old, new, sound=sound)
        with (
            diskfile.disk_errors("the mirror"),
            Ground(self._paths.top, self._paths.temp) as ground,
        ):
            files = [path for path in files if not self._found(ground, path, new)]
            for path in links:
                seen = ground.same_link(path, new.links[path].target)
                if seen is not None:
                    new.looks[path] = seen
            links = [path for path in links if path not in new.looks]
            lacking = self._store.missing(new.files[path].digest for path in files)
            lacking = self._bring(lacking) if lacking else lacking
            if lacking:
                return m.Missing(request_id, tuple(lacking))
            self._store.root.will_write()
            self._memory.intend((*files, *links), folders)
            staged = [(path, ground.stage_file(self._store, new.files[path])) for path in files]
            staged += [(path, ground.stage_link(new.links[path].target)) for path in links]
            # From here on names change.
            removed = sum(ground.remove(path) for path in gone)
            for path in sorted(gone_folders, key=len, reverse=True):
                ground.remove_folder(path)
            for path in folders:
                ground.make_folder(path)
            for path, temp in staged:
                seen = ground.place(temp, path)
                if seen is not None:
                    new.looks[path] = seen
            new.verified_ns = self._store.root.now_ns()
            self._memory.save(new)
        return Mirrored(request_id, len(staged), removed)

    def _found(self, ground: Ground, path: bytes, new: Record) -> bool:
        """The file is right, only its look was not known."""
        seen = ground.same(path, new.files[path])
        if seen is None:
            return False
        new.looks[path] = seen
        return True

    def _done(self, request_id: int, old: Record, new: Record, *, sound: bool) -> Mirrored:
        if not sound or old.intended or old.fetched or old.roots != new.roots:
            new.verified_ns = self._store.root.now_ns()
            self._memory.save(new)
        return Mirrored(request_id, 0, 0)


def _kept(path: bytes, old: Record, new: Record) -> bool:
    """Whether what home wants there is what it wanted before, so that its old look tells."""
    file = new.files.get(path)
    if file is None:
        return new.links.get(path) == old.links.get(path)
    known = old.files.get(path) or old.fetched.get(path)
    return known is file or known == file
