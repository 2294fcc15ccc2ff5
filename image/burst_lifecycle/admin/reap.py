"""`burst-admin reap`: one run of the reaper, or what runs it every five minutes."""

from __future__ import annotations

import argparse
import asyncio

from burst_lifecycle.admin import reaper_unit
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.ports import ReapOutcome
from burst_lifecycle.admin.reaper_unit import Machine
from burst_lifecycle.errors import CloudProblem, TokenProblem

SCHEMA = 1


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0 if all that is due was done."""
    if options.install:
        return _install(options.install, desk)
    if options.uninstall:
        machine = Machine(desk.places, desk.environ, desk.clock)
        was = reaper_unit.uninstall(machine)
        desk.out("the reaper is not installed any more" if was else "no reaper was installed")
        return 0
    outcome = asyncio.run(_reap(desk, dry_run=options.dry_run))
    if options.json:
        desk.document({"schema": SCHEMA, "dry_run": options.dry_run, **_document(outcome)})
    else:
        _tell(options, desk, outcome)
    if not outcome.ok:
        first, why = outcome.failed[0]
        raise CloudProblem(why, what=f"the deletion of {first}")
    if not options.dry_run:
        reaper_unit.prove(desk.places, desk.environ)
    return 0


async def _reap(desk: Desk, *, dry_run: bool) -> ReapOutcome:
    desk.comes_by = False
    async with desk.control() as control:
        outcome = await control.reap(dry_run=dry_run)
        await desk.look(control)
    return outcome


def _document(outcome: ReapOutcome) -> dict[str, list[dict[str, str]]]:
    return {
        name: [{"name": what, "reason": why} for what, why in getattr(outcome, name)]
        for name in ("deleted", "kept", "failed")
    }


def _tell(options: argparse.Namespace, desk: Desk, outcome: ReapOutcome) -> None:
    verb = "would delete" if options.dry_run else "deleted"
    desk.out(*(f"{verb} {what}: {why}" for what, why in outcome.deleted))
    if not options.quiet:
        desk.out(*(f"kept {what}: {why}" for what, why in outcome.kept))
        if not outcome.deleted and not outcome.kept and not outcome.failed:
            desk.out("nothing of yours exists")
    desk.say(*(f"could not delete {what}: {why}" for what, why in outcome.failed))


def _install(way: str, desk: Desk) -> int:
    """TokenProblem if a timer would have no token; ReaperProblem if it does not work."""
    if not (desk.hetzner.token.file or desk.hetzner.token.command):
        raise NoStoredToken("a timer does not see HCLOUD_TOKEN of your shell")
    machine = Machine(desk.places, desk.environ, desk.clock)
    became = reaper_unit.install(way, machine, desk.say)
    every = reaper_unit.EVERY_MIN
    desk.out(f"the reaper runs every {every} minutes by {became}, and one run through it was good")
    if became == "systemd" and reaper_unit.lingers(machine) is not True:
        desk.say(
            f"{desk.painted('yellow', 'warning:', desk.stderr)} it runs only while you are logged "
            "in: lingering is off, or cannot be found out",
            f"{desk.painted('cyan', 'hint:', desk.stderr)} `loginctl enable-linger`",
        )
    return 0


class NoStoredToken(TokenProblem):
    """no token that a timer could use: {detail}"""

    hint = 'store it in a file that only you can read: token = { file = "…" } in [hetzner]'
