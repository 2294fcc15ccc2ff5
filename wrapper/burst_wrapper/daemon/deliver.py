"""From blobs to files in the target directory, and from stored lines to cargo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

from burst_protocol.action import OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DigestMismatch
from burst_wrapper import depinfo, stubs
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.outputs import Placed, Placer, discard
from burst_wrapper.rustc_json import relocate_artifact
from burst_wrapper.statcache import StatCache

_IN_THREAD_BYTES: Final = 2 * 1024 * 1024
"""A copy of less is done before a thread would have woken up."""


class Delivery:
    """The outputs of one unit: one time stamp for all, each placed once, renamed by the wrapper."""

    def __init__(
        self, plan: Plan, client: Client, placer: Placer, stats: StatCache, scratch: bytes
    ) -> None:
        self._plan = plan
        self._client = client
        self._placer = placer
        self._stats = stats
        self._scratch = scratch
        self._mtime_ns = 0
        self.before_rename: Callable[[OutputFile], None] | None = None
        """Told of each output while nobody can depend on it yet."""
        self._waiting: dict[bytes, Placed] = {}
        self.delivered: dict[bytes, Digest] = {}
        """Paths below the out-dir that are in place, with the digest of what the agent stored."""
        self.placed_bytes = 0

    async def place(
        self, output: OutputFile, blob: bytes, origin: bytes, *, stub: bool = False
    ) -> None:
        """Put a blob beside its final name. `origin` is the out-dir of the run that made it.

        `stub`: the blob is not here, and a file that says so takes its place.

        DigestMismatch if dependents may already use other metadata, which an earlier run made.
        """
        known = self.delivered.get(output.path)
        if known == output.digest:
            return
        if known is not None and output.path.endswith(b".rmeta"):
            raise DigestMismatch(f"{os.fsdecode(output.path)} came out different in a second run")
        if self._mtime_ns == 0:
            self._mtime_ns = time.time_ns()
        final = os.path.join(self._plan.out_dir, output.path)
        if b"/" in output.path:
            self._make_folders(os.path.dirname(output.path))
        relocated = origin != self._plan.out_dir and output.path.endswith(b".d")
        if stub or relocated:
            if stub:
                blob, digest = self._written(stubs.text(output.digest))
            else:
                blob, digest = self._relocated(blob, output.digest, origin)
            try:
                placed = await self._copied(output, blob, digest, final)
            finally:
                os.unlink(blob)
        else:
            placed = await self._copied(output, blob, output.digest, final)
        self._waiting[output.path] = placed
        if self.before_rename is not None:
            self.before_rename(output)
        self.delivered[output.path] = output.digest
        self.placed_bytes += placed.digest.size_bytes

    async def _copied(
        self, output: OutputFile, blob: bytes, digest: Digest, final: bytes
    ) -> Placed:
        place = self._placer.place
        arguments = {
            "executable": output.executable,
            "umask": self._plan.umask,
            "mtime_ns": self._mtime_ns,
        }
        if digest.size_bytes > _IN_THREAD_BYTES:
            placing = asyncio.ensure_future(
                asyncio.to_thread(place, blob, digest, final, **arguments)  # type: ignore[arg-type]
            )
            try:
                return await asyncio.shield(placing)
            except asyncio.CancelledError:
                # Whoever waits for our end may rely on it: nothing is written afterwards.
                await asyncio.wait((placing,))
                if placing.exception() is None:
                    discard(placing.result())
                raise
        return place(blob, digest, final, **arguments)  # type: ignore[arg-type]

    def made(self, blob: bytes, since_ns: int) -> None:
        """As `Placer.made`."""
        self._placer.made(blob, since_ns)

    def _make_folders(self, relative: bytes) -> None:
        """Save-temps leaves folders in the out-dir. The out-dir itself is cargo's: never made."""
        path = self._plan.out_dir
        for name in relative.split(b"/"):
            path = os.path.join(path, name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                os.chmod(path, 0o777 & ~self._plan.umask)

    def _relocated(self, blob: bytes, digest: Digest, origin: bytes) -> tuple[bytes, Digest]:
        """Dep-info names its own out-dir; for another target directory it is rewritten."""
        try:
            with open(blob, "rb") as file:
                stored = file.read()
        except OSError as error:
            raise BlobMissing(digest.hex) from error
        if Digest.of(stored) != digest:
            raise DigestMismatch(digest.hex)
        return self._written(depinfo.relocate(stored, origin, self._plan.out_dir))

    def _written(self, text: bytes) -> tuple[bytes, Digest]:
        path = os.path.join(self._scratch, b"text-%d" % id(self))
        with open(path, "wb") as file:
            file.write(text)
        return path, Digest.of(text)

    def commit(self) -> None:
        """Let the wrapper rename what was placed since the last time."""
        if not self._waiting:
            return
        pairs = [(placed.temporary, placed.final) for placed in self._waiting.values()]
        self._client.rename(pairs)
        for placed in self._waiting.values():
            self._stats.wrote(placed.final, placed.info, placed.digest)
        self._waiting.clear()

    def line(self, line: bytes, origin: bytes) -> bytes:
        """A stored stderr line as this caller must see it."""
        if origin == self._plan.out_dir:
            return line
        return relocate_artifact(line, origin, self._plan.out_dir)

    def drop(self) -> None:
        """Remove what was placed and never renamed, as if it had not been."""
        for path, placed in self._waiting.items():
            discard(placed)
            del self.delivered[path]
        self._waiting.clear()
