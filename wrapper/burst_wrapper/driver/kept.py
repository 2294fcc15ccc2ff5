"""Files of a folder that programs keep on an agent, brought home: what a cargo there has built.

They go where they are wanted as they are, over what lies there: a target directory is cargo's.
What is there already, byte for byte, is not sent.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable
from typing import Final

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, EnvironmentProblem, RemoteProtocolError
from burst_wrapper.daemon.attempt import error_of
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.home_wire import KeptRequest
from burst_wrapper.mirror.fetch import folder_of, write

_AT_ONCE: Final = 6
_PREFIX: Final = "driver/"


async def fetch_kept(
    executor: Executor,
    name: str,
    wanted: KeptRequest,
    digest_of: Callable[[bytes], Digest | None],
) -> tuple[bytes, ...]:
    """Absolute paths of what was written; the folder for it is made if need be. `digest_of`: of a
    file here, by memory.

    DiskFull of either side, DigestMismatch, EnvironmentProblem, what ends a link.
    """
    link = executor.link
    question = p.AskChanges(link.new_id(), _PREFIX + name, (b"/",), wanted.patterns)
    answer = await link.ask(question)
    if isinstance(answer, m.Failed):
        raise error_of(answer, link.name)
    if not isinstance(answer, p.Changes):
        raise RemoteProtocolError(f"{type(answer).__name__} is no answer")
    into = wanted.into
    _make(into, wanted.umask)
    turn = asyncio.Semaphore(_AT_ONCE)
    prefix = wanted.strip.rstrip(b"/") + b"/"

    async def one(file: p.ChangedFile) -> bytes | None:
        path = os.path.join(into, file.path[len(prefix) :])
        async with turn:
            if await asyncio.to_thread(_is_here, path, file, digest_of):
                return None
            await _fetch_one(executor, file, path, wanted)
        return path

    # Of two files with the same bytes the second one would miss the spool's copy: by digest.
    by_digest: dict[Digest, list[p.ChangedFile]] = {}
    for file in answer.files:
        if _is_below(file.path, prefix):
            by_digest.setdefault(file.digest, []).append(file)

    async def several(files: list[p.ChangedFile]) -> list[bytes | None]:
        return [await one(file) for file in files]

    parts = await asyncio.gather(*(several(files) for files in by_digest.values()))
    written = [path for part in parts for path in part]
    return tuple(path for path in written if path is not None)


def _make(folder: bytes, umask: int) -> None:
    """With all above it."""
    if os.path.isdir(folder):
        return
    _make(os.path.dirname(folder), umask)
    os.mkdir(folder)
    os.chmod(folder, 0o777 & ~umask)  # the daemon's own umask is strict


def _is_below(path: bytes, prefix: bytes) -> bool:
    return path.startswith(prefix) and os.path.normpath(path) == path and b"\0" not in path


def _is_here(path: bytes, file: p.ChangedFile, digest_of: Callable[[bytes], Digest | None]) -> bool:
    try:
        info = os.lstat(path)
    except OSError:
        return False
    if not stat.S_ISREG(info.st_mode) or bool(info.st_mode & 0o100) != file.executable:
        return False
    return info.st_size == file.digest.size_bytes and digest_of(path) == file.digest


async def _fetch_one(
    executor: Executor, file: p.ChangedFile, path: bytes, wanted: KeptRequest
) -> None:
    spool = executor.spool
    if spool is None:
        raise BlobMissing(file.digest.hex)  # it is at home: nothing is kept elsewhere
    try:
        await executor.fetch(file.digest)
        await asyncio.to_thread(_place, spool.path(file.digest), file, path, wanted)
    except OSError as error:
        raise EnvironmentProblem(f"{os.fsdecode(path)}: {error.strerror or error}") from error
    finally:
        spool.drop([file.digest])


def _place(blob: bytes, file: p.ChangedFile, path: bytes, wanted: KeptRequest) -> None:
    umask = wanted.umask
    with folder_of(path, wanted.into, umask) as folder:
        write(blob, file, folder, os.path.basename(path), lambda: False, umask=umask)
