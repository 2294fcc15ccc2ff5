"""Where burst keeps its files, for the wrapper package: XDG folders, and the socket's.

The runtime folder and the socket in it are defined in `hot.py`, which may import nothing; the rest
in `burst_lifecycle.xdg`.
"""

from __future__ import annotations

import os

from burst_lifecycle.xdg import cache_dir, config_dir, data_dir, home_dir, state_dir
from burst_wrapper.hot import check_private, runtime_dir, socket_name, socket_path

TYPE_CHECKING = False  # as in `burst_lifecycle.xdg`
if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "cache_dir",
    "cargo_home",
    "check_private",
    "config_dir",
    "data_dir",
    "home_dir",
    "runtime_dir",
    "socket_name",
    "socket_path",
    "state_dir",
]


def cargo_home(environ: Mapping[bytes, bytes]) -> bytes:
    """$CARGO_HOME as cargo reads it: empty counts as unset, relative is taken from the cwd."""
    home = environ.get(b"CARGO_HOME") or home_dir(environ) + b"/.cargo"
    return os.path.join(os.getcwdb(), home)
