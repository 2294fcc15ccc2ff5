"""Everything real: the API over `hcloud`, containers with cloud-init, sshd, volumes, our agent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
from burst_lifecycle.remote.ssh.pinned_login import new_key_pair
from burst_lifecycle.session import Lifecycle
from burst_lifecycle.token import Token
from burst_lifecycle.userdata import server_files
from lifecycles import MemoryNotices, wishes
from localcloud import LocalCloud, Server, Volume
from localcloud.host import listen_in
from memory_bill import report_of

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
        self.server_token = ""
        """With which servers may delete themselves."""
        self.changes: dict[str, Any] = {
            "stock_image": "debian-13",
            "volume_gb": 10,
            "orphan_s": 77,
        }

    def run(self, work: Callable[[Lifecycle], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            ssh = PinnedSsh()
            token = Token(self.cloud.token, self.cloud.endpoint, "test")

            async def its_own() -> Token:
                return Token(self.server_token, self.cloud.endpoint, "test")

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
                    self_delete=its_own if self.server_token else None,
                )
                return await work(Lifecycle(context))

        return asyncio.run(main())

    def settle(self) -> None:
        """Its ledger has the cloud's bill."""
        report = self.run(lambda life: report_of(life, self.ledger.read().events))
        assert report.total.cents == self.cloud.bill().cents, report.costs
        assert not report.unknown, report.unknown


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
    home.settle()


@contextlib.contextmanager
def reaches_the_api(cloud: LocalCloud, machine: Any) -> Iterator[None]:
    """What listens there on the API's address of loopback leads to it; the API sees loopback."""
    parts = urlsplit(cloud.endpoint)
    address = (str(parts.hostname), int(parts.port or 0))
    listening = listen_in(machine._name, *address)

    def relay(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                inside, _ = listening.accept()
                with inside, socket.create_connection(address) as outside:
                    there = threading.Thread(target=relay, args=(inside, outside), daemon=True)
                    there.start()
                    relay(outside, inside)
                    there.join(10)

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield
    finally:
        # A listener that is only closed would go on in `accept`.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        accepting.join(10)


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.thorough
def test_a_server_deletes_itself(real_cloud: LocalCloud, tmp_path: Path, *, allowed: bool) -> None:
    """Its hard end has passed and nobody comes by: with a token of its own it is gone, without one
    off. Either way nothing on the volume is lost."""
    cloud = real_cloud
    home = Home(cloud, tmp_path)
    its_own = cloud.add_token()
    if allowed:
        home.server_token = its_own.value
    booted = home.run(lambda life: life.up("test"))
    assert home.notices.notices == []
    name = booted.server.name
    machine = cloud.machine(name)
    machine.run(["sh", "-c", f"echo precious >{booted.store.folder}/store/kept"])
    if allowed:
        # Builds' user cannot read it; it is on no disk.
        secret = "/run/burst-private/self-delete"
        assert machine.run(["cat", secret]).stdout.count(its_own.value) == 1
        assert machine.run(["runuser", "-u", "burst", "--", "cat", secret]).returncode != 0
        assert machine.run(["stat", "-f", "-c", "%T", secret]).stdout == "tmpfs\n"
    before = len(cloud.calls())
    with reaches_the_api(cloud, machine):
        machine.run(["burst-agent", "lease", "extend", "--hard-end-in", "0"])
        # Its timer looks every few seconds; nobody else does anything.
        if allowed:
            cloud.wait_for(lambda: not cloud.all(Server), "it is deleted")
        else:
            cloud.wait_for(lambda: cloud.server(name).status == "off", "it is off")
    asked = [call.operation for call in cloud.calls()[before:]]
    assert asked == (["DELETE /servers/{id}"] if allowed else []), asked
    assert cloud.expected_incidents == cloud.world.backend.incidents == []

    # The next command finds out, and what was on the volume is there.
    again = home.run(lambda life: life.up("test"))
    # (Of one that is only off the paid hour is used up.)
    assert (again.server.name == name) is not allowed
    kept = cloud.machine(again.server.name).run(["cat", f"{again.store.folder}/store/kept"])
    assert kept.stdout == "precious\n"
    home.run(lambda life: life.down(with_volumes=True))
    cloud.clock.advance(200 * 86400)
    assert home.run(lambda life: life.reap()).failed == ()
    home.settle()
