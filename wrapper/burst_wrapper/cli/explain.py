"""`cargo burst explain [crate]`: what the last build ran where, and why."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from burst_protocol.errors import UsageError
from burst_wrapper import paths
from burst_wrapper.journal import Build, builds

SCHEMA: Final = 1
_FIELDS: Final = (
    "crate",
    "kind",
    "where",
    "executor",
    "why",
    "reason",
    "wall_ms",
    "rustc_ms",
    "sent_bytes",
    "received_bytes",
    "started_ms",
    "key",
)


def run(args: Sequence[str]) -> int:
    """Exit code 0; 1 if nothing was recorded yet or no such crate."""
    parser = argparse.ArgumentParser(
        prog="cargo burst explain",
        description="For the last build: each unit, where it ran (remote, hit, local), why, how "
        "long, and the bytes each way.",
    )
    parser.add_argument("crate", nargs="?", help="only this crate, with its key's manifest")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument(
        "--build", type=int, default=1, metavar="N", help="the N-th last build (default: 1)"
    )
    options = parser.parse_args(list(args))
    if options.build < 1:
        raise UsageError("--build takes a number from 1")
    environ = dict(os.environb)
    folder = os.path.join(paths.state_dir(environ), b"builds")
    known = list(builds(folder))
    if len(known) < options.build:
        if options.json:
            print(json.dumps({"schema": SCHEMA, "units": []}))
            return 1
        print("no build is recorded yet: RUSTC_WRAPPER=burst-rustc cargo build")
        return 1
    _complete(known)
    build = known[options.build - 1]
    units = [u for u in build.units if options.crate in (None, u["crate"], _dashed(u["crate"]))]
    if options.json:
        print(json.dumps(_document(build, units, known[options.build :]), indent=1))
        return 0 if units else 1
    if not units:
        print(f"the last build had no crate `{options.crate}`")
        return 1
    _table(build, units)
    if options.crate is not None:
        for unit in units:
            _details(unit, known[options.build :])
    else:
        _summary(units)
        print(f"log: {os.fsdecode(paths.state_dir(environ))}/daemon.log")
    return 0


def _document(build: Build, units: list[dict[str, Any]], earlier: list[Build]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "cwd": build.cwd,
        "time_s": build.time_s,
        "units": [
            {
                **{name: unit.get(name) for name in _FIELDS},
                "manifest": unit.get("manifest", []),
                "changed": _changes(unit, earlier),
            }
            for unit in units
        ],
    }


def _complete(known: list[Build]) -> None:
    """A manifest is written once per key: give it to every unit that has the key."""
    by_key: dict[str, Any] = {}
    for build in known:
        for unit in build.units:
            if unit.get("manifest"):
                by_key.setdefault(unit["key"], unit["manifest"])
    for build in known:
        for unit in build.units:
            unit["manifest"] = unit.get("manifest") or by_key.get(unit["key"], [])


def _table(build: Build, units: list[dict[str, Any]]) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(build.time_s))
    print(f"build of {when} in {build.cwd}")
    print(f"{'crate':28} {'kind':14} {'where':7} {'ms':>7} {'sent':>9} {'received':>9}  why")
    for unit in units:
        print(
            f"{unit['crate'][:28]:28} {unit['kind'][:14]:14} {unit['where'][:9]:7} "
            f"{unit['wall_ms']:7} {_size(unit['sent_bytes']):>9} "
            f"{_size(unit['received_bytes']):>9}  {_reason(unit)}"
        )


def _reason(unit: dict[str, Any]) -> str:
    text = str(unit["why"] or unit["reason"])
    return f"{unit['executor']}: {text}" if unit["executor"] != "-" else text


def _summary(units: list[dict[str, Any]]) -> None:
    counts: dict[str, int] = {}
    reasons: dict[str, int] = {}
    away: dict[str, int] = {}
    meanwhile: dict[str, int] = {}
    for unit in units:
        counts[unit["where"]] = counts.get(unit["where"], 0) + 1
        if unit["where"] in ("local", "failed") and unit["executor"] in ("home", "-"):
            reasons[unit["reason"]] = reasons.get(unit["reason"], 0) + 1
        elif unit["where"] == "local":  # by our agent here: another machine was to do it
            meanwhile[unit["reason"]] = meanwhile.get(unit["reason"], 0) + 1
        elif unit["where"] == "remote" and unit["executor"] != "embedded":
            away[unit["executor"]] = away.get(unit["executor"], 0) + 1
    print(", ".join(f"{count} {where}" for where, count in sorted(counts.items())))
    if away:
        print(f"compiled elsewhere: {_counted(away, 'on')}")
    if meanwhile:
        print(f"compiled on this machine instead: {_counted(meanwhile, 'x')}")
    if reasons:
        print(f"run by plain rustc: {_counted(reasons, 'x')}")


def _counted(counts: dict[str, int], word: str) -> str:
    return ", ".join(f"{count} {word} {what}" for what, count in sorted(counts.items()))


def _details(unit: dict[str, Any], earlier: list[Build]) -> None:
    print(f"\n{unit['crate']} ({unit['kind']}) key {unit['key'][:16]}")
    for label, value in unit.get("manifest", []):
        print(f"  {label:32} {value}")
    changed = _changes(unit, earlier)
    if unit["where"] == "hit" and not changed:
        print("  a result for exactly these inputs was stored")
    elif changed is None:
        print("  no earlier build of this unit is recorded")
    elif not changed:
        print("  nothing of this changed since its last build: a source or another input did")
    for label, old, new in changed or []:
        print(f"  changed: {label}: {old or '(absent)'} -> {new or '(absent)'}")


def _changes(unit: dict[str, Any], earlier: list[Build]) -> list[tuple[str, str, str]] | None:
    """Differences to the nearest earlier manifest of the same unit; None if there is none."""
    for build in earlier:
        for other in build.units:
            if (other["crate"], other["kind"]) != (unit["crate"], unit["kind"]):
                continue
            return _difference(other.get("manifest", []), unit.get("manifest", []))
    return None


def _difference(old: list[list[str]], new: list[list[str]]) -> list[tuple[str, str, str]]:
    """Labels with what they were and are; arguments are compared as a list."""
    before, after = _grouped(old), _grouped(new)
    found = []
    for label in sorted(before.keys() | after.keys()):
        gone = [value for value in before.get(label, []) if value not in after.get(label, [])]
        come = [value for value in after.get(label, []) if value not in before.get(label, [])]
        if gone or come:
            found.append((label, " ".join(gone), " ".join(come)))
    return found


def _grouped(manifest: list[list[str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for label, value in manifest:
        groups.setdefault(label, []).append(value)
    return groups


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    if size_bytes < 1_000_000:
        return f"{size_bytes / 1000:.1f} kB"
    return f"{size_bytes / 1_000_000:.1f} MB"
