"""Actions: resources of their own that go from running to success or error as time passes.

Nothing runs in the background for paper servers: whoever looks first after an action is due (every
request does, by `Engine.settle`) carries out its end, in the order in which they were due. Work on
real machines is done by a thread; the action is over when both its time and its work are.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

import attrs

from .clock import Clock, stamp

Json = dict[str, Any]
Status = Literal["running", "success", "error"]
Resource = tuple[str, int]
"""Its type as the API calls it (`server`, `volume`, …) and its id."""


@attrs.define
class Action:
    """Times are seconds of API time."""

    id: int
    project: str
    command: str
    resources: tuple[Resource, ...]
    started: float
    duration: float
    locks: bool = True
    """Whether its resources are locked while it runs."""
    finish: Callable[[], None] | None = None
    """What becomes true when it succeeds. Called once, under the cloud's lock."""
    undo: Callable[[], None] | None = None
    """What becomes true when it fails."""
    failure: tuple[str, str] | None = None
    """Code and message with which it will fail."""
    work: threading.Thread | None = None
    status: Status = "running"
    finished: float | None = None
    begun: bool = True
    """False while it waits for another action to end: its duration counts from then."""
    after: Action | None = None

    @property
    def due(self) -> float:
        return self.started + self.duration

    def json(self, now: float) -> Json:
        if self.status == "running":
            ran = (now - self.started) / self.duration if self.begun and self.duration else 0.0
            progress = min(99, max(0, int(ran * 100)))
        else:
            progress = 100
        error = None
        if self.status == "error" and self.failure is not None:
            error = {"code": self.failure[0], "message": self.failure[1]}
        return {
            "id": self.id,
            "command": self.command,
            "status": self.status,
            "progress": progress,
            "started": stamp(self.started),
            "finished": None if self.finished is None else stamp(self.finished),
            "resources": [{"id": number, "type": kind} for kind, number in self.resources],
            "error": error,
        }


@attrs.define
class Planned:
    """A failure that waits for its action."""

    command: str
    code: str
    message: str
    times: int
    after_s: float | None


SORTABLE: Final = ("id", "command", "status", "started", "finished")


class Engine:
    """All actions of all projects. Call under the cloud's lock."""

    def __init__(self, clock: Clock, lock: threading.RLock, next_id: Callable[[], int]) -> None:
        self.all: dict[int, Action] = {}
        self._running: dict[int, Action] = {}
        self.planned: list[Planned] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._clock = clock
        self._lock = lock
        self._next_id = next_id

    def start(
        self,
        project: str,
        command: str,
        resources: Iterable[Resource],
        duration: float,
        *,
        finish: Callable[[], None] | None = None,
        undo: Callable[[], None] | None = None,
        work: Callable[[], None] | None = None,
        after: Action | None = None,
        locks: bool = True,
    ) -> Action:
        """`work` runs in a thread of its own, without the lock; if it raises, the action fails.

        With `after` it begins when that one succeeded, and fails if that one failed.
        """
        action = Action(
            id=self._next_id(),
            project=project,
            command=command,
            resources=tuple(resources),
            started=self._clock.now(),
            duration=duration,
            locks=locks,
            finish=finish,
            undo=undo,
            after=after,
            begun=after is None,
        )
        for planned in self.planned:
            if planned.command == command and planned.times > 0:
                planned.times -= 1
                action.failure = (planned.code, planned.message)
                if planned.after_s is not None:
                    action.duration = planned.after_s
                break
        if work is not None:
            action.work = threading.Thread(
                target=self._work, args=(action, work), name=f"{command}-{action.id}", daemon=True
            )
            if action.begun and action.failure is None:
                action.work.start()
        self.all[action.id] = self._running[action.id] = action
        return action

    def _work(self, action: Action, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            with self._lock:
                action.failure = ("action_failed", f"{type(error).__name__}: {error}")

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Something that happens by itself, such as a guest that has shut down."""
        heapq.heappush(self._events, (self._clock.now() + seconds, self._next_id(), event))

    def running(self) -> list[Action]:
        return list(self._running.values())

    def settle(self) -> None:
        """Carry out the ends of all that are over by now."""
        while True:
            now = self._clock.now()
            for action in self.running():
                self._begin(action, now)
            over = [action for action in self.running() if self._over(action, now)]
            first = min(over, key=lambda action: (action.due, action.id), default=None)
            if self._events and self._events[0][0] <= min(now, first.due if first else now):
                heapq.heappop(self._events)[2]()
            elif first is not None:
                self._end(first, now)
            else:
                return

    def _begin(self, action: Action, now: float) -> None:
        if action.begun or action.after is None or action.after.status == "running":
            return
        action.begun = True
        action.started = action.after.finished or now
        if action.after.status == "error":
            action.failure, action.duration = ("action_failed", "a previous action failed"), 0.0
        elif action.work is not None and action.failure is None:
            action.work.start()

    @staticmethod
    def _over(action: Action, now: float) -> bool:
        if not action.begun or now < action.due:
            return False
        # A thread that was never started belongs to an action that was to fail.
        return action.work is None or not action.work.is_alive()

    def _end(self, action: Action, now: float) -> None:
        action.finished = max(action.due, action.started) if action.work is None else now
        action.status = "success" if action.failure is None else "error"
        del self._running[action.id]
        end = action.finish if action.failure is None else action.undo
        if end is not None:
            end()

    def locked(self, kind: str, ident: int) -> bool:
        return any(action.locks and (kind, ident) in action.resources for action in self.running())
