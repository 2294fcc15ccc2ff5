"""What every command says beside its own business."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from burst_lifecycle import machine
from burst_lifecycle.admin import text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.view import OVERDUE_S, ElsewhereLine, elsewhere_line
from burst_lifecycle.books import Account, Books, still_billing
from burst_lifecycle.cloud.model import Inventory, PrimaryIp
from burst_lifecycle.errors import (
    NotConfigured,
    StillBilling,
    TokenProblem,
    Unauthorized,
)
from burst_lifecycle.labels import Claim
from burst_lifecycle.notices import Level, Notice
from burst_lifecycle.remarks import remarks
from burst_lifecycle.token import obtain
from burst_protocol.errors import BurstError, ConfigError

CONSOLE: Final = "https://console.hetzner.com"


def before(desk: Desk) -> None:
    """Notices that wait to be shown, once."""
    waiting = desk.notices.pending()
    for notice in waiting:
        desk.say(*notice_lines(notice, desk))
    desk.notices.shown(waiting)


def notice_lines(notice: Notice, desk: Desk) -> list[str]:
    """As for an error: what happened, then what to do."""
    when = text.clock(notice.at_s, desk.clock())
    style = "cyan" if notice.level is Level.INFO else "yellow"
    lines = [f"{desk.painted(style, 'notice:', desk.stderr)} {when}: {notice.text}"]
    if notice.hint:
        lines.append(f"{desk.painted('cyan', 'hint:', desk.stderr)} {notice.hint}")
    return lines


def configuration(desk: Desk) -> None:
    """What stands in a configuration and has no effect, or waits for the user's trust."""
    for remark in remarks(desk.places, desk.cwd):
        warn(desk, remark.text, remark.hint)


def warn(desk: Desk, sentence: str, hint: str = "") -> None:
    """On stderr, in the form of all our errors."""
    desk.say(f"{desk.painted('yellow', 'warning:', desk.stderr)} {sentence}")
    if hint:
        desk.say(f"{desk.painted('cyan', 'hint:', desk.stderr)} {hint}")


def unreaped(desk: Desk) -> Books:
    """Warns if nobody comes by although something bills; what this machine knows."""
    books = desk.books()
    now_s = desk.clock()
    if overdue(books, desk.seen, now_s):
        last_s = _last_reap_s(books)
        ago = "never" if last_s is None else f"{text.duration(now_s - last_s)} ago"
        warn(
            desk,
            f"something bills, and the last good reap was {ago}",
            "`burst-admin reap`, or for good `burst-admin reap --install`",
        )
    return books


def after(desk: Desk, failure: BurstError | None = None) -> StillBilling | None:
    """Warns; StillBilling when something costs money that this token cannot end."""
    desk.forget()
    if not isinstance(failure, ConfigError):
        configuration(desk)
    books = unreaped(desk)
    if desk.refused or isinstance(failure, Unauthorized | TokenProblem | NotConfigured):
        return _elsewhere(desk, books, None)
    if desk.account is None:
        return _by_configuration(desk, books)
    return _elsewhere(desk, books, desk.account)


def without_asking(desk: Desk) -> StillBilling | None:
    """What `after` says, for commands that do not talk to the cloud: by the ledger and the token
    that the configuration leads to. A command that prints it is not run for this."""
    return _by_configuration(desk, unreaped(desk))


def out_of_reach(desk: Desk) -> StillBilling | None:
    """As `without_asking`, and of nothing else: for what a shell reads at every start."""
    return _by_configuration(desk, desk.books())


def _by_configuration(desk: Desk, books: Books) -> StillBilling | None:
    if not books.billing():
        return None
    try:
        hetzner = desk.hetzner
        if hetzner.token.command:
            return None
        token = asyncio.run(
            obtain(hetzner.token, endpoint=hetzner.endpoint, environ=desk.environ, daemon=False)
        )
    except (NotConfigured, TokenProblem):
        return _elsewhere(desk, books, None)
    except ConfigError:
        return None  # said elsewhere
    key = machine.machine_key(desk.places.cloud)
    return _elsewhere(desk, books, Account(token.endpoint, token.fingerprint(key)))


def _elsewhere(desk: Desk, books: Books, account: Account | None) -> StillBilling | None:
    now_s = desk.clock()
    things = books.elsewhere(account)
    for sentence in elsewhere_sentences([elsewhere_line(thing) for thing in things], now_s):
        warn(desk, sentence)
    return still_billing(books, account, now_s)


def overdue(books: Books, seen: Inventory | None, now_s: float) -> bool:
    """Nobody reaped well for a while although something bills. Home's clock will do."""
    bills = bool(books.billing()) if seen is None else _bills(seen)
    last_s = _last_reap_s(books)
    return bills and (last_s is None or now_s - last_s > OVERDUE_S)


def _last_reap_s(books: Books) -> float | None:
    return None if books.last_good_reap is None else books.last_good_reap.at_s


def _bills(seen: Inventory) -> bool:
    things = (*seen.servers, *seen.volumes, *seen.images, *seen.primary_ips)
    return any(
        Claim.of(thing.labels) is not None
        for thing in things
        if not isinstance(thing, PrimaryIp) or thing.version == 4
    )


def elsewhere_sentences(lines: Sequence[ElsewhereLine], now_s: float) -> list[str]:
    """What bills and is out of reach of this token: one per resource, and where to look."""
    if not lines:
        return []
    found = [
        f"{line.kind} {line.name or line.id} (id {line.id}"
        + (f", {line.location}" if line.location else "")
        + f", since {text.clock(line.created_s, now_s)}) may still cost "
        f"{text.rate(line.eur_per_hour)}; made with the token {line.token[:8] or '?'}…"
        for line in lines
    ]
    found.append(
        f"look for {'it' if len(lines) == 1 else 'them'} at {CONSOLE}, in every project: Servers, "
        "Volumes, Snapshots, Primary IPs; or run `burst-admin reap` with that token"
    )
    return found
