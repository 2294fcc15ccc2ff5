"""One execution and all who want to hear of it: equal actions run once, late listeners catch up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import attrs

from burst_protocol import messages as m
from burst_protocol.digest import Digest

Event = m.Output | m.Stdout | m.Stderr | m.Observed | m.Exited | m.Failed


@attrs.frozen
class Listener:
    """A client's Execute that waits for this run."""

    request: m.Execute
    coalesced: bool

    @property
    def id(self) -> int:
        return self.request.id


Deliver = Callable[[Listener, m.Started | Event], None]


@attrs.define
class Run:
    """A run from its acceptance until the last listener accepted or released its result."""

    request: m.Execute
    """The first one; later ones name an equal action."""
    _deliver: Deliver
    listeners: dict[int, Listener] = attrs.field(factory=dict)
    task: asyncio.Task[None] | None = None
    locked: bool = False
    """Other agents of this root do not run the same meanwhile."""
    started: bool = False
    ended: bool = False
    reusable: bool = False
    """Ended with 0: who asks for the same may have this result before it is accepted."""
    _events: list[Event] = attrs.field(factory=list)

    @property
    def key(self) -> bytes:
        return self.request.action_key

    def attach(self, request: m.Execute) -> None:
        """A new listener gets everything from the start."""
        listener = Listener(request, coalesced=request is not self.request)
        self.listeners[request.id] = listener
        if self.started:
            self._announce(listener)
            for event in self._events:
                self._deliver(listener, attrs.evolve(event, id=listener.id))

    def announce(self) -> None:
        """It will run: from here on the only ends are Exited and Failed."""
        self.started = True
        for listener in self.listeners.values():
            self._announce(listener)

    def publish(self, event: Event) -> bool:
        """Tells all listeners. Whether who asks for the same from now on may join this run."""
        self._events.append(event)
        if isinstance(event, m.Exited | m.Failed):
            self.ended = True
            self.reusable = isinstance(event, m.Exited) and event.code == event.signal == 0
        for listener in tuple(self.listeners.values()):
            self._deliver(listener, attrs.evolve(event, id=listener.id))
        return self.reusable or not self.ended

    def output_digests(self) -> list[Digest]:
        return [event.file.digest for event in self._events if isinstance(event, m.Output)]

    def _announce(self, listener: Listener) -> None:
        out_dir = self.request.action.out_dir
        self._deliver(listener, m.Started(listener.id, listener.coalesced, out_dir))
