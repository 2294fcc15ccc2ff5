"""The first build's longest wait, begun first: the digests of a toolchain's large files.

A child process, forked before the daemon has loaded anything: a thread would wait for the
interpreter that imports, and nothing may be forked once there are threads. What it finds are rows
of the stat cache, believed only for files that still are what they were. It guesses which files
those are; a wrong guess costs time and nothing else.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` takes 8 ms
if TYPE_CHECKING:
    from burst_wrapper.index import Row

_FROM_BYTES = 1024 * 1024
_SETTLED_NS = 2_000_000_000
"""As in `statcache`, which has the reason."""
_HASH_BYTES = 32


class EarlyHash:
    """`begin` it, then ask for its `rows` once."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid = pid
        self._pipe = pipe

    @classmethod
    def begin(cls, rustc: str, listener_fd: int) -> EarlyHash | None:
        """None if it cannot be told where that compiler's libraries lie, or nothing can be started.

        `listener_fd` is closed in the child: nobody may find a socket that nobody accepts on.
        """
        real = os.path.realpath(rustc)
        if not os.path.isabs(rustc) or os.path.basename(real) != "rustc":
            return None
        sysroot = os.path.dirname(os.path.dirname(real))
        if not os.path.isdir(os.path.join(sysroot, "lib", "rustlib")):
            return None
        try:
            reading, writing = os.pipe()
        except OSError:
            return None
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(writing)
            return None
        if pid:
            os.close(writing)
            return cls(pid, reading)
        try:
            os.close(listener_fd)
            _hash_all(sysroot, writing)
        finally:
            os._exit(0)

    def rows(self) -> dict[bytes, Row]:
        """Waits for the child's end."""
        with open(self._pipe, "rb") as pipe:
            data = pipe.read()
        os.waitpid(self._pid, 0)
        return parse_rows(data)


def parse_rows(data: bytes) -> dict[bytes, Row]:
    """What the child wrote; as much of it as is whole."""
    rows: dict[bytes, Row] = {}
    at = 0
    while (end := data.find(b"\0", at)) >= 0:
        numbers = data.find(b"\n", end)
        if numbers < 0 or len(data) < numbers + 1 + _HASH_BYTES:
            break
        inode, size, mtime, ctime = map(int, data[end + 1 : numbers].split())
        row = (inode, size, mtime, ctime, data[numbers + 1 : numbers + 1 + _HASH_BYTES])
        rows[data[at:end]] = row
        at = numbers + 1 + _HASH_BYTES
    return rows


def _hash_all(sysroot: str, pipe: int) -> None:
    from time import time_ns  # noqa: PLC0415 - the child's alone

    from blake3 import blake3  # noqa: PLC0415

    # The daemon and its agent load meanwhile; on two cores they need the other one.
    threads = max(1, (os.cpu_count() or 1) - 1)
    for path in large_files(sysroot):
        try:
            began_ns = time_ns()
            before = os.stat(path)
            hasher = blake3(max_threads=threads)
            hasher.update_mmap(path)
            after = os.stat(path)
        except OSError:
            continue
        row = (after.st_ino, after.st_size, after.st_mtime_ns, after.st_ctime_ns)
        if row != (before.st_ino, before.st_size, before.st_mtime_ns, before.st_ctime_ns):
            continue
        if began_ns - after.st_ctime_ns > _SETTLED_NS:
            head = os.fsencode(path) + b"\0%d %d %d %d\n" % row
            os.write(pipe, head + hasher.digest())


def large_files(sysroot: str) -> list[str]:
    """The compiler's libraries and its own target's standard library, the largest first."""
    lib = os.path.join(sysroot, "lib")
    rustlib = os.path.join(lib, "rustlib")
    machine = os.uname().machine + "-"
    shared = [lib, os.path.join(sysroot, "lib64"), os.path.join(lib, machine + "linux-gnu")]
    folders = shared + [
        os.path.join(rustlib, name, "lib")
        for name in os.listdir(rustlib)
        if name.startswith(machine) and "linux" in name
    ]
    found: list[tuple[int, str]] = []
    for folder in folders:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if folder in shared and not entry.name.startswith(("librustc", "libLLVM")):
                continue
            if entry.is_file(follow_symlinks=False):
                size = entry.stat(follow_symlinks=False).st_size
                if size >= _FROM_BYTES:
                    found.append((-size, entry.path))
    return [path for _, path in sorted(found)]
