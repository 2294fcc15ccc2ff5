"""`burst-admin extend`: the only way to keep a server beyond its hard end."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.view import ResourceLine, StatusReport
from burst_lifecycle.cloud.model import Server
from burst_lifecycle.errors import NotFound
from burst_lifecycle.labels import Claim, Role
from burst_lifecycle.pricing import Amount, started_hours
from burst_protocol.errors import UsageError


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0 when label and dead man both know."""
    if options.hard_end is None and options.by is None and options.keep_alive is None:
        raise UsageError("say what to change: --hard-end, --by or --keep-alive")
    if options.hard_end is not None and options.by is not None:
        raise UsageError("--hard-end and --by say the same thing in two ways")
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    async with desk.control() as control:
        report = await status.gather(desk, control)
        lines = servers(report)
        if not lines:
            raise NotFound(what="a server of yours")
        assert desk.seen is not None
        present = {server.id: server for server in desk.seen.servers}
        in_s = hard_end_in_s(
            [present[line.id] for line in lines], report.at_s, options.hard_end, options.by
        )
        if in_s is not None:
            desk.say(*(price_line(line, report.at_s, in_s) for line in lines))
        await control.extend(hard_end_in_s=in_s, keep_alive_s=options.keep_alive)
    words = []
    if in_s is not None:
        words.append(f"its hard end is {text.clock(report.at_s + in_s, report.at_s)}")
    if options.keep_alive is not None:
        words.append(f"it may be idle for {text.duration(options.keep_alive)}")
    desk.out(*(f"{line.name}: {text.listing(words)}" for line in lines))
    return 0


def servers(report: StatusReport) -> list[ResourceLine]:
    """One per owner; two only for the moment in which the second goes."""
    return [line for line in report.mine if line.kind == "server" and line.role == Role.BUILD]


def hard_end_in_s(
    found: Sequence[Server], now_s: float, hard_end_s: float | None, by_s: float | None
) -> float | None:
    """A duration from now; None: it is left as it is."""
    if hard_end_s is not None:
        return hard_end_s
    if by_s is None:
        return None
    claims = [Claim.of(server.labels) for server in found]
    present_s = max((float(claim.expires_s) for claim in claims if claim), default=now_s)
    return max(0.0, present_s - now_s) + by_s


def price_line(line: ResourceLine, now_s: float, in_s: float) -> str:
    """The most that it can come to from now on."""
    if line.eur_per_hour is None:
        return f"{line.name}: its price is not known"
    paid = started_hours(line.created_s, now_s)
    hours = max(0, started_hours(line.created_s, now_s + in_s) - paid)
    most = Amount(hours * line.eur_per_hour)
    return f"{line.name}: at most {text.count(hours, 'more hour')}, {most.text} without VAT"
