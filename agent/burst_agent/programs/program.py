"""One program from its start to its end: limits, streams, and what its client is told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import time
from collections.abc import Callable
from typing import Final

from burst_agent.programs.child import Child, Command, Ended, Terminals, descendants_memory_bytes
from burst_agent.programs.streams import Inflow, Outflow
from burst_protocol import programs as p
from burst_protocol.errors import ProgramNotStarted, RemoteProtocolError
from burst_protocol.programs import ProgramMessage

_MERCY_S: Final = 2.0
"""Between a signal that asks it to end and the one that does not ask."""
_LINGER_S: Final = 2.0
"""What was left behind may keep a pipe open for ever where we cannot end it: so long without a
word is the end of the stream."""
_LOOK_S: Final = (0.1, 2.0)
"""How often memory is looked at: at most, and at least."""
_GROWTH_BYTES_PER_S: Final = 2 << 30
"""Nothing fills memory much faster: what is far from its limit need not be looked at soon."""


class Program:
    """`run` tells Running, ProgramOutput, Credit, Stopped and at the end ProgramEnded."""

    def __init__(
        self,
        request: p.StartProgram,
        tell: Callable[[ProgramMessage], None],
        *,
        memory_bytes: int = 0,
    ) -> None:
        """`memory_bytes` holds where the request sets no limit; 0: none."""
        self.request = request
        self._memory_bytes = request.memory_bytes or memory_bytes
        self._tell = tell
        self._child: Child | None = None
        self._inflow: Inflow | None = None
        self._outflows: dict[int, Outflow] = {}
        self._early_input: list[bytes] = []
        self._early_signals: list[int] = []
        self._reason = ""
        self._alone = False

    async def run(self, command: Command, notes: tuple[str, ...]) -> None:
        """ProgramNotStarted if it cannot be; nothing is left of it, however this ends."""
        request = self.request
        terminals = Terminals(request.terminals, request.rows, request.columns)
        started_s = time.monotonic()
        try:
            child = Child(command, terminals, self._stopped)
        except (OSError, ValueError) as error:
            raise ProgramNotStarted(f"{_shown(command)}: {_words(error)}") from error
        self._child = child
        self._connect(child)
        try:
            self._say(p.Running(request.id, notes))
            ended = await self._until_end(child)
            if ended.error:
                why = ended.error.removeprefix(f"execute {_shown(command)}: ")
                raise ProgramNotStarted(f"{_shown(command)}: {why}")
            wall_ms = int((time.monotonic() - started_s) * 1000)
            await self._drain()
        finally:
            try:
                await child.end()
            finally:
                self._close()
        end = p.ProgramEnded(
            request.id, ended.code, ended.signal, self._reason, wall_ms, ended.max_rss_bytes
        )
        self._say(end)

    @property
    def abandoned(self) -> bool:
        """Nobody hears it any more."""
        return self._alone

    # What the client says

    def input(self, data: bytes) -> None:
        """RemoteProtocolError for more than there is room for."""
        if self._inflow is not None:
            self._inflow.put(data)
        elif sum(map(len, self._early_input)) + len(data) <= p.WINDOW_BYTES:
            self._early_input.append(data)
        else:
            raise RemoteProtocolError("more input than there is room for")

    def grant(self, stream: int, size: int) -> None:
        outflow = self._outflows.get(stream)
        if outflow is not None:
            outflow.grant(size)

    def stop_output(self, stream: int) -> None:
        """Its pipe breaks, as at home where the reader has gone."""
        outflow = self._outflows.get(stream)
        if outflow is not None and stream:
            outflow.close()

    def resize(self, rows: int, columns: int) -> None:
        if self._child is not None:
            self._child.resize(rows, columns)

    def signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)
        else:
            self._early_signals.append(number)

    def abandon(self) -> None:
        """Its client is gone: nobody hears it any more, and nobody will write to it."""
        self._alone = True
        for outflow in self._outflows.values():
            outflow.drop()
        if self._inflow is not None:
            self._inflow.put(b"")

    def hang_up(self) -> None:
        """What a terminal says when its line is cut."""
        self.signal(signal.SIGHUP)
        self.signal(signal.SIGCONT)

    # Inside

    def _connect(self, child: Child) -> None:
        request_id = self.request.id

        def took(size: int) -> None:
            self._say(p.Credit(request_id, 0, size))

        def sender(stream: int) -> Callable[[bytes], None]:
            return lambda data: self._say(p.ProgramOutput(request_id, stream, data))

        self._inflow = Inflow(child.stdin, took, end_mark=child.end_mark)
        for stream, fd in child.outputs:
            self._outflows[stream] = Outflow(fd, sender(stream))
        early, self._early_input = self._early_input, []
        for data in early:
            self._inflow.put(data)
        for number in self._early_signals:
            child.signal(number)
        if self._alone:
            self.abandon()

    def _say(self, message: ProgramMessage) -> None:
        if not self._alone:
            self._tell(message)

    def _stopped(self, number: int) -> None:
        self._say(p.Stopped(self.request.id, number))
        if self._alone:
            self.signal(signal.SIGCONT)  # there is nobody who could

    async def _until_end(self, child: Child) -> Ended:
        watching = None
        if self._memory_bytes > 0:
            watching = asyncio.create_task(self._watch_memory(child))
        try:
            async with asyncio.timeout(self.request.wall_s or None):
                return await child.wait()
        except TimeoutError:
            self._reason = self._reason or "wall"
            return await self._ask_to_end(child)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait((watching,))

    async def _ask_to_end(self, child: Child) -> Ended:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MERCY_S):
                return await child.wait()
        child.kill()
        return await child.wait()

    async def _watch_memory(self, child: Child) -> None:
        """A look costs some tens of microseconds per process; what grows faster than that is for
        the kernel."""
        while True:
            left = self._memory_bytes - descendants_memory_bytes(child.pid)
            if left < 0:
                self._reason = "memory"
                child.kill()
                return
            at_most, at_least = _LOOK_S
            await asyncio.sleep(min(at_least, max(at_most, left / _GROWTH_BYTES_PER_S)))

    async def _drain(self) -> None:
        """What is still in the pipes, as fast as the client takes it."""
        while flows := [flow for flow in self._outflows.values() if not flow.ended]:
            moves = sum(flow.moves for flow in flows)
            waiting = [asyncio.ensure_future(flow.done()) for flow in flows]
            await asyncio.wait(waiting, timeout=_LINGER_S)
            for future in waiting:
                future.cancel()
            stuck = moves == sum(flow.moves for flow in flows)
            if stuck and all(not flow.waits_for_credit for flow in flows if not flow.ended):
                return

    def _close(self) -> None:
        for outflow in self._outflows.values():
            outflow.close()
        if self._inflow is not None:
            self._inflow.close()


def _shown(command: Command) -> str:
    return command.program.decode(errors="backslashreplace")


def _words(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({errno.errorcode.get(error.errno, error.errno)})"
    return str(error)
