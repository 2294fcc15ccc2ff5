"""What happened to every resource, from all copies of the ledger that could be found.

Each fact of a merged history is a minimum, a maximum or a union, so neither the order of copies nor
repeated lines change the result. A deletion by other hands can only be narrowed down, because the
API forgets what it deleted: it lies between the last time the resource was seen and the first time
it was missed, and what it cost is known as "at least".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final, TypeVar

import attrs

from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import (
    Image,
    Inventory,
    Kind,
    PrimaryIp,
    Resource,
    Server,
    Volume,
)
from burst_lifecycle.events import (
    Command,
    Created,
    Deleted,
    Ending,
    Event,
    Gone,
    How,
    Intent,
    Ready,
    Reap,
    Refusal,
    Resized,
    Seen,
    Session,
    Settled,
)
from burst_lifecycle.labels import Claim

_ZERO: Final = Decimal(0)


@attrs.frozen
class End:
    at_s: float
    reason: str
    case: str


@attrs.frozen
class Start:
    """A server answered for the first time after a create or a power-on."""

    at_s: float
    how: How
    took_s: float


@attrs.frozen
class Life:
    """One resource, from all that anybody wrote about it."""

    kind: Kind
    id: int
    created_s: float
    created_known: bool
    """False: `created_s` is the first time that anybody mentions it."""
    seen_s: float
    """The last moment at which it certainly existed."""
    end: End | None = None
    gone_s: float | None = None
    """The first moment at which it certainly did not, if nobody recorded its end."""
    name: str = ""
    role: str = ""
    """`build`, `bake`, …"""
    operation: str = ""
    owner: str = ""
    project: str = ""
    location: str = ""
    token: str = ""
    type: str = ""
    sizes_gb: tuple[tuple[float, Decimal], ...] = ()
    """Since when it had which size."""
    endpoint: str = ""
    eur_per_hour: Decimal | None = None
    """Prices on record: what was true when it was created."""
    eur_per_month: Decimal | None = None
    eur_per_gb_month: Decimal | None = None
    starts: tuple[Start, ...] = ()

    @property
    def open(self) -> bool:
        """As far as these records know it exists, hence bills."""
        return self.end is None and self.gone_s is None


@attrs.frozen
class History:
    """All of it; everything sorted, so that equal facts are equal values."""

    lives: tuple[Life, ...] = ()
    sessions: tuple[Session, ...] = ()
    commands: tuple[Command, ...] = ()
    reaps: tuple[Reap, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    unfinished: tuple[Intent, ...] = ()
    """Intents of which no result is known: what they wanted may exist."""
    machines: tuple[str, ...] = ()

    @property
    def open(self) -> tuple[Life, ...]:
        return tuple(life for life in self.lives if life.open)


def merge(*copies: Iterable[Event]) -> History:
    """One history of any number of copies, in any order, with any repetitions."""
    events = {event for copy in copies for event in copy}
    about: dict[tuple[Kind, int], list[Event]] = {}
    for event in events:
        key = _subject(event)
        if key is not None:
            about.setdefault(key, []).append(event)
    answered = {
        (event.kind, event.operation) for event in events if isinstance(event, Created | Settled)
    }
    lives = _with_their_servers(
        [_life(kind, ident, found) for (kind, ident), found in about.items()]
    )
    return History(
        lives=tuple(sorted(lives, key=lambda life: (life.created_s, life.kind.value, life.id))),
        sessions=_sessions(events),
        commands=_commands(events),
        reaps=_sorted(events, Reap),
        refusals=_sorted(events, Refusal),
        unfinished=tuple(
            intent
            for intent in _sorted(events, Intent)
            if (intent.kind, intent.operation) not in answered
        ),
        machines=tuple(sorted({by for event in events if (by := getattr(event, "by", ""))})),
    )


def observed(inventory: Inventory, known: Iterable[Life], account: Account) -> list[Event]:
    """What a look into the cloud says, as events: what is there, and what is not any more.

    The look must have been at everything (`inventory("")`). Only lives under the same token can be
    missed: another token may see another project.
    """
    now_s = inventory.read_s
    events: list[Event] = []
    present: set[tuple[Kind, int]] = set()
    for kind, resource in inventory.everything():
        present.add((kind, resource.id))
        events.append(_created_from(kind, resource, now_s, account))
    events += [
        Gone(at_s=now_s, kind=life.kind, id=life.id, endpoint=life.endpoint)
        for life in known
        if life.open
        and (life.token, life.endpoint) == (account.token, account.endpoint)
        and (life.kind, life.id) not in present
    ]
    return events


def _created_from(kind: Kind, resource: Resource, now_s: float, account: Account) -> Created:
    claim = Claim.of(resource.labels)
    size: Decimal | None = None
    location = type_ = ""
    if isinstance(resource, Server):
        location, type_ = resource.location, resource.type
    elif isinstance(resource, Volume):
        location, size = resource.location, Decimal(resource.size_gb)
    elif isinstance(resource, PrimaryIp):
        location, type_ = resource.location, f"ipv{resource.version}"
    elif isinstance(resource, Image):
        size = resource.size_gb
    return Created(
        at_s=now_s,
        kind=kind,
        id=resource.id,
        created_s=resource.created_s,
        operation=claim.operation if claim else "",
        role=str(claim.role) if claim else "",
        name=resource.name,
        owner=claim.owner if claim else "",
        project=claim.project if claim else "",
        location=location,
        token=account.token,
        endpoint=account.endpoint,
        type=type_,
        size_gb=size,
    )


def _subject(event: Event) -> tuple[Kind, int] | None:
    if isinstance(event, Created | Seen | Resized | Ending | Deleted | Gone):
        return event.kind, event.id
    if isinstance(event, Ready | Session):
        return Kind.SERVER, event.id
    if isinstance(event, Command) and event.id is not None:
        return Kind.SERVER, event.id
    return None


E = TypeVar("E")


def _sorted(events: Iterable[Event], kind: type[E]) -> tuple[E, ...]:
    return tuple(sorted((event for event in events if isinstance(event, kind)), key=_order))


def _order(event: object) -> tuple[float, str]:
    """By time; the rest only makes it the same every time."""
    at_s = getattr(event, "start_s", None)
    return (getattr(event, "at_s", 0.0) if at_s is None else at_s), repr(event)


def _life(kind: Kind, ident: int, events: list[Event]) -> Life:
    creations = [event for event in events if isinstance(event, Created)]
    births = [event.created_s for event in creations if event.created_s is not None]
    alive = [moment for event in events for moment in _alive_at(event)]
    ends = [
        End(event.at_s, event.reason, event.case) for event in events if isinstance(event, Deleted)
    ]
    end = min(ends, key=attrs.astuple, default=None)
    gone = [event.at_s for event in events if isinstance(event, Gone)]
    asked = [event.at_s for event in events if isinstance(event, Ending)]
    every = [*births, *alive, *asked, *gone, *(end.at_s for end in ends)]
    created_s = min(births) if births else min(every)
    seen_s = max([created_s, *alive])
    if end is not None:
        seen_s = min(seen_s, end.at_s) if end.at_s >= created_s else created_s
    # Who looks a moment before an answer arrives may miss what comes to be: seen later, it is.
    missed = [at_s for at_s in gone if at_s >= seen_s]
    if missed and end is None:
        end = _asked_for(events, seen_s, min(missed))
    starts = {
        Start(event.at_s, event.how, event.took_s) for event in events if isinstance(event, Ready)
    }
    return Life(
        kind=kind,
        id=ident,
        created_s=created_s,
        created_known=bool(births),
        seen_s=seen_s,
        end=end,
        gone_s=min(missed) if missed and end is None else None,
        name=_word(creations, lambda event: event.name),
        role=_word(creations, lambda event: event.role),
        operation=_word(creations, lambda event: event.operation),
        owner=_word(creations, lambda event: event.owner),
        project=_word(creations, lambda event: event.project),
        location=_word(creations, lambda event: event.location),
        token=_word(creations, lambda event: event.token),
        type=_word(creations, lambda event: event.type),
        sizes_gb=_sizes(creations, events, created_s),
        endpoint=_word(creations, lambda event: event.endpoint),
        eur_per_hour=_price(event.eur_per_hour for event in creations),
        eur_per_month=_price(event.eur_per_month for event in creations),
        eur_per_gb_month=_price(event.eur_per_gb_month for event in creations),
        starts=tuple(sorted(starts, key=attrs.astuple)),
    )


def _asked_for(events: Iterable[Event], seen_s: float, gone_s: float) -> End | None:
    """It is gone, and somebody had just asked for that and was stopped before the answer."""
    asked = [
        End(event.at_s, event.reason, event.case)
        for event in events
        if isinstance(event, Ending) and seen_s <= event.at_s <= gone_s
    ]
    return max(asked, key=attrs.astuple, default=None)


def _with_their_servers(lives: list[Life]) -> list[Life]:
    """Addresses that came with a server (of the same operation) go with it, by the cloud's hand."""
    servers = {
        life.operation: life
        for life in sorted(lives, key=lambda life: -life.id)
        if life.kind is Kind.SERVER and life.operation
    }
    return [_with_its_server(life, servers.get(life.operation)) for life in lives]


def _with_its_server(life: Life, server: Life | None) -> Life:
    if life.kind is not Kind.PRIMARY_IP or life.end is not None or server is None:
        return life
    if server.end is not None and life.seen_s <= server.end.at_s:
        end = attrs.evolve(server.end, case="")
        return attrs.evolve(life, end=end, gone_s=None)
    if server.gone_s is not None and life.gone_s is None and life.seen_s <= server.seen_s:
        return attrs.evolve(life, seen_s=server.seen_s, gone_s=server.gone_s)
    return life


def _alive_at(event: Event) -> tuple[float, ...]:
    if isinstance(event, Created | Seen | Ready | Resized):
        return (event.at_s,)
    if isinstance(event, Session | Command):
        return event.start_s, event.end_s
    return ()


def _word(creations: Iterable[Created], of: Callable[[Created], str]) -> str:
    """They agree; if they do not, the choice must at least not depend on the order."""
    return min((word for event in creations if (word := of(event))), default="")


def _price(found: Iterable[Decimal | None]) -> Decimal | None:
    """Looks by machines with other prices in between must not depend on their order."""
    return min((price for price in found if price is not None), default=None)


def _sizes(
    creations: Iterable[Created], events: Iterable[Event], created_s: float
) -> tuple[tuple[float, Decimal], ...]:
    """Steps in time. Volumes only grow: a size that somebody saw and nobody recorded making counts
    from when it was seen first."""
    found = sorted({(c.size_gb, c.at_s) for c in creations if c.size_gb is not None})
    steps = {created_s: found[0][0]} if found else {}
    grown = {(event.at_s, event.size_gb) for event in events if isinstance(event, Resized)}
    grown |= {(at_s, size) for size, at_s in found if size != found[0][0]}
    for at_s, size in sorted(grown):
        if size > max((known for since, known in steps.items() if since <= at_s), default=_ZERO):
            steps[at_s] = size
    return tuple(sorted(steps.items()))


def _sessions(events: Iterable[Event]) -> tuple[Session, ...]:
    """One per name: a session is written down while it lasts, and again when it has ended."""
    best: dict[tuple[str, int], Session] = {}
    for session in _sorted(events, Session):
        known = best.get((session.session, session.id))
        if known is None or session.end_s >= known.end_s:
            best[session.session, session.id] = session
    return tuple(sorted(best.values(), key=_order))


def _commands(events: Iterable[Event]) -> tuple[Command, ...]:
    best: dict[str, Command] = {}
    for command in _sorted(events, Command):
        known = best.get(command.command)
        if known is None or command.end_s >= known.end_s:
            best[command.command] = command
    return tuple(sorted(best.values(), key=_order))
