"""Which workspace and which project this command was started in."""

from __future__ import annotations

import hashlib
import os
import subprocess

from burst_lifecycle.admin.desk import Desk


def workspace_here(desk: Desk) -> str | None:
    """Its root, as cargo gives it; None outside of any."""
    manifest = _said(desk, ["cargo", "locate-project", "--workspace", "--message-format=plain"])
    return None if manifest is None else os.path.dirname(manifest)


def project_here(desk: Desk) -> str | None:
    """As volumes are labelled: by the git common directory, else by the workspace."""
    common = _said(desk, ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"])
    root = workspace_here(desk) if common is None else common
    return None if root is None else project_id(root)


def project_id(root: str) -> str:
    """16 hex digits of the real path."""
    return hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]


def _said(desk: Desk, argv: list[str]) -> str | None:
    try:
        done = subprocess.run(
            argv, cwd=desk.cwd, env=desk.environ, capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    said = done.stdout.strip()
    return said if done.returncode == 0 and said else None
