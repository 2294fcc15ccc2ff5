"""Where a working tree's repository lies: gitrepository-layout(5)."""

from __future__ import annotations

import os
from typing import Final

_LIMIT_BYTES: Final = 4096


def git_directory(top: bytes) -> bytes | None:
    """Of the working tree with this top folder; a worktree's or submodule's `.git` file is
    followed. None if there is none, or none that can be read."""
    entry = os.path.join(top, b".git")
    if os.path.isdir(entry):
        return entry
    text = _read(entry)
    if text is None or not text.startswith(b"gitdir:"):
        return None
    return os.path.join(top, text.removeprefix(b"gitdir:").strip())


def common_directory(directory: bytes) -> bytes:
    """What all worktrees of that repository share."""
    text = _read(os.path.join(directory, b"commondir"))
    return directory if text is None else os.path.join(directory, text.strip())


def _read(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(_LIMIT_BYTES)
    except OSError:
        return None
