"""`burst-admin doctor`: looks at all that a server needs, and changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import os
import stat
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Final

import attrs

from burst_lifecycle.admin import reaper_unit, status, text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.admin.view import ReaperState
from burst_lifecycle.cloud.model import Inventory, Kind
from burst_lifecycle.cloud.port import Cloud
from burst_lifecycle.errors import CloudProblem, NotFound, Unauthorized
from burst_lifecycle.events import Event, Refusal
from burst_lifecycle.guard import TRUSTED_OFFSET_S
from burst_protocol.errors import BurstError
from burst_protocol.version import BUILD

SCHEMA: Final = 1
_NO_SUCH_KEY: Final = 1
"""An id that no key of any project of ours can have: the API counts in millions by now."""
_LIBRARIES: Final = ("hcloud", "asyncssh")


@attrs.frozen
class Check:
    """One thing looked at; `hint` says what to do when it is not `ok`."""

    what: str
    ok: bool
    result: str
    hint: str = ""


def run(options: argparse.Namespace, desk: Desk) -> int:
    """0 if everything is as it should be, 1 if something is not."""
    checks = asyncio.run(look(desk))
    if options.json:
        desk.document({"schema": SCHEMA, "checks": [attrs.asdict(check) for check in checks]})
    else:
        for check in checks:
            word = "ok  " if check.ok else "FAIL"
            desk.out(
                f"{desk.painted('green' if check.ok else 'red', word, desk.stdout)} "
                f"{check.what}: {check.result}"
            )
            if not check.ok and check.hint:
                desk.out(f"     hint: {check.hint}")
    return 0 if all(check.ok for check in checks) else 1


async def look(desk: Desk) -> list[Check]:
    """All of them; also for `cargo burst doctor`. Never raises BurstError."""
    checks = [versions()]
    try:
        checks.append(configuration(desk))
        async with desk.control() as control:
            inventory = await desk.look(control)
            checks.append(Check("token", ok=True, result=f"{control.token_source} works"))
            checks.append(await can_write(control.cloud))
            checks.append(clock(control.cloud.offset_s))
            checks.append(await key(desk, control))
            checks.append(await servers(control, inventory))
    except BurstError as error:
        what = "token" if isinstance(error, Unauthorized) else error.code
        checks.append(Check(what, ok=False, result=str(error), hint=error.hint))
    checks.append(refusals(desk.history.events, desk.clock()))
    checks.append(reaper(desk))
    return checks


def versions() -> Check:
    """Of what talks to clouds and servers."""
    python = ".".join(map(str, sys.version_info[:3]))
    found = [f"burst {BUILD}", f"Python {python}"]
    lacking = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lacking.append(name)
    if lacking:
        return Check(
            "versions",
            ok=False,
            result=f"{text.listing(lacking)} cannot be found",
            hint="install burst anew: `pipx reinstall burst-rustc`",
        )
    return Check("versions", ok=True, result=", ".join(found))


def configuration(desk: Desk) -> Check:
    """ConfigError, NotConfigured."""
    settings = desk.hetzner
    warnings = desk.settings.warnings
    if settings.max_eur_per_hour is None:
        return Check(
            "configuration",
            ok=False,
            result="no `max_eur_per_hour`: nothing will be created",
            hint="`cargo burst enable hetzner` shows what it costs and asks",
        )
    return Check(
        "configuration",
        ok=not warnings,
        result=f"{desk.places.config_file}, at most {text.rate(settings.max_eur_per_hour)}"
        + "".join(f"; {warning}" for warning in warnings),
        hint="correct that line; the README lists every key with its default",
    )


async def can_write(cloud: Cloud) -> Check:
    """Labels of a key that does not exist: a token that may write hears that, one that only reads
    hears no before anybody looks for the key."""
    what = "token may write"
    try:
        await cloud.set_labels(Kind.SSH_KEY, _NO_SUCH_KEY, {})
    except NotFound:
        return Check(what, ok=True, result="yes")
    except Unauthorized:
        return Check(
            what,
            ok=False,
            result="it only reads: nothing can be created, and nothing deleted",
            hint="make one with `Read & Write` in the console, Security, API tokens",
        )
    except CloudProblem as error:
        return Check(what, ok=False, result=f"not clear: {error}", hint=error.hint)
    return Check(what, ok=True, result="yes")


def clock(offset_s: float | None) -> Check:
    """Times of labels are the API's; volumes are not deleted while ours is unknown or far off."""
    if offset_s is None:
        return Check("clock", ok=True, result="not compared yet: the next action will")
    way = "behind" if offset_s > 0 else "ahead"
    return Check(
        "clock",
        ok=abs(offset_s) <= TRUSTED_OFFSET_S,
        result=f"{text.duration(abs(offset_s))} {way}"
        if abs(offset_s) >= 1
        else "the same as the cloud's",
        hint="set this machine's clock: while it is off, idle volumes are not deleted",
    )


async def key(desk: Desk, control: Control) -> Check:
    """This machine's burst key: private, and known to the project."""
    path, problem = key_file(desk)
    if problem is not None:
        return problem
    fingerprint = control.key_fingerprint
    known = await control.cloud.ssh_key_by_fingerprint(fingerprint) if fingerprint else None
    where = "registered" if known is not None else "not registered yet: the next server does that"
    return Check("key", ok=True, result=f"{path}, {where}")


def key_file(desk: Desk) -> tuple[str, Check | None]:
    """Where it lies, and what is to be said if it cannot be used or is not there yet."""
    path = desk.key_path
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return path, Check("key", ok=True, result="none yet: the first server makes it")
    if stat.S_IMODE(mode) & 0o077:
        hint = f"chmod 600 {path}"
        return path, Check("key", ok=False, result=f"others may read {path}", hint=hint)
    return path, None


async def servers(control: Control, inventory: Inventory) -> Check:
    """Whether the agents of running servers answer, with their host key as it should be."""
    leases, problems = await status.ask_leases(control, inventory, control.owner)
    if problems:
        return Check(
            "ssh",
            ok=False,
            result="; ".join(problems.values()),
            hint="`burst-admin status` says when it goes; `burst-admin down` deletes it now",
        )
    if not leases:
        return Check("ssh", ok=True, result="no server runs")
    return Check("ssh", ok=True, result=f"{text.count(len(leases), 'server')} answers")


def refusals(events: Sequence[Event], now_s: float) -> Check:
    """The last quota that was in the way: new accounts have low ones."""
    found = [event for event in events if isinstance(event, Refusal) and event.code == "quota"]
    if not found:
        return Check("quota", ok=True, result="never in the way")
    last = max(found, key=lambda event: event.at_s)
    return Check(
        "quota",
        ok=now_s - last.at_s > 7 * 86400,
        result=f"refused {text.duration(now_s - last.at_s)} ago: {last.what}",
        hint="ask for a higher limit in the console, or name smaller types in `server_type`",
    )


def reaper(desk: Desk) -> Check:
    """Whether somebody comes by, and did lately."""
    state = ReaperState(desk.last_good_reap_s(), reaper_unit.installed(desk.places))
    now_s = desk.clock()
    last = (
        "never ran well"
        if state.last_good_s is None
        else f"last good run {text.duration(now_s - state.last_good_s)} ago"
    )
    if not state.installed:
        return Check(
            "reaper",
            ok=False,
            result=f"not installed, {last}",
            hint="`burst-admin reap --install`",
        )
    if state.overdue(now_s):
        return Check(
            "reaper",
            ok=False,
            result=f"installed by {state.installed}, but {last}",
            hint="`burst-admin reap` says what is wrong",
        )
    lingering = ""
    if state.installed == "systemd":
        machine = reaper_unit.Machine(desk.places, desk.environ, desk.clock)
        if reaper_unit.lingers(machine) is not True:
            lingering = "; only while you are logged in (`loginctl enable-linger`)"
    return Check("reaper", ok=True, result=f"by {state.installed}, {last}{lingering}")
