"""What a project's volume lacks is offered to it: once, and only where it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs

from burst_protocol import messages as m
from burst_protocol.action import ActionResult
from burst_protocol.digest import Digest
from burst_wrapper.daemon.offers import offer, wanted
from burst_wrapper.daemon.servers import Made

_RESULT = ActionResult(outputs=(), stdout=b"", stderr=(), out_dir=b"/o", target_dir=b"", wall_ms=1)


@attrs.define
class Store:
    """A link to an agent that has these results."""

    has: set[bytes]
    asked: list[bytes] = attrs.field(factory=list)
    gone: None = None
    number: int = 0

    def new_id(self) -> int:
        self.number += 1
        return self.number

    async def ask(self, message: m.Lookup) -> m.Hit | m.Lists:
        (key,) = message.strong_keys
        self.asked.append(key)
        assert not message.prolongs
        if key in self.has:
            return m.Hit(message.id, key, _RESULT)
        return m.Lists(message.id, ())

    def send(self, message: m.PutResult) -> None:
        self.has.add(message.strong_key)

    async def drain(self) -> None:
        pass


@attrs.define
class Place:
    """An executor."""

    link: Store
    lasting: bool = True
    usable: bool = True
    in_flight: int = 0
    name: str = "burst-1"
    offered: set[bytes] = attrs.field(factory=set)
    sent: list[Digest] = attrs.field(factory=list)

    @property
    def uploader(self) -> Place:
        return self

    async def send(self, _identity: int, digests: list[Digest], _sources: Any) -> int:
        self.sent += digests
        return 0

    def blob(self, digest: Digest) -> bytes:
        return digest.hex.encode()


def made(*keys: bytes) -> dict[bytes, Made]:
    return {key: Made(b"weak", b"list", key, _RESULT) for key in keys}


def offered(results: Mapping[bytes, Made], there: Place) -> None:
    home = Place(Store(set()))
    asyncio.run(offer(results, home, there))  # type: ignore[arg-type]


def test_a_volume_takes_it_and_is_not_asked_again() -> None:
    results = made(b"one", b"two")
    there = Place(Store({b"two"}))
    offered(results, there)
    assert results == {}
    assert there.link.has == {b"one", b"two"}
    assert there.link.asked == [b"one", b"two"]


def test_what_a_servers_own_disk_has_waits_for_the_volume() -> None:
    """The disk goes with the server: its store is filled, and nothing is forgotten."""
    results = made(b"one", b"two")
    disk = Place(Store(set()), lasting=False)
    offered(results, disk)
    assert set(results) == {b"one", b"two"}
    assert disk.link.has == {b"one", b"two"}
    assert next(wanted(results, disk), None) is None  # type: ignore[arg-type]
    offered(results, disk)
    assert disk.link.asked == [b"one", b"two"]

    volume = Place(Store(set()))
    offered(results, volume)
    assert results == {}
    assert volume.link.has == {b"one", b"two"}
