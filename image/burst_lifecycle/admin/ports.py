"""What `burst-admin` needs of others: one object with a token, one that bakes, and values.

`connect.connect` makes the real ones. Tests bring a cloud in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs

from burst_lifecycle import ledger
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import Image, Inventory, Kind, Server, Volume
from burst_lifecycle.cloud.port import Cloud
from burst_lifecycle.host import Lease
from burst_lifecycle.reaper import Policy

Tell = Callable[[str], None]
"""Takes one line about what is being done, for stderr."""


@attrs.frozen
class Up:
    """`burst-admin up`: what differs from the configuration. Durations in seconds."""

    server_types: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    keep_alive_s: float | None = None
    hard_end_s: float | None = None


@attrs.frozen
class ReapOutcome:
    """What a run of the reaper did or, dry, would do. Names and reasons, for people."""

    deleted: tuple[tuple[str, str], ...] = ()
    kept: tuple[tuple[str, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failed


class Control(Protocol):
    """The cloud and its servers, with one token. Errors are those of the tree."""

    @property
    def cloud(self) -> Cloud: ...

    @property
    def account(self) -> Account:
        """Whose resources this token sees."""
        ...

    @property
    def token_source(self) -> str:
        """For people: `file ~/hetzner.token`, `command pass`, `HCLOUD_TOKEN`."""
        ...

    @property
    def owner(self) -> str: ...

    @property
    def owner_known(self) -> bool:
        """False: no `owner` is configured and this machine has no burst key yet."""
        ...

    @property
    def key_fingerprint(self) -> str:
        """As the API has it; empty if this machine has no burst key yet."""
        ...

    @property
    def policy(self) -> Policy: ...

    async def lease(self, server: Server) -> Lease:
        """ServerProblem, Unreachable … if its agent cannot be asked."""
        ...

    async def up(self, wish: Up, tell: Tell) -> Server:
        """The server that runs, or a new one, once its agent answers."""
        ...

    async def reap(self, *, dry_run: bool) -> ReapOutcome:
        """One run over all that this owner has; a good one is written into the ledger."""
        ...

    async def learn_time(self, inventory: Inventory) -> None:
        """See to it that `cloud.now_s()` is the API's, if anything of ours can tell it."""
        ...

    async def come_by(self, tell: Tell) -> ReapOutcome:
        """End this owner's servers that bill for nothing: off, past their hard end, or never ready.
        `tell` is called before that takes time."""
        ...

    async def remove(self, kind: Kind, resource_id: int, *, owner: str, force: bool) -> None:
        """Through the guard, in its order: drain, unmount, sync, detach, delete. Busy while
        something runs there, unless `force`: then its hard end is now."""
        ...

    async def extend(self, *, hard_end_in_s: float | None, keep_alive_s: float | None) -> None:
        """All servers of the owner, label and dead man; durations from now."""
        ...

    async def adopt(self, volume: Volume, project: str) -> None:
        """From now on it is that project's."""
        ...

    async def copies(self) -> Sequence[ledger.History]:
        """The ledgers on the volumes of running servers; those that cannot be read are left out."""
        ...


@attrs.frozen
class Bake:
    """`burst-admin image build`."""

    server_type: str = ""
    """Empty: the one with the smallest disk that will do."""
    location: str = ""
    mirror: str = ""
    """A folder or URL that takes the place of all downloads."""
    keep_server: bool = False
    """Leave a failed bake's server until its expiry, to look at."""


class Bakery(Protocol):
    """What `image` calls; `admin.bakery` makes it."""

    async def build(self, wish: Bake, tell: Tell) -> Image:
        """A candidate that was booted once, hence current."""
        ...

    async def outdated(self, images: Sequence[Image], keep: int) -> Sequence[Image]:
        """Which of these are not needed: all but the `keep` newest current ones and young
        candidates."""
        ...


Connect = Callable[[], AbstractAsyncContextManager[Control]]
