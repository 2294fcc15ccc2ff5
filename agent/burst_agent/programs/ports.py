"""What programs need of other parts of the agent, as protocols."""

from __future__ import annotations

import contextlib
from typing import Protocol

from burst_agent.network.entry import Entry


class Mirrors(Protocol):
    """The mirrored folders in one store."""

    def roots(self, mirror: str) -> tuple[bytes, ...]:
        """Home's paths that this mirror has, none in another one but a target directory."""

    def folder(self, mirror: str, path: bytes) -> bytes:
        """Where home's absolute path lies on this disk."""

    def using(self, mirror: str) -> contextlib.AbstractContextManager[None]:
        """While a program runs that may write to it."""

    def touched(self, mirror: str) -> None:
        """Something may have been written to it."""


class Network(Protocol):
    async def enter(self, mirror: str, services: tuple[str, ...]) -> Entry: ...
