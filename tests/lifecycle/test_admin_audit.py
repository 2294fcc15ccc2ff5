"""`burst-admin audit`: the report, its document, its page."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burst_lifecycle.admin import charts
from burst_lifecycle.admin.audit import lines
from burst_lifecycle.admin.audit_view import (
    AuditReport,
    Period,
    audit,
    document,
    simulate,
    union,
)
from burst_lifecycle.admin.page import page
from burst_lifecycle.admin.tariff import Tariff
from burst_lifecycle.cloud.model import Kind, Offer, Price, Prices, ServerType
from burst_lifecycle.events import (
    Command,
    Created,
    Deleted,
    Event,
    Gone,
    How,
    Part,
    Ready,
    Refusal,
    Session,
)
from burst_lifecycle.history import History, merge

DAY = 86400.0
START = 1_799_971_200.0
"""2027-01-15, midnight UTC."""
PROJECT = "0123456789abcdef"


def price(text: str) -> Price:
    return Price(Decimal(text), Decimal(text) * Decimal("1.19"))


TARIFF = Tariff.of(
    Prices(
        "EUR",
        Decimal(19),
        price("0.0572"),
        price("0.0110"),
        {"fsn1": price("0.0008")},
        {"fsn1": price("0.50")},
    ),
    [
        ServerType(
            1,
            "ccx43",
            16,
            Decimal(64),
            360,
            "x86",
            True,
            (Offer("fsn1", price("0.4423"), price("275.99"), available=True),),
        )
    ],
)


def session_of(number: int, at_s: float, minutes: float, *, end: bool = True) -> list[Event]:
    """One server with its address: booted, used by three commands, drained."""
    ident, op, name = 100 + number, f"op{number}", f"burst-build-{number:010x}"
    events: list[Event] = [
        Created(
            at_s=at_s,
            kind=Kind.SERVER,
            id=ident,
            created_s=at_s,
            operation=op,
            role="build",
            name=name,
            location="fsn1",
            type="ccx43",
            by="aaaa0000",
        ),
        Created(
            at_s=at_s,
            kind=Kind.PRIMARY_IP,
            id=ident + 1000,
            created_s=at_s,
            operation=op,
            name=f"ip-{number}",
            location="fsn1",
            type="ipv4",
            by="aaaa0000",
        ),
        Ready(at_s=at_s + 50, id=ident, how=How.COLD, took_s=40.0 + number),
        Session(
            at_s=at_s,
            session=f"s{number}",
            id=ident,
            start_s=at_s + 60,
            end_s=at_s + minutes * 60,
            project=PROJECT,
        ),
    ]
    for run, (verb, wall, ok) in enumerate(
        (("build", 90, True), ("test", 200, number != 2), ("build", 30, True))
    ):
        start = at_s + 60 + run * 300
        split = ((Part.WAIT, 10.0), (Part.REMOTE, wall * 0.6), (Part.HOME, wall * 0.1))
        events.append(
            Command(
                at_s=start + wall,
                command=f"c{number}-{run}",
                id=ident,
                verb=verb,
                start_s=start,
                end_s=start + wall,
                ok=ok,
                split=split,
                project=PROJECT,
                by="aaaa0000",
            )
        )
    if end:
        events.append(
            Deleted(at_s=at_s + 3300, kind=Kind.SERVER, id=ident, reason="idle for 600 s", case="a")
        )
    return events


def history() -> History:
    """Three days: servers, one of which ended by other hands, a volume, a snapshot."""
    events: list[Event] = []
    events += session_of(1, START + 9 * 3600, 35)
    events += session_of(2, START + 14 * 3600, 50)
    events += session_of(3, START + 2 * DAY + 9 * 3600, 20, end=False)
    events.append(Gone(at_s=START + 3 * DAY, kind=Kind.SERVER, id=103))
    events.append(
        Created(
            at_s=START + 9 * 3600,
            kind=Kind.VOLUME,
            id=500,
            created_s=START + 9 * 3600,
            name="burst-store-1",
            location="fsn1",
            size_gb=Decimal(100),
            by="bbbb0000",
        )
    )
    events.append(
        Created(at_s=START + 4 * DAY, kind=Kind.VOLUME, id=500, created_s=START + 9 * 3600)
    )
    events.append(
        Created(
            at_s=START + 4 * DAY,
            kind=Kind.IMAGE,
            id=600,
            created_s=START,
            name="burst-image-1",
            size_gb=Decimal("7.25"),
        )
    )
    events.append(Refusal(at_s=START, code="quota", what="server"))
    return merge(events)


NOW = START + 4 * DAY


@pytest.fixture(scope="module")
def report() -> AuditReport:
    return audit(history(), TARIFF, NOW)


TABLE = """\
2027-01-15 to 2027-01-19, euros without VAT

cost of    number  hours           euros
servers         3      3  at least €1.33
ipv4            3      3  at least €0.00
volumes         1     87           €0.67
snapshots       1     96           €0.01
in all                    at least €2.01
with 19 % VAT: at least €2.39
note: nobody recorded when ip-3 was deleted
note: nobody recorded when burst-build-0000000003 was deleted

server hours paid 3, used 57%

            number    mean  longest
cold start       3    42 s     43 s
session          3  34 min   49 min

verb   commands  failed        mean  wait  upload  remote  home  download
build         6       0       1 min  10 s     0 s    36 s   6 s       0 s
test          3       1  3 min 20 s  10 s     0 s   2 min  20 s       0 s
wall time: wait 9%, upload 0%, remote 60%, home 10%, download 0%, cargo 21%

servers ended: 2 x idle for 600 s, 1 x by other hands
made again after an end: 0 within 10 min, 0 within 30 min, 0 within 1 h, of 3
refused: 1 x quota

what if kept for  boots  hours  euros  waiting saved
next edge             3      3  €1.33            0 s
10 min                3      3  €1.33            0 s
30 min                3      5  €2.21            0 s
1 h                   3      6  €2.65            0 s

from the ledgers of 2 machines (aaaa0000, bbbb0000)"""


def test_the_table(report: AuditReport) -> None:
    """As people see it."""
    assert "\n".join(lines(report, TARIFF)) == TABLE


def test_every_hour_has_its_day(report: AuditReport) -> None:
    """Days add up to the total; a day without anything is there with nothing."""
    total = sum((eur for day in report.days for _, eur in day.eur), Decimal(0))
    assert abs(total - report.total.eur) < Decimal("1e-20")
    assert [day.day_s for day in report.days] == [START + n * DAY for n in range(4)]
    assert dict(report.days[1].eur)["servers"] == 0


def test_a_period(report: AuditReport) -> None:
    """Halves add up to the whole, to the last digit."""
    cut = START + 1.5 * DAY
    first = audit(history(), TARIFF, NOW, Period(until_s=cut))
    second = audit(history(), TARIFF, NOW, Period(since_s=cut))
    assert abs(first.total.eur + second.total.eur - report.total.eur) < Decimal("1e-20")
    assert (len(first.servers), len(second.servers)) == (2, 1)
    assert first.commands.count + second.commands.count == report.commands.count


def test_what_was_done(report: AuditReport) -> None:
    """Starts, sessions, verbs, wall time, ends."""
    assert (report.cold.count, report.cold.mean_s, report.cold.max_s) == (3, 42, 43)
    assert report.warm.count == 0
    assert report.sessions.count == 3
    verbs = {line.verb: line for line in report.verbs}
    assert (verbs["build"].commands, verbs["build"].failed, verbs["build"].mean_s) == (6, 0, 60)
    assert (verbs["test"].commands, verbs["test"].failed) == (3, 1)
    assert dict(verbs["test"].parts)[Part.REMOTE] == 120
    split = dict(report.split)
    assert sum(split.values()) == pytest.approx(report.commands.total_s)
    assert split["wait"] == 90
    assert report.ends == (("idle for 600 s", 2), ("by other hands", 1))
    assert report.refusals == (("quota", 1),)
    assert any(
        "nobody recorded when burst-build-0000000003 was deleted" in why for why in report.unknown
    )


def test_a_split_never_exceeds_its_command() -> None:
    """Parts of a clock that runs otherwise are cut, in their order."""
    odd = Command(
        at_s=0,
        command="c",
        id=1,
        verb="build",
        start_s=0,
        end_s=10,
        ok=True,
        split=((Part.WAIT, 8.0), (Part.REMOTE, 8.0)),
    )
    found = audit(merge([odd]), TARIFF, NOW)
    assert dict(found.split) == {
        "wait": 8,
        "upload": 0,
        "remote": 2,
        "home": 0,
        "download": 0,
        "cargo": 0,
    }


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def test_the_document_is_an_interface(report: AuditReport) -> None:
    """Names and types of `--json`; a change here is a change of `SCHEMA`, unless it only adds."""
    found = shape(json.loads(json.dumps(document(report))))
    stats = {
        "count": "int",
        "total_s": "float",
        "mean_s": "float",
        "median_s": "float",
        "max_s": "float",
    }
    empty = dict.fromkeys(("total_s", "mean_s", "median_s", "max_s"), "float") | {"count": "int"}
    parts = dict.fromkeys(("wait", "upload", "remote", "home", "download"), "float")
    assert found == {
        "schema": "int",
        "currency": "str",
        "total": {"eur": "str", "exact": "bool"},
        "paid_s": "float",
        "used_s": "float",
        "since_s": "float",
        "until_s": "float",
        "machines": ["str"],
        "unreadable": "int",
        "servers": [
            {
                "id": "int",
                "name": "str",
                "type": "str",
                "location": "str",
                "created_s": "float",
                "ended_s": "float",
                "lifetime_s": "float",
                "how": "str",
                "start_s": "float",
                "used_s": "float",
                "commands": "int",
                "reason": "str",
                "case": "str",
                "hours": "int",
                "eur": "str",
                "exact": "bool",
            }
        ],
        "sessions": stats,
        "cold": stats,
        "warm": empty,
        "commands": stats,
        "split": {**parts, "cargo": "float"},
        "verbs": [
            {"verb": "str", "commands": "int", "failed": "int", "mean_s": "float", "parts": parts}
        ],
        "ends": {"idle for 600 s": "int", "by other hands": "int"},
        "gaps": [{"within_s": "float", "count": "int", "of": "int"}],
        "costs": [{"group": "str", "count": "int", "hours": "int", "eur": "str", "exact": "bool"}],
        "days": [
            {
                "day_s": "float",
                "eur": {"servers": "str", "ipv4": "str", "volumes": "str", "snapshots": "str"},
            }
        ],
        "what_if": [
            {
                "keep_alive_s": "float",
                "boots": "int",
                "hours": "int",
                "eur": "str",
                "saved_wait_s": "float",
            }
        ],
        "refusals": {"quota": "int"},
        "unknown": ["str"],
    }


def test_nothing_was_ever_spent() -> None:
    """All of it, without a division by nothing."""
    empty = audit(merge(), TARIFF, NOW)
    assert empty.total.text == "€0.00"
    assert lines(empty, TARIFF)[0] == "2027-01-19 to 2027-01-19, euros without VAT"
    assert json.loads(json.dumps(document(empty)))["what_if"] == []
    assert "€0.00" in page(empty)


# -- what if -------------------------------------------------------------------------------


def test_one_use_is_one_hour() -> None:
    """Kept longer, more hours; two uses within a kept hour are one server."""
    assert simulate([(0, 60)], 0) == [1]
    assert simulate([(0, 60)], 7200) == [3]
    assert simulate([(0, 60), (2000, 2100)], 600) == [1]
    assert simulate([(0, 60), (20000, 20100)], 600) == [1, 1]
    assert simulate([(0, 60), (20000, 20100)], 20000) == [12]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 8000)), min_size=1, max_size=12))
def test_longer_keeping_never_boots_more(uses: list[tuple[int, int]]) -> None:
    """And every second of use lies in a paid hour."""
    activity = union((float(start), float(start + length)) for start, length in uses)
    boots = [len(simulate(activity, keep_s)) for keep_s in (0, 600, 3600, 10_000)]
    assert boots == sorted(boots, reverse=True)
    used = sum(end - begin for begin, end in activity)
    assert sum(simulate(activity, 0)) * 3600 >= used


# -- the page ------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Every tag closed, in order; what is fetched from elsewhere."""

    VOID = frozenset({"meta", "rect", "line"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.sources += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(report: AuditReport) -> None:
    """Well formed, charts as SVG, light and dark, and not one reference to anywhere."""
    html = page(report, Decimal(19))
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert reader.seen["svg"] > 4
    assert reader.sources == []
    assert "script" not in reader.seen
    assert not re.search(r"url\(|@import|https?:", html)
    assert "prefers-color-scheme: dark" in html
    assert "at least €2.01" in html


def test_names_cannot_break_the_page() -> None:
    """A name is text, wherever it stands."""
    events = session_of(1, START, 10)
    evil = [
        Created(
            **{
                **{
                    f: getattr(e, f)
                    for f in ("at_s", "kind", "id", "created_s", "type", "location")
                },
                "name": "<script>x</script>",
            }
        )
        for e in events
        if isinstance(e, Created) and e.kind is Kind.SERVER
    ]
    html = page(audit(merge(evil), TARIFF, NOW))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize("most", [0.0, 0.003, 0.9, 1.0, 7.0, 99.0, 1234.5])
def test_axes_have_round_values(most: float) -> None:
    """From nothing to at least the most, few of them."""
    found = charts.ticks(most)
    assert found[0] == 0
    assert found[-1] >= most
    assert 2 <= len(found) <= 7
