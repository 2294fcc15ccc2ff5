"""A child process for the event loop, with an end that does not depend on its pipes.

asyncio's own subprocesses report the end of the process, depending on the Python version, only when
all pipes were read to their end, which is never if we killed the child because it says too much.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import IO, Final

from burst_agent.sandbox import Launch

PIECE_BYTES: Final = 64 * 1024
_INSIDE_S: Final = 2.0
"""Patience with an end from the inside, before all is killed from the outside."""


class Process:
    """Started from the calling thread, which must be the main one: PR_SET_PDEATHSIG is about the
    thread that made the child. `stdout` and `stderr` exist after `connect`."""

    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._popen = subprocess.Popen(
            launch.argv,
            env=dict(launch.env),
            cwd=launch.cwd,
            pass_fds=launch.pass_fds,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._transports: list[asyncio.ReadTransport] = []
        self._exited = asyncio.ensure_future(exited(self._popen))

    async def connect(self) -> None:
        self.stdout = await self._stream(self._popen.stdout)
        self.stderr = await self._stream(self._popen.stderr)

    async def _stream(self, pipe: IO[bytes] | None) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(PIECE_BYTES, loop)
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe
        )
        self._transports.append(transport)
        return reader

    async def wait(self) -> int:
        """Exit status, or the negative signal. May be cancelled, and asked again."""
        return await asyncio.shield(self._exited)

    async def end(self) -> None:
        """Kills what is left of it; it is gone when this returns, even if cancelled meanwhile."""
        running = not self._exited.done()
        try:
            if running and self._launch.kill_inside(self._popen.pid):
                await asyncio.wait((self._exited,), timeout=_INSIDE_S)
        finally:
            await self._end()

    async def _end(self) -> None:
        self._launch.kill(self._popen.pid)
        try:
            await self.wait()
        except asyncio.CancelledError:
            await asyncio.wait((self._exited,))
            raise
        finally:
            for transport in self._transports:
                transport.close()
            for pipe in (self._popen.stdout, self._popen.stderr):
                if pipe is not None:
                    pipe.close()


async def exited(popen: subprocess.Popen[bytes]) -> int:
    """Waits for a child without holding up the loop; exit status, or the negative signal."""
    try:
        pidfd = os.pidfd_open(popen.pid)
    except OSError:  # Linux before 5.3
        return await asyncio.to_thread(popen.wait)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return popen.wait()
