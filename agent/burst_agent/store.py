"""The content-addressed store: one read-only file per blob, named by its digest.

Promises, each with a test in `tests/faults/test_store_faults.py`:

- A name is only ever given to a complete, verified file (temporary file, then rename), so a kill
  at any instant leaves blobs or nothing; temporary files of the dead go at the next start.
- Sizes are compared on every look-up, hashes after a crash of the machine (see `root`) and on every
  `read`; what fails is removed and counted, and for the caller simply missing.
- Readers take no lock, and survive an eviction at any point: BlobMissing at worst.

Blobs are 0444. An executable has a 0555 twin with its own inode, made on demand: input roots are
laid out by hard links, and a mode belongs to the inode. The mtime is fixed, because the sandbox
shows it and no digest covers it; the atime is the last use, set at most once an hour per blob.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, Self

from blake3 import blake3

from burst_agent import diskfile, treedirs
from burst_agent.root import StoreRoot
from burst_protocol import layout
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DigestMismatch, LocalProtocolError

# A hard link fails when the inode has too many (ext4: 65000), or the filesystem has none.
_NO_LINK: Final = frozenset(
    {errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
)


def blob_missing(digests: Iterable[Digest]) -> BlobMissing:
    """The error with all missing digests as its fact `digests`."""
    absent = tuple(digests)
    return BlobMissing(", ".join(map(str, absent[:8])), digests=absent)


class BlobStore:
    """Blobs on disk below `root`. Safe for threads and for several processes at once."""

    def __init__(
        self,
        root: bytes,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        boot_id: bytes | None = None,
    ) -> None:
        self.root = StoreRoot(root, now_ns=now_ns, boot_id=boot_id)
        self._proved: set[tuple[bytes, bool]] = set()
        self._twin_lock = threading.Lock()

    def close(self) -> None:
        """Removes our temporary files; the last writer also syncs, which can take seconds."""
        self.root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    # Reading

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here, as far as its size tells; a yes counts as a use."""
        return self._present(digest, executable=False) is not None

    def missing(self, digests: Iterable[Digest]) -> list[Digest]:
        """Those that are not here, each once, in the order asked."""
        return [digest for digest in dict.fromkeys(digests) if not self.has(digest)]

    def path(self, digest: Digest, *, executable: bool = False) -> bytes:
        """Path of the blob, or of its 0555 twin (made now if need be). BlobMissing, DiskFull.

        The path can vanish by eviction later; who needs the file for longer opens or links it.
        """
        found = self._present(digest, executable=executable)
        if found is None and executable and self.has(digest):
            found = self._make_twin(digest)
        if found is None:
            raise blob_missing([digest])
        return found

    def read(self, digest: Digest) -> bytes:
        """The blob's bytes, verified. BlobMissing if it is not here or was damaged."""
        with contextlib.suppress(FileNotFoundError), open(self.path(digest), "rb") as file:
            data = file.read()
            if Digest.of(data) == digest:
                return data
            self.quarantine(digest)
        raise blob_missing([digest])

    def link(self, digest: Digest, target: bytes, *, executable: bool = False) -> None:
        """Makes `target` a hard link to the blob, or a copy where links do not work.

        BlobMissing, DiskFull, FileExistsError. `target` should be on the store's filesystem.
        """
        source = self.path(digest, executable=executable)
        with diskfile.disk_errors("laying out an input root"):
            try:
                os.link(source, target)
            except FileNotFoundError as error:
                if os.path.exists(source):
                    raise  # it is the target's folder that is not there
                raise blob_missing([digest]) from error
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                self._copy_out(source, target, executable=executable)

    def verify(self, digest: Digest) -> bool:
        """Hashes the blob (and its twin); a damaged one is quarantined. False if not here then."""
        sound = False
        for executable in (True, False):
            path = layout.blob_path(self.root.path, digest, executable=executable)
            try:
                fd = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                sound = False
                continue
            try:
                sound = diskfile.digest_of_fd(fd) == digest
            except OSError:  # a bad sector
                sound = False
            finally:
                os.close(fd)
            if not sound:
                self._remove_damaged(digest, executable=executable)
        return sound

    def quarantine(self, digest: Digest) -> None:
        """Removes a blob that proved damaged, with its twin and the trees that show it; counts."""
        for executable in (True, False):
            self._remove_damaged(digest, executable=executable)

    # Writing

    def put_bytes(self, data: bytes | memoryview, digest: Digest | None = None) -> Digest:
        """Stores `data`. DiskFull; DigestMismatch if it is not what `digest` says."""
        actual = Digest.of(data)
        _expect(digest, actual)
        if self.has(actual):
            return actual
        with self._temp_file() as (temp, fd):
            diskfile.write_all(fd, data)
            self._publish(temp, fd, actual)
        return actual

    def put_file(self, path: bytes, digest: Digest | None = None, *, move: bool = False) -> Digest:
        """Stores a regular file's bytes. DiskFull, DigestMismatch, OSError for the source.

        With `move` the source is gone afterwards; its inode becomes the blob where that is safe: on
        the same filesystem, ours, with no second name through which it could still be written.
        """
        source = diskfile.open_regular(path)
        try:
            if digest is not None and self.has(digest):
                stored = digest
            elif move and self._may_adopt(source):
                return self._adopt(path, source, digest)
            else:
                stored = self._put_copy(source, digest)
        finally:
            os.close(source)
        if move:
            os.unlink(path)
        return stored

    def open_writer(self, digest: Digest) -> BlobWriter:
        """For a blob that arrives in pieces; see BlobWriter."""
        return BlobWriter(self, digest)

    def remove(self, digest: Digest, *, unless_used_after_ns: int | None = None) -> int:
        """For eviction: removes blob and twin unless used since. Bytes freed (disk blocks)."""
        paths = [
            layout.blob_path(self.root.path, digest, executable=executable)
            for executable in (True, False)
        ]
        sizes: list[tuple[bytes, int]] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(path)
                if unless_used_after_ns is not None and status.st_atime_ns > unless_used_after_ns:
                    return 0
                sizes.append((path, diskfile.disk_bytes(status.st_size)))
        return sum(size for path, size in sizes if diskfile.remove_file(path))

    # Inside

    def _present(self, digest: Digest, *, executable: bool) -> bytes | None:
        path = layout.blob_path(self.root.path, digest, executable=executable)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        # A crash can leave a file short or empty. Not removed here: perhaps it is the digest we
        # were given that has the wrong size. A new copy replaces it in any case.
        if status.st_size != digest.size_bytes:
            return None
        now_ns = self.root.now_ns()
        # Written to since it got its name, or, by its reader, marked as doubtful.
        touched = status.st_mtime_ns != diskfile.FIXED_MTIME_NS
        suspect = status.st_ctime_ns < self.root.suspect_before_ns
        if (
            touched or (suspect and (digest.hash, executable) not in self._proved)
        ) and not self._prove(path, digest, executable=executable):
            return None
        if abs(now_ns - status.st_atime_ns) > diskfile.TOUCH_INTERVAL_NS:
            # Not ours (a foreign owner) or just evicted: both harmless.
            with contextlib.suppress(OSError):
                os.utime(path, ns=(now_ns, diskfile.FIXED_MTIME_NS))
        return path

    def _prove(self, path: bytes, digest: Digest, *, executable: bool) -> bool:
        """First use of a blob that a machine crash or somebody else may have spoilt."""
        try:
            fd = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            sound = diskfile.digest_of_fd(fd) == digest
        except OSError:
            sound = False
        finally:
            os.close(fd)
        if not sound:
            self._remove_damaged(digest, executable=executable)
            return False
        self._proved.add((digest.hash, executable))
        with contextlib.suppress(OSError):  # the new ctime makes the proof outlive this process
            os.utime(path, ns=(self.root.now_ns(), diskfile.FIXED_MTIME_NS))
        return True

    def _remove_damaged(self, digest: Digest, *, executable: bool) -> None:
        path = layout.blob_path(self.root.path, digest, executable=executable)
        try:
            status = os.stat(path)
            os.unlink(path)
        except FileNotFoundError:
            return
        self.root.counts.damaged_blobs += 1
        self.root.account(-diskfile.disk_bytes(status.st_size), -1)
        if status.st_nlink > 1:
            treedirs.drop_showing(self.root, status.st_ino)
        self.root.removed_something()

    def _make_twin(self, digest: Digest) -> bytes:
        with self._twin_lock:  # many actions start with the same compiler
            found = self._present(digest, executable=True)
            if found is not None:
                return found
            try:
                source = os.open(self.path(digest), os.O_RDONLY)
            except FileNotFoundError:
                raise blob_missing([digest]) from None
            try:
                self._put_copy(source, digest, executable=True)
            except DigestMismatch:
                self.quarantine(digest)
                raise blob_missing([digest]) from None
            finally:
                os.close(source)
        return layout.blob_path(self.root.path, digest, executable=True)

    def _put_copy(self, source: int, digest: Digest | None, *, executable: bool = False) -> Digest:
        # The copy is hashed, not the source: that one may be written while we read it.
        with self._temp_file() as (temp, fd):
            diskfile.copy_bytes(source, fd)
            actual = diskfile.digest_of_fd(fd)
            _expect(digest, actual)
            if not executable and digest is None and self.has(actual):
                diskfile.remove_file(temp)
            else:
                self._publish(temp, fd, actual, executable=executable)
        return actual

    def _copy_out(self, source: bytes, target: bytes, *, executable: bool) -> None:
        reading = os.open(source, os.O_RDONLY)
        try:
            writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                diskfile.copy_bytes(reading, writing)
                self._seal(writing, executable=executable)
            except BaseException:
                diskfile.remove_file(target)
                raise
            finally:
                os.close(writing)
        finally:
            os.close(reading)

    def _may_adopt(self, source: int) -> bool:
        status = os.fstat(source)
        return (
            status.st_dev == os.stat(self.root.path).st_dev
            and status.st_nlink == 1
            and status.st_uid == os.geteuid()
        )

    def _adopt(self, path: bytes, source: int, digest: Digest | None) -> Digest:
        before = os.fstat(source)
        actual = diskfile.digest_of_fd(source)
        _expect(digest, actual)
        if self.has(actual):
            os.unlink(path)
            return actual
        after = os.fstat(source)
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise DigestMismatch(f"{os.fsdecode(path)} changed while it was stored")
        with diskfile.disk_errors("storing a blob"):
            self.root.will_write()
            self._publish(path, source, actual)
        return actual

    def _seal(self, fd: int, *, executable: bool) -> None:
        os.fchmod(fd, diskfile.EXECUTABLE_MODE if executable else diskfile.FILE_MODE)
        os.utime(fd, ns=(self.root.now_ns(), diskfile.FIXED_MTIME_NS))

    def _publish(self, temp: bytes, fd: int, digest: Digest, *, executable: bool = False) -> None:
        """Gives a verified file its name; from here on everybody can see it."""
        self._seal(fd, executable=executable)
        final = layout.blob_path(self.root.path, digest, executable=executable)
        size, files = diskfile.disk_bytes(digest.size_bytes), 1
        with contextlib.suppress(FileNotFoundError):
            size -= diskfile.disk_bytes(os.stat(final).st_size)
            files = 0
        try:
            os.rename(temp, final)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(final), exist_ok=True)
            os.rename(temp, final)
        self.root.account(size, files)

    def _open_temp(self) -> tuple[bytes, int]:
        self.root.will_write()
        temp = self.root.temp_path()
        return temp, os.open(temp, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)

    @contextlib.contextmanager
    def _temp_file(self) -> Iterator[tuple[bytes, int]]:
        with diskfile.disk_errors("storing a blob"):
            temp, fd = self._open_temp()
            try:
                yield temp, fd
            except BaseException:
                diskfile.remove_file(temp)
                raise
            finally:
                os.close(fd)


class BlobWriter:
    """A blob that arrives in pieces; visible only after `commit`, if it has its digest.

    As a context manager it commits at the end of the block and aborts on an exception.
    """

    def __init__(self, store: BlobStore, digest: Digest) -> None:
        self._store = store
        self._digest = digest
        self._hasher = blake3()
        self._rest = digest.size_bytes
        with diskfile.disk_errors("storing a blob"):
            self._temp, self._fd = store._open_temp()
        self._open = True

    def write(self, chunk: bytes | memoryview) -> None:
        """DiskFull; DigestMismatch as soon as there are more bytes than announced."""
        with self._aborting():
            self._rest -= len(chunk)
            if self._rest < 0:
                raise DigestMismatch(f"{self._digest}: more bytes than announced")
            self._hasher.update(chunk)
            diskfile.write_all(self._fd, chunk)

    def commit(self) -> None:
        """Verifies and publishes. DigestMismatch, DiskFull; nothing is left behind by either."""
        with self._aborting():
            actual = Digest(self._hasher.digest(), self._digest.size_bytes - self._rest)
            _expect(self._digest, actual)
            self._store._publish(self._temp, self._fd, actual)
        self._release()

    def abort(self) -> None:
        """Forgets everything; harmless after commit or a second time."""
        if self._open:
            self._release()
            diskfile.remove_file(self._temp)

    def _release(self) -> None:
        self._open = False
        os.close(self._fd)

    @contextlib.contextmanager
    def _aborting(self) -> Iterator[None]:
        if not self._open:
            raise LocalProtocolError("a blob was written to after its end")
        try:
            with diskfile.disk_errors("storing a blob"):
                yield
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()


def _expect(expected: Digest | None, actual: Digest) -> None:
    if expected is not None and expected != actual:
        raise DigestMismatch(f"expected {expected}, got {actual}")
