"""Sessions: what the calls of one `cargo burst VERB` have in common.

Wrapper calls and runners name theirs by `BURST_SESSION`. One that is not known (it has ended, or
another daemon had it) means nothing: then it is as without a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError, EnvironmentProblem
from burst_wrapper import home_wire as w
from burst_wrapper.daemon.home_session import HomeSession
from burst_wrapper.daemon.peer import Peer
from burst_wrapper.daemon.programs import HERE, Program, ProgramRequest

if TYPE_CHECKING:
    from burst_wrapper.daemon.services import Services

VARIABLE: Final = b"BURST_SESSION"
_TOLD_AFTER_S: Final = 1.0
_log: Final = logging.getLogger("burst")


class Sessions:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._open: dict[bytes, HomeSession] = {}

    def of(self, environ: Mapping[bytes, bytes]) -> HomeSession | None:
        """The session that this environment belongs to."""
        name = environ.get(VARIABLE)
        return self._open.get(name) if name else None

    async def serve(self, peer: Peer, fields: list[bytes]) -> None:
        """One connection, until it has gone. Never raises but CancelledError."""
        try:
            match fields:
                case [b"session", packed]:
                    await self._session(peer, w.decode(w.SessionRequest, packed))
                case [b"rustdoc", _, name]:
                    session = self._open.get(name)
                    keeps = session is not None and session.brings_doctests
                    peer.send(b"K" if keeps else HERE)
                case [b"program", *rest]:
                    await self._program(peer, ProgramRequest.parse(rest))
                case _:
                    _log.warning("refused a connection that begins with %r", fields[:1])
        except BurstError as error:
            _fail(peer, error)
        except Exception as error:
            _log.exception("a session failed")
            _fail(peer, EnvironmentProblem(f"{type(error).__name__}: {error}"))
        finally:
            peer.close()

    async def _session(self, peer: Peer, request: w.SessionRequest) -> None:
        session = HomeSession(self._services, request)
        name = session.id.encode()

        note = _Steps(peer)
        try:
            opening = asyncio.ensure_future(session.open(note))
            if not await _done_first(opening, peer):
                return
            info = opening.result()
            note.done()
            self._open[name] = session
            peer.send(w.INFO, w.encode(info))
            while (said := await peer.frames.get()) is not None:
                match said:
                    case (w.ASK_PROGRESS, _):
                        peer.send(w.PROGRESS, w.encode(session.progress()))
                    case (w.FETCH_KEPT, payload):
                        kept = await session.fetch_kept(w.decode(w.KeptRequest, payload))
                        peer.send(w.KEPT, w.encode(kept))
                    case (w.CLOSE, _):
                        await session.programs_ended(note, peer.gone)
                        summary = await session.close(note)
                        note.done()
                        peer.send(w.SUMMARY, w.encode(summary))
                        return
                    case _:
                        pass
        finally:
            note.done()
            self._open.pop(name, None)
            if peer.gone.is_set():
                session.end_programs()
            await session.leave()

    async def _program(self, peer: Peer, request: ProgramRequest) -> None:
        session = self._open.get(request.session)
        if session is None:
            peer.send(HERE, b"its session has ended")
            return
        await Program(session, peer, request).run()


class _Steps:
    """What a user is told to be waiting for: only what takes a while."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, text: str) -> None:
        """The step that begins now; the one before is over."""
        self.done()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_TOLD_AFTER_S, self._peer.send, w.NOTE, text.encode())

    def done(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _done_first(work: asyncio.Future[w.SessionInfo], peer: Peer) -> bool:
    """Wait for it, but not for who has gone. Its own exception is raised."""
    gone = asyncio.ensure_future(peer.gone.wait())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            _ = work.result()
        return work.done()
    finally:
        gone.cancel()
        work.cancel()


def _fail(peer: Peer, error: BurstError) -> None:
    with contextlib.suppress(OSError, asyncio.InvalidStateError):
        peer.send(w.ERROR, w.encode(w.Trouble.of(error)))
