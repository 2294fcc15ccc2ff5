"""Which programs are rustup's."""

from __future__ import annotations

import os


def is_rustups(program: bytes) -> bool:
    """Whether rustup is behind that name: a link to it, a hard link beside it (older rustups), or
    a copy where neither was possible."""
    real = os.path.realpath(program)
    if os.path.basename(real) in (b"rustup", b"rustup-init"):
        return True
    try:
        beside, own = os.stat(os.path.join(os.path.dirname(real), b"rustup")), os.stat(real)
    except OSError:
        return False
    return os.path.samestat(beside, own) or beside.st_size == own.st_size
