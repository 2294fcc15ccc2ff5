"""The embedded agent: our child over a socket pair, started when needed, again if it dies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from collections import deque
from typing import Final

from burst_lifecycle.setting_keys import default
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import AgentGone, BurstError, DiskFull, LinkLost
from burst_wrapper.daemon.agent_process import AgentProcess, Place
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.link import AgentLink, ended
from burst_wrapper.daemon.tools import Tools

_DEATHS: Final = 3
_WINDOW_S: Final = 60.0


def identity(path: bytes) -> tuple[int, int] | None:
    """Which folder this is, if it is there."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return info.st_dev, info.st_ino


def _failure(error: OSError | BurstError, said: str) -> BurstError:
    """Why there is no agent, in its own words if it had any."""
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return DiskFull(str(error)) if full else AgentGone(str(error))
    if not isinstance(error, AgentGone):
        return error
    return ended(said or error.detail)


class SocketStream:
    """The daemon's end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, limit: int) -> bytes:
        try:
            return await self._reader.read(limit)
        except (ConnectionError, OSError):
            return b""

    def write(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


_KEPT: Final = 256
"""Results of which a dying agent may not have heard."""


class Embedded:
    """Keeps one agent. `get` fails with the reason while it cannot be had."""

    def __init__(self, where: Place, tools: Tools, started: AgentProcess | None = None) -> None:
        self._where = where
        self._tools = tools
        self._executor: Executor | None = None
        self._process = started
        """Without an executor: nobody has spoken to it yet."""
        self._lock = asyncio.Lock()
        self._deaths: list[float] = []
        self._failure: BurstError | None = None
        """Why the last start failed."""
        self._place: tuple[int, int] | None = None
        """Which folder its store was at its start."""
        self._kept: deque[m.PutResult] = deque(maxlen=_KEPT)
        self.slots = 0
        self.store_bytes = 0
        self.silence_s: float = default("silence_s")
        """As for hosts; a local agent is silent only when it hangs or waits for a busy disk."""

    async def get(self) -> Executor:
        """The running agent; BurstError if there is none and none can be started now."""
        if (executor := self.current) is not None:
            return executor
        async with self._lock:
            if (executor := self.current) is not None:
                return executor
            now_s = time.monotonic()
            self._deaths = [t for t in self._deaths if now_s - t < _WINDOW_S]
            if self._executor is not None:
                self._deaths.append(now_s)
                await self._end()
            if len(self._deaths) >= _DEATHS:
                if self._failure is not None:
                    raise self._failure
                raise AgentGone(f"it ended {len(self._deaths)} times within a minute")
            try:
                self._executor = await self._start()
            except (OSError, BurstError) as error:
                self._deaths.append(now_s)
                process = self._process
                await self._end()
                self._failure = _failure(error, "" if process is None else process.said())
                raise self._failure from error
            self._failure = None
            self._place = identity(self._where.root)
            return self._executor

    @property
    def current(self) -> Executor | None:
        """The running agent, if there is one: nothing is started."""
        executor = self._executor
        return executor if executor is not None and executor.usable else None

    @property
    def lost(self) -> bool:
        """Whether the running agent's store was removed or replaced."""
        return self._place is not None and self._place != identity(self._where.root)

    async def _start(self) -> Executor:
        if self._process is None:
            self._process = AgentProcess.start(self._where, self.slots, self.store_bytes)
        reader, writer = await asyncio.open_connection(
            sock=self._process.stream, limit=4 * 1024 * 1024
        )
        link = AgentLink(
            SocketStream(reader, writer),
            "embedded",
            silence_s=self.silence_s,
            local=True,
            busy=self._process.busy,
        )
        try:
            await asyncio.wait_for(link.start(self._bring_tools), 60)
        except (TimeoutError, BurstError):
            await link.close()
            raise
        for message in self._kept:
            link.send(message)
        return Executor("embedded", link, None)

    def keep(self, executor: Executor, accept: m.Accept) -> None:
        """A result of that agent is to stay. If the agent has died (which is not always known yet),
        its successor has the blobs, and is told what they mean."""
        message = m.PutResult(accept.weak_key, accept.input_list, accept.strong_key, accept.result)
        self._kept.append(message)
        if executor.usable:
            executor.link.send(accept)
        elif (current := self.current) is not None:
            current.link.send(message)

    async def _bring_tools(self, link: AgentLink) -> m.UseTools:
        tools = await self._tools.get()
        digests: list[Digest | None] = []
        for path in (tools.sandbox, tools.observer):
            if path is None:
                digests.append(None)
                continue
            name = os.fsencode(path)
            digest = Digest.of_file(name)
            link.send(m.PutFiles(0, ((digest, name),)))
            digests.append(digest)
        return m.UseTools(link.new_id(), digests[0], digests[1])

    async def _end(self) -> None:
        self._place = None
        hangs = False
        if self._executor is not None:
            hangs = isinstance(self._executor.link.gone, LinkLost)
            await self._executor.link.close()
            self._executor = None
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.end, at_once=hangs)

    async def close(self) -> None:
        async with self._lock:
            await self._end()
