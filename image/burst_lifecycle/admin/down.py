"""`burst-admin down`: shows what goes, asks, and deletes it through the guard."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

import attrs

from burst_lifecycle.admin import status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.admin.view import ResourceLine, StatusReport, noun
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.errors import StillWorking
from burst_lifecycle.labels import Role
from burst_protocol.errors import BurstError, UsageError

_KINDS = {noun(kind): kind for kind in Kind}
_ORDER = (
    Kind.SERVER,
    Kind.PRIMARY_IP,
    Kind.VOLUME,
    Kind.IMAGE,
    Kind.FIREWALL,
    Kind.SSH_KEY,
)


_NAMED = 4
"""So many of the actions that run are named."""


class NeedsYes(UsageError):
    """nothing was deleted: there is nobody to ask"""

    hint = "add --yes, or --dry-run to see what would be deleted"


class NeedsOwner(UsageError):
    """this machine does not know which owner it is, and there is more than nothing: {detail}"""

    hint = "add --owner; `burst-admin status` shows everything by owner"


@attrs.frozen
class Plan:
    """What `down` will do. Pure: `plan`."""

    doomed: tuple[ResourceLine, ...]
    kept: tuple[ResourceLine, ...]
    working: tuple[str, ...]
    """Sentences about servers on which something runs."""
    unsure: tuple[str, ...]
    """Sentences about servers whose agent could not be asked."""


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0 when all of it is gone."""
    return asyncio.run(_run(options, desk))


async def _run(options: argparse.Namespace, desk: Desk) -> int:
    desk.comes_by = False  # it shows and asks before it deletes anything
    async with desk.control() as control:
        report = await status.gather(desk, control, options.owner)
        if not report.owner_known:
            if not report.mine:
                desk.out("nothing of burst exists in this project")
                return 0
            owners = sorted({line.owner for line in report.mine})
            raise NeedsOwner(text.listing([f"owner {owner}" for owner in owners]))
        found = plan(
            report,
            volumes=options.with_volumes or options.everything,
            everything=options.everything,
        )
        if not found.doomed:
            desk.out("nothing to delete", *_kept(found))
            return 0
        desk.say("this will be deleted:")
        desk.say(*status.resource_table(found.doomed, report.at_s))
        desk.say(*_kept(found), *found.unsure)
        if found.working and not options.force:
            raise StillWorking(text.listing(found.working))
        if found.working:
            desk.say(f"with --force, although {text.listing(found.working)}")
        if options.dry_run:
            return 0
        if not options.yes and not desk.can_ask:
            raise NeedsYes
        if not options.yes and not desk.ask("delete it?"):
            desk.say("nothing was deleted")
            return 1
        return await _delete(desk, control, found.doomed, report.owner, force=options.force)


def plan(report: StatusReport, *, volumes: bool, everything: bool) -> Plan:
    """Servers always; volumes and the rest as asked; addresses go with their servers."""
    doomed: list[ResourceLine] = []
    kept: list[ResourceLine] = []
    for line in report.mine:
        kind = _KINDS[line.kind]
        goes = (
            kind is Kind.SERVER
            or (kind is Kind.PRIMARY_IP and line.state == "free")
            or (kind is Kind.VOLUME and volumes)
            or (kind not in {Kind.VOLUME, Kind.PRIMARY_IP} and everything)
        )
        with_server = kind is Kind.PRIMARY_IP and line.state != "free"
        if not with_server:
            (doomed if goes else kept).append(line)
    doomed.sort(key=lambda line: _ORDER.index(_KINDS[line.kind]))
    working = [working_words(line) for line in doomed if line.lease and line.lease.busy]
    unsure = [
        f"note: the agent of {line.name} does not answer ({line.lease_problem}): it goes when off"
        for line in doomed
        if line.lease_problem
    ]
    return Plan(tuple(doomed), tuple(kept), tuple(working), tuple(unsure))


def working_words(line: ResourceLine) -> str:
    """Which server, how much runs on it, and what: crates, the longest first."""
    lease = line.lease
    assert lease is not None
    number = lease.running + lease.detached
    said = f"{line.name} has {text.count(number, 'running action')} of "
    said += text.count(lease.clients, "client")
    named = [
        f"{one.crate} for {text.duration(one.for_s)}" + (", detached" if one.detached else "")
        for one in lease.actions[:_NAMED]
    ]
    if named and number > len(named):
        named.append(f"{number - len(named)} more")
    return f"{said} ({'; '.join(named)})" if named else said


def _kept(found: Plan) -> list[str]:
    """What goes on billing is named; what is free is not worth a word."""
    return [
        f"stays: {line.kind} {line.name}, {text.rate(line.eur_per_hour)}"
        for line in found.kept
        if line.bills
    ]


async def _delete(
    desk: Desk, control: Control, doomed: Sequence[ResourceLine], owner: str, *, force: bool
) -> int:
    """One after the other, as far as it goes; the first failure is the command's."""
    failure: BurstError | None = None
    for line in doomed:
        stuck = line.role == Role.BUILD and line.lease is not None and line.lease.busy
        try:
            await control.remove(_KINDS[line.kind], line.id, owner=owner, force=force and stuck)
        except BurstError as error:
            desk.say(f"not deleted: {line.kind} {line.name}: {error}")
            failure = failure or error
        else:
            desk.out(f"deleted {line.kind} {line.name}")
    await desk.look(control)
    if failure is not None:
        raise failure
    return 0
