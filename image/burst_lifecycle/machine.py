"""This machine's secret: 32 random bytes that never leave it.

Fingerprints of tokens are keyed with it, so that a ledger which somebody reads (a backup, a volume)
cannot be used to try tokens; and the machine's name in ledgers is made of it.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from typing import Final

_NAME: Final = "machine-key"
_BYTES: Final = 32


def machine_key(folder: str) -> bytes:
    """Made on first use in `folder` (`Places.cloud`), 0600. OSError if that cannot be."""
    path = os.path.join(folder, _NAME)
    for _ in range(2):
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            key = file.read()
            if len(key) == _BYTES:
                return key
            os.unlink(path)  # damaged: old fingerprints match nothing any more, which is safe
        os.makedirs(folder, mode=0o700, exist_ok=True)
        temporary = os.path.join(folder, f".{_NAME}-{secrets.token_hex(8)}")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as new:
                new.write(secrets.token_bytes(_BYTES))
                new.flush()
                os.fsync(new.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first: its key counts
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
    with open(path, "rb") as file:
        return file.read()


def machine_id(key: bytes) -> str:
    """8 hex digits that say nothing about the machine."""
    return hmac.digest(key, b"burst machine", "sha256").hex()[:8]
