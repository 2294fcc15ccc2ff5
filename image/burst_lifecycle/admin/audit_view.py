"""What was spent, on what, and what another keep-alive would have cost. Pure.

`audit` makes a report of one merged history and a tariff; `document` is its JSON form, whose names
are an interface. Durations are seconds, money is euros without VAT.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

import attrs

from burst_lifecycle.admin.tariff import ZERO, Cost, Tariff
from burst_lifecycle.admin.view import plain
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import Command, How, Part, Session
from burst_lifecycle.history import History, Life
from burst_lifecycle.labels import Role
from burst_lifecycle.pricing import HOUR_S, Amount, started_hours
from burst_lifecycle.reaper import due_s

SCHEMA: Final = 1
DAY_S: Final = 86400
KEEP_ALIVES_S: Final = (0.0, 600.0, 1800.0, 3600.0)
GAPS_S: Final = (600.0, 1800.0, 3600.0)
GROUPS: Final = {
    Kind.SERVER: "servers",
    Kind.PRIMARY_IP: "ipv4",
    Kind.VOLUME: "volumes",
    Kind.IMAGE: "snapshots",
}


@attrs.frozen
class Stats:
    """Of some durations; all 0 if there were none."""

    count: int
    total_s: float
    mean_s: float
    median_s: float
    max_s: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Stats:
        found = sorted(values)
        if not found:
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        total = math.fsum(found)
        return cls(len(found), total, total / len(found), statistics.median(found), found[-1])


@attrs.frozen
class ServerLine:
    """One server's life, as far as it lies in the period."""

    id: int
    name: str
    type: str
    location: str
    created_s: float
    ended_s: float | None
    lifetime_s: float
    """Until its end, or until it was seen last."""
    how: str
    """How it began to answer: `cold`; empty if it never did."""
    start_s: float | None
    """How long that took."""
    used_s: float
    """Sessions and commands, their union."""
    commands: int
    reason: str
    case: str
    hours: int
    eur: Decimal
    exact: bool


@attrs.frozen
class CostLine:
    """A group of resources: `servers`, `ipv4`, `volumes`, `snapshots`."""

    group: str
    count: int
    hours: int
    eur: Decimal
    exact: bool


@attrs.frozen
class DayLine:
    """What the hours that began on that day (UTC) cost."""

    day_s: float
    eur: tuple[tuple[str, Decimal], ...]
    """By group."""


@attrs.frozen
class VerbLine:
    verb: str
    commands: int
    failed: int
    mean_s: float
    parts: tuple[tuple[Part, float], ...]
    """Means. What is left of `mean_s` is cargo's own."""


@attrs.frozen
class Gap:
    """How often a server was made again within that time after the last one went."""

    within_s: float
    count: int
    of: int


@attrs.frozen
class WhatIf:
    """The same commands, had idle servers been kept that long; by the paid hour's edge, too."""

    keep_alive_s: float
    boots: int
    hours: int
    eur: Decimal | None
    """None: no price is known."""
    saved_wait_s: float
    """Against what happened, by the difference of cold and warm starts. Negative: more waiting."""


@attrs.frozen
class AuditReport:
    since_s: float
    until_s: float
    machines: tuple[str, ...]
    unreadable: int
    """Lines of ledgers that could not be read."""
    servers: tuple[ServerLine, ...]
    sessions: Stats
    cold: Stats
    warm: Stats
    commands: Stats
    split: tuple[tuple[str, float], ...]
    """Seconds of all commands' wall time by part; `cargo` is what belongs to none."""
    verbs: tuple[VerbLine, ...]
    ends: tuple[tuple[str, int], ...]
    """Servers by the reason of their end."""
    gaps: tuple[Gap, ...]
    costs: tuple[CostLine, ...]
    days: tuple[DayLine, ...]
    what_if: tuple[WhatIf, ...]
    refusals: tuple[tuple[str, int], ...]
    unknown: tuple[str, ...]
    """Why the sum is only `at least`."""

    @property
    def total(self) -> Amount:
        eur = sum((line.eur for line in self.costs), ZERO)
        return Amount(eur, at_least=not all(line.exact for line in self.costs))

    @property
    def paid_s(self) -> float:
        return sum(line.hours for line in self.servers) * float(HOUR_S)

    @property
    def used_s(self) -> float:
        return math.fsum(line.used_s for line in self.servers)


@attrs.frozen
class Period:
    """Half-open, API times."""

    since_s: float = 0.0
    until_s: float = math.inf

    def has(self, at_s: float) -> bool:
        return self.since_s <= at_s < self.until_s


def audit(
    history: History,
    tariff: Tariff,
    now_s: float,
    period: Period | None = None,
    *,
    keep_alives_s: Sequence[float] = KEEP_ALIVES_S,
    unreadable: int = 0,
) -> AuditReport:
    """Costs are those of hours that began in the period; a command belongs where it began."""
    when = period or Period()
    until_s = min(when.until_s, now_s)
    billed = [life for life in history.lives if life.kind in GROUPS]
    costs = {
        (life.kind, life.id): tariff.cost(life, now_s).between(when.since_s, when.until_s)
        for life in billed
        # What somebody saw has begun its hour, whatever a clock here says that it is.
        if life.created_s < when.until_s
    }
    kept = [life for life in billed if costs.get((life.kind, life.id), _NOTHING).charges]
    priceless = [life for life in billed if _priceless(life, costs, when, until_s)]
    commands = [command for command in history.commands if when.has(command.start_s)]
    sessions = [session for session in history.sessions if when.has(session.start_s)]
    servers = tuple(
        _server(life, costs[life.kind, life.id], history)
        for life in [*kept, *priceless]
        if life.kind is Kind.SERVER
    )
    starts = [
        start
        for life in history.lives
        if life.kind is Kind.SERVER and life.role != Role.BAKE
        for start in life.starts
        if when.has(start.at_s)
    ]
    cold = Stats.of(start.took_s for start in starts if start.how is How.COLD)
    warm = Stats.of(start.took_s for start in starts if start.how is How.WARM)
    first_s = min((life.created_s for life in kept), default=until_s)
    return AuditReport(
        since_s=max(when.since_s, min(first_s, *(c.start_s for c in commands), until_s)),
        until_s=until_s,
        machines=history.machines,
        unreadable=unreadable,
        servers=servers,
        sessions=Stats.of(session.end_s - session.start_s for session in sessions),
        cold=cold,
        warm=warm,
        commands=Stats.of(command.wall_s for command in commands),
        split=_split(commands),
        verbs=_verbs(commands),
        ends=_counted(line.reason or line.case for line in servers if line.ended_s is not None),
        gaps=_gaps(servers),
        costs=_costs([*kept, *priceless], costs),
        days=_days(kept, costs),
        what_if=_what_if(history, tariff, when, keep_alives_s, cold.mean_s - warm.mean_s),
        refusals=_counted(refusal.code for refusal in history.refusals if when.has(refusal.at_s)),
        unknown=tuple(
            costs[life.kind, life.id].why
            for life in [*kept, *priceless]
            if costs[life.kind, life.id].why
        ),
    )


_NOTHING: Final = Cost((), exact=True)


def _priceless(
    life: Life, costs: dict[tuple[Kind, int], Cost], when: Period, until_s: float
) -> bool:
    """Existed in the period, and nobody knows a price."""
    cost = costs.get((life.kind, life.id))
    if cost is None or cost.charges or not cost.why:
        return False
    end_s = life.end.at_s if life.end else life.gone_s or until_s
    return end_s > when.since_s


def _server(life: Life, cost: Cost, history: History) -> ServerLine:
    used = [(s.start_s, s.end_s) for s in history.sessions if s.id == life.id]
    commands = [c for c in history.commands if c.id == life.id]
    used += [(c.start_s, c.end_s) for c in commands]
    end_s = life.end.at_s if life.end else life.seen_s
    first = life.starts[0] if life.starts else None
    return ServerLine(
        id=life.id,
        name=life.name,
        type=life.type,
        location=life.location,
        created_s=life.created_s,
        ended_s=life.end.at_s if life.end else life.gone_s,
        lifetime_s=max(0.0, end_s - life.created_s),
        how=first.how.value if first else "",
        start_s=first.took_s if first else None,
        used_s=math.fsum(end - begin for begin, end in union(used)),
        commands=len(commands),
        reason=life.end.reason if life.end else ("" if life.open else "by other hands"),
        case=life.end.case if life.end else "",
        hours=cost.hours,
        eur=cost.amount.eur,
        exact=cost.exact,
    )


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans that overlap or touch become one; in order."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, max(begin, end)))
    return merged


def _split(commands: Sequence[Command]) -> tuple[tuple[str, float], ...]:
    """No part may make more of a command than its wall time: clocks differ, sums must not."""
    sums = dict.fromkeys(Part, 0.0)
    rest = 0.0
    for command in commands:
        left = command.wall_s
        for part, seconds in command.split:
            taken = min(left, seconds)
            sums[part] += taken
            left -= taken
        rest += left
    return (*((part.value, seconds) for part, seconds in sums.items()), ("cargo", rest))


def _verbs(commands: Sequence[Command]) -> tuple[VerbLine, ...]:
    lines = []
    for verb in sorted({command.verb for command in commands}):
        found = [command for command in commands if command.verb == verb]
        count = len(found)
        parts = tuple(
            (part, math.fsum(dict(command.split).get(part, 0.0) for command in found) / count)
            for part in Part
        )
        lines.append(
            VerbLine(
                verb=verb,
                commands=count,
                failed=sum(not command.ok for command in found),
                mean_s=math.fsum(command.wall_s for command in found) / count,
                parts=parts,
            )
        )
    return tuple(sorted(lines, key=lambda line: (-line.commands, line.verb)))


def _counted(words: Iterable[str]) -> tuple[tuple[str, int], ...]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word or "unknown"] = counts.get(word or "unknown", 0) + 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _gaps(servers: Sequence[ServerLine]) -> tuple[Gap, ...]:
    """Between an end and the next create: was it deleted too early?"""
    creates = sorted(line.created_s for line in servers)
    ends = sorted(line.ended_s for line in servers if line.ended_s is not None)
    waits = [later[0] - end_s for end_s in ends if (later := [at for at in creates if at >= end_s])]
    return tuple(Gap(limit, sum(w <= limit for w in waits), len(ends)) for limit in GAPS_S)


def _costs(lives: Sequence[Life], costs: dict[tuple[Kind, int], Cost]) -> tuple[CostLine, ...]:
    lines = []
    for kind, group in GROUPS.items():
        found = [costs[life.kind, life.id] for life in lives if life.kind is kind]
        lines.append(
            CostLine(
                group=group,
                count=len(found),
                hours=sum(cost.hours for cost in found),
                eur=sum((cost.amount.eur for cost in found), ZERO),
                exact=all(cost.exact for cost in found),
            )
        )
    return tuple(lines)


def _days(lives: Sequence[Life], costs: dict[tuple[Kind, int], Cost]) -> tuple[DayLine, ...]:
    """Every day between the first and the last, also those that cost nothing."""
    sums: dict[float, dict[str, Decimal]] = {}
    for life in lives:
        for charge in costs[life.kind, life.id].charges:
            day_s = charge.hour_s // DAY_S * DAY_S
            day = sums.setdefault(day_s, dict.fromkeys(GROUPS.values(), ZERO))
            day[GROUPS[life.kind]] += charge.eur
    if not sums:
        return ()
    first, last = min(sums), max(sums)
    days = [first + number * DAY_S for number in range(round((last - first) / DAY_S) + 1)]
    nothing = dict.fromkeys(GROUPS.values(), ZERO)
    return tuple(DayLine(day_s, tuple(sums.get(day_s, nothing).items())) for day_s in days)


def _what_if(
    history: History,
    tariff: Tariff,
    when: Period,
    keep_alives_s: Sequence[float],
    wait_s: float,
) -> tuple[WhatIf, ...]:
    """Of what really used servers. The price is that of the type that was used the longest."""
    uses: list[Session | Command] = [s for s in history.sessions if when.has(s.start_s)]
    uses += [c for c in history.commands if c.id is not None and when.has(c.start_s)]
    activity = union((use.start_s, use.end_s) for use in uses)
    if not activity:
        return ()
    used = {use.id for use in uses}
    lives = [life for life in history.lives if life.kind is Kind.SERVER and life.id in used]
    usual = max(lives, key=lambda life: (life.seen_s - life.created_s, life.id), default=None)
    rate = tariff.rate(usual) if usual is not None else None
    boots_now = len(lives)
    lines = []
    for keep_s in keep_alives_s:
        hours = simulate(activity, keep_s)
        boots = len(hours)
        lines.append(
            WhatIf(
                keep_alive_s=keep_s,
                boots=boots,
                hours=sum(hours),
                eur=None if rate is None else sum(hours) * rate.per_hour,
                saved_wait_s=(boots_now - boots) * max(0.0, wait_s),
            )
        )
    return tuple(lines)


def simulate(activity: Sequence[tuple[float, float]], keep_alive_s: float) -> list[int]:
    """Paid hours of each server, if one is made whenever there is none, and goes when it has been
    idle for `keep_alive_s` and is past minute 50 of its paid hour. `activity` is sorted, disjoint.
    """
    hours: list[int] = []
    begin_s = end_s = 0.0
    for number, (start_s, stop_s) in enumerate(activity):
        if number == 0 or start_s >= end_s:
            if number:
                hours.append(started_hours(begin_s, end_s))
            begin_s = start_s
        end_s = due_s(begin_s, stop_s + keep_alive_s)
    hours.append(started_hours(begin_s, end_s))
    return hours


def document(report: AuditReport) -> dict[str, Any]:
    """For `--json`."""
    fields = {field.name: plain(getattr(report, field.name)) for field in attrs.fields(AuditReport)}
    for name in ("split", "ends", "refusals"):
        fields[name] = dict(getattr(report, name))
    fields["days"] = [
        {"day_s": line.day_s, "eur": {group: str(eur) for group, eur in line.eur}}
        for line in report.days
    ]
    fields["verbs"] = [
        {**plain(line), "parts": {part.value: seconds for part, seconds in line.parts}}
        for line in report.verbs
    ]
    return {
        "schema": SCHEMA,
        "currency": "EUR",
        "total": {"eur": str(report.total.eur), "exact": not report.total.at_least},
        "paid_s": report.paid_s,
        "used_s": report.used_s,
        **fields,
    }
