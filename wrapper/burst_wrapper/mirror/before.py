"""Before the first copy: what would go, what is heavy, and what the user says about it.

No agent is asked and nothing is read but names and sizes. Answers are kept in burst's own folder,
since nothing is written into a source tree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

from burst_lifecycle.places import Places, write_atomically
from burst_wrapper.index import Index
from burst_wrapper.mirror import weight
from burst_wrapper.mirror.rules import Why
from burst_wrapper.mirror.snapshot import Project, Snapshots
from burst_wrapper.mirror.weight import Heavy, Weight, amount, printable
from burst_wrapper.statcache import StatCache

_FOLDER: Final = "mirrors"
_LIMIT_BYTES: Final = 1 << 20
_NOWHERE: Final = b"/dev/null/index"
"""An index in memory: no digest is asked for."""


@attrs.frozen
class Preview:
    """What a mirror would hold."""

    files: tuple[tuple[bytes, int], ...]
    """Absolute path and size, sorted."""
    held: tuple[tuple[bytes, Why, str], ...]
    """What stays at home: why, and by which file's patterns. Folders stand for all in them."""
    weight: Weight

    def lines(self) -> Iterator[str]:
        """For `--sync-dry-run`: each name on one line, whatever bytes it has."""
        for path, size in self.files:
            yield f"{amount(size):>9}  {printable(os.fsdecode(path))}"
        yield f"{amount(self.weight.size_bytes)} in {self.weight.files} files"
        if len(self.weight.heaviest) > 1:
            yield "the biggest entries:"
            for heavy in self.weight.heaviest:
                yield f"  {heavy}"
        if self.held:
            yield "kept at home:"
            for path, why, origin in self.held:
                by = f", {printable(origin)}" if origin else ""
                yield f"  {printable(os.fsdecode(path))} ({why.value}{by})"


def preview(project: Project) -> Preview:
    """Blocking. SourceUnreadable for a folder that cannot be listed."""
    index = Index(_NOWHERE)
    try:
        snapshots = Snapshots(StatCache(index))
        scans = snapshots.look(project)
    finally:
        index.close()
    files: list[tuple[bytes, int]] = []
    held: list[tuple[bytes, Why, str]] = []
    for scan in scans:
        for folder in scan.folders():
            files += [(path, file.size_bytes) for path, file in folder.files.items()]
            files += [(path, 0) for path in folder.links]
            held += [(path, why, origin) for path, (why, origin) in folder.held.items()]
    return Preview(tuple(sorted(files)), tuple(sorted(held, key=_path)), weight.weigh(scans))


def _path(entry: tuple[bytes, Why, str]) -> bytes:
    return entry[0]


@attrs.frozen
class Answers:
    """What the user said about one workspace."""

    asked: bool = False
    exclude: tuple[str, ...] = ()
    """Patterns, as in the configuration's `exclude`."""


def load(places: Places, workspace_root: bytes) -> Answers:
    """Nothing, if nothing was said or it cannot be read."""
    try:
        with open(_file(places, workspace_root), "rb") as file:
            content: Any = json.loads(file.read(_LIMIT_BYTES))
        exclude = content["exclude"]
    except (OSError, ValueError, KeyError, TypeError):
        return Answers()
    if not isinstance(exclude, list) or not all(isinstance(entry, str) for entry in exclude):
        return Answers()
    return Answers(asked=True, exclude=tuple(exclude))


def save(places: Places, workspace_root: bytes, exclude: tuple[str, ...]) -> None:
    """OSError."""
    content = {"workspace": os.fsdecode(workspace_root), "exclude": list(exclude)}
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    write_atomically(_file(places, workspace_root), text.encode(), mode=0o600)


def ask(
    project: Project, places: Places, agree: Callable[[tuple[Heavy, ...]], bool]
) -> tuple[str, ...]:
    """On a workspace's first run: shall these folders stay at home? The patterns that hold.

    Blocking. `agree` shows the suggestions and asks; without any it is not called. It is asked once
    for a workspace, whatever the answer. SourceUnreadable.
    """
    known = load(places, project.workspace_root)
    if known.asked:
        return known.exclude
    suggestions = preview(project).weight.suggestions
    patterns: tuple[str, ...] = ()
    if suggestions:
        root = project.workspace_root.rstrip(b"/") + b"/"
        inside = tuple(heavy for heavy in suggestions if heavy.path.startswith(root))
        if inside and agree(inside):
            patterns = tuple(_pattern(heavy.path[len(root) :]) for heavy in inside)
    save(places, project.workspace_root, patterns)
    return patterns


def _pattern(name: bytes) -> str:
    """One that matches this folder of the root alone."""
    text = os.fsdecode(name)
    quoted = "".join(f"\\{c}" if c in "\\*?[ " else c for c in text)
    return f"/{quoted}/"


def _file(places: Places, workspace_root: bytes) -> bytes:
    name = hashlib.sha256(os.path.normpath(workspace_root)).hexdigest()[:32]
    return os.fsencode(os.path.join(places.state, _FOLDER, f"{name}.json"))
