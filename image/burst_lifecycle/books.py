"""What a ledger's events add up to: what is open, and what was asked for and never answered.

Pure. Repeated and reordered lines change nothing: a resource that was seen deleted once stays so,
since the API never gives an id twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import Created, Deleted, Event, Gone, Intent, Reap, Resized, Settled

BILLING_KINDS: Final = frozenset({Kind.SERVER, Kind.VOLUME, Kind.IMAGE, Kind.PRIMARY_IP})


@attrs.frozen
class Account:
    """Whose resources: one token at one endpoint. Two tokens may be of one project; we cannot know
    before what one of them created was seen with the other."""

    endpoint: str
    token: str
    """Keyed fingerprint."""

    def holds(self, thing: Created | Intent) -> bool:
        return thing.endpoint == self.endpoint and thing.token == self.token


@attrs.frozen
class Books:
    """Everything that the lines of all copies say is there now."""

    open: tuple[Created, ...] = ()
    """In the order of their creation; with the latest token that saw them, and their size now."""
    pending: tuple[Intent, ...] = ()
    last_good_reap: Reap | None = None

    def billing(self) -> tuple[Created, ...]:
        """Those of the open ones that cost money."""
        return tuple(thing for thing in self.open if thing.kind in BILLING_KINDS)

    def elsewhere(self, account: Account | None) -> tuple[Created, ...]:
        """What bills and cannot be ended with this token (None: with no token at all)."""
        return tuple(
            thing for thing in self.billing() if account is None or not account.holds(thing)
        )


_Key = tuple[str, Kind, int]


def add_up(events: Iterable[Event]) -> Books:
    """In any order of lines; `at_s` decides where two contradict each other."""
    created: dict[_Key, Created] = {}
    sizes: dict[_Key, Resized] = {}
    ended: set[_Key] = set()
    ended_anywhere: set[tuple[Kind, int]] = set()
    intents: dict[tuple[str, Kind], Intent] = {}
    answered: set[tuple[str, Kind]] = set()
    reap: Reap | None = None
    for event in events:
        match event:
            case Created():
                key = (event.endpoint, event.kind, event.id)
                created[key] = _union(created[key], event) if key in created else event
                answered.add((event.operation, event.kind))
            case Resized():
                key = (event.endpoint, event.kind, event.id)
                if key not in sizes or sizes[key].at_s <= event.at_s:
                    sizes[key] = event
            case Deleted() | Gone():
                ended.add((event.endpoint, event.kind, event.id))
                if not event.endpoint:
                    ended_anywhere.add((event.kind, event.id))
            case Intent():
                intents[event.operation, event.kind] = event
            case Settled():
                answered.add((event.operation, event.kind))
            case Reap():
                if event.ok and (reap is None or reap.at_s <= event.at_s):
                    reap = event
            case _:
                pass
    still = [
        _sized(thing, sizes.get(key))
        for key, thing in created.items()
        if key not in ended and thing.key not in ended_anywhere
    ]
    still.sort(key=lambda thing: (thing.created_s or thing.at_s, thing.id))
    pending = sorted(
        (intent for key, intent in intents.items() if key not in answered),
        key=lambda intent: intent.at_s,
    )
    return Books(tuple(still), tuple(pending), reap)


def _union(one: Created, other: Created) -> Created:
    """Later lines win where they say something; the earliest birth is the true one."""
    older, newer = sorted((one, other), key=lambda event: event.at_s)
    known = {
        field.name: getattr(newer, field.name)
        for field in attrs.fields(Created)
        if getattr(newer, field.name) not in {None, ""}
    }
    births = [event.created_s for event in (older, newer) if event.created_s is not None]
    known["created_s"] = min(births) if births else None
    known["at_s"] = older.at_s if older.token == newer.token else newer.at_s
    return attrs.evolve(older, **known)


def _sized(thing: Created, resized: Resized | None) -> Created:
    if resized is None or resized.at_s < thing.at_s:
        return thing
    return attrs.evolve(thing, size_gb=resized.size_gb)
