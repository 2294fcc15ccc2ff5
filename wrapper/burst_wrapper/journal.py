"""What ran where and why: read by `cargo burst explain`.

A build is one cargo process. Its files (one, or more after a daemon was lost: wrappers write too
then, see `hot`) are named `<ms>-<pid>-<start ticks>.jsonl`. Lines are JSON, appended whole; a torn
last line is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs

KEEP_BUILDS: Final = 60


@attrs.frozen
class UnitRecord:
    """One rustc call. `where` is remote, hit or local; `executor` says which agent or store."""

    crate: str
    kind: str
    where: str
    executor: str
    why: str
    reason: str
    wall_ms: int
    sent_bytes: int
    received_bytes: int
    started_ms: int
    key: str
    manifest: tuple[tuple[str, str], ...]
    detail: str = ""
    rustc_ms: int = 0

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in _NAMES}, separators=(",", ":"))


_NAMES: Final = tuple(field.name for field in attrs.fields(UnitRecord))


class Journal:
    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._fds: dict[tuple[int, int], int] = {}

    def record(self, build: tuple[int, int], cwd: bytes, record: UnitRecord) -> None:
        """Append; an unwritable journal never disturbs a build."""
        try:
            fd = self._fds.get(build)
            if fd is None:
                fd = self._begin(build, cwd)
            os.write(fd, record.to_json().encode() + b"\n")
        except OSError:
            pass

    def _begin(self, build: tuple[int, int], cwd: bytes) -> int:
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        name = b"%d-%d-%d.jsonl" % (time.time_ns() // 1_000_000, *build)
        fd = os.open(
            os.path.join(self._folder, name),
            os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        head = {"build": list(build), "cwd": os.fsdecode(cwd), "time_s": int(time.time())}
        os.write(fd, json.dumps(head).encode() + b"\n")
        while len(self._fds) >= 32:
            os.close(self._fds.pop(next(iter(self._fds))))
        self._fds[build] = fd
        self._prune()
        return fd

    def _prune(self) -> None:
        for name in sorted(os.listdir(self._folder))[:-KEEP_BUILDS]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._folder, name))

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


@attrs.frozen
class Build:
    path: str
    cwd: str
    time_s: int
    units: tuple[dict[str, Any], ...]


def builds(folder: bytes) -> Iterator[Build]:
    """Recorded builds, newest first. Damaged lines and files are passed over."""
    try:
        names = sorted(os.listdir(folder), key=_number, reverse=True)
    except OSError:
        return
    found: dict[tuple[Any, ...], Build] = {}
    for name in names:
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                lines = file.read().split(b"\n")
        except OSError:
            continue
        head: dict[str, Any] | None = None
        units: list[dict[str, Any]] = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if not isinstance(value, dict):
                continue
            if head is None and _is_head(value):
                head = value
            elif "crate" in value:
                units.append(value)
        if head is None:
            continue
        key = tuple(head["build"])
        newer = found.get(key)
        found[key] = Build(
            os.fsdecode(path),
            str(head.get("cwd", "")),
            int(head["time_s"]),
            (*units, *(() if newer is None else newer.units)),
        )
    yield from found.values()


def _is_head(value: dict[str, Any]) -> bool:
    build = value.get("build")
    return (
        isinstance(build, list)
        and all(isinstance(number, int) for number in build)
        and isinstance(value.get("time_s"), int)
    )


def _number(name: bytes) -> int:
    first = name.split(b"-", 1)[0]
    return int(first) if first.isdigit() else 0
