"""`python -m burst_wrapper.daemon.main --fd N`: the per-user daemon, started by a wrapper.

The wrapper has bound the socket already, so clients wait in its backlog while we import.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import logging.handlers
import os
import signal
import socket
import struct
import sys

from burst_protocol.errors import BurstError, ConfigError
from burst_wrapper import paths
from burst_wrapper.daemon.server import Server
from burst_wrapper.daemon.services import Services


def main() -> int:
    parser = argparse.ArgumentParser(prog="burst-daemon")
    parser.add_argument("--fd", type=int, required=True, help="listening socket")
    arguments = parser.parse_args()
    # Threads only copy and hash; one that has finished must not wait 5 ms for the interpreter.
    sys.setswitchinterval(0.0005)
    environ = dict(os.environb)
    state_dir = paths.state_dir(environ)
    cache_dir = paths.cache_dir(environ)
    note = paths.socket_path(environ) + b".error"
    listener = socket.socket(fileno=arguments.fd)
    listener.setblocking(False)
    try:
        for folder in (state_dir, cache_dir):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        _log_to(os.path.join(state_dir, b"daemon.log"))
        services = Services.create(cache_dir, state_dir)
    except OSError as error:
        # A full disk, a file where a folder should be: the wrapper that waits can say so.
        with contextlib.suppress(OSError), open(note, "w") as file:
            file.write(f"{_text(error.filename)}: {error.strerror}")
        return 1
    with contextlib.suppress(OSError):
        os.unlink(note)
    try:
        # Modules stay; what a unit leaves behind is counted, mostly, and not collected.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        asyncio.run(_serve(services, listener))
    except Exception:
        logging.getLogger("burst").exception("the daemon ended")
        return 70
    return 0


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes | str) else str(name)


async def _serve(services: Services, listener: socket.socket) -> None:
    idle_exit_s = 3600.0
    with contextlib.suppress(ConfigError):
        config = services.config()
        idle_exit_s = config.idle_exit_s
        services.embedded.slots = config.slots
        services.embedded.store_bytes = int(config.store_gb * 1e9)
    path = paths.socket_path(dict(os.environb))
    server = Server(services, listener, idle_exit_s, lambda: _unlink_own(path, listener))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, server.abandon)
    loop.add_signal_handler(signal.SIGINT, server.abandon)
    logging.getLogger("burst").info("listening on %s", os.fsdecode(path))
    # Whoever started us has a unit that waits: agent and tools while the platform is looked at.
    warming = asyncio.create_task(_warm(services))
    try:
        await server.serve()
    finally:
        warming.cancel()
        await services.remotes.close()
        await services.embedded.close()
        services.index.flush(0)
        services.index.close()
        services.journal.close()


def _unlink_own(path: bytes, listener: socket.socket) -> None:
    """Remove the socket's name while we still listen, unless it leads to a newer daemon by now.

    Names of sockets say nothing of who listens, but the kernel tells the peer of a connection.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(path)
        pid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        # The listener was made by the wrapper that started us: its own peer names that process.
        own = listener.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if pid == struct.unpack("3i", own)[0]:
            os.unlink(path)


async def _warm(services: Services) -> None:
    # The unit that needs the agent asks again, and has somebody to tell what is wrong.
    with contextlib.suppress(BurstError):
        await services.embedded.get()


def _log_to(path: bytes) -> None:
    handler = logging.handlers.RotatingFileHandler(
        os.fsdecode(path), maxBytes=1_000_000, backupCount=2
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("burst").setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
