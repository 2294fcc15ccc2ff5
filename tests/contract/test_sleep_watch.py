"""A suspend is held up while idle servers go: on a real bus, with a logind of our own on it."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jeepney import (
    DBusAddress,
    HeaderFields,
    MessageType,
    message_bus,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import open_dbus_connection

from burst_wrapper.daemon.sleep_watch import SleepWatch

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="no dbus-daemon")

_CONFIGURATION = """<busconfig><type>session</type><listen>unix:path={path}</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>"""


class Logind:
    """As much of it as matters: gives out locks, tells of suspends, sees locks being let go."""

    def __init__(self, address: str) -> None:
        self.locks: queue.Queue[tuple[tuple[str, ...], int]] = queue.Queue()
        self._orders: queue.Queue[bool | None] = queue.Queue()
        self._connection = open_dbus_connection(address, enable_fds=True)
        name = message_bus.RequestName("org.freedesktop.login1")
        self._connection.send_and_get_reply(name)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, *, sleeping: bool) -> None:
        self._orders.put(sleeping)

    def close(self) -> None:
        self._orders.put(None)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        where = DBusAddress(
            "/org/freedesktop/login1",
            bus_name="org.freedesktop.login1",
            interface="org.freedesktop.login1.Manager",
        )
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                pass
            else:
                if order is None:
                    return
                self._connection.send(new_signal(where, "PrepareForSleep", "b", (order,)))
            try:
                message = self._connection.receive(timeout=0.05)
            except TimeoutError:
                continue
            fields = message.header.fields
            if (
                message.header.message_type is MessageType.method_call
                and fields.get(HeaderFields.member) == "Inhibit"
            ):
                ours, theirs = os.pipe()
                self._connection.send(new_method_return(message, "h", (theirs,)))
                os.close(theirs)
                self.locks.put((message.body, ours))


@pytest.fixture
def logind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Logind]:
    path = tmp_path / "bus"
    (tmp_path / "bus.conf").write_text(_CONFIGURATION.format(path=path))
    bus = subprocess.Popen(
        ["dbus-daemon", f"--config-file={tmp_path / 'bus.conf'}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bus.stdout is not None
    address = bus.stdout.readline().strip()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    found = Logind(address)
    try:
        yield found
    finally:
        found.close()
        bus.terminate()
        bus.wait()
        bus.stdout.close()


def _is_held(pipe: int) -> bool:
    """Whether somebody has the other end: reading from it would wait."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) != b""
    except BlockingIOError:
        return True


def test_a_suspend_waits_for_us(logind: Logind) -> None:
    """The lock is held until what has to be done is done; after waking up there is a new one."""

    async def body() -> None:
        begun, done = asyncio.Event(), asyncio.Event()

        async def before() -> None:
            begun.set()
            await done.wait()

        watch = SleepWatch(before)
        watch.start()
        watch.start()  # once is enough
        asked, lock = await asyncio.to_thread(logind.locks.get, timeout=20)
        assert asked[0] == "sleep"
        assert asked[3] == "delay"
        assert _is_held(lock)
        logind.say(sleeping=True)
        await asyncio.wait_for(begun.wait(), 20)
        assert _is_held(lock)
        done.set()
        assert await asyncio.to_thread(_ended, lock)
        logind.say(sleeping=False)
        _, second = await asyncio.to_thread(logind.locks.get, timeout=20)
        assert _is_held(second)
        watch.stop()
        assert await asyncio.to_thread(_ended, second)
        assert logind.locks.empty()

    asyncio.run(body())


def _ended(pipe: int) -> bool:
    """Waits until the other end is closed."""
    os.set_blocking(pipe, True)
    return os.read(pipe, 1) == b""


def test_what_fails_before_a_suspend_lets_it_go_on(logind: Logind) -> None:
    """A bug of ours must not cost five seconds at every closing of the lid, nor the next lock."""

    async def body() -> None:
        async def before() -> None:
            raise RuntimeError("a bug")

        watch = SleepWatch(before)
        watch.start()
        _, lock = await asyncio.to_thread(logind.locks.get, timeout=20)
        logind.say(sleeping=True)
        assert await asyncio.to_thread(_ended, lock)
        logind.say(sleeping=False)
        _, second = await asyncio.to_thread(logind.locks.get, timeout=20)
        watch.stop()
        assert await asyncio.to_thread(_ended, second)

    asyncio.run(body())


def test_without_a_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing happens, and it can be started again later."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path / 'absent'}")

    async def body() -> None:
        async def before() -> None: ...

        watch = SleepWatch(before)
        watch.start()
        thread = watch._thread
        assert thread is not None
        await asyncio.to_thread(thread.join, 20)
        assert not watch.running

    asyncio.run(body())
