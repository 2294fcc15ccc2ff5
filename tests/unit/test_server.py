"""burst_wrapper.daemon.server: whose unit is ended, and whose is let be."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import attrs
import pytest

from burst_wrapper.callers import Callers
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.server import Server

if TYPE_CHECKING:
    from burst_wrapper.daemon.services import Services

OUTPUTS = (b"/p/target/debug/deps", b"app-0123 bin")


class Deaf(asyncio.WriteTransport):
    """A wrapper's connection; what is said to it does not matter here."""

    def write(self, data: object) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def write_eof(self) -> None:
        pass


@attrs.frozen
class OnlyCallers:
    """Of all services the one that a server asks itself."""

    callers: Callers


@pytest.fixture
def ended_cargo() -> Iterator[tuple[Callers, int]]:
    """The pid of a wrapper whose cargo has ended since."""
    callers = Callers()
    code = "import subprocess; print(subprocess.Popen(['/bin/sleep', '600']).pid, flush=True); "
    command = [sys.executable, "-c", code + "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as cargo:
        assert cargo.stdout is not None
        wrapper = int(cargo.stdout.readline())
        assert callers.of(wrapper) is not None
        cargo.kill()
    yield callers, wrapper
    subprocess.run(["kill", str(wrapper)], check=True)


@contextmanager
def _server(callers: Callers) -> Iterator[Server]:
    with socket.socket() as listener:
        yield Server(cast("Services", OnlyCallers(callers)), listener, 3600, lambda: None)


async def _was_cancelled(task: asyncio.Task[None]) -> bool:
    await asyncio.wait([task], timeout=0)
    ended = task.cancelled()
    task.cancel()
    return ended


@pytest.mark.parametrize("answered", [False, True])
def test_the_end_of_cargo_ends_what_nobody_waits_for(
    ended_cargo: tuple[Callers, int], answered: bool
) -> None:
    """A unit whose wrapper was left behind. Not one that was answered, which is why cargo ended:
    its result is about to be stored, and the next build would make it again."""
    callers, pid = ended_cargo

    async def scenario() -> bool:
        task = asyncio.create_task(asyncio.sleep(600))
        client = Client(Deaf(), pid)
        if answered:
            client.exit(0)
        with _server(callers) as server:
            server._units[client] = task
            server._cancel_orphans()
        return await _was_cancelled(task)

    assert asyncio.run(scenario()) is not answered


@pytest.mark.parametrize("answered", [False, True])
def test_a_new_call_for_the_same_outputs(answered: bool) -> None:
    """It ends the old one if that might still write, and leaves it to store its result if not."""

    async def scenario() -> bool:
        old, new = (Client(Deaf(), pid) for pid in (1, 2))
        old.gone.set()
        task = asyncio.create_task(asyncio.sleep(600))
        if answered:
            old.exit(0)
        with _server(Callers()) as server:
            server._units[old] = task
            server._owners[OUTPUTS] = old
            await server._own(OUTPUTS, new)
            assert server._owners[OUTPUTS] is new
        return await _was_cancelled(task)

    assert asyncio.run(scenario()) is not answered
