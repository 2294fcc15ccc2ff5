"""`cargo burst stop`: end the daemon and the embedded agent."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import struct
from collections.abc import Sequence
from typing import Final

from burst_wrapper import paths

_PATIENCE_S: Final = 15.0


def run(args: Sequence[str]) -> int:
    """0 if no daemon runs any more; builds in progress go on with plain rustc."""
    argparse.ArgumentParser(
        prog="cargo burst stop",
        description="End the daemon and the embedded agent. A build that is running goes on "
        "with plain rustc.",
    ).parse_args(list(args))
    path = paths.socket_path(dict(os.environb))
    pid = _listener_pid(path)
    if pid is None:
        print("no daemon is running")
        return 0
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        os.kill(pid, signal.SIGTERM)
        if not select.select([watch], [], [], _PATIENCE_S)[0]:
            # It hangs; its agent dies with it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            select.select([watch], [], [], _PATIENCE_S)
    finally:
        os.close(watch)
    print(f"stopped the daemon (pid {pid})")
    return 0


def _listener_pid(path: bytes) -> int | None:
    """Who listens there, by the credentials the kernel vouches for; None if nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return None
        data = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", data)
    return pid if uid == os.geteuid() and pid > 1 else None
