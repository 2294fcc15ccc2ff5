"""Sessions: what the calls of one `cargo burst VERB` have in common.

Wrapper calls and runners name theirs by `BURST_SESSION`. One that is not known (it has ended, or
another daemon had it) means nothing: then it is as without a session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError, EnvironmentProblem
from burst_wrapper import home_wire as w
from burst_wrapper.daemon.peer import Peer
from burst_wrapper.daemon.tally import Tally

if TYPE_CHECKING:
    from burst_wrapper.daemon.services import Services

VARIABLE: Final = b"BURST_SESSION"
_log: Final = logging.getLogger("burst")


class HomeSession:
    """One session, as units and programs see it."""

    def __init__(self, request: w.SessionRequest) -> None:
        self.id = secrets.token_hex(8)
        self.request = request
        self.tally = Tally()
        self.notes: list[str] = []

    def info(self) -> w.SessionInfo:
        return w.SessionInfo(self.id, "home", "home", self.request.target_dir, tuple(self.notes))

    def progress(self) -> w.Progress:
        return self.tally.progress("")

    async def close(self) -> w.Summary:
        tally = self.tally
        return w.Summary(
            self.progress(),
            tally.wall_ms,
            tally.saved_ms,
            notes=tuple(self.notes),
            programs=tally.programs,
        )


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
        session = HomeSession(request)
        name = session.id.encode()
        self._open[name] = session
        try:
            peer.send(w.INFO, w.encode(session.info()))
            while (said := await peer.frames.get()) is not None:
                match said:
                    case (w.ASK_PROGRESS, _):
                        peer.send(w.PROGRESS, w.encode(session.progress()))
                    case (w.CLOSE, _):
                        peer.send(w.SUMMARY, w.encode(await session.close()))
                        return
                    case _:
                        pass
        finally:
            del self._open[name]


def _fail(peer: Peer, error: BurstError) -> None:
    with contextlib.suppress(OSError, asyncio.InvalidStateError):
        peer.send(w.ERROR, w.encode(w.Trouble.of(error)))
