"""What nobody waits for is done when nobody waits for anything, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from burst_wrapper.daemon import calm
from burst_wrapper.daemon.calm import Calm


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 20))


async def turns_over() -> None:
    """Everything that can go on without time passing has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


async def waits(place: Calm, key: bytes, done: list[bytes]) -> None:
    async with place.turn(key):
        done.append(key)


def test_it_waits_while_somebody_is_waited_for() -> None:
    """Two units end while a third compiles: their turns come after its end, in order."""

    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        tasks = [asyncio.create_task(waits(place, key, done)) for key in (b"1", b"2")]
        await asyncio.sleep(3 * calm.PAUSE_S)
        assert done == []
        place.ended()
        await asyncio.gather(*tasks)
        assert done == [b"1", b"2"]

    run(story())


def test_a_new_unit_within_the_pause_goes_first() -> None:
    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        task = asyncio.create_task(waits(place, b"1", done))
        await turns_over()
        place.ended()
        place.began()
        await asyncio.sleep(3 * calm.PAUSE_S)
        assert done == []
        place.ended()
        await task

    run(story())


def test_who_asks_for_that_very_unit_does_not_wait_for_the_others() -> None:
    """A second cargo that wants the same finds it stored."""

    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        tasks = [asyncio.create_task(waits(place, key, done)) for key in (b"1", b"2", b"2")]
        await turns_over()
        await place.settle(b"2")
        assert done == [b"2", b"2"]
        await place.settle(b"unknown")
        place.hurry()
        await asyncio.gather(*tasks)

    run(story())


def test_at_the_end_nothing_waits() -> None:
    """A daemon that is told to end stores what is waiting, and what comes then."""

    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        early = asyncio.create_task(waits(place, b"1", done))
        await turns_over()
        place.hurry()
        await early
        await waits(place, b"2", done)
        assert done == [b"1", b"2"]

    run(story())


def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a build of thousands of units the oldest go on: memory is bounded."""
    monkeypatch.setattr(calm, "LIMIT", 2)

    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        tasks = [asyncio.create_task(waits(place, b"%d" % n, done)) for n in range(4)]
        await turns_over()
        assert done == [b"0", b"1"]
        place.hurry()
        await asyncio.gather(*tasks)

    run(story())


def test_one_that_is_cancelled_holds_up_nobody() -> None:
    async def story() -> None:
        place, done = Calm(), list[bytes]()
        place.began()
        tasks = [asyncio.create_task(waits(place, key, done)) for key in (b"1", b"2")]
        await turns_over()
        tasks[0].cancel()
        await turns_over()
        place.ended()
        await tasks[1]
        assert done == [b"2"]

    run(story())
