"""Before the first copy: what would go, what is heavy, and what the user says about it.

No agent is asked, and nothing is read but names and sizes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from burst_lifecycle.places import Places
from burst_wrapper.index import Index
from burst_wrapper.mirror import answers, weight
from burst_wrapper.mirror.rules import Why
from burst_wrapper.mirror.snapshot import Project, Snapshots
from burst_wrapper.mirror.weight import Heavy, Weight, amount, printable
from burst_wrapper.statcache import StatCache

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


def ask(
    project: Project, places: Places, agree: Callable[[tuple[Heavy, ...]], bool]
) -> tuple[str, ...]:
    """On a workspace's first run: shall these folders stay at home? The patterns that hold.

    Blocking. `agree` shows the suggestions and asks; without any it is not called. It is asked once
    for a workspace, whatever the answer. SourceUnreadable.
    """
    known = answers.load(places, project.workspace_root)
    if known.asked:
        return known.exclude
    suggestions = preview(project).weight.suggestions
    patterns: tuple[str, ...] = ()
    if suggestions:
        root = project.workspace_root.rstrip(b"/") + b"/"
        inside = tuple(heavy for heavy in suggestions if heavy.path.startswith(root))
        if inside and agree(inside):
            patterns = tuple(_pattern(heavy.path[len(root) :]) for heavy in inside)
    answers.save(places, project.workspace_root, patterns)
    return patterns


def _pattern(name: bytes) -> str:
    """One that matches this folder of the root alone."""
    text = os.fsdecode(name)
    quoted = "".join(f"\\{c}" if c in "\\*?[ " else c for c in text)
    return f"/{quoted}/"
