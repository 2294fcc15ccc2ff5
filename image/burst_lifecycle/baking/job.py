"""What one bake is given, and how often what may fail by chance was tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from burst_lifecycle.context import Context
from burst_lifecycle.guard import Guard
from burst_lifecycle.recipe import Mirror, Recipe
from burst_protocol.errors import BurstError

POLL_S: Final = 3.0
_TRIES: Final = 3
"""Of what may fail by chance: a link that breaks, a snapshot that fails."""


@attrs.frozen
class Wish:
    """What the user may say about it."""

    server_type: str = ""
    """Empty: the smallest disk that will do."""
    location: str = ""
    mirror: Mirror | None = None
    keep_server: bool = False
    """Leave a failed bake's server until its expiry, to look at."""


@attrs.define(eq=False)
class Job:
    """One `image build`, or the rest of one that was interrupted."""

    context: Context
    guard: Guard
    recipe: Recipe
    wish: Wish
    tell: Callable[[str], None]
    """Takes one line for people."""
    log: Callable[[bytes], None]
    """Takes what the recipe says, as it comes."""
    _tries: dict[str, int] = attrs.field(factory=dict, init=False)

    def again(self, what: str, error: BurstError) -> None:
        """Raises the error when that has failed often enough."""
        self._tries[what] = self._tries.get(what, 0) + 1
        if self._tries[what] >= _TRIES:
            raise error
        self.tell(f"again, since {error}")


def last_line(said: bytes) -> str:
    """The last one that is not empty."""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"
