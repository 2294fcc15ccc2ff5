"""How much a mirror would be, and what of it is heavy: asked before anything is read.

A tree of many gigabytes is nearly always a mistake: data, a browser's modules, another tool's
outputs that no `.gitignore` names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import attrs

from burst_protocol.errors import TooMuch
from burst_wrapper.mirror.scan import Scan

SHOWN: Final = 15
LIMIT_BYTES: Final = 2 * 10**9
LIMIT_FILES: Final = 100_000
SUGGESTED_FROM_BYTES: Final = 50 << 20
SUGGESTED: Final = frozenset({b"dist", b".next", b"build", b"out", b"tmp", b"data", b"coverage"})
"""Folders that hold other tools' outputs, by their usual names."""


@attrs.frozen
class Allowance:
    """How much goes without a question."""

    size_bytes: int
    files: int


USUAL: Final = Allowance(LIMIT_BYTES, LIMIT_FILES)
UNLIMITED: Final = Allowance(1 << 62, 1 << 62)
"""The user said `--yes`."""


@attrs.frozen
class Heavy:
    """One entry directly below a root."""

    path: bytes
    size_bytes: int
    files: int
    folder: bool

    def __str__(self) -> str:
        shown = os.fsdecode(self.path) + ("/" if self.folder else "")
        return f"{amount(self.size_bytes):>9}  {self.files:>7} files  {printable(shown)}"


@attrs.frozen
class Weight:
    size_bytes: int
    files: int
    heaviest: tuple[Heavy, ...]
    """At most SHOWN, the heaviest first."""

    @property
    def suggestions(self) -> tuple[Heavy, ...]:
        """Probably not meant: asked about before the first run."""
        return tuple(
            heavy
            for heavy in self.heaviest
            if heavy.folder
            and heavy.size_bytes >= SUGGESTED_FROM_BYTES
            and os.path.basename(heavy.path) in SUGGESTED
        )


def weigh(scans: Iterable[Scan]) -> Weight:
    """By the sizes that stat(2) told; nothing is read."""
    total = count = 0
    heavy: list[Heavy] = []
    for scan in scans:
        sums: dict[bytes, list[int]] = {}
        skip = len(scan.rules.root.rstrip(b"/")) + 1
        for folder in scan.folders():
            for path, file in folder.files.items():
                top = path[: skip + len(path[skip:].split(b"/", 1)[0])]
                entry = sums.setdefault(top, [0, 0, int(top != path)])
                entry[0] += file.size_bytes
                entry[1] += 1
        heavy += [
            Heavy(path, size, files, bool(deep)) for path, (size, files, deep) in sums.items()
        ]
        total += sum(entry[0] for entry in sums.values())
        count += sum(entry[1] for entry in sums.values())
    heavy.sort(key=lambda entry: (-entry.size_bytes, entry.path))
    return Weight(total, count, tuple(heavy[:SHOWN]))


def check(scans: Iterable[Scan], allowance: Allowance) -> None:
    """TooMuch, with the heaviest entries in its text."""
    weight = weigh(scans)
    if weight.size_bytes <= allowance.size_bytes and weight.files <= allowance.files:
        return
    lines = "".join(f"\n  {heavy}" for heavy in weight.heaviest)
    raise TooMuch(
        f"{amount(weight.size_bytes)} in {weight.files} files; the biggest entries:{lines}",
        weight=weight,
    )


def amount(size_bytes: int) -> str:
    """Decimal units, as disks are sold."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def printable(text: str) -> str:
    """A name on one line, whatever bytes it has."""
    readable = os.fsencode(text).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in readable)
