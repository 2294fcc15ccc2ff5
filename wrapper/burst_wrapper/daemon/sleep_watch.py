"""Hears of a suspend before it happens, and holds it up for a moment.

A laptop that sleeps can look after no server. logind tells before it suspends, and waits up to five
seconds for whoever holds a delay lock (systemd's inhibitor locks, "delay" mode): time enough to let
idle servers go. Only while a server is there; without logind nothing is lost but that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

from jeepney import DBusAddress, MatchRule, message_bus, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection

_LOGIND: Final = DBusAddress(
    "/org/freedesktop/login1",
    bus_name="org.freedesktop.login1",
    interface="org.freedesktop.login1.Manager",
)
_ANSWER_S: Final = 5.0
_LOOK_S: Final = 0.5
"""How soon `stop` is noticed."""
_HOLD_S: Final = 4.5
"""logind goes on after five seconds whatever we do (InhibitDelayMaxSec)."""

_log: Final = logging.getLogger("burst")


class SleepWatch:
    """A thread, because messages that carry descriptors are read with a socket of their own."""

    def __init__(self, before: Callable[[], Awaitable[None]]) -> None:
        """`before` is awaited on the loop of `start`, for 4.5 s at most."""
        self._before = before
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Does nothing if it runs. Where there is no logind it ends by itself."""
        if self.running:
            return
        self._stop.clear()
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._watch, args=(loop,), name="sleep watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """The lock is given back within half a second."""
        self._stop.set()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            with open_dbus_connection("SYSTEM", enable_fds=True) as connection:
                self._follow(connection, loop)
        except Exception as error:
            # No bus, no logind, not allowed to: the dead man on the server is there all the same.
            _log.info("suspends are not heard of: %s", error)

    def _follow(self, connection: DBusConnection, loop: asyncio.AbstractEventLoop) -> None:
        rule = MatchRule(
            type="signal",
            interface=_LOGIND.interface,
            member="PrepareForSleep",
            path=_LOGIND.object_path,
        )
        connection.send_and_get_reply(message_bus.AddMatch(rule), timeout=_ANSWER_S)
        with connection.filter(rule, bufsize=8) as signals:
            lock = _hold(connection)
            try:
                while not self._stop.is_set():
                    with contextlib.suppress(TimeoutError):
                        message = connection.recv_until_filtered(signals, timeout=_LOOK_S)
                        if message.body[0]:
                            self._let_go(loop)
                            _close(lock)
                            lock = None
                        elif lock is None:
                            lock = _hold(connection)
            finally:
                _close(lock)

    def _let_go(self, loop: asyncio.AbstractEventLoop) -> None:
        async def before() -> None:
            await self._before()

        waiting = asyncio.run_coroutine_threadsafe(before(), loop)
        try:
            waiting.result(_HOLD_S)
        except TimeoutError:
            waiting.cancel()
        except Exception:
            _log.exception("before a suspend")


def _hold(connection: DBusConnection) -> int | None:
    """The delay lock: as long as this descriptor is open."""
    asked = new_method_call(
        _LOGIND, "Inhibit", "ssss", ("sleep", "burst", "idle servers are deleted first", "delay")
    )
    answer: Any = connection.send_and_get_reply(asked, timeout=_ANSWER_S)
    if not answer.body or not hasattr(answer.body[0], "to_raw_fd"):
        _log.info("no lock against suspending: %s", answer.body)
        return None
    handle: int = answer.body[0].to_raw_fd()
    return handle


def _close(lock: int | None) -> None:
    if lock is not None:
        with contextlib.suppress(OSError):
            os.close(lock)
