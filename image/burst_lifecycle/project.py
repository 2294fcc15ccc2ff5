"""Which project a folder belongs to: what a volume is for, and where its settings lie.

All worktrees of a repository are one project: they share a volume, so the second of ten worktrees
begins warm. No program is run for it: git's own files say where the common directory is
(gitrepository-layout(5): `.git` may be a file `gitdir: …`, and `commondir` leads on from there).
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

import attrs

from burst_lifecycle.folders import ancestors

_LIMIT_BYTES: Final = 4096
_SETTINGS: Final = (".config", "burst.toml")


@attrs.frozen
class Project:
    """`key`: 16 hex digits, as in the label; `root`: where cargo's workspace is."""

    key: str
    root: str
    identity: str
    """The path that was hashed: the git common directory, else the root."""

    @property
    def settings_path(self) -> str:
        """Where a project keeps settings of its own; the file need not be there."""
        return os.path.join(self.root, *_SETTINGS)


def find(workspace_root: str) -> Project:
    """The project of a workspace, which need not be in a repository. Never raises."""
    root = os.path.realpath(workspace_root)
    identity = _common_directory(root) or root
    digest = hashlib.sha256(os.fsencode(identity)).hexdigest()
    return Project(digest[:16], root, identity)


def nearest_workspace(folder: str) -> str:
    """The nearest folder with a `Cargo.lock` at or above this one, else the folder itself.

    Cargo keeps one lock file per workspace, in its root: where a build has run, that is as good as
    asking cargo, and it costs no process. Who has time to ask uses `cargo locate-project`.
    """
    around = ancestors(os.path.realpath(folder))
    locked = (one for one in around if os.path.isfile(os.path.join(one, "Cargo.lock")))
    return next(locked, folder)


def _common_directory(folder: str) -> str | None:
    for probe in ancestors(folder):
        entry = os.path.join(probe, ".git")
        if os.path.isdir(entry):
            return os.path.realpath(entry)
        if os.path.isfile(entry):
            return _linked(entry)
    return None


def _linked(entry: str) -> str | None:
    """A worktree's or submodule's `.git` file, followed."""
    text = _read(entry)
    if text is None or not text.startswith("gitdir:"):
        return None
    directory = os.path.join(os.path.dirname(entry), text.removeprefix("gitdir:").strip())
    common = _read(os.path.join(directory, "commondir"))
    if common is not None:
        directory = os.path.join(directory, common.strip())
    return os.path.realpath(directory) if os.path.isdir(directory) else None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_LIMIT_BYTES)
    except OSError:
        return None
