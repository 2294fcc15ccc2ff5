"""Everything real: the API over `hcloud`, containers with cloud-init, sshd, volumes, our agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from burst_lifecycle import access, labels
from burst_lifecycle.books import Account
from burst_lifecycle.cloud.hetzner import HetznerCloud
from burst_lifecycle.context import Context
from burst_lifecycle.events import How
from burst_lifecycle.hostkey import pin
from burst_lifecycle.ledger import Ledger
from burst_lifecycle.remote.install import ServiceInstaller
from burst_lifecycle.remote.pinned import PinnedSsh
from burst_lifecycle.remote.remote_bundle import HomeBundle
from burst_lifecycle.remote.ssh_transport import new_key_pair
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.token import Token
from burst_lifecycle.userdata import server_files
from lifecycles import MemoryNotices, wishes
from localcloud import LocalCloud, Server, Volume

pytest_plugins = ("cloud_fixtures",)
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]


class RealTime:
    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class Home:
    """One machine: its key, its ledger, its bundle of the agent."""

    def __init__(self, cloud: LocalCloud, folder: Path) -> None:
        self.cloud = cloud
        self.folder = folder
        self.key = access.load_or_make(folder / "ssh" / "ed25519", new_key_pair)
        self.ledger = Ledger(str(folder / "cloud"), "home")
        self.notices = MemoryNotices()
        self.changes: dict[str, Any] = {
            "stock_image": "debian-13",
            "volume_gb": 10,
            "orphan_s": 77,
        }

    def run(self, work: Callable[[Lifecycle], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            ssh = PinnedSsh()
            token = Token(self.cloud.token, self.cloud.endpoint, "test")
            async with HetznerCloud(token) as port, contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(ssh.close)
                context = Context(
                    cloud=port,
                    ssh=ssh,
                    agent=ServiceInstaller(ssh, HomeBundle(os.fsencode(self.folder / "cache"))),
                    ledger=self.ledger,
                    notices=self.notices,
                    time=RealTime(),
                    wishes=wishes(**self.changes),
                    key=self.key,
                    server_files=server_files(),
                    new_host_key=new_key_pair,
                    account=Account(self.cloud.endpoint, "token"),
                )
                return await work(Lifecycle(context))

        return asyncio.run(main())


def test_a_life(real_cloud: LocalCloud, tmp_path: Path) -> None:
    """Cold boot to an agent that answers, its data on the volume; down; warm from the volume."""
    real_cloud.quota().dedicated_cores = 200
    home = Home(real_cloud, tmp_path)
    booted = home.run(lambda life: life.up("test"))
    assert booted.how is How.COLD, home.notices.notices
    (server,) = real_cloud.all(Server)
    assert server.labels[labels.READY] == "1"
    assert server.labels[labels.PIN] == pin(booted.login.host_key)
    assert booted.store.volume_id is not None, home.notices.notices
    (volume,) = real_cloud.all(Volume)
    assert volume.labels[labels.FILESYSTEM].startswith("ready-")

    machine = real_cloud.machine(server.name)
    command = "tr '\\0' ' ' </proc/$(systemctl show -p MainPID --value burst-agent)/cmdline"
    assert "--orphan 77 " in machine.run(["sh", "-c", command]).stdout
    current = home.run(lambda life: life.current())
    assert current.store == booted.store
    status = home.run(lambda life: life.status())
    (lease,) = status.leases.values()
    assert not lease.draining
    assert lease.hard_end_in_s is not None
    assert 42_000 < lease.hard_end_in_s < 43_300

    down = home.run(lambda life: life.down())
    assert down.refused == ()
    assert real_cloud.all(Server) == []
    home.changes["volume_gb"] = 12
    again = home.run(lambda life: life.up("test"))
    assert again.store.volume_id == booted.store.volume_id, home.notices.notices
    assert home.notices.notices == []
    machine = real_cloud.machine(again.server.name)
    size = machine.run(["df", "--output=size", "-B1", again.store.folder]).stdout.split()[-1]
    assert int(size) > 11 * 10**9
    down = home.run(lambda life: life.down(with_volumes=True))
    assert down.refused == ()
    real_cloud.clock.advance(200 * 86400)
    assert home.run(lambda life: life.reap()).failed == ()
