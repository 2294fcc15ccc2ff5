"""`burst-agent cache list|size|evict`: a store, looked at from outside; an agent may be using it.

What `burst-admin cache` runs, since only the agent knows what a store looks like. Results are on
stdout, as text or as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from burst_agent.evict import DEFAULT_LIMIT_BYTES, Limits, Report, evict
from burst_agent.root import StoreRoot
from burst_agent.scan import Item, Kind, Scan
from burst_agent.store import BlobStore
from burst_protocol.errors import BurstError

SCHEMA: Final = 1
_DAY_NS: Final = 86400 * 10**9
_AGES: Final = ((1, "today"), (7, "this week"), (30, "this month"), (None, "longer ago"))
_NAMES: Final = {
    Kind.BLOB: "blobs",
    Kind.TREE: "trees",
    Kind.ACTION: "results",
    Kind.LIST: "input lists",
}


@attrs.frozen
class Row:
    """Things of one kind, or last used in one span of time."""

    name: str
    items: int
    files: int
    size_bytes: int


def main(argv: Sequence[str]) -> int:
    """Exit status: 0; 1 if there is no store or it cannot be read."""
    options = _parse(argv)
    if not os.path.isdir(options.root):
        return _no_store(options)
    try:
        if options.action == "list":
            return _list(options)
        if options.action == "size":
            return _size(options)
        return _evict(options)
    except BurstError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="burst-agent cache", description="Look into a store, or make room in it."
    )
    verbs = parser.add_subparsers(dest="action", required=True)
    for name in ("list", "size", "evict"):
        verb = verbs.add_parser(name)
        verb.add_argument("--root", type=os.fsencode, required=True, metavar="DIR")
        verb.add_argument("--json", action="store_true")
        if name != "list":
            verb.add_argument("--store-bytes", type=int, default=DEFAULT_LIMIT_BYTES, metavar="N")
        if name == "evict":
            verb.add_argument("--to-bytes", type=int, metavar="N", help="leave at most so much")
            verb.add_argument(
                "--older", type=float, default=0.0, metavar="S", help="only what is unused so long"
            )
    return parser.parse_args(argv)


def _no_store(options: argparse.Namespace) -> int:
    """Nothing was ever built: that is no error."""
    name = os.fsdecode(options.root)
    if options.json:
        _print({"root": name, "size_bytes": 0, "files": 0})
    else:
        print(f"nothing is stored yet ({name})")  # noqa: T201 - a result
    return 0


def by_kind(items: Iterable[Item]) -> list[Row]:
    """Every kind, also those of which there is nothing."""
    found = list(items)
    return [
        _row(name, [item for item in found if item.kind is kind]) for kind, name in _NAMES.items()
    ]


def by_age(items: Iterable[Item], now_ns: int) -> list[Row]:
    """By last use."""
    left = list(items)
    rows = []
    for days, name in _AGES:
        young = [
            item for item in left if days is None or now_ns - item.last_use_ns < days * _DAY_NS
        ]
        rows.append(_row(name, young))
        taken = set(map(id, young))
        left = [item for item in left if id(item) not in taken]
    return rows


def _row(name: str, items: Sequence[Item]) -> Row:
    return Row(
        name, len(items), sum(item.files for item in items), sum(item.size_bytes for item in items)
    )


def _list(options: argparse.Namespace) -> int:
    root = StoreRoot(options.root)
    try:
        scan = Scan(root)
        for _ in scan.slices():
            pass
        kinds, ages = by_kind(scan.items), by_age(scan.items, root.now_ns())
    finally:
        root.close()
    if options.json:
        _print(
            {
                "root": os.fsdecode(options.root),
                "kinds": [attrs.asdict(row) for row in kinds],
                "last_used": [attrs.asdict(row) for row in ages],
            }
        )
        return 0
    for title, rows in (("kind", kinds), ("last used", ages)):
        print(f"{title:<12} {'number':>9} {'files':>9} {'size':>10}")  # noqa: T201 - a result
        for row in rows:
            size = _text(row.size_bytes)
            print(f"{row.name:<12} {row.items:>9} {row.files:>9} {size:>10}")  # noqa: T201
    return 0


def _size(options: argparse.Namespace) -> int:
    root = StoreRoot(options.root)
    try:
        usage = root.usage()
        if usage is None:
            scan = Scan(root)
            for _ in scan.slices():
                pass
            usage = sum(i.size_bytes for i in scan.items), sum(i.files for i in scan.items)
    finally:
        root.close()
    size_bytes, files = usage
    if options.json:
        _print(
            {
                "root": os.fsdecode(options.root),
                "size_bytes": size_bytes,
                "files": files,
                "limit_bytes": options.store_bytes,
            }
        )
    else:
        print(  # noqa: T201 - a result
            f"{_text(size_bytes)} of {_text(options.store_bytes)} in {files} files "
            f"({os.fsdecode(options.root)})"
        )
    return 0


def _evict(options: argparse.Namespace) -> int:
    # Asked for something, exactly that; by itself an eviction leaves a tenth of air.
    asked = options.to_bytes is not None or options.older > 0
    limit = max(0, options.to_bytes or 0) if asked else options.store_bytes
    usual = Limits()
    limits = Limits(
        limit_bytes=limit,
        target=1.0 if asked else usual.target,
        keep_s=max(usual.keep_s, options.older),
    )
    with BlobStore(options.root) as store:
        report = evict(store, limits)
    if options.json:
        _print({"root": os.fsdecode(options.root), **_document(report)})
    elif report.busy:
        print("an agent is making room right now")  # noqa: T201 - a result
    else:
        left = report.scanned_bytes - report.freed_bytes
        print(  # noqa: T201 - a result
            f"freed {_text(report.freed_bytes)} in {report.freed_files} files, {_text(left)} left"
        )
        if report.over_bytes and options.to_bytes is not None:
            print(  # noqa: T201 - a result
                f"{_text(report.over_bytes)} more than asked for: used too lately to go"
            )
    return 0


def _document(report: Report) -> dict[str, Any]:
    return {
        "busy": report.busy,
        "freed_bytes": report.freed_bytes,
        "freed_files": report.freed_files,
        "size_bytes": report.scanned_bytes - report.freed_bytes,
        "over_bytes": report.over_bytes,
        "removed": {_NAMES[kind]: count for kind, count in report.removed.items()},
    }


def _print(document: dict[str, Any]) -> None:
    print(json.dumps({"schema": SCHEMA, "at_s": int(time.time()), **document}, indent=1))  # noqa: T201


def _text(size_bytes: int) -> str:
    """Powers of ten, as `store_gb`."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
