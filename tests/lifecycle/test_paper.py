"""The lifecycle with the real port and the real `hcloud`, against the local cloud on paper."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from burst_lifecycle import access, labels
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.hetzner import HetznerCloud
from burst_lifecycle.context import Context
from burst_lifecycle.events import How
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.token import Token
from burst_protocol.errors import BurstError
from lifecycles import FILES, MemoryLedger, MemoryNotices, wishes
from localcloud import Fault, LocalCloud, Server, Volume
from memory_bill import report_of
from memory_hosts import KeyMaker, MemoryAgent, make_key
from paper_hosts import PaperAccount, PaperSsh, PaperTime

pytest_plugins = ("cloud_fixtures",)
pytestmark = pytest.mark.slow


@attrs.define
class Home:
    """One machine with its state."""

    cloud: LocalCloud
    account: PaperAccount = attrs.field(
        default=attrs.Factory(lambda self: PaperAccount(self.cloud), takes_self=True)
    )
    ledger: MemoryLedger = attrs.field(factory=MemoryLedger)
    notices: MemoryNotices = attrs.field(factory=MemoryNotices)
    keys: KeyMaker = attrs.field(factory=lambda: KeyMaker(500))
    changes: dict[str, Any] = attrs.field(factory=dict)

    def run(self, work: Callable[[Lifecycle], Awaitable[Any]]) -> Any:
        """In a process of its own, as it were."""

        async def main() -> Any:
            token = Token(self.cloud.token, self.cloud.endpoint, "test")
            async with HetznerCloud(token) as port:
                public = make_key(1)[1]
                ssh = PaperSsh(self.account, public)
                context = Context(
                    cloud=port,
                    ssh=ssh,
                    agent=MemoryAgent(ssh),  # type: ignore[arg-type]
                    ledger=self.ledger,
                    notices=self.notices,
                    time=PaperTime(self.cloud),
                    wishes=wishes(**self.changes),
                    key=access.client_key(Path("/nowhere/ed25519"), public),
                    server_files=FILES,
                    new_host_key=self.keys,
                    account=Account(self.cloud.endpoint, "token"),
                )
                return await work(Lifecycle(context))

        return asyncio.run(main())


@pytest.fixture
def home(paper_cloud: LocalCloud) -> Iterator[Home]:
    """In the end its ledger has the cloud's bill."""
    paper_cloud.quota().dedicated_cores = 200
    found = Home(paper_cloud)
    yield found
    report = found.run(lambda life: report_of(life, found.ledger.events))
    assert report.total.cents == paper_cloud.bill().cents, report.costs
    assert not report.unknown, report.unknown


def test_a_life(home: Home, paper_cloud: LocalCloud) -> None:
    """Boot, again, down, boot with the same volume, and everything away."""
    booted = home.run(lambda life: life.up("test"))
    assert booted.how is How.COLD
    assert home.run(lambda life: life.up("test")).how is None
    (server,) = paper_cloud.all(Server)
    assert server.labels[labels.READY] == "1"
    (volume,) = paper_cloud.all(Volume)
    assert volume.labels[labels.FILESYSTEM].startswith("ready-")
    paper_cloud.clock.advance(60)
    assert home.run(lambda life: life.down()).refused == ()
    assert paper_cloud.all(Server) == []
    again = home.run(lambda life: life.up("test"))
    assert again.store.volume_id == booted.store.volume_id
    paper_cloud.clock.advance(60)
    down = home.run(lambda life: life.down(with_volumes=True))
    assert down.refused == ()
    paper_cloud.clock.advance(200 * 86400)
    report = home.run(lambda life: life.reap())
    assert report.failed == ()


def test_no_capacity_then_a_quota(home: Home, paper_cloud: LocalCloud) -> None:
    """The next location, then the smaller type."""
    paper_cloud.set_capacity("ccx63", "fsn1", 0)
    booted = home.run(lambda life: life.up("test"))
    assert (booted.server.type, booted.server.location) == ("ccx63", "nbg1")
    paper_cloud.clock.advance(60)
    home.run(lambda life: life.down(with_volumes=True))
    paper_cloud.quota().dedicated_cores = 20
    booted = home.run(lambda life: life.up("test"))
    assert booted.server.type == "ccx43"
    assert "quota" in home.notices.keys
    paper_cloud.clock.advance(60)
    home.run(lambda life: life.down(with_volumes=True))
    paper_cloud.clock.advance(200 * 86400)
    assert home.run(lambda life: life.reap()).failed == ()


@pytest.mark.parametrize(
    "operation",
    ["POST /servers", "POST /volumes", "POST /firewalls", "POST /ssh_keys"],
)
@pytest.mark.parametrize("kind", ["lost", "after"])
def test_an_answer_is_lost(
    home: Home, paper_cloud: LocalCloud, operation: str, kind: Literal["lost", "after"]
) -> None:
    """Created and not told: it is found and used, and nothing is made twice."""
    paper_cloud.fault(Fault(operation, kind, nth=1))
    try:
        home.run(lambda life: life.up("test"))
    except BurstError:
        home.run(lambda life: life.up("test"))
    assert len(paper_cloud.all(Server)) == 1
    assert len(paper_cloud.all(Volume)) == 1
    paper_cloud.clock.advance(60)
    assert home.run(lambda life: life.down(with_volumes=True)).refused == ()
    paper_cloud.clock.advance(200 * 86400)
    assert home.run(lambda life: life.reap()).failed == ()
