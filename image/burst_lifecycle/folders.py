"""Folders by their names alone: the disk is not looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import AnyStr


def ancestors(folder: AnyStr) -> Iterator[AnyStr]:
    """Itself, its parent, and so on to `/`."""
    while True:
        yield folder
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def within(path: bytes, folder: bytes) -> bool:
    """Whether `path` is `folder` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def outermost(folders: Iterable[bytes]) -> tuple[bytes, ...]:
    """Each once and in order, without those that lie in another one."""
    unique = list(dict.fromkeys(folders))
    return tuple(
        folder
        for folder in unique
        if not any(other != folder and within(folder, other) for other in unique)
    )
