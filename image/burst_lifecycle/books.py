"""What a ledger's events add up to: what is open, and what was asked for and never answered.

Pure. Repeated and reordered lines change nothing: a resource that was seen deleted once stays so,
since the API never gives an id twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

import attrs

from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.errors import StillBilling
from burst_lifecycle.events import Created, Deleted, Event, Gone, Intent, Reap, Resized, Settled
from burst_lifecycle.pricing import per_hour, total

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
    growth: tuple[Resized, ...] = ()
    """Of open things."""

    def billing(self) -> tuple[Created, ...]:
        """Those of the open ones that cost money."""
        return tuple(thing for thing in self.open if thing.kind in BILLING_KINDS)

    def elsewhere(self, account: Account | None) -> tuple[Created, ...]:
        """What bills and cannot be ended with this token (None: with no token at all)."""
        return tuple(
            thing for thing in self.billing() if account is None or not account.holds(thing)
        )


def still_billing(books: Books, account: Account | None, now_s: float) -> StillBilling | None:
    """What every command says, and exits with, while something bills that it cannot end: made with
    another token, or with one that is refused now (`account` None). None if there is no such thing.

    By what this machine remembers; it ends when somebody with the right token sees it deleted.
    """
    things = books.elsewhere(account)
    if not things:
        return None
    hourly = total(per_hour(thing, now_s) for thing in things).hourly_text
    shown = ", ".join(_described(thing) for thing in things)
    why = "with a token that is not accepted" if account is None else "with another token"
    return StillBilling(
        f"{shown}, made {why}; {hourly} until it is deleted in the console of its project"
    )


def billing_words(thing: Created, now_s: float) -> str:
    """`server burst-build-0123456789 (ccx63 in fsn1), €1.3678 an hour`."""
    return f"{_described(thing)}, {per_hour(thing, now_s).hourly_text}"


def _described(thing: Created) -> str:
    kind = thing.kind.value.removesuffix("s").replace("_", " ")
    more = [word for word in (thing.type, thing.location) if word]
    return f"{kind} {thing.name or thing.id}" + (f" ({' in '.join(more)})" if more else "")


_Key = tuple[str, Kind, int]


def add_up(events: Iterable[Event]) -> Books:
    """In any order of lines; `at_s` decides where two contradict each other."""
    created: dict[_Key, list[Created]] = {}
    sizes: dict[_Key, list[tuple[float, Decimal]]] = {}
    ended: set[_Key] = set()
    intents: dict[tuple[str, Kind], Intent] = {}
    answered: set[tuple[str, Kind]] = set()
    resized: list[Resized] = []
    reap: Reap | None = None
    for event in events:
        match event:
            case Created():
                key = (event.endpoint, event.kind, event.id)
                created.setdefault(key, []).append(event)
                answered.add((event.operation, event.kind))
                if event.size_gb is not None:
                    sizes.setdefault(key, []).append((event.at_s, event.size_gb))
            case Resized():
                key = (event.endpoint, event.kind, event.id)
                sizes.setdefault(key, []).append((event.at_s, event.size_gb))
                resized.append(event)
            case Deleted() | Gone():
                ended.add((event.endpoint, event.kind, event.id))
            case Intent():
                intents[event.operation, event.kind] = event
            case Settled():
                answered.add((event.operation, event.kind))
            case Reap():
                if event.ok and (reap is None or reap.at_s <= event.at_s):
                    reap = event
            case _:
                pass
    # Addresses are born with their server's operation, and go with it (`auto_delete`).
    over = {
        (key[0], one.operation)
        for key, births in created.items()
        if key[1] is Kind.SERVER and (key in ended or ("", *key[1:]) in ended)
        for one in births
        if one.operation
    }
    ended |= {
        key
        for key, births in created.items()
        if key[1] is Kind.PRIMARY_IP and any((key[0], one.operation) in over for one in births)
    }
    still = [
        _union(births, sizes.get(key, []))
        for key, births in created.items()
        # An end that names no endpoint is an old line: it ends whatever has that number.
        if key not in ended and ("", *key[1:]) not in ended
    ]
    still.sort(key=lambda thing: (thing.created_s or thing.at_s, thing.id, thing.endpoint))
    pending = sorted(
        (intent for key, intent in intents.items() if key not in answered),
        key=lambda intent: (intent.at_s, intent.operation),
    )
    alive = {(thing.endpoint, thing.kind, thing.id) for thing in still}
    growth = (event for event in resized if (event.endpoint, event.kind, event.id) in alive)
    return Books(tuple(still), tuple(pending), reap, tuple(dict.fromkeys(growth)))


def _union(births: Iterable[Created], sizes: Iterable[tuple[float, Decimal]]) -> Created:
    """Later lines win where they say something; the earliest birth is the true one."""
    lines = sorted(births, key=lambda event: (event.at_s, event.token))
    known: dict[str, Any] = {}
    for line in lines:
        for field in attrs.fields(Created):
            value = getattr(line, field.name)
            if value is not None and value != "":
                known[field.name] = value
    known["created_s"] = min(
        (line.created_s for line in lines if line.created_s is not None), default=None
    )
    known["size_gb"] = max(sizes, default=(0.0, None))[1]
    return attrs.evolve(lines[0], **known)
