"""`burst-admin status`: what exists, what it costs, when it goes."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import attrs

from burst_lifecycle import budget
from burst_lifecycle.admin import reaper_unit, reminders, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.endings import Ending, Keepers
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.admin.view import (
    Found,
    Month,
    ReaperState,
    ResourceLine,
    Standing,
    StatusReport,
    document,
    status_report,
)
from burst_lifecycle.books import BILLING_KINDS, Account
from burst_lifecycle.cloud.model import Inventory, Kind, Server, ServerState
from burst_lifecycle.errors import CloudProblem
from burst_lifecycle.events import Created, Event, Seen
from burst_lifecycle.guard import is_ready
from burst_lifecycle.history import merge, observed
from burst_lifecycle.host import Lease
from burst_lifecycle.labels import Claim
from burst_lifecycle.pricing import Amount
from burst_protocol.errors import BurstError, UsageError

_LEAST_S = 10.0
_SEEN_S = 1800.0
_ANSWERING = frozenset({ServerState.RUNNING, ServerState.STARTING, ServerState.STOPPING})


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0, also if there is nothing."""
    if options.watch and options.interval < _LEAST_S:
        raise UsageError(f"--interval must be at least {_LEAST_S:g}s: the API counts requests")
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    async with desk.control() as control:
        while True:
            report = await gather(desk, control, options.owner)
            if options.watch:
                _draw(options, desk, report)
                await asyncio.sleep(options.interval)
                desk.forget()
                continue
            if options.json:
                desk.document(document(report))
            else:
                desk.out(*lines(report))
            return 0


def _draw(options: argparse.Namespace, desk: Desk, report: StatusReport) -> None:
    """On a terminal the screen is drawn anew; elsewhere each look is one document or one text."""
    waiting = desk.notices.pending()
    if options.json:
        desk.document(document(report), one_line=True)
        return
    shown = [line for notice in waiting for line in reminders.notice_lines(notice, desk)]
    if desk.stdout.isatty():
        desk.stdout.write("\x1b[H\x1b[2J")
        desk.out(*lines(report), *([""] if shown else []), *shown)
        return  # they stay on the screen until a command shows them for good
    desk.out(*lines(report), *shown, "")
    desk.notices.shown(waiting)


async def gather(desk: Desk, control: Control, owner: str | None = None) -> StatusReport:
    """Look at everything, ask every agent, and put it together."""
    inventory = await desk.look(control)
    leases, problems = await ask_leases(control, inventory, owner or control.owner)
    prices = await tariff(control)
    if control.owner_known and owner in {None, control.owner}:
        await desk.remember(
            news(desk.history.events, inventory, control.owner, control.account, prices)
        )
    books = desk.books()
    reaper = ReaperState(desk.last_good_reap_s(), reaper_unit.installed(desk.places))
    keepers = Keepers(reaper=bool(reaper.installed) and not reaper.overdue(inventory.read_s))
    return status_report(
        Found(
            inventory=inventory,
            owner=owner or control.owner,
            owner_known=bool(owner) or control.owner_known,
            account=control.account,
            leases=leases,
            lease_problems=problems,
            events=desk.history.events,
            elsewhere=books.elsewhere(control.account),
            pending=tuple(f"{intent.name} ({intent.operation})" for intent in books.pending),
            tariff=prices,
            policy=control.policy,
            keepers=keepers,
            reaper=reaper,
            clock_offset_s=control.cloud.offset_s,
            month=month(desk, inventory, owner or control.owner, prices),
        )
    )


def month(desk: Desk, inventory: Inventory, owner: str, prices: Tariff) -> Month | None:
    """What a boot is refused by."""
    settings = desk.settings.hetzner
    limit = None if settings is None else settings.budget_eur_per_month
    if limit is None or prices.prices is None:
        return None
    now_s = inventory.read_s
    rates = budget.Tariff(prices.types, prices.prices)
    eur = budget.spent(desk.history.events, now_s)
    return Month(eur + budget.committed(inventory, owner, rates, now_s), limit)


async def tariff(control: Control) -> Tariff:
    """Live prices; without them (a moment's failure) those on record."""
    try:
        prices, types = await asyncio.gather(control.cloud.prices(), control.cloud.server_types())
    except CloudProblem:
        return Tariff()
    return Tariff.of(prices, types)


def news(
    events: Sequence[Event],
    inventory: Inventory,
    owner: str,
    account: Account,
    prices: Tariff,
) -> list[Event]:
    """What this machine's ledger should know of a look, so that an audit knows it when the resource
    is gone and no other copy is left: what bills and was never heard of, with its price; and twice
    an hour that something still exists. Pure."""
    known = {(life.kind, life.id): life for life in merge(events).lives}
    found: list[Event] = []
    for created in observed(inventory, (), account):
        if not isinstance(created, Created) or created.owner != owner:
            continue
        if created.kind not in BILLING_KINDS:
            continue
        life = known.get((created.kind, created.id))
        if life is None or not life.created_known:
            found.append(with_price(created, prices))
        elif inventory.read_s - life.seen_s >= _SEEN_S:
            found.append(
                Seen(
                    at_s=inventory.read_s,
                    kind=created.kind,
                    id=created.id,
                    endpoint=account.endpoint,
                )
            )
    return found


def with_price(created: Created, prices: Tariff) -> Created:
    """As far as it is known."""
    (life,) = merge([created]).lives
    rate = prices.rate(life)
    if rate is None:
        return created
    if created.kind in {Kind.VOLUME, Kind.IMAGE}:
        return attrs.evolve(created, eur_per_gb_month=rate.per_gb_month)
    return attrs.evolve(created, eur_per_hour=rate.per_hour, eur_per_month=rate.per_month)


async def ask_leases(
    control: Control, inventory: Inventory, owner: str
) -> tuple[dict[int, Lease], dict[int, str]]:
    """Of every server of that owner that may answer, all at once. One that boots has no agent yet,
    and perhaps not even the host key that it will have."""
    servers = [
        server
        for server in inventory.servers
        if server.state in _ANSWERING
        and is_ready(server)
        and (claim := Claim.of(server.labels)) is not None
        and claim.owner == owner
    ]
    answers = await asyncio.gather(*(_ask(control, server) for server in servers))
    leases = {server.id: a for server, a in zip(servers, answers, strict=True) if _is_lease(a)}
    problems = {
        server.id: a for server, a in zip(servers, answers, strict=True) if not _is_lease(a)
    }
    return leases, problems  # type: ignore[return-value]  # told apart by `_is_lease`


async def _ask(control: Control, server: Server) -> Lease | str:
    try:
        return await control.lease(server)
    except BurstError as error:
        return str(error)


def _is_lease(answer: Lease | str) -> bool:
    return not isinstance(answer, str)


# -- as text ----------------------------------------------------------------------------------


def lines(report: StatusReport) -> list[str]:
    """The whole report for people."""
    found: list[str] = []
    if report.owner_known:
        found += _mine(report)
    else:
        found += _by_owner(report)
    others = report.of(Standing.OTHER)
    if others:
        owners = sorted({line.owner for line in others})
        found += ["", f"of {text.count(len(owners), 'other owner')} in this project:"]
        found += resource_table(others, report.at_s, owner=True)
    leftovers = report.of(Standing.LEFTOVER)
    if leftovers:
        found += ["", "without all of our labels, so never touched; delete them in the console:"]
        found += [_leftover(line) for line in leftovers]
    if report.pending:
        found += ["", "asked for, with no answer on record (the next command looks for them):"]
        found += [f"  {name}" for name in report.pending]
    found += ["", *_footer(report)]
    return found


def _mine(report: StatusReport) -> list[str]:
    if not report.mine:
        return ["nothing of yours exists: €0.00/h"]
    found = resource_table(report.mine, report.at_s)
    found.append("")
    total = Amount(report.eur_so_far, not report.exact)
    unknown = any(line.eur_per_hour is None for line in report.mine)
    more = "at least " if unknown else ""
    found.append(f"{more}{text.rate(report.eur_per_hour)} now, {total.text} since they were made")
    found += [f"note: {line.kind} {line.name}: {line.note}" for line in report.mine if line.note]
    found += [
        f"note: {line.kind} {line.name}: {line.lease_problem}"
        for line in report.mine
        if line.lease_problem
    ]
    return found


def _by_owner(report: StatusReport) -> list[str]:
    """All local state is lost, and no `owner` is configured."""
    if not report.mine:
        return ["nothing of burst exists in this project: €0.00/h"]
    found = ["this machine does not know which owner it is; everything of burst in this project:"]
    found += resource_table(report.mine, report.at_s, owner=True)
    found += ["hint: `owner` in the configuration, or `burst-admin down --owner OWNER`"]
    return found


def resource_table(
    resources: Sequence[ResourceLine], now_s: float, *, owner: bool = False
) -> list[str]:
    """One row each, then when what costs something goes."""
    heads = ["what", "name", "type", "where", "state", "age", "idle", "euros", "rate"]
    rows = [
        [
            line.kind,
            line.name,
            line.detail or "-",
            line.location or "-",
            state(line),
            text.duration(line.age_s),
            "-" if line.idle_s is None else text.duration(line.idle_s),
            Amount(line.eur_so_far, not line.exact).text,
            text.rate(line.eur_per_hour),
        ]
        for line in resources
    ]
    if owner:
        heads.insert(0, "owner")
        rows = [[line.owner, *row] for line, row in zip(resources, rows, strict=True)]
    found = text.table(heads, rows, right="age,idle,euros,rate")
    goes = [line for line in resources if line.bills or (line.ending and line.ending.due)]
    if goes:
        found += ["", *(f"{line.name} goes {ending(line.ending, now_s)}" for line in goes)]
    return found


def state(line: ResourceLine) -> str:
    """With what the agent says."""
    lease = line.lease
    if lease is None:
        return line.state or "-"
    if lease.draining:
        return f"{line.state}, draining"
    if lease.busy:
        return f"{line.state}, {text.count(lease.running + lease.detached, 'action')}"
    return f"{line.state}, {text.count(lease.clients, 'client')}"


def ending(end: Ending | None, now_s: float) -> str:
    """When, under which condition, and by whom; behind `goes`."""
    if end is None:
        return "only by hand"
    by = f", by {end.by}" if end.by else ""
    if end.due:
        return f"now: {end.what}{by}"
    if end.at_s is None:
        return f"{end.what}{by}"
    if end.latest_s is not None and end.at_s >= end.latest_s:
        return f"at {text.clock(end.latest_s, now_s)} at the latest ({end.what}){by}"
    latest = "" if end.latest_s is None else f"; {text.clock(end.latest_s, now_s)} at the latest"
    return f"at {text.clock(end.at_s, now_s)} if nobody uses it ({end.what}){by}{latest}"


def _leftover(line: ResourceLine) -> str:
    place = f", {line.location}" if line.location else ""
    return (
        f"  {line.kind} {line.name} (id {line.id}{place}): {line.note}; "
        f"{text.rate(line.eur_per_hour)}"
    )


def _footer(report: StatusReport) -> list[str]:
    reaper = report.reaper
    if reaper.last_good_s is None:
        last = "never reaped from this machine"
    else:
        last = f"last good reap {text.duration(report.at_s - reaper.last_good_s)} ago"
    how = f"reaper by {reaper.installed}" if reaper.installed else "no reaper installed"
    found = [f"{how}, {last}"]
    if report.month is not None:
        spent, limit = Amount(report.month.eur).text, Amount(report.month.budget_eur).text
        found.insert(0, f"this month {spent} of {limit} are spent or committed")
    if report.clock_offset_s is not None and abs(report.clock_offset_s) > 60:
        found.append(
            f"this machine's clock is {text.duration(abs(report.clock_offset_s))} "
            f"{'behind' if report.clock_offset_s > 0 else 'ahead of'} the cloud's"
        )
    return found
