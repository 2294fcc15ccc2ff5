"""Servers of a paper cloud, as ssh would show them: `memory_hosts.Box` behind the real API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Any

import attrs

from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.context import Answer, Login
from burst_lifecycle.hostkey import pin
from burst_protocol.errors import AuthenticationFailed, HostKeyProblem, Unreachable
from localcloud import LocalCloud, Server, Volume
from memory_hosts import AGENT, Box


@attrs.define
class PaperTime:
    """Waiting moves the cloud's clock; home's stands still, so it is not waited for real."""

    cloud: LocalCloud

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        self.cloud.clock.advance(duration_s)
        await asyncio.sleep(0.002)


@attrs.define
class PaperWorld:
    cloud: LocalCloud

    @property
    def now_s(self) -> float:
        return self.cloud.clock.now()


@attrs.define
class PaperAccount:
    """What a Box wants to know."""

    cloud: LocalCloud
    disks: dict[int, Any] = attrs.field(factory=dict)
    boxes: dict[int, Box] = attrs.field(factory=dict)

    @property
    def world(self) -> PaperWorld:
        return PaperWorld(self.cloud)

    @property
    def held(self) -> dict[Kind, Mapping[int, Any]]:
        volumes: dict[int, Any] = {}
        for one in self.cloud.client().volumes.get_all():
            assert one.id is not None
            volumes[one.id] = _Volume(one.server.id if one.server else None)
        return {Kind.VOLUME: volumes}


@attrs.define
class _Volume:
    server_id: int | None


@attrs.define
class PaperSsh:
    """Implements `context.Ssh` for all servers of one paper cloud."""

    account: PaperAccount
    public_key: str

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        del stdin, timeout_s
        box = await asyncio.to_thread(self._box, login)
        if pin(box.host_key) not in login.pins:
            raise HostKeyProblem("changed", host=login.host)
        if self.public_key not in box.authorized:
            raise AuthenticationFailed("not known", host=login.host)
        if argv[0] == AGENT:
            answer = await asyncio.to_thread(box.answer, argv[1:])
        elif argv == ["printenv", "SSH_CONNECTION"]:
            answer = Answer(0, f"198.51.100.7 50000 {login.host} 22\n".encode())
        else:
            answer = Answer(0, b"")
        return attrs.evolve(answer, host_key=box.host_key)

    def _box(self, login: Login) -> Box:
        cloud = self.account.cloud
        for server in cloud.client().servers.get_all():
            net = server.public_net
            if net is not None and net.ipv4 is not None and net.ipv4.ip == login.host:
                break
        else:
            raise Unreachable("no route", host=login.host)
        assert server.id is not None
        box = self.account.boxes.get(server.id)
        if server.status != "running":
            if box is not None and box.on:
                box.shut_down()
            raise Unreachable("no answer", host=login.host)
        if box is None:
            bodies = [call.body or {} for call in cloud.calls("POST /servers")]
            told = next(body for body in reversed(bodies) if body.get("name") == server.name)
            box = Box(self.account, server.id, told["user_data"])  # type: ignore[arg-type]
            self.account.boxes[server.id] = box
        if not box.on:
            box.power_on(cloud.clock.now())
        return box

    async def follow(
        self,
        login: Login,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes],
        show: Callable[[bytes], None],
        timeout_s: float,
    ) -> Answer:
        raise NotImplementedError

    async def forget(self, login: Login) -> None:
        """Nothing is kept."""


def names(cloud: LocalCloud) -> dict[str, list[str]]:
    """What there is."""
    return {
        "servers": [one.name for one in cloud.all(Server)],
        "volumes": [one.name for one in cloud.all(Volume)],
    }
