"""`burst-admin up`: a server now."""

from __future__ import annotations

import argparse
import asyncio

from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.ports import Up
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.pricing import Amount
from burst_lifecycle.settings import Hetzner

SCHEMA = 1


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0 when a server's agent answers."""
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    settings = desk.hetzner
    desk.for_project = True
    async with desk.control() as control:
        wish = Up(
            server_types=tuple(options.server_type),
            locations=tuple(options.location),
            keep_alive_s=options.keep_alive,
            hard_end_s=options.hard_end,
        )
        desk.say(*offer_lines(wish, settings, await status.tariff(control)))
        server = await control.up(wish, desk.say)
        report = await status.gather(desk, control)
        (line,) = [line for line in report.mine if line.kind == "server" and line.id == server.id]
        if options.json:
            desk.document(
                {
                    "schema": SCHEMA,
                    "id": server.id,
                    "name": server.name,
                    "type": server.type,
                    "location": server.location,
                    "eur_per_hour": None if line.eur_per_hour is None else str(line.eur_per_hour),
                }
            )
        else:
            desk.out(
                f"{server.name} is ready: {server.type} in {server.location}, "
                f"{text.rate(line.eur_per_hour)}",
                f"goes {status.ending(line.ending, report.at_s)}",
            )
    return 0


def offer_lines(wish: Up, settings: Hetzner, tariff: Tariff) -> list[str]:
    """What it may cost, before anything is created. Pure."""
    types = wish.server_types or settings.server_type
    locations = wish.locations or settings.location
    hard_end_s = settings.hard_end_s if wish.hard_end_s is None else wish.hard_end_s
    found = []
    for name in types:
        rates = {
            offer.hourly.net_eur
            for (type_, location), offer in tariff.offers.items()
            if type_ == name and location in locations
        }
        if rates:
            dearest = max(rates)
            most = Amount(dearest * -(-int(hard_end_s) // 3600))
            found.append(
                f"{name}: {text.rate(dearest)} without VAT, at most {most.text} until its hard end "
                f"in {text.duration(hard_end_s)}"
            )
    return found or ["prices cannot be read now; nothing dearer than agreed is created"]
