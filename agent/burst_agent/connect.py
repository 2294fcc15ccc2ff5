"""`burst-agent connect`: stdio to the agent's socket and back, for an ssh that cannot do it itself.

Standard library only, and of that little: it is started for every connection.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Final

PIECE_BYTES: Final = 256 * 1024
SOCKET: Final = "/run/burst/agent.sock"
_UNREACHABLE: Final = 12


def main(argv: Sequence[str]) -> int:
    """0 when either side ended, 12 if nobody serves there. `connect [PATH]`."""
    path = argv[0] if argv else SOCKET
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        agent.connect(path)
    except OSError as error:
        sys.stderr.write(f"burst-agent: {path}: {error.strerror}\n")
        return _UNREACHABLE
    # Daemonic: when the agent has ended nobody waits for a client that says nothing.
    threading.Thread(target=_upwards, args=(agent,), daemon=True).start()
    try:
        while data := agent.recv(PIECE_BYTES):
            _write_all(data)
    except OSError:  # one of both is gone: that is an end like any other
        pass
    return 0


def _upwards(agent: socket.socket) -> None:
    try:
        while data := os.read(0, PIECE_BYTES):
            agent.sendall(data)
        agent.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def _write_all(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
