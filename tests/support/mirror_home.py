"""A developer's workspace and a real agent in another process, as a daemon would hold them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from burst_protocol import messages as m
from burst_wrapper.daemon.embedded import SocketStream
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.link import AgentLink
from burst_wrapper.daemon.spool import Spool
from burst_wrapper.index import Index
from burst_wrapper.mirror.mirror import FetchedBack, Mirror, Synced
from burst_wrapper.mirror.snapshot import Project
from burst_wrapper.statcache import StatCache
from mirrors import Entry, L, Tree, X, read_tree

_OLD_S = 10_000_000
_SILENCE_S = 600


async def _no_tools(link: AgentLink) -> m.UseTools:
    return m.UseTools(link.new_id(), None, None)


@contextlib.asynccontextmanager
async def remote_agent(root: Path, spool: Path, *options: str) -> AsyncIterator[Executor]:
    """One that believes it is on another machine."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "burst_agent.main",
            "--fd", str(theirs.fileno()), "--root", str(root), *options,
            pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    reader, writer = await asyncio.open_connection(sock=ours)
    link = AgentLink(SocketStream(reader, writer), "there", silence_s=_SILENCE_S, local=False)
    try:
        await link.start(_no_tools)
        yield Executor("there", link, Spool(os.fsencode(spool)))
    finally:
        await link.close()
        await asyncio.wait_for(process.wait(), 60)


def age(path: Path) -> None:
    """As if it had been written long ago: what is young is not believed. The ctime stays."""
    info = path.lstat()
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns - _OLD_S * 10**9), follow_symlinks=False)


@attrs.define
class Workspace:
    """`top` is the workspace; the mirror of it lies below `base`."""

    base: Path
    executor: Executor
    mirror: Mirror
    environ: dict[bytes, bytes]
    changes: dict[str, Any] = attrs.field(factory=dict)
    """Of the project."""

    @property
    def top(self) -> Path:
        return self.base / "home/ws"

    @property
    def there(self) -> Path:
        """Where the workspace lies in the mirror."""
        return self.there_of(self.top)

    def there_of(self, path: Path) -> Path:
        files = self.base / "agent/mirrors" / self.mirror.name / "files"
        return files / str(path).lstrip("/")

    @property
    def project(self) -> Project:
        top = os.fsencode(self.top)
        project = Project(top, top + b"/target", environ=self.environ)
        return attrs.evolve(project, **self.changes)

    def relative(self, paths: Iterable[bytes]) -> list[str]:
        return sorted(os.path.relpath(os.fsdecode(path), self.top) for path in paths)

    def write(self, tree: Tree, top: Path | None = None) -> None:
        put(top or self.top, tree)

    async def sync(self) -> Synced:
        return await self.mirror.sync(self.executor, self.project)

    async def fetch(self, *patterns: str) -> FetchedBack:
        return await self.mirror.fetch(self.executor, self.project, patterns or ("*",))

    def tree(self) -> dict[bytes, Entry]:
        """What the mirror has of the workspace; folders are left out."""
        return without_folders(read_tree(os.fsencode(self.there)))


def without_folders(tree: Tree) -> dict[bytes, Entry]:
    return {path: entry for path, entry in tree.items() if entry is not None}


def put(top: Path, tree: Tree) -> None:
    """Writes files, links and folders below `top`."""
    for name, entry in tree.items():
        path = os.path.join(os.fsencode(top), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if entry is None:
            os.makedirs(path, exist_ok=True)
        elif isinstance(entry, L):
            os.symlink(entry.target, path)
        else:
            data = entry.data if isinstance(entry, X) else entry
            Path(os.fsdecode(path)).write_bytes(data)
            os.chmod(path, 0o755 if isinstance(entry, X) else 0o644)


@contextlib.asynccontextmanager
async def workspace(
    base: Path, *, observed: Callable[[], list[bytes]] = list
) -> AsyncIterator[Workspace]:
    """A workspace (empty) and an agent."""
    (base / "home/ws").mkdir(parents=True)
    environ = {b"HOME": os.fsencode(base / "home"), b"PATH": os.environb[b"PATH"]}
    index = Index(os.fsencode(base / "home.db"))
    stats = StatCache(index)
    async with remote_agent(base / "agent", base / "spool") as executor:
        yield Workspace(base, executor, Mirror("ws-0", stats, observed), environ)
    index.close()
