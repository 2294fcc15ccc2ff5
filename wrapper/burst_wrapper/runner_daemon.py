"""The way from a runner to the daemon, and how it asks: see `runner`.

Loaded by that, by its path, and as light.
"""

import _socket

from burst_wrapper import hot

VERSION = b"2"
MAGIC = b"BRS2"
SILENCE_S = 15.0


def connected(environ: dict[bytes, bytes]) -> "_socket.socket | None":
    """To the daemon that runs, if one does: a session of one that has ended has ended, too."""
    try:
        folder = hot.runtime_dir(environ)
        hot.check_private(folder)
        return hot._connect(folder + b"/" + hot.socket_name(), SILENCE_S)
    except Exception:
        return None


def opening(*fields: bytes) -> bytes:
    body = b"".join([len(one).to_bytes(4, "little") + one for one in fields])
    return MAGIC + len(body).to_bytes(4, "little") + body
