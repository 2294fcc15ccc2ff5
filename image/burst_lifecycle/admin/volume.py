"""`burst-admin volume list|adopt|rm`."""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import Final

from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.down import NeedsYes
from burst_lifecycle.admin.here import project_here
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.admin.view import ResourceLine, StatusReport, plain
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.errors import Busy, NotFound
from burst_lifecycle.pricing import Amount
from burst_protocol.errors import UsageError

SCHEMA: Final = 1
_PROJECT: Final = re.compile(r"[0-9a-f]{16}")


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0; 1 if a question was answered with no."""
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    async with desk.control() as control:
        report = await status.gather(desk, control)
        if options.action == "list":
            return _list(options, desk, report)
        if options.action == "adopt":
            return await _adopt(options, desk, control, report)
        return await _remove(options, desk, control, report)


def volumes(report: StatusReport) -> list[ResourceLine]:
    return [line for line in report.mine if line.kind == "volume"]


def _list(options: argparse.Namespace, desk: Desk, report: StatusReport) -> int:
    found = volumes(report)
    if options.json:
        desk.document({"schema": SCHEMA, "volumes": [plain(line) for line in found]})
        return 0
    if not found:
        desk.out("you have no volume")
        return 0
    here = project_here(desk)
    heads = ["id", "name", "project", "size", "where", "state", "idle", "euros", "rate", "goes"]
    rows = [
        [
            str(line.id),
            line.name,
            line.project + (" (here)" if line.project == here else ""),
            line.detail,
            line.location,
            line.state,
            "-" if line.idle_s is None else text.duration(line.idle_s),
            Amount(line.eur_so_far, not line.exact).text,
            text.rate(line.eur_per_hour),
            status.ending(line.ending, report.at_s),
        ]
        for line in found
    ]
    desk.out(*text.table(heads, rows, right="id,size,idle,euros,rate"))
    return 0


async def _adopt(
    options: argparse.Namespace, desk: Desk, control: Control, report: StatusReport
) -> int:
    line = named(report, options.volume)
    project = options.project or project_here(desk)
    if project is None:
        raise UsageError("this folder is in no project: go there, or say --project")
    if not _PROJECT.fullmatch(project):
        raise UsageError("--project takes the 16 hex digits that `volume list` shows")
    if line.project == project:
        desk.out(f"{line.name} is that project's already")
        return 0
    others = [one for one in volumes(report) if one.project == project]
    if others:
        raise Busy(
            f"that project has {text.listing([one.name for one in others])} already; "
            "`burst-admin volume rm` it first",
            what=f"project {project}",
        )
    desk.say(f"{line.name} ({line.detail}, {line.location}): {line.project} becomes {project}")
    if not _agreed(options, desk, "do it?"):
        return 1
    assert desk.seen is not None
    volume = next(volume for volume in desk.seen.volumes if volume.id == line.id)
    await control.adopt(volume, project)
    desk.out(f"{line.name} is project {project}'s now")
    return 0


async def _remove(
    options: argparse.Namespace, desk: Desk, control: Control, report: StatusReport
) -> int:
    doomed = [named(report, word) for word in dict.fromkeys(options.volume)]
    used = [line.name for line in doomed if line.state != "free"]
    if used:
        raise Busy(
            "a server has it; `burst-admin down --with-volumes` deletes both",
            what=f"volume {text.listing(used)}",
        )
    desk.say("this will be deleted, with all that is cached there:")
    desk.say(*status.resource_table(doomed, report.at_s))
    if not _agreed(options, desk, "delete it?"):
        return 1
    for line in doomed:
        await control.remove(Kind.VOLUME, line.id, owner=report.owner, force=False)
        desk.out(f"deleted volume {line.name}")
    await desk.look(control)
    return 0


def named(report: StatusReport, word: str) -> ResourceLine:
    """By id or name. NotFound."""
    for line in volumes(report):
        if word in {str(line.id), line.name}:
            return line
    raise NotFound(what=f"volume {word} of yours")


def _agreed(options: argparse.Namespace, desk: Desk, question: str) -> bool:
    if options.yes:
        return True
    if not desk.can_ask:
        raise NeedsYes
    if desk.ask(question):
        return True
    desk.say("nothing was changed")
    return False
