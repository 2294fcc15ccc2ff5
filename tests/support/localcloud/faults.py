"""What goes wrong on purpose, what is watched, and what was asked: faults, hooks, journal.

Operations are named as in `routes`: `POST /servers`, `GET /actions/{id}`; patterns such as `*` or
`DELETE *` fit several (`fnmatch`, in which `{id}` stands for itself).
"""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Callable
from typing import Any, Literal

import attrs

Json = dict[str, Any]
Kind = Literal["answer", "after", "drop", "lost", "hang", "hang_lost", "delay"]
Point = Literal["before", "performed", "answered"]


@attrs.frozen
class Fault:
    """From the `nth` fitting call on (the first is 1, counted since it was added), `times` times in
    a row; 0 is for ever. Kinds:

    - answer: this status and body, and nothing is done
    - after: done, but this status and body
    - drop: nothing is done, the connection is closed without an answer
    - lost: done, and the connection is closed without an answer
    - hang: nothing is done and no answer comes, for `seconds`; then the connection is closed
    - hang_lost: the same, but done
    - delay: answered rightly, `seconds` late (real time)
    """

    operation: str
    kind: Kind
    nth: int = 1
    times: int = 1
    status: int = 503
    code: str = "unavailable"
    message: str = "injected"
    details: Json | None = None
    raw: str | None = None
    """Sent instead of a JSON envelope, as text/html: a proxy's answer."""
    seconds: float = 3600.0

    def fits(self, operation: str) -> bool:
        return fits(self.operation, operation)


def fits(pattern: str, operation: str) -> bool:
    return fnmatch.fnmatchcase(operation, pattern.replace("[", "[[]"))


@attrs.define
class Call:
    """One request. Times are seconds of API time."""

    number: int
    """Counted from 1 over all calls of the cloud."""
    operation: str
    method: str
    path: str
    query: dict[str, list[str]]
    body: Json | None
    token: str
    """Its name, never its value."""
    project: str
    at: float
    status: int | None = None
    """None: no answer was sent."""
    code: str | None = None
    """The error code that was answered."""
    answer: Json | None = None
    """Its body, if it is of the API's making."""
    performed: bool = False
    injected: str | None = None
    """The kind of the fault it met."""

    def json(self) -> Json:
        return attrs.asdict(self)


@attrs.define
class _Armed:
    fault: Fault
    seen: int = 0


@attrs.define
class _Hook:
    point: Point
    operation: str
    nth: int | None
    callback: Callable[[Call], None]
    seen: int = 0


class Faults:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[_Armed] = []
        self._hooks: list[_Hook] = []
        self.closing = threading.Event()
        """Set when the cloud ends: whatever hangs goes on."""

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(_Armed(fault))

    def clear(self) -> None:
        with self._lock:
            self._armed.clear()
            self._hooks.clear()

    def answer(
        self, operation: str, status: int, code: str, *, nth: int = 1, times: int = 1
    ) -> None:
        """The API refuses with this, without doing anything."""
        self.add(Fault(operation, "answer", nth, times, status=status, code=code))

    def lost(self, operation: str, *, nth: int = 1) -> None:
        """Done, but the answer is lost."""
        self.add(Fault(operation, "lost", nth))

    def on(
        self,
        point: Point,
        callback: Callable[[Call], None],
        *,
        operation: str = "*",
        nth: int | None = None,
    ) -> None:
        """Call back (in the API's thread, which waits for it) at each fitting call, or at the `nth`
        only: `before` it is looked at, when it is `performed` but not answered, when the answer was
        sent (`answered`)."""
        with self._lock:
            self._hooks.append(_Hook(point, operation, nth, callback))

    def meets(self, operation: str) -> Fault | None:
        """The fault this call meets; every fitting one counts it."""
        found = None
        with self._lock:
            for armed in self._armed:
                if not armed.fault.fits(operation):
                    continue
                armed.seen += 1
                over = armed.fault.nth + armed.fault.times
                due = armed.seen >= armed.fault.nth
                if found is None and due and (armed.fault.times == 0 or armed.seen < over):
                    found = armed.fault
        return found

    def reach(self, point: Point, call: Call) -> None:
        """Run the hooks of that point."""
        with self._lock:
            due = []
            for hook in self._hooks:
                if hook.point == point and fits(hook.operation, call.operation):
                    hook.seen += 1
                    if hook.nth in {None, hook.seen}:
                        due.append(hook.callback)
        for callback in due:
            callback(call)


class Journal:
    """All calls in the order in which they came. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []

    def add(self, make: Callable[[int], Call]) -> Call:
        with self._lock:
            call = make(len(self._calls) + 1)
            self._calls.append(call)
            return call

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    def of(self, operation: str) -> list[Call]:
        return [call for call in self.calls if fits(operation, call.operation)]

    def operations(self) -> list[str]:
        return [call.operation for call in self.calls]

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
