"""`cargo burst stop`: end the daemon and the embedded agent."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import struct
import sys
import time
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
    environ = dict(os.environb)
    _stop(paths.socket_path(environ))
    _warn_of_servers(environ)
    return 0


def _stop(path: bytes) -> None:
    pid = _listener_pid(path)
    if pid is None:
        print("no daemon is running")
        return
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
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


def _warn_of_servers(environ: dict[bytes, bytes]) -> None:
    """The daemon was who reaps: what bills is named, by what this machine remembers."""
    cloud = paths.state_dir(environ) + b"/cloud"
    if not os.path.exists(cloud + b"/ledger.jsonl"):
        return
    from burst_lifecycle.books import billing_words  # noqa: PLC0415 - for who has servers
    from burst_lifecycle.cloud.model import Kind  # noqa: PLC0415
    from burst_lifecycle.ledger import Ledger  # noqa: PLC0415

    try:
        books = Ledger(os.fsdecode(cloud), "").books()
    except OSError as error:
        print(f"warning: the ledger cannot be read: {error.strerror}", file=sys.stderr)
        return
    servers = [thing for thing in books.billing() if thing.kind is Kind.SERVER]
    for thing in servers:
        print(f"warning: {billing_words(thing, time.time())}, goes on", file=sys.stderr)
    if servers:
        print(
            "hint: `burst-admin down` deletes it now; with `burst-admin reap --install` somebody "
            "comes by while no daemon runs",
            file=sys.stderr,
        )


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
