"""What every command says beside its own business."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from burst_lifecycle.admin import text
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.view import OVERDUE_S, ElsewhereLine, elsewhere_line
from burst_lifecycle.books import Books
from burst_lifecycle.cloud.model import Inventory, PrimaryIp
from burst_lifecycle.errors import NotConfigured, StillBilling, TokenProblem, Unauthorized
from burst_lifecycle.labels import Claim
from burst_lifecycle.notices import Level, Notice
from burst_protocol.errors import BurstError

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


def after(desk: Desk, failure: BurstError | None = None) -> StillBilling | None:
    """Warns; StillBilling when something costs money that this token cannot end."""
    desk.forget()
    books = desk.books()
    now_s = desk.clock()
    if overdue(books, desk.seen, now_s):
        last_s = _last_reap_s(books)
        ago = "never" if last_s is None else f"{text.duration(now_s - last_s)} ago"
        desk.say(
            f"{desk.painted('yellow', 'warning:', desk.stderr)} something bills, and the last good "
            f"reap was {ago}",
            f"{desk.painted('cyan', 'hint:', desk.stderr)} `burst-admin reap`, or for good "
            "`burst-admin reap --install`",
        )
    lines = elsewhere(desk, books, failure)
    if not lines:
        return None
    for sentence in elsewhere_sentences(lines, now_s):
        desk.say(f"{desk.painted('yellow', 'warning:', desk.stderr)} {sentence}")
    return StillBilling(f"{text.count(len(lines), 'resource')} of another token, {hourly(lines)}")


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


def elsewhere(desk: Desk, books: Books, failure: BurstError | None) -> tuple[ElsewhereLine, ...]:
    """What bills, by the ledger, and is out of reach: of another token, or of all tokens if there
    is none that works. Of a command that did not ask the cloud nothing is known."""
    if isinstance(failure, Unauthorized | TokenProblem | NotConfigured):
        return tuple(elsewhere_line(thing) for thing in books.elsewhere(None))
    if desk.account is None:
        return ()
    return tuple(elsewhere_line(thing) for thing in books.elsewhere(desk.account))


def elsewhere_sentences(lines: Sequence[ElsewhereLine], now_s: float) -> list[str]:
    """One per resource, and where to look."""
    found = [
        f"{line.kind} {line.name or line.id} (id {line.id}"
        + (f", {line.location}" if line.location else "")
        + f", since {text.clock(line.created_s, now_s)}) may still cost "
        f"{text.rate(line.eur_per_hour)}; made with another token ({line.token[:8] or 'unknown'})"
        for line in lines
    ]
    found.append(
        f"they are in a project that this token does not see: look into {CONSOLE}, each project, "
        "`Servers`, `Volumes`, `Snapshots`, `Primary IPs`, or give `burst-admin reap` that token"
    )
    return found


def hourly(lines: Sequence[ElsewhereLine]) -> str:
    """The sum, as far as it is known."""
    known = sum((line.eur_per_hour or Decimal(0) for line in lines), Decimal(0))
    if any(line.eur_per_hour is None for line in lines):
        return f"at least {text.rate(known)}" if known else text.rate(None)
    return text.rate(known)
