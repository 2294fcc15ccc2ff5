"""How money, time and tables are written for people. All pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

_RATE: Final = Decimal("0.0001")
_UNITS: Final = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
_SUFFIXES: Final = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}


def rate(amount: Decimal | None) -> str:
    """Euros per hour, to a hundredth of a cent."""
    if amount is None:
        return "€?/h"
    return "free" if amount == 0 else f"€{amount.quantize(_RATE, ROUND_HALF_UP)}/h"


def duration(seconds: float) -> str:
    """Two units at most: `2 h 5 min`."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        if len(parts) == 2 or (parts and not count):
            break
    return " ".join(parts) or "0 s"


def parse_duration(text: str) -> float:
    """Seconds, from `90`, `90s`, `15min`, `4h`, `2d` or `1w`. ValueError."""
    body = text.strip().lower()
    digits = body.rstrip("abcdefghijklmnopqrstuvwxyz ")
    suffix = body[len(digits) :].strip() or "s"
    if suffix not in _SUFFIXES:
        raise ValueError(f"`{text}` is no duration: say 90s, 15min, 4h or 2d")
    try:
        value = float(digits)
    except ValueError:
        raise ValueError(f"`{text}` is no duration: say 90s, 15min, 4h or 2d") from None
    if not 0 <= value < 1e9:
        raise ValueError(f"`{text}` is no duration that can be used")
    return value * _SUFFIXES[suffix]


def clock(at_s: float, now_s: float, zone: dt.tzinfo | None = None) -> str:
    """The local time of day; with its date unless that is today's."""
    at = dt.datetime.fromtimestamp(at_s, zone).astimezone(zone)
    today = dt.datetime.fromtimestamp(now_s, zone).astimezone(zone).date()
    return at.strftime("%H:%M" if at.date() == today else "%Y-%m-%d %H:%M")


def day(at_s: float) -> str:
    """The day by UTC, as bills have it."""
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%d")


def iso(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def count(number: int, word: str, words: str = "") -> str:
    """`1 server`, `2 servers`."""
    return f"{number} {word if number == 1 else words or word + 's'}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: str = "") -> list[str]:
    """Lines with columns as wide as needed. `right` names the heads of columns with numbers."""
    numbers = {head.strip() for head in right.split(",")}
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, *rows]:
        cells = [
            cell.rjust(width) if heads[column] in numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def listing(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def parse_moment(word: str, now_s: float) -> float:
    """Epoch seconds, from a day (UTC) like `2026-01-31` or so long ago like `30d`. ValueError."""
    try:
        at = dt.datetime.strptime(word, "%Y-%m-%d").replace(tzinfo=dt.UTC)
    except ValueError:
        pass
    else:
        return at.timestamp()
    try:
        return now_s - parse_duration(word)
    except ValueError:
        raise ValueError(f"`{word}` is no time: say 2026-01-31, 30d or 12h") from None
