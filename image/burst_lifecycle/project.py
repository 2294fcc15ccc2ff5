"""Which project a folder belongs to: what a volume is for, and where its settings lie.

All worktrees of a repository are one project: they share a volume, so the second of ten worktrees
begins warm. No program is run for it: git's own files say where the common directory is.
"""

from __future__ import annotations

import hashlib
import os
from typing import Final

import attrs

from burst_lifecycle.folders import ancestors
from burst_lifecycle.git_directory import common_directory, git_directory

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
    for probe in ancestors(os.fsencode(folder)):
        entry = os.path.join(probe, b".git")
        if os.path.isdir(entry) or os.path.isfile(entry):
            own = git_directory(probe)
            common = None if own is None else common_directory(own)
            if common is None or not os.path.isdir(common):
                return None
            return os.fsdecode(os.path.realpath(common))
    return None
