"""`burst-admin audit`: what was spent, as a table, JSON or a page."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from decimal import Decimal

import attrs

from burst_lifecycle import jsonlines, ledger
from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.audit_view import (
    KEEP_ALIVES_S,
    AuditReport,
    Period,
    Stats,
    audit,
    document,
)
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.atomic_file import write_atomically
from burst_lifecycle.cloud.model import Inventory, Resource
from burst_lifecycle.errors import CloudProblem, NotConfigured, TokenProblem
from burst_lifecycle.history import History, merge, observed
from burst_lifecycle.labels import Claim
from burst_lifecycle.pricing import Amount, gross
from burst_protocol.errors import ConfigError


@attrs.frozen
class Material:
    """What a report is made of."""

    history: History
    tariff: Tariff
    now_s: float
    unreadable: int


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0, also if nothing was ever spent."""
    found = asyncio.run(_gather(options, desk))
    period = Period(
        since_s=0.0 if options.since is None else text.parse_moment(options.since, found.now_s),
        until_s=math.inf
        if options.until is None
        else text.parse_moment(options.until, found.now_s),
    )
    report = audit(
        found.history,
        found.tariff,
        found.now_s,
        period,
        keep_alives_s=options.keep_alive or KEEP_ALIVES_S,
        unreadable=found.unreadable,
    )
    if options.json:
        desk.document(document(report))
    elif options.html:
        from burst_lifecycle.admin.page import page  # noqa: PLC0415 - only for those who ask

        prices = found.tariff.prices
        html = page(report, None if prices is None else prices.vat_percent)
        path = os.path.join(desk.cwd, options.html)
        try:
            write_atomically(os.fsencode(path), html.encode())
        except OSError as error:
            raise ConfigError(error.strerror or str(error), path=options.html) from error
        desk.out(options.html)
    else:
        desk.out(*lines(report, found.tariff))
    return 0


async def _gather(options: argparse.Namespace, desk: Desk) -> Material:
    """Every copy of the ledger, and a look at what is there now. Without a cloud: as it was."""
    copies = [desk.history, *(_copy(desk, path) for path in options.ledger)]
    rates = {name: Decimal(amount) for name, amount in options.rate}
    if not options.offline:
        try:
            return await _with_cloud(desk, copies, rates)
        except (CloudProblem, NotConfigured, TokenProblem) as error:
            desk.say(f"note: without a look into the cloud, because {error}")
    history = merge(*(copy.events for copy in copies))
    return Material(
        history, Tariff.of(None, (), rates), desk.clock(), sum(copy.unreadable for copy in copies)
    )


async def _with_cloud(
    desk: Desk, copies: list[ledger.History], rates: dict[str, Decimal]
) -> Material:
    async with desk.control() as control:
        inventory = await desk.look(control)
        # Hours are the API's: home's clock may be a day off.
        await control.learn_time(inventory)
        inventory = attrs.evolve(inventory, read_s=control.cloud.now_s())
        tariff = attrs.evolve(await status.tariff(control), rates=rates)
        copies = [*copies, *await control.copies()]
        events = [copy.events for copy in copies]
        known = merge(*events).lives
        mine = of_owner(inventory, control.owner)
        seen = observed(mine, known, control.account)
        return Material(
            merge(*events, seen),
            tariff,
            inventory.read_s,
            sum(copy.unreadable for copy in copies),
        )


def of_owner(inventory: Inventory, owner: str) -> Inventory:
    """Only what that owner pays for; keys and firewalls are free."""

    def is_of(thing: Resource) -> bool:
        claim = Claim.of(thing.labels)
        return claim is not None and claim.owner == owner

    return Inventory(
        servers=tuple(filter(is_of, inventory.servers)),
        volumes=tuple(filter(is_of, inventory.volumes)),
        images=tuple(filter(is_of, inventory.images)),
        primary_ips=tuple(filter(is_of, inventory.primary_ips)),
        read_s=inventory.read_s,
    )


def _copy(desk: Desk, path: str) -> ledger.History:
    """ConfigError names it."""
    full = os.path.join(desk.cwd, path)
    if not os.path.isfile(full):
        raise ConfigError("no such file", path=path)
    try:
        return ledger.parse(jsonlines.read(full))
    except OSError as error:
        raise ConfigError(error.strerror or str(error), path=path) from error


# -- as text -------------------------------------------------------------------------------------


def lines(report: AuditReport, tariff: Tariff) -> list[str]:
    """The whole report for people."""
    found = [f"{text.day(report.since_s)} to {text.day(report.until_s)}, euros without VAT", ""]
    rows = [
        [line.group, str(line.count), str(line.hours), Amount(line.eur, not line.exact).text]
        for line in report.costs
    ]
    rows.append(["in all", "", "", report.total.text])
    found += text.table(["cost of", "number", "hours", "euros"], rows, right="number,hours,euros")
    if tariff.prices is not None:
        with_vat = Amount(gross(report.total.eur, tariff.prices), report.total.at_least)
        found.append(f"with {tariff.prices.vat_percent.normalize():f} % VAT: {with_vat.text}")
    found += [f"note: {why}" for why in report.unknown]
    if report.paid_s:
        share = report.used_s / report.paid_s
        found += ["", f"server hours paid {report.paid_s / 3600:g}, used {share:.0%}"]
    found += _starts(report)
    found += _commands(report)
    found += _ends(report)
    found += _what_if(report)
    if report.machines:
        machines = text.count(len(report.machines), "machine")
        found += ["", f"from the ledgers of {machines} ({', '.join(report.machines)})"]
    if report.unreadable:
        found.append(f"{text.count(report.unreadable, 'line')} could not be read")
    return found


def _starts(report: AuditReport) -> list[str]:
    kinds = (("cold start", report.cold), ("warm start", report.warm), ("session", report.sessions))
    rows = [
        [name, str(stats.count), _time(stats, stats.mean_s), _time(stats, stats.max_s)]
        for name, stats in kinds
        if stats.count
    ]
    if not rows:
        return []
    return ["", *text.table(["", "number", "mean", "longest"], rows, right="number,mean,longest")]


def _time(stats: Stats, seconds: float) -> str:
    return text.duration(seconds) if stats.count else "-"


def _commands(report: AuditReport) -> list[str]:
    if not report.verbs:
        return []
    parts = [part.value for part, _ in report.verbs[0].parts]
    heads = ["verb", "commands", "failed", "mean", *parts]
    rows = [
        [
            line.verb,
            str(line.commands),
            str(line.failed),
            text.duration(line.mean_s),
            *(text.duration(seconds) for _, seconds in line.parts),
        ]
        for line in report.verbs
    ]
    whole = sum(seconds for _, seconds in report.split) or 1.0
    shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in report.split)
    table = text.table(heads, rows, right=",".join(heads[1:]))
    return ["", *table, f"wall time: {shares}"]


def _ends(report: AuditReport) -> list[str]:
    found = []
    if report.ends:
        found.append("servers ended: " + ", ".join(f"{n} x {why}" for why, n in report.ends))
    if report.ends and report.gaps:
        gaps = ", ".join(f"{gap.count} within {text.duration(gap.within_s)}" for gap in report.gaps)
        found.append(f"made again after an end: {gaps}, of {report.gaps[0].of}")
    if report.refusals:
        found.append("refused: " + ", ".join(f"{n} x {code}" for code, n in report.refusals))
    return ["", *found] if found else []


def _what_if(report: AuditReport) -> list[str]:
    rows = [
        [
            text.duration(line.keep_alive_s) if line.keep_alive_s else "next edge",
            str(line.boots),
            str(line.hours),
            "-" if line.eur is None else Amount(line.eur).text,
            f"{'-' if line.saved_wait_s < 0 else ''}{text.duration(abs(line.saved_wait_s))}",
        ]
        for line in report.what_if
    ]
    if not rows:
        return []
    heads = ["what if kept for", "boots", "hours", "euros", "waiting saved"]
    return ["", *text.table(heads, rows, right="boots,hours,euros,waiting saved")]
