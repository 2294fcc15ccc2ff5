"""`burst-agent serve`: one agent for all clients of a server, on a unix socket.

The socket is 0660 and belongs to whoever runs this and its group; besides, the kernel says who is
at the other end, and only our own user and root are let in. From outside a client comes by ssh:
sshd connects for it (streamlocal forwarding), or `burst-agent connect` relays its stdio.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

from burst_agent import single
from burst_agent.connection import Connection, over_socket
from burst_agent.evict import DEFAULT_LIMIT_BYTES
from burst_agent.house import House, Settings
from burst_agent.lease import FOLDER
from burst_agent.serve import Conversation
from burst_agent.slots import default_slots
from burst_protocol.errors import AgentGone, BurstError
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

SOCKET: Final = f"{FOLDER}/agent.sock"
ORPHAN_S: Final = 300.0
PATIENCE_S: Final = 60.0
LINGER_S: Final = 10.0
_SOCKET_MODE: Final = 0o660
_BACKLOG: Final = 64
_BUG: Final = 70

_log = logging.getLogger("burst.agent")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="burst-agent serve")
    parser.add_argument("--socket", type=os.fsencode, default=SOCKET.encode(), metavar="PATH")
    parser.add_argument("--root", type=os.fsencode, required=True, metavar="DIR", help="own store")
    parser.add_argument("--volumes", type=os.fsencode, metavar="DIR", help="mounted volumes")
    parser.add_argument("--lease", metavar="DIR", help="keep this server's lease")
    parser.add_argument("--slots", type=int, metavar="N", help="compilers at once (default: cores)")
    parser.add_argument("--store-bytes", type=int, default=DEFAULT_LIMIT_BYTES, metavar="N")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="S", help="with a silent client"
    )
    parser.add_argument(
        "--orphan", type=float, default=ORPHAN_S, metavar="S", help="runs without a client go on"
    )
    parser.add_argument(
        "--linger", type=float, default=LINGER_S, metavar="S", help="unused stores stay open"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 after SIGTERM, that of a BurstError, 1 for an OSError, 70 for a bug."""
    options = parse(argv)
    try:
        os.makedirs(options.root, mode=0o700, exist_ok=True)
        single.start_log(options.root)
        settings = Settings(
            root=os.path.abspath(options.root),
            local=False,
            slots=max(1, options.slots or default_slots()),
            store_limit_bytes=options.store_bytes,
            patience_s=options.patience,
            orphan_s=options.orphan,
            volumes=options.volumes,
            linger_s=options.linger,
            lease=options.lease,
        )
        single.tune()
        asyncio.run(_run(settings, options.socket))
    except BurstError as error:
        sys.stderr.write(f"burst-agent: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"burst-agent: {error}\n")
        return 1
    except Exception:
        _log.exception("the agent ends")
        sys.stderr.write("burst-agent: a bug; see agent.log in the store\n")
        return _BUG
    return 0


async def _run(settings: Settings, path: bytes) -> None:
    listening = listen(path)
    try:
        house = House(settings)
        try:
            await single.until_signalled(Service(house, listening).serve())
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)  # before the runs end: whoever comes now shall see nobody here
            await house.close()
    finally:
        listening.close()


class Service:
    """Takes clients in until it is cancelled; then all of them have been seen out."""

    def __init__(self, house: House, listening: socket.socket) -> None:
        self._house = house
        self._listening = listening
        self._clients: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        tell_systemd(b"READY=1")
        try:
            while True:
                try:
                    client, _ = await loop.sock_accept(self._listening)
                except OSError as error:  # descriptors, memory: what is there goes on
                    _log.warning("accepting a client: %s", error)
                    await asyncio.sleep(1)
                    continue
                if not welcome(client):
                    client.close()
                    continue
                task = asyncio.create_task(self._serve_one(client))
                self._clients.add(task)
                task.add_done_callback(self._clients.discard)
        finally:
            for task in self._clients:
                task.cancel()
            if self._clients:
                await asyncio.wait(set(self._clients))

    async def _serve_one(self, client: socket.socket) -> None:
        try:
            reader, writer = await over_socket(client)
            session = Session(Role.AGENT, BUILD, os.getpid())
            await Conversation(self._house, Connection.over(session, reader, writer)).serve()
        except Exception:
            _log.exception("a client's conversation")


def listen(path: bytes) -> socket.socket:
    """The socket at `path`. AgentGone if somebody serves there already; OSError."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            else:
                raise AgentGone(f"another one serves {os.fsdecode(path)}")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o777 & ~_SOCKET_MODE)
        try:
            listening.bind(path)
        finally:
            os.umask(before)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def welcome(client: socket.socket) -> bool:
    """Whether the process at the other end is root's or our own user's (unix(7), SO_PEERCRED)."""
    size = struct.calcsize("3i")
    peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    pid, uid, _ = struct.unpack("3i", peer)
    if uid in (0, os.geteuid()):
        return True
    _log.warning("refused process %d of user %d", pid, uid)
    return False


def tell_systemd(state: bytes) -> None:
    """sd_notify(3): one datagram, if systemd started us and wants to know."""
    path = os.environb.get(b"NOTIFY_SOCKET")
    if not path:
        return
    if path.startswith(b"@"):
        path = b"\0" + path[1:]
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
    ):
        notify.connect(path)
        notify.send(state)
