"""Names of single files as patterns of `.gitignore`."""

from __future__ import annotations

import os


def pattern(path: bytes) -> str:
    """What names this file alone, by its path below the folder's top."""
    text = os.fsdecode(path)
    return "/" + "".join("\\" + c if c in "*?[]!#\\ " else c for c in text)
