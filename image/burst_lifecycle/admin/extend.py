"""`burst-admin extend`: the only way to keep a server beyond its hard end."""

from __future__ import annotations

import argparse
import asyncio

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
        line = choose(report, options.server)
        assert desk.seen is not None
        server = next(server for server in desk.seen.servers if server.id == line.id)
        in_s = hard_end_in_s(server, report.at_s, options.hard_end, options.by)
        if in_s is not None:
            desk.say(price_line(line, report.at_s, in_s))
        await control.extend(server, hard_end_in_s=in_s, keep_alive_s=options.keep_alive)
    words = []
    if in_s is not None:
        words.append(f"its hard end is {text.clock(report.at_s + in_s, report.at_s)}")
    if options.keep_alive is not None:
        words.append(f"it may be idle for {text.duration(options.keep_alive)}")
    desk.out(f"{server.name}: {text.listing(words)}")
    return 0


def choose(report: StatusReport, server_id: int | None) -> ResourceLine:
    """The one that was named, or the only one. NotFound, UsageError."""
    servers = [line for line in report.mine if line.kind == "server" and line.role == Role.BUILD]
    if server_id is not None:
        found = [line for line in servers if line.id == server_id]
        if not found:
            raise NotFound(what=f"server {server_id}")
        return found[0]
    if not servers:
        raise NotFound(what="a server of yours")
    if len(servers) > 1:
        names = text.listing([f"{line.id} ({line.name})" for line in servers])
        raise UsageError(f"which one? --server with one of {names}")
    return servers[0]


def hard_end_in_s(
    server: Server, now_s: float, hard_end_s: float | None, by_s: float | None
) -> float | None:
    """A duration from now; None: it is left as it is."""
    if hard_end_s is not None:
        return hard_end_s
    if by_s is None:
        return None
    claim = Claim.of(server.labels)
    present_s = float(claim.expires_s) if claim else now_s
    return max(0.0, present_s - now_s) + by_s


def price_line(line: ResourceLine, now_s: float, in_s: float) -> str:
    """The most that it can come to from now on."""
    if line.eur_per_hour is None:
        return f"{line.name}: its price is not known"
    paid = started_hours(line.created_s, now_s)
    hours = max(0, started_hours(line.created_s, now_s + in_s) - paid)
    most = Amount(hours * line.eur_per_hour)
    return f"{line.name}: at most {text.count(hours, 'more hour')}, {most.text} without VAT"
