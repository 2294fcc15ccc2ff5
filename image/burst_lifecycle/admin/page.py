"""The audit as one HTML page: no script, no font, no image from anywhere, light and dark. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from html import escape
from typing import Final

from burst_lifecycle.admin import charts, text
from burst_lifecycle.admin.audit_view import AuditReport, ServerLine, Stats
from burst_lifecycle.admin.charts import Bar, Span
from burst_lifecycle.pricing import HOUR_S, Amount

_LONGEST: Final = 40
"""Servers shown in the picture; the table has all."""

_STYLE: Final = """
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --ink: #1d2025; --soft: #626a75;
  --edge: #e3e5e8; --servers: #3567c4; --ipv4: #8a63c9; --volumes: #d08a1d; --snapshots: #3c9a6a;
  --wait: #c6503f; --upload: #d08a1d; --remote: #3567c4; --home: #3c9a6a; --download: #8a63c9;
  --cargo: #a7aeb8; --paid: #cfd9ee; --boot: #c6503f; --used: #3567c4; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15171b; --card: #1d2026; --ink: #e6e8eb; --soft: #9aa3ae; --edge: #30353d;
    --servers: #7aa2f0; --ipv4: #b695ee; --volumes: #e5b056; --snapshots: #6cc49a; --wait: #ea8374;
    --upload: #e5b056; --remote: #7aa2f0; --home: #6cc49a; --download: #b695ee; --cargo: #6b7480;
    --paid: #33415e; --boot: #ea8374; --used: #7aa2f0; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 32px 20px 56px; }
h1 { font-size: 26px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 0 0 10px; }
p { margin: 6px 0; } .soft, small { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 18px 20px; margin: 18px 0; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(122px, 1fr)); gap: 10px;
  margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 10px;
  padding: 12px 14px; }
.tile b { display: block; font-size: 20px; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 8px; border-bottom: 1px solid var(--edge);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; }
.words th:last-child, .words td:last-child { text-align: left; white-space: normal; }
tr:last-child td { border-bottom: 0; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 4px 0 8px;
  padding: 0; color: var(--soft); font-size: 13px; }
.chart { width: 100%; height: auto; display: block; }
.chart text { fill: var(--soft); font-size: 11px; } .grid { stroke: var(--edge); }
"""
_COLOURS: Final = (
    "servers ipv4 volumes snapshots wait upload remote home download cargo paid boot used"
)
_GROUP_WORDS: Final = {
    "servers": "servers",
    "ipv4": "IPv4 addresses",
    "volumes": "volumes",
    "snapshots": "snapshots",
}


def page(report: AuditReport, vat_percent: Decimal | None = None) -> str:
    """A whole document."""
    title = f"burst audit, {text.day(report.since_s)} to {text.day(report.until_s)}"
    style = _STYLE + "".join(f".{name} {{ fill: var(--{name}); }}\n" for name in _COLOURS.split())
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_origin(report, vat_percent)}</p>',
        _tiles(report),
        *(f"<section>{part}</section>" for part in _sections(report) if part),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _origin(report: AuditReport, vat_percent: Decimal | None) -> str:
    words = ["Euros without VAT"]
    if vat_percent is not None:
        with_vat = report.total.eur * (100 + vat_percent) / 100
        vat = f"{vat_percent.normalize():f}"
        words.append(f"with {vat} % VAT {Amount(with_vat, report.total.at_least).text}")
    if report.machines:
        words.append(f"from the ledgers of {text.count(len(report.machines), 'machine')}")
    if report.unreadable:
        words.append(f"{text.count(report.unreadable, 'line')} could not be read")
    return escape("; ".join(words) + ".")


def _tiles(report: AuditReport) -> str:
    share = report.used_s / report.paid_s if report.paid_s else 0.0
    tiles = (
        (report.total.text, "in all"),
        (str(sum(line.hours for line in report.servers)), "paid server hours"),
        (f"{share:.0%}" if report.paid_s else "-", "of them used"),
        (str(len(report.servers)), "servers"),
        (str(report.commands.count), "commands"),
        (_mean(report.cold), "mean cold start"),
    )
    cells = (f'<div class="tile"><b>{escape(b)}</b>{escape(word)}</div>' for b, word in tiles)
    return f'<div class="tiles">{"".join(cells)}</div>'


def _sections(report: AuditReport) -> list[str]:
    return [
        _unknown(report),
        _costs(report),
        _lives(report),
        _wall(report),
        _starts(report),
        _what_if(report),
        _servers(report),
    ]


def _unknown(report: AuditReport) -> str:
    if not report.unknown:
        return ""
    items = "".join(f"<li>{escape(why)}</li>" for why in report.unknown)
    return f"<h2>Why “at least”</h2><ul>{items}</ul>"


def _costs(report: AuditReport) -> str:
    bars = [
        Bar(
            text.day(line.day_s)[5:],
            tuple(
                (group, float(eur), f"{text.day(line.day_s)}, {group}: {Amount(eur).text}")
                for group, eur in line.eur
            ),
        )
        for line in report.days
    ]
    legend = charts.legend(list(_GROUP_WORDS.items()))
    picture = charts.columns(bars, "euros per day", _euro_axis) if bars else ""
    rows = [
        [
            _GROUP_WORDS[line.group],
            str(line.count),
            str(line.hours),
            Amount(line.eur, not line.exact).text,
        ]
        for line in report.costs
    ]
    rows.append(["in all", "", "", report.total.text])
    return f"<h2>What it cost, by day (UTC)</h2>{legend}{picture}" + _table(
        ["", "number", "started hours", "euros"], rows
    )


def _lives(report: AuditReport) -> str:
    """Each server's paid hours, and what was made of them."""
    latest = sorted(report.servers, key=lambda line: -line.created_s)[:_LONGEST]
    lines = [(f"{line.type} {text.iso(line.created_s)[5:10]}", _spans(line)) for line in latest]
    if not lines:
        return ""
    legend = charts.legend([("paid", "paid"), ("boot", "booting"), ("used", "used")])
    picture = charts.timeline(lines, "paid and used hours of each server", _hour_axis)
    return f"<h2>Servers: hours paid and used, the latest first</h2>{legend}{picture}"


def _spans(line: ServerLine) -> list[Span]:
    start = line.start_s or 0.0
    spans = [Span("paid", 0.0, line.hours, f"{text.count(line.hours, 'hour')} paid")]
    if start:
        spans.append(Span("boot", 0.0, start / HOUR_S, f"booting {text.duration(start)}"))
    if line.used_s:
        end = min(start + line.used_s, max(line.lifetime_s, line.used_s))
        words = f"used {text.duration(line.used_s)}, {text.count(line.commands, 'command')}"
        spans.append(Span("used", start / HOUR_S, max(start, end) / HOUR_S, words))
    return spans


def _wall(report: AuditReport) -> str:
    if not report.verbs:
        return ""
    bars = []
    for line in report.verbs:
        rest = max(0.0, line.mean_s - sum(seconds for _, seconds in line.parts))
        parts = [(part.value, seconds) for part, seconds in line.parts] + [("cargo", rest)]
        titled = tuple(
            (name, seconds, f"{line.verb}: {name} {text.duration(seconds)}")
            for name, seconds in parts
        )
        bars.append(Bar(line.verb, titled))
    names = [name for name, _ in report.split]
    legend = charts.legend([(name, name) for name in names])
    whole = sum(seconds for _, seconds in report.split) or 1.0
    shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in report.split)
    rows = [
        [line.verb, str(line.commands), str(line.failed), text.duration(line.mean_s)]
        for line in report.verbs
    ]
    return (
        f"<h2>Where the wall time went, mean per verb</h2>{legend}"
        + charts.rows(bars, "mean wall time by verb", _second_axis)
        + f'<p class="soft">All commands: {escape(shares)}.</p>'
        + _table(["verb", "commands", "failed", "mean"], rows)
    )


def _starts(report: AuditReport) -> str:
    if not report.cold.count and not report.warm.count:
        return ""
    rows = [
        [
            name,
            str(stats.count),
            _mean(stats),
            text.duration(stats.median_s) if stats.count else "-",
            text.duration(stats.max_s) if stats.count else "-",
        ]
        for name, stats in (("cold", report.cold), ("warm", report.warm))
    ]
    return "<h2>Starts</h2>" + _table(["", "number", "mean", "median", "longest"], rows)


def _what_if(report: AuditReport) -> str:
    if not report.what_if:
        return ""
    rows = [
        [
            text.duration(line.keep_alive_s) if line.keep_alive_s else "at the next edge",
            str(line.boots),
            str(line.hours),
            "-" if line.eur is None else Amount(line.eur).text,
            _signed(line.saved_wait_s),
        ]
        for line in report.what_if
    ]
    bars = [
        Bar(row[0], (("servers", float(line.eur or line.hours), f"{row[3]}, {row[1]} boots"),))
        for row, line in zip(rows, report.what_if, strict=True)
    ]
    axis = _hour_axis if report.what_if[0].eur is None else _euro_axis
    return (
        "<h2>What if idle servers were kept longer</h2>"
        '<p class="soft">The same use, with servers that go past minute 50 of a paid hour once '
        "they have been idle for so long.</p>"
        + charts.rows(bars, "cost by keep-alive", axis)
        + _table(["keep-alive", "boots", "paid hours", "servers cost", "waiting saved"], rows)
    )


def _servers(report: AuditReport) -> str:
    if not report.servers:
        return ""
    rows = [
        [
            line.name or str(line.id),
            line.type,
            line.location,
            text.iso(line.created_s)[:16].replace("T", " "),
            str(line.hours),
            Amount(line.eur, not line.exact).text,
            line.reason + (f" ({line.case})" if line.case else ""),
        ]
        for line in report.servers
    ]
    heads = ["server", "type", "location", "created (UTC)", "hours", "euros", "end"]
    return "<h2>Every server</h2>" + _table(heads, rows, style="words")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], style: str = "plain") -> str:
    head = "".join(f"<th>{escape(word)}</th>" for word in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _mean(stats: Stats) -> str:
    return text.duration(stats.mean_s) if stats.count else "-"


def _signed(seconds: float) -> str:
    return f"-{text.duration(-seconds)}" if seconds < 0 else text.duration(seconds)


def _euro_axis(value: float) -> str:
    return f"€{value:.2f}" if value < 10 else f"€{value:.0f}"


def _hour_axis(value: float) -> str:
    return f"{value:g} h"


def _second_axis(value: float) -> str:
    return text.duration(value) if value >= 1 else f"{value:.2g} s"
