"""Where burst keeps its files: XDG Base Directory Specification 0.8.

The daemon asks before it has loaded anything: what is imported here, the first build waits for.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # `typing` takes 8 ms
if TYPE_CHECKING:
    from collections.abc import Mapping


def home_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """$HOME, else what the password database says."""
    return environ.get(b"HOME") or os.path.expanduser(b"~")


def _xdg(environ: Mapping[bytes, bytes], name: bytes, default: bytes) -> bytes:
    base = environ.get(name, b"")
    if not base.startswith(b"/"):  # the specification: relative values are to be ignored
        base = home_dir(environ) + b"/" + default
    return base + b"/burst"


def config_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What the user writes."""
    return _xdg(environ, b"XDG_CONFIG_HOME", b".config")


def cache_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What may be deleted at any time: the store, compiled helpers."""
    return _xdg(environ, b"XDG_CACHE_HOME", b".cache")


def data_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What must stay: the launcher that cargo's configuration names, burst's SSH key."""
    return _xdg(environ, b"XDG_DATA_HOME", b".local/share")


def state_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """Logs, the journal, the ledger, and what `enable` changed."""
    return _xdg(environ, b"XDG_STATE_HOME", b".local/state")
