"""One execution and all who want to hear of it: equal actions run once, late listeners catch up."""

from __future__ import annotations

import asyncio
from typing import Protocol

import attrs

from burst_protocol import messages as m
from burst_protocol.digest import Digest

Event = m.Output | m.Stdout | m.Stderr | m.Observed | m.Exited | m.Failed


class Hearer(Protocol):
    """A client, as a run knows it."""

    @property
    def number(self) -> int:
        """Unique among the clients of this process."""

    def deliver(self, listener: Listener, event: m.Started | Event) -> None: ...

    def answer(self, listener: Listener, known: m.Hit | m.Lists) -> None:
        """It need not listen any more: somebody else's run had the result."""

    async def room(self) -> None:
        """Waits until it has read enough."""


@attrs.frozen(eq=False)
class Listener:
    """A client's Execute that waits for this run."""

    request: m.Execute
    coalesced: bool
    hearer: Hearer

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def key(self) -> tuple[int, int]:
        return self.hearer.number, self.request.id


@attrs.define(eq=False)
class Run:
    """A run from its acceptance until the last listener accepted or released its result."""

    request: m.Execute
    """The first one; later ones name an equal action."""
    listeners: dict[tuple[int, int], Listener] = attrs.field(factory=dict)
    task: asyncio.Task[None] | None = None
    orphaned: asyncio.TimerHandle | None = None
    """Nobody listens, since a short while; this ends it."""
    locked: bool = False
    """Other agents of this root do not run the same meanwhile."""
    marked: bool = False
    """They can see that it goes on."""
    started: bool = False
    ended: bool = False
    reusable: bool = False
    """Ended with 0: who asks for the same may have this result before it is accepted. A detached
    run's end is told to its heir whatever it was."""
    _events: list[Event] = attrs.field(factory=list)

    @property
    def key(self) -> bytes:
        return self.request.action_key

    def attach(self, request: m.Execute, hearer: Hearer) -> None:
        """A new listener gets everything from the start."""
        if self.orphaned is not None:
            self.orphaned.cancel()
            self.orphaned = None
        listener = Listener(request, coalesced=request is not self.request, hearer=hearer)
        self.listeners[listener.key] = listener
        if self.started:
            self._announce(listener)
            for event in self._events:
                hearer.deliver(listener, attrs.evolve(event, id=listener.id))

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
            well = isinstance(event, m.Exited) and event.code == event.signal == 0
            self.reusable = well or (self.request.detached and isinstance(event, m.Exited))
        for listener in tuple(self.listeners.values()):
            listener.hearer.deliver(listener, attrs.evolve(event, id=listener.id))
        return self.reusable or not self.ended

    async def room(self) -> None:
        """Waits while all who listen read too slowly; one that is stuck holds nobody else up."""
        hearers = {listener.hearer.number: listener.hearer for listener in self.listeners.values()}
        if len(hearers) <= 1:
            for hearer in hearers.values():
                await hearer.room()
            return
        waiting = [asyncio.ensure_future(hearer.room()) for hearer in hearers.values()]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waiting:
                future.cancel()

    def output_digests(self) -> list[Digest]:
        return [event.file.digest for event in self._events if isinstance(event, m.Output)]

    def _announce(self, listener: Listener) -> None:
        out_dir = self.request.action.out_dir
        listener.hearer.deliver(listener, m.Started(listener.id, listener.coalesced, out_dir))
