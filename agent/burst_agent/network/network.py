"""The networks of all mirrors of an agent, made when first entered, ended some time after the last
program has left."""

from __future__ import annotations

import socket

from burst_agent.network.entry import SHARED, Entry

LINGER_S = 60.0
"""An empty network stays for so long: the next test program finds its services running."""


async def _nothing() -> None:
    pass


class Network:
    """Made and used in the event loop of the agent."""

    def __init__(self, folder: bytes, linger_s: float = LINGER_S) -> None:
        """`folder`: where services keep their data, on a fast local disk. Made when needed."""
        self._folder = folder
        self._linger_s = linger_s

    async def enter(self, mirror: str, services: tuple[str, ...]) -> Entry:
        """A way in, with these services (`postgresql`, `mysql`, `redis`) answering.

        ServiceUnavailable, whose message names the Debian package if that is what lacks.
        """
        del mirror, services
        note = "programs share this machine's network: it gives them none of their own"
        return Entry(SHARED, SHARED, (note,), b"", _nothing)

    async def connect(self, mirror: str, port: int) -> socket.socket:
        """A connected, non-blocking socket to that port of the mirror's loopback.

        NobodyListens if nothing does, or if no program of that mirror runs.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Ends all services and networks."""
