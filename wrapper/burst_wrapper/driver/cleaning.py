"""`cargo clean` for a cargo elsewhere: what it has built there goes, and what came of it here.

Not by cargo itself: its target directory is a mount there, which it could empty but not remove.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

from burst_wrapper.driver.there import SYSTEM_PATH, There
from burst_wrapper.verbs.child import Ended
from burst_wrapper.verbs.summary import Voice

CACHE_TAG: Final = "CACHEDIR.TAG"
PARTS: Final = (
    *("-p", "--package", "-r", "--release", "--profile", "--doc", "--target", "-n", "--dry-run"),
    *("--workspace", "-h", "--help"),
)
"""Options of `cargo clean` that leave something: those are cargo's affair."""
_EMPTY: Final = b"""
cd "$1" || exit 0
find . -type f ! -name CACHEDIR.TAG | wc -l
find . -mindepth 1 -delete
"""
"""For `sh -c`. Constant: the folder is its argument."""


def clean(there: There, target_dir: bytes, voice: Voice) -> Ended:
    """All of it, on both sides. CannotProbe. Blocking."""
    words = (b"/bin/sh", b"-c", _EMPTY, b"sh", target_dir)
    files = there.ask(words, {b"PATH": SYSTEM_PATH}).split() or [b"0"]
    if os.path.isfile(os.path.join(target_dir, CACHE_TAG.encode())):
        shutil.rmtree(target_dir, ignore_errors=True)
    voice.status("Removed", f"{int(files[0])} files")
    return Ended(0)
