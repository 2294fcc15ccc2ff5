"""Runs on the remote host: finds or installs the agent's bundle, then becomes the agent.

This file's source is sent there as it is (see bootstrap.py) and run by whatever Python >= 3.11 is
found: standard library only, nothing of burst. stdin and stdout carry frames: one byte kind, four
bytes length (little endian), payload.

    home    Q  json: identity, sizes, arch, agent_args; start at once if it is installed
    stub    W  json: facts about this host, and that the bundle is wanted
    home    T  a piece of the bundle (tar.gz);  an empty piece ends it
    stub    S  json: facts; from the next byte on this is the agent
    stub    E  json: kind, detail; the end

On disk: <cache>/burst/agent/<identity>/ with MANIFEST (written last, before the one rename that
makes the directory visible: "size path" of every file) and LOCK, held shared by every running agent
so that nobody removes the files it runs from.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn

# What only an installation needs is imported there: 40 ms less for every other start.
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator
    from typing import BinaryIO

# In two pieces: a shell that echoes what it runs must not produce the marker.
MARKER: Final = b"\nburst-" + b"stub-1\n"
MANIFEST: Final = "MANIFEST"
LOCK: Final = "LOCK"
UNUSED_S: Final = 14 * 24 * 3600
"""A version nobody started for two weeks is removed by the next one that starts."""
ABANDONED_S: Final = 24 * 3600
_TRY_OUT_S: Final = 60
_SYNCS_AT_ONCE: Final = 32


class StubError(Exception):
    """`kind` tells home which of its errors this is."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def send(out: BinaryIO, kind: bytes, payload: bytes = b"") -> None:
    out.write(kind + len(payload).to_bytes(4, "little") + payload)
    out.flush()


def receive(source: BinaryIO) -> tuple[bytes, bytes]:
    head = source.read(5)
    if len(head) < 5:
        raise StubError("gone", "home hung up")
    size = int.from_bytes(head[1:], "little")
    payload = source.read(size)
    if len(payload) < size:
        raise StubError("gone", "home hung up")
    return head[:1], payload


def cache_root() -> str:
    """Where versions lie: XDG_CACHE_HOME if absolute, else ~/.cache (XDG base directory spec)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "burst", "agent")


def facts(root: str) -> dict[str, object]:
    space = os.statvfs(root)
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "arch": os.uname().machine,
        "kernel": os.uname().release,
        "libc": libc(),
        "home": os.path.expanduser("~"),
        "root": root,
        "free_bytes": space.f_bavail * space.f_frsize,
        "noexec": bool(space.f_flag & os.ST_NOEXEC),
    }


def libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except ValueError:  # musl has no such name
        return ""


def is_complete(directory: str) -> bool:
    """Every file of the manifest is there with its size."""
    try:
        with open(os.path.join(directory, MANIFEST), encoding="utf-8") as file:
            lines = file.read().splitlines()
        for line in lines:
            size, _, name = line.partition(" ")
            if os.stat(os.path.join(directory, name)).st_size != int(size):
                return False
    except (OSError, ValueError):
        return False
    return bool(lines)


def hold(directory: str) -> int | None:
    """Lock a complete version against removal; None if it is not there or not whole."""
    try:
        lock = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    fcntl.flock(lock, fcntl.LOCK_SH)
    # Who removes a version takes the lock first and then renames it away: look again.
    try:
        same = os.path.samestat(os.stat(os.path.join(directory, LOCK)), os.fstat(lock))
    except OSError:
        same = False
    if not same or not is_complete(directory):
        os.close(lock)
        return None
    os.utime(lock)
    os.set_inheritable(lock, True)
    return lock


class Pieces:
    """The T frames as a readable file, for tarfile."""

    def __init__(self, source: BinaryIO, size_bytes: int) -> None:
        self._source = source
        self._left_bytes = size_bytes
        self._piece = b""
        self._ended = False

    def read(self, size: int) -> bytes:
        while not self._piece and not self._ended:
            kind, self._piece = receive(self._source)
            if kind != b"T":
                raise StubError("protocol", f"frame {kind!r} instead of a piece")
            self._ended = not self._piece
            self._left_bytes -= len(self._piece)
            if self._left_bytes < 0:
                raise StubError("protocol", "more bytes than announced")
        data, self._piece = self._piece[:size], self._piece[size:]
        return data

    def finish(self) -> None:
        while not self._ended:
            self._piece = b""
            self.read(1)
        if self._left_bytes:
            raise StubError("protocol", "fewer bytes than announced")


def unpack(pieces: Pieces, directory: str) -> list[tuple[int, str]]:
    """Files and directories only, below `directory` only; everything else is refused."""
    import tarfile  # noqa: PLC0415

    written: list[tuple[int, str]] = []
    with tarfile.open(fileobj=pieces, mode="r|gz") as archive:  # type: ignore[call-overload]
        for member in archive:
            parts = member.name.split("/")
            if not member.name or "\n" in member.name or {"", ".", ".."} & set(parts):
                raise StubError("protocol", f"unsafe name {member.name!r}")
            path = os.path.join(directory, *parts)
            if member.isdir():
                os.mkdir(path, 0o755)
            elif member.isreg():
                copy_out(archive, member, path)
                written.append((member.size, member.name))
            else:
                raise StubError("protocol", f"{member.name!r} is neither file nor directory")
    return written


def copy_out(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    import shutil  # noqa: PLC0415

    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    mode = 0o755 if member.mode & 0o100 else 0o644
    content = archive.extractfile(member)
    if content is None:
        raise StubError("protocol", f"{member.name!r} has no content")
    with open(os.open(path, flags, mode), "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def install(root: str, identity: str, pieces: Pieces) -> None:
    """Unpack beside, try it, rename into place. The first one wins, others throw theirs away."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    final = os.path.join(root, identity)
    temporary = os.path.join(root, f".new-{identity[:16]}-{os.getpid()}-{time.time_ns():x}")
    os.mkdir(temporary, 0o700)
    try:
        written = unpack(pieces, temporary)
        pieces.finish()
        with open(os.path.join(temporary, LOCK), "wb"):
            pass
        # Many at once: a file system writes its journal once for all that wait for it.
        with ThreadPoolExecutor(_SYNCS_AT_ONCE) as pool:
            synced = pool.map(sync, tree(temporary))
            try_out(temporary)
            list(synced)
        write_manifest(temporary, written)
        with one_at_a_time(root):
            if not is_complete(final):  # else somebody else's is as good as ours
                if os.path.lexists(final):
                    discard(root, final)
                os.rename(temporary, final)
        sync(root)
    finally:
        remove(temporary)


def write_manifest(directory: str, written: list[tuple[int, str]]) -> None:
    with open(os.path.join(directory, MANIFEST), "w", encoding="utf-8") as file:
        file.writelines(f"{size} {name}\n" for size, name in written)
        file.flush()
        os.fsync(file.fileno())
    sync(directory)


def tree(top: str) -> list[str]:
    return [
        os.path.join(folder, name) for folder, _, files in os.walk(top) for name in (".", *files)
    ]


def sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def command(directory: str) -> list[str]:
    """The start of every command line; the bundle says which loader and interpreter it holds."""
    with open(os.path.join(directory, "COMMAND"), encoding="utf-8") as file:
        return [line.replace("{dir}", directory) for line in file.read().splitlines()]


def clean_environment() -> dict[str, str]:
    """Ours without what would bend the loader or the interpreter; C: no foreign locale data."""
    bent = ("LD_", "PYTHON", "LC_", "LANG", "GCONV_PATH", "LOCPATH", "GLIBC_TUNABLES", "MALLOC_")
    names = (name for name in os.environ if not name.startswith(bent))
    return {name: os.environ[name] for name in names} | {"LC_ALL": "C"}


def try_out(directory: str) -> None:
    """Whether these programs run here at all: mount options, seccomp, an ancient kernel."""
    import subprocess  # noqa: PLC0415

    argv = [*command(directory), "--version"]
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=clean_environment(),
            timeout=_TRY_OUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StubError("unusable", f"cannot run from {directory}: {error}") from error
    if done.returncode != 0:
        tail = done.stderr.decode("utf-8", "replace").strip()[-600:]
        raise StubError("unusable", f"the agent does not start there ({done.returncode}): {tail}")


def remove(directory: str) -> None:
    import shutil  # noqa: PLC0415

    shutil.rmtree(directory, ignore_errors=True)


def discard(root: str, directory: str) -> None:
    """Rename away, then delete: nobody ever sees half a version under its name."""
    trash = os.path.join(root, f".old-{os.getpid()}-{time.time_ns():x}")
    with contextlib.suppress(OSError):
        os.rename(directory, trash)
        remove(trash)


def tidy(root: str, keep: str) -> None:
    """Remove versions unused for two weeks that nobody runs, and what broken installations left."""
    now = time.time()
    with os.scandir(root) as entries:
        found = [(entry.name, entry.path) for entry in entries if entry.name != keep]
    for name, path in found:
        with contextlib.suppress(OSError):
            if name.startswith("."):
                if now - os.lstat(path).st_mtime > ABANDONED_S:
                    remove(path)
                continue
            with exclusive(os.path.join(path, LOCK)) as free:
                if free and now - os.stat(os.path.join(path, LOCK)).st_mtime > UNUSED_S:
                    discard(root, path)


@contextlib.contextmanager
def one_at_a_time(directory: str) -> Iterator[None]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # NFS cannot lock a directory; without it two may repair one version at the same moment,
        # and one of them has to connect again.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def exclusive(path: str) -> Iterator[bool]:
    lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(lock)


def become_agent(directory: str, agent_args: list[str]) -> NoReturn:
    argv = [*command(directory), *agent_args]
    os.execve(argv[0], argv, clean_environment())  # noqa: S606


def serve(source: BinaryIO, out: BinaryIO) -> NoReturn:
    kind, payload = receive(source)
    if kind != b"Q":
        raise StubError("protocol", f"frame {kind!r} instead of the question")
    question = json.loads(payload)
    identity = str(question["identity"])
    if not identity.isalnum():
        raise StubError("protocol", "that is no identity")
    # A server of burst's own has one place for all its users, and goes with all that is in it.
    shared = str(question.get("root", ""))
    root = shared or cache_root()
    os.makedirs(root, 0o700, exist_ok=True)
    known = facts(root)
    if known["arch"] != question["arch"]:
        raise StubError(
            "arch", f"it is {known['arch']}, the toolchain at home is {question['arch']}"
        )
    if known["noexec"]:
        raise StubError("unusable", f"{root} lies on a file system mounted noexec")
    directory = os.path.join(root, identity)
    lock = hold(directory)
    if lock is None:
        free, needed = int(str(known["free_bytes"])), int(question["unpacked_bytes"])
        if free < needed:
            detail = f"{root} has {free / 1e6:.1f} MB free, {needed / 1e6:.1f} MB are needed"
            raise StubError("space", detail)
        send(out, b"W", json.dumps(known).encode())
        install(root, identity, Pieces(source, int(question["size_bytes"])))
        lock = hold(directory)
    if lock is None:
        raise StubError("unusable", f"{directory} does not stay as it was installed")
    if not shared:
        with contextlib.suppress(OSError):
            tidy(root, identity)
    cache = os.path.dirname(os.path.dirname(root))
    args = [str(arg).replace("{cache}", cache) for arg in question["agent_args"]]
    send(out, b"S", json.dumps(known).encode())
    become_agent(directory, args)


def main() -> NoReturn:
    source, out = sys.stdin.buffer, sys.stdout.buffer
    os.umask(0o022)
    out.write(MARKER)
    out.flush()
    try:
        serve(source, out)
    except StubError as error:
        kind, detail = error.kind, error.detail
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind, detail = "space" if full else "unusable", str(error)
    except Exception as error:
        kind, detail = "bug", f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        send(out, b"E", json.dumps({"kind": kind, "detail": detail}).encode())
    sys.exit(1)


if __name__ == "__main__":
    main()
