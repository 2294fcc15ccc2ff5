"""What the lifecycle is given: its collaborators as protocols, and what the user wants as values.

No module here has globals or makes clients by itself: the daemon and `burst-admin` bring the real
ones, tests bring a cloud in memory whose time is virtual.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from pathlib import Path
from typing import Final, Protocol

import attrs

from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import Server
from burst_lifecycle.cloud.port import Cloud
from burst_lifecycle.events import Event
from burst_lifecycle.ledger import History
from burst_lifecycle.notices import Level, Notice
from burst_lifecycle.token import Token

HOUR_S: Final = 3600
MONTH_S: Final = 30 * 24 * HOUR_S


class Time(Protocol):
    """Waiting. What time it is, the cloud says (`Cloud.now_s`)."""

    def monotonic(self) -> float: ...

    async def sleep(self, duration_s: float) -> None: ...


class Ledger(Protocol):
    """What was begun and what became of it; see `ledger.Ledger`."""

    async def record(self, *events: Event) -> None:
        """Returns when the lines are on the disk."""
        ...

    def read(self) -> History: ...


class Notices(Protocol):
    """What people are told at the next opportunity; see `notices.Notices`."""

    def post(self, notice: Notice) -> object: ...

    def withdraw(self, key: str) -> None: ...


@attrs.frozen
class Login:
    """How to reach a server: exactly this key of ours, exactly these host keys of its."""

    host: str
    port: int
    user: str
    pins: tuple[str, ...]
    """Base32 of the SHA-256 of each host key that is right (`hostkey.pin`). Never empty."""
    key_path: Path
    host_key: str = ""
    """The one that was shown and right, as `ssh-ed25519 AAAA…`, once somebody has connected."""

    @property
    def known_hosts(self) -> bytes:
        """For other SSH clients. Empty while the host key itself is unknown: do not connect."""
        if not self.host_key:
            return b""
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{name} {self.host_key}\n".encode()


@attrs.frozen
class Answer:
    """What a command on a server said."""

    status: int
    stdout: bytes
    stderr: bytes = b""
    host_key: str = ""
    """Which of the right host keys the server showed."""


class Ssh(Protocol):
    """Commands on servers. `remote.pinned.PinnedSsh` is the real one."""

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        """Run an argv, never a shell line.

        Unreachable, LinkLost, HostKeyProblem, AuthenticationFailed, as `remote.ssh` raises them;
        DeadlinePassed when it ran for longer.
        """
        ...

    async def follow(
        self,
        login: Login,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes],
        show: Callable[[bytes], None],
        timeout_s: float,
    ) -> Answer:
        """As `run`, for what takes long: what it says on stdout is shown as it comes, the answer
        has its last 64 KiB only."""
        ...

    async def forget(self, login: Login) -> None:
        """Hang up, if there is a connection."""
        ...


class AgentInstaller(Protocol):
    """Brings home's agent to a server that has another one, and starts its service."""

    async def ensure(self, login: Login) -> str:
        """Its identity. Returns when it answers."""
        ...


@attrs.frozen
class ClientKey:
    """This machine's persistent burst key."""

    path: Path
    public_key: str
    """`ssh-ed25519 AAAA…`, without comment."""
    fingerprint: str
    """MD5 with colons, as the API has it."""
    client: str
    """16 hex digits that name this machine in rules and labels."""


@attrs.frozen
class Wishes:
    """What the user configured, as far as servers are concerned. Durations in seconds."""

    owner: str
    server_types: tuple[str, ...]
    locations: tuple[str, ...]
    max_eur_per_hour: Decimal
    """Of the server, without VAT: nothing dearer is created."""
    project: str = ""
    """Empty: no volume."""
    architecture: str = "x86"
    """Home's: outputs must run there."""
    recipe: str = ""
    """Of the image to boot from; empty: the stock image."""
    stock_image: str = "ubuntu-24.04"
    keep_alive_s: float = 300
    at_once: bool = False
    """Idle servers are deleted as soon as they are idle, not at the edge of the paid hour."""
    volume_keep_alive_s: float = 7 * 24 * HOUR_S
    volume_gb: int = 100
    hard_end_s: float = 12 * HOUR_S
    boot_deadline_s: float = 900
    budget_eur_per_month: Decimal | None = None
    new_volume_elsewhere: bool = False
    """`on_location_full = "new-volume"`."""
    orphan_s: float = 120
    """A run whose client is gone ends after that."""


@attrs.frozen
class ServerFiles:
    """What user data puts on a server: the dead man and its units, and what sets the rest up."""

    files: Mapping[str, str]
    """By name, as in `burst_lifecycle/server`."""


def _no_step(_name: str) -> None:
    """Nobody looks."""


def _public_address(server: Server) -> tuple[str, int]:
    if server.ipv4:
        return server.ipv4, 22
    network = (server.ipv6 or "").partition("/")[0]
    return f"{network}1" if network.endswith("::") else network, 22


@attrs.frozen(eq=False)
class Context:
    """Everything the lifecycle works with."""

    cloud: Cloud
    ssh: Ssh
    agent: AgentInstaller
    ledger: Ledger
    notices: Notices
    time: Time
    wishes: Wishes
    key: ClientKey
    server_files: ServerFiles
    new_host_key: Callable[[], tuple[str, str]]
    """A fresh ed25519 pair: private (OpenSSH's PEM), public (one line)."""
    lock: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext
    """One boot at a time on this machine."""
    bake_lock: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext
    """One bake, which takes longer than a boot may have to wait."""
    step: Callable[[str], None] = _no_step
    """Called around every effect, for tests that stop us there."""
    address: Callable[[Server], tuple[str, int]] = _public_address
    account: Account = Account("", "")
    """Whose resources these are, for the ledger."""
    self_delete: Callable[[], Awaitable[Token]] | None = None
    """Opt-in: the token with which a server deletes itself when its dead man ends it."""

    @contextlib.contextmanager
    def effect(self, name: str) -> Iterator[None]:
        """Around each effect on the world."""
        self.step(f"before {name}")
        yield
        self.step(f"after {name}")

    def tell(self, key: str, text: str, *, level: Level = Level.WARNING, hint: str = "") -> None:
        """A notice; a newer one of the same key replaces it."""
        self.notices.post(Notice(text, key, level, hint))
