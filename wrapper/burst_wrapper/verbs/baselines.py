"""Baselines of benchmarks (criterion's), and on which processor each was measured.

Criterion keeps them in `<target>/criterion/<benchmark>/<baseline>/estimates.json`, and knows
nothing of processors. Beside them lies our `burst-baselines.json`; what has no entry is not judged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from burst_lifecycle.atomic_file import write_atomically

FOLDER: Final = "criterion"
FILE: Final = "burst-baselines.json"
LAST: Final = "base"
"""What criterion compares with, and overwrites, where no baseline is named."""
_MARK: Final = "estimates.json"
_DEEPEST: Final = 6
_FIELDS_OF_ARM: Final = ("CPU implementer", "CPU part")


def compared(behind: Sequence[str]) -> tuple[str, ...]:
    """The baselines that these arguments of criterion compare with; one that is saved is compared
    with what it was before."""
    named = _values(behind, ("-b", "--baseline", "--baseline-lenient", "--load-baseline"))
    saves = _values(behind, ("-s", "--save-baseline"))
    return tuple(dict.fromkeys(named or saves)) or (LAST,)


def model(cpuinfo: str) -> str:
    """The processor's name in /proc/cpuinfo; on ARM its numbers. Empty if there is neither."""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip())
    if "model name" in fields:
        return " ".join(fields["model name"].split())
    return " ".join(f"{name} {fields[name]}" for name in _FIELDS_OF_ARM if name in fields)


def here() -> str:
    """The model of this machine."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return model(file.read())
    except OSError:
        return ""


def stamps(target: str) -> dict[str, int]:
    """Each baseline with the time (ns) of its newest measurement."""
    found: dict[str, int] = {}
    root = os.path.join(target, FOLDER)
    for folder, below, files in os.walk(root):
        if folder.count("/") - root.count("/") > _DEEPEST:
            below.clear()
        if _MARK in files:
            try:
                at = os.stat(os.path.join(folder, _MARK)).st_mtime_ns
            except OSError:
                continue
            name = os.path.basename(folder)
            found[name] = max(at, found.get(name, 0))
    return found


def read(target: str) -> dict[str, str]:
    """Baseline to processor. Empty if nothing was written down, or it is damaged."""
    try:
        with open(_path(target), encoding="utf-8") as file:
            document = json.load(file)
        return {str(name): str(value) for name, value in document["measured_on"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def record(target: str, names: Iterable[str], processor: str) -> None:
    """These were measured on that one. Nothing is written without any. OSError."""
    new = dict.fromkeys(names, processor)
    if not new or not processor:
        return
    document = {"schema": 1, "measured_on": {**read(target), **new}}
    write_atomically(os.fsencode(_path(target)), json.dumps(document, indent=1).encode())


def changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Those that were measured in between. `new` and `change` are criterion's own working files."""
    own = ("new", "change")
    return sorted(name for name in after if name not in own and after[name] != before.get(name))


def foreign(known: Mapping[str, str], names: Iterable[str], processor: str) -> list[str]:
    """Sentences about those of another processor."""
    if not processor:
        return []
    return [
        f"baseline `{name}` was measured on another processor ({known[name]}; now {processor}): "
        "differences say nothing about the code"
        for name in names
        if known.get(name, processor) != processor
    ]


def _values(words: Sequence[str], names: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in names:
            found.append(value if equals else "".join(words[at + 1 : at + 2]))
    return [value for value in found if value]


def _path(target: str) -> str:
    return os.path.join(target, FOLDER, FILE)
