"""One program of a session on another machine: between its runner here and the agent there.

The runner's three streams, its terminal's size and its signals go there; output, stops and the end
come back. The daemon holds no descriptor of the runner's: bytes come and go over its connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

import attrs

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    BurstError,
    EnvironmentProblem,
    LimitExceeded,
    LinkLost,
    ProgramNotStarted,
    RemoteProtocolError,
)
from burst_wrapper.daemon.attempt import ASKED_IN_VAIN, error_of, unkept
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.peer import Peer
from burst_wrapper.daemon.program_env import drive_environ, program_environ
from burst_wrapper.environ import parse_environ

if TYPE_CHECKING:
    from burst_wrapper.daemon.home_session import HomeSession

VERSION: Final = b"2"
# Frames to the runner; `runner` has the table.
BEGUN: Final = b"B"
STDOUT: Final = b"O"
STDERR: Final = b"E"
TERMINAL: Final = b"T"
CREDIT: Final = b"C"
STOPPED: Final = b"Z"
EXIT: Final = b"X"
HERE: Final = b"L"
FAILURE: Final = b"F"
DETACHED: Final = b"D"
_KINDS: Final = {0: TERMINAL, 1: STDOUT, 2: STDERR}

_AT_HOME: Final = b"programs of this session run on this machine"
_log: Final = logging.getLogger("burst")


@attrs.frozen
class ProgramRequest:
    """What a runner asks for."""

    session: bytes
    cwd: bytes
    argv: tuple[bytes, ...]
    environ: dict[bytes, bytes]
    terminals: int
    rows: int
    columns: int

    @classmethod
    def parse(cls, fields: list[bytes]) -> ProgramRequest:
        """RemoteProtocolError. `fields` without the first one, which says `program`."""
        if len(fields) != 8 or fields[0] != VERSION:
            raise RemoteProtocolError("a runner of another release")
        _, session, cwd, argv, environ, *numbers = fields
        try:
            terminals, rows, columns = (int(number) for number in numbers)
        except ValueError as error:
            raise RemoteProtocolError(f"a runner with odd numbers: {error}") from error
        words = tuple(argv.split(b"\0"))
        return cls(session, cwd, words, parse_environ(environ), terminals & 7, rows, columns)


class Program:
    """`run` drives it to its end, or tells the runner to run it at home."""

    def __init__(self, session: HomeSession, peer: Peer, request: ProgramRequest) -> None:
        self._session = session
        self._peer = peer
        self._request = request
        self._shown = os.fsdecode(request.argv[0])
        self._identity = 0
        self._executor: Executor | None = None
        self._running = False
        self._detached = False
        self._task: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    async def run(self) -> None:
        """Never raises but CancelledError."""
        self._session.tally.begin(self)
        self._task = asyncio.current_task()
        self._session.programs.add(self)
        try:
            await self._run()
        except BurstError as error:
            self._fail(error)
        except OSError as error:
            self._fail(EnvironmentProblem(f"{error.filename or self._shown}: {error.strerror}"))
        finally:
            self.ended.set()
            self._session.programs.discard(self)
            self._session.tally.end(self)

    def end(self) -> None:
        """Nobody wants it any more: it is killed, and so is its runner."""
        if self._task is not None:
            self._peer.send(EXIT, (-signal.SIGKILL).to_bytes(4, "little", signed=True))
            self._task.cancel()

    async def _run(self) -> None:
        preparing = asyncio.ensure_future(self._session.prepared())
        gone = asyncio.ensure_future(self._peer.gone.wait())
        try:
            await asyncio.wait((preparing, gone), return_when=asyncio.FIRST_COMPLETED)
            if not preparing.done():
                return  # killed before it began
            executor = await preparing
        finally:
            gone.cancel()
            preparing.cancel()
        if executor is None:
            self._peer.send(HERE, _AT_HOME)
            return
        self._executor = executor
        await self._start(executor)

    async def _start(self, executor: Executor) -> None:
        link = executor.link
        self._identity = link.new_id()
        queue = link.open_stream(self._identity)
        listening: asyncio.Task[None] | None = None
        ended = False
        try:
            start = await asyncio.to_thread(
                self._session.start_program, self._identity, self._request
            )
            start = attrs.evolve(start, env=self._environ())
            start = await self._session.with_toolchain(start, self._request)
            asked: Counter[Digest] = Counter()
            link.send(start)
            while True:
                message = await self._next(queue, executor)
                if message is None:
                    return
                match message:
                    case m.Missing():
                        asked.update(message.digests)
                        if max(asked[digest] for digest in message.digests) >= ASKED_IN_VAIN:
                            raise unkept(link)
                        sources = self._session.needs.sources()
                        sent = await executor.uploader.send(
                            self._identity, message.digests, sources
                        )
                        self._session.tally.bytes_up += sent
                        link.send(start)
                    case p.Lacking():
                        start = await self._session.needs.with_libraries(start, message)
                        link.send(start)
                    case p.Running():
                        self._begun(message)
                        listening = asyncio.create_task(self._listen(executor))
                    case p.ProgramOutput():
                        await self._output(executor, message)
                    case p.Credit():
                        if message.stream == 0:
                            self._credit(message.size)
                    case p.Stopped():
                        self._peer.send(STOPPED, bytes((message.number & 0xFF,)))
                    case p.ProgramEnded():
                        ended = True
                        self._ended(message)
                        return
                    case m.Failed():
                        ended = True
                        raise error_of(message, link.name)
                    case _:
                        pass
        finally:
            if listening is not None:
                listening.cancel()
            link.close_stream(self._identity)
            if not ended and link.gone is None:
                with contextlib.suppress(BurstError, OSError):
                    link.send(m.Cancel(self._identity))

    async def _next(
        self, queue: asyncio.Queue[m.Message | None], executor: Executor
    ) -> m.Message | None:
        """What the agent says; None when nobody waits for it any more. BurstError: it is gone."""
        if self._detached:
            message = await queue.get()
        else:
            get = asyncio.ensure_future(queue.get())
            gone = asyncio.ensure_future(self._peer.gone.wait())
            try:
                await asyncio.wait((get, gone), return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    return None
                message = get.result()
            finally:
                get.cancel()
                gone.cancel()
        if message is None:
            raise executor.link.gone or LinkLost("it ended", host=executor.name)
        return message

    def _environ(self) -> tuple[tuple[bytes, bytes], ...]:
        request, asked = self._request, self._session.request
        if asked.drives:
            return drive_environ(request.environ)
        return program_environ(
            request.environ,
            dict(asked.environ),
            asked.env,
            terminal=bool(request.terminals),
            target_dir=asked.target_dir,
            workspace_root=asked.workspace_root,
        )

    # -- from there ------------------------------------------------------------------------------

    def _begun(self, message: p.Running) -> None:
        self._running = True
        self._session.tally.programs += 1
        self._session.note(*message.notes)
        self._peer.send(BEGUN)
        self._credit(p.WINDOW_BYTES)
        if self._session.request.detach:
            self._detached = True
            self._session.programs.discard(self)
            self._session.note(f"`{self._shown}` goes on without us, and its output is dropped")
            self._peer.send(DETACHED)

    def _credit(self, size: int) -> None:
        self._peer.send(CREDIT, size.to_bytes(4, "little"))

    async def _output(self, executor: Executor, message: p.ProgramOutput) -> None:
        size = len(message.data)
        if not size:
            return  # that stream has ended; the runner's own ends with the runner
        self._session.tally.bytes_down += size
        if not self._detached:
            self._peer.send(_KINDS.get(message.stream, STDERR), message.data)
            await self._peer.room()
        executor.link.send(p.Credit(self._identity, message.stream, size))

    def _ended(self, message: p.ProgramEnded) -> None:
        if message.reason:
            limit = {"wall": "it ran for too long", "memory": "it used too much memory"}
            what = limit.get(message.reason, message.reason)
            raise LimitExceeded(what)
        status = -message.signal if message.signal else message.code
        self._peer.send(EXIT, status.to_bytes(4, "little", signed=True))

    # -- to there --------------------------------------------------------------------------------

    async def _listen(self, executor: Executor) -> None:
        """What the runner says, until it has gone."""
        identity, link = self._identity, executor.link
        while (said := await self._peer.frames.get()) is not None:
            kind, data = said
            with contextlib.suppress(BurstError):  # a link that is gone is told in `_next`
                if kind == b"I":
                    self._session.tally.bytes_up += len(data)
                    link.send(p.Input(identity, data))
                elif kind == b"R" and len(data) == 4:
                    rows = int.from_bytes(data[:2], "little")
                    columns = int.from_bytes(data[2:], "little")
                    link.send(p.Resize(identity, rows, columns))
                elif kind == b"S" and len(data) == 1:
                    link.send(p.Signal(identity, data[0]))
                elif kind == b"W" and len(data) == 1:
                    link.send(p.StopOutput(identity, data[0]))

    def _fail(self, error: BurstError) -> None:
        """Never a pass: the runner shows this and ends with 125."""
        ran = self._running and not isinstance(error, ProgramNotStarted)
        if ran:
            _log.warning("program %s: %s", self._shown, error)
        what = f"`{self._shown}` was not run to its end: {error}" if ran else str(error)
        hint = error.hint
        if isinstance(error, LimitExceeded):
            hint = "`program_wall_s` and `program_memory_gb` set the limits"
        elif ran:
            hint = "nothing is known of how it would have ended; run it again"
        text = f"error: {what}\nhint: {hint}\n"
        self._peer.send(FAILURE, text.encode("utf-8", "surrogateescape"))
