"""Trees from the CAS as folders: `root/trees/<hex>`, shared by all actions that show them.

Files are hard links to blobs (executables to their 0555 twins), every mtime is the fixed one. A
tree is built under a temporary name and renamed, so what stands in `trees` is complete. Sharing is
for trees that many actions show (toolchains, registry packages); `lay_out` builds a private one
anywhere on the store's filesystem.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import Final

from burst_agent import diskfile, treedirs
from burst_agent.store import BlobStore, blob_missing
from burst_agent.treedirs import TreeLease
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, RemoteProtocolError
from burst_protocol.tree import Directory, valid_name

# While a tree counts as known complete its blobs are not looked at, hence not marked as used: the
# eviction keeps everything used in this time, see `evict`.
KNOWN_COMPLETE_S: Final = 1800
_KNOWN_MAX: Final = 100_000
# Bounds for a hostile or broken tree; a rustup toolchain has about 10 levels and 500 files.
_MAX_DEPTH: Final = 256
_MAX_ENTRIES: Final = 2_000_000


class Materialiser:
    """Lays trees out and knows which are complete. Safe for threads and several processes."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._known: dict[Digest, int] = {}
        self._known_generation = -1
        self._known_lock = threading.Lock()
        self._build_lock = threading.Lock()

    def missing_in_tree(self, digest: Digest) -> list[Digest]:
        """Everything below (and with) this directory that the store lacks, each once.

        What lies below a missing Directory blob cannot be known; ask again when it is here.
        RemoteProtocolError if a blob that should be a Directory is none.
        """
        # Read before the walk: what is removed during it makes this walk's answer stale.
        generation = self._store.root.generation
        # Wall clock, like every last use: the monotonic one stands still while a laptop sleeps.
        now_ns = self._store.root.now_ns()
        with self._known_lock:
            if generation != self._known_generation or len(self._known) > _KNOWN_MAX:
                self._known = {}
                self._known_generation = generation
            known = self._known
        fresh: list[Digest] = []
        walked: set[Digest] = {digest}
        files: dict[Digest, None] = {}
        missing: dict[Digest, None] = {}
        pending = [digest]
        while pending:
            folder = pending.pop()
            known_ns = known.get(folder)
            if known_ns is not None and abs(now_ns - known_ns) < KNOWN_COMPLETE_S * 10**9:
                continue
            try:
                directory = self._read(folder)
            except BlobMissing:
                missing[folder] = None
                continue
            fresh.append(folder)
            files.update((node.digest, None) for node in directory.files)
            for child in directory.directories:
                if child.digest not in walked:
                    walked.add(child.digest)
                    pending.append(child.digest)
        missing.update((absent, None) for absent in self._store.missing(files))
        if not missing:
            # Not the subtrees that were known already: nobody has looked at their blobs. If another
            # thread met a new generation meanwhile, this goes into a dictionary nobody reads.
            known.update(dict.fromkeys(fresh, now_ns))
        return list(missing)

    def lease(self, digest: Digest) -> TreeLease:
        """The tree as a folder, laid out now if need be; it stays until the lease is closed.

        BlobMissing with all missing digests as fact `digests`; DiskFull; RemoteProtocolError.
        """
        while True:
            found = treedirs.lease(self._store.root, digest)
            if found is not None and treedirs.touched(found.path):
                # Blobs are written to by nobody: all of it is looked at again and laid out anew.
                found.close()
                treedirs.retire(self._store.root, found.path, even_in_use=True)
                self._store.root.removed_something()
                continue
            if found is not None:
                if found.rested:  # else its Directory blobs, which it has no links to, look unused
                    self.missing_in_tree(digest)
                return found
            with self._build_lock:
                if not os.path.isdir(treedirs.tree_path(self._store.root, digest)):
                    self._build(digest)

    def lay_out(self, digest: Digest, target: bytes) -> None:
        """Builds the tree at `target`, which must not exist, on the store's filesystem.

        Errors as of `lease`; after one, whatever was built is removed.
        """
        absent = self.missing_in_tree(digest)
        if absent:
            raise blob_missing(absent)
        try:
            with diskfile.disk_errors("laying out a tree"):
                self._fill(digest, target)
        except BaseException as error:
            if not isinstance(error, FileExistsError):
                diskfile.remove_tree(target)
            if isinstance(error, BlobMissing):
                with self._known_lock:
                    self._known = {}  # evicted since we looked: name all that is missing
                raise blob_missing(self.missing_in_tree(digest) or [digest]) from error
            raise

    def _build(self, digest: Digest) -> None:
        root = self._store.root
        temp = root.temp_path()
        self.lay_out(digest, temp)
        try:
            os.rename(temp, treedirs.tree_path(root, digest))
        except OSError as error:
            diskfile.remove_tree(temp)
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise

    def _read(self, digest: Digest) -> Directory:
        return Directory.decode(self._store.read(digest))

    def _fill(self, digest: Digest, target: bytes) -> None:
        entries = 0
        made: list[bytes] = []
        pending = [(digest, target, 0)]
        while pending:
            folder, path, depth = pending.pop()
            directory = self._read(folder)
            names = [node.name for node in directory.files]
            names += [node.name for node in directory.directories]
            names += [node.name for node in directory.symlinks]
            entries += len(names)
            if depth > _MAX_DEPTH or entries > _MAX_ENTRIES:
                raise RemoteProtocolError("a tree with too many entries or levels")
            # Checked by the decoder too; a name becomes a path here, so it is checked here.
            if not all(map(valid_name, names)):
                raise RemoteProtocolError("a directory with impossible names")
            os.mkdir(path, 0o755)
            made.append(path)
            for file in directory.files:
                self._store.link(
                    file.digest, b"%s/%s" % (path, file.name), executable=file.executable
                )
            for symlink in directory.symlinks:
                link = b"%s/%s" % (path, symlink.name)
                os.symlink(symlink.target, link)
                os.utime(
                    link,
                    ns=(diskfile.FIXED_MTIME_NS, diskfile.FIXED_MTIME_NS),
                    follow_symlinks=False,
                )
            pending += [
                (child.digest, b"%s/%s" % (path, child.name), depth + 1)
                for child in directory.directories
            ]
        now_ns = self._store.root.now_ns()
        for path in reversed(made):
            os.utime(path, ns=(now_ns, diskfile.FIXED_MTIME_NS))
            os.chmod(path, diskfile.FOLDER_MODE)  # whatever the umask
