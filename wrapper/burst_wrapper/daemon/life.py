"""From loaded to ended: what the daemon does around serving."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import logging.handlers
import os
import signal
import socket
import struct

from burst_protocol.errors import BurstError, ConfigError
from burst_wrapper import paths
from burst_wrapper.daemon.agent_process import AgentProcess
from burst_wrapper.daemon.ground import Ground
from burst_wrapper.daemon.server import Server
from burst_wrapper.daemon.services import Services


def prepare(ground: Ground, agent: AgentProcess | None) -> Services:
    """OSError where there is no room."""
    _log_to(os.path.join(ground.state_dir, b"daemon.log"))
    return Services.create(ground, agent)


def live(services: Services, listener: socket.socket) -> int:
    """Serve until there is nothing to do for long, or somebody says so. Exit status."""
    try:
        # Modules stay; what a unit leaves behind is counted, mostly, and not collected.
        gc.freeze()
        gc.enable()
        gc.set_threshold(20_000, 20, 20)
        asyncio.run(_serve(services, listener))
    except Exception:
        logging.getLogger("burst").exception("the daemon ended")
        return 70
    return 0


async def _serve(services: Services, listener: socket.socket) -> None:
    idle_exit_s = 3600.0
    with contextlib.suppress(ConfigError):
        config = services.config()
        idle_exit_s = config.idle_exit_s
        services.embedded.slots = config.slots
        services.embedded.store_bytes = config.store_bytes
        services.embedded.silence_s = config.silence_s
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
        await services.servers.close()
        await services.remotes.close()
        await services.embedded.close()
        services.flush(0)
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
        # For a listener that is who made it listen last, the wrapper that started us or we.
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
