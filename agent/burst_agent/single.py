"""`burst-agent --fd/--stdio`: an agent for one daemon, at the other end of a socket or of ssh."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.handlers
import os
import resource
import signal
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from burst_agent.connection import Connection, open_socket, open_stdio
from burst_agent.evict import DEFAULT_LIMIT_BYTES
from burst_agent.house import House, Settings
from burst_agent.lease import FOLDER, usable
from burst_agent.serve import Conversation
from burst_agent.slots import default_slots
from burst_protocol.errors import BurstError, EnvironmentProblem
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

if TYPE_CHECKING:
    import argparse

_LOG_BYTES: Final = 1_000_000
_LOG_FILES: Final = 2
_BUG: Final = 70
_FILES: Final = 1024
_FILES_MIN: Final = 128
"""Open at once. The first is what Linux gives everybody; with the second, builds were seen to
work."""

_log = logging.getLogger("burst.agent")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    import argparse  # noqa: PLC0415 - 7 ms of a first build, which starts its agent by `run`

    parser = argparse.ArgumentParser(
        prog="burst-agent",
        description="Runs compilers in sandboxes. It is started by the burst daemon.",
    )
    link = parser.add_mutually_exclusive_group(required=True)
    link.add_argument("--fd", type=int, metavar="N", help="talk over this inherited socket")
    link.add_argument("--stdio", action="store_true", help="talk over stdin and stdout")
    parser.add_argument("--root", type=os.fsencode, required=True, metavar="DIR", help="the store")
    parser.add_argument("--local", action="store_true", help="the client is on this machine")
    parser.add_argument("--slots", type=int, metavar="N", help="compilers at once (default: cores)")
    parser.add_argument(
        "--store-bytes", type=int, default=DEFAULT_LIMIT_BYTES, metavar="N", help="size limit"
    )
    parser.add_argument(
        "--patience", type=float, default=0, metavar="S", help="end if the client is silent"
    )
    parser.add_argument(
        "--lease", metavar="DIR", help=f"this server's lease (default: {FOLDER}, if there is one)"
    )
    parser.add_argument("--version", action="version", version=BUILD)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status, as that of `run`."""
    options = parse(argv)
    return run(
        None if options.stdio else options.fd,
        options.root,
        local=options.local,
        slots=options.slots or 0,
        store_bytes=options.store_bytes,
        patience_s=options.patience,
        lease=options.lease,
    )


def run(
    fd: int | None,
    root: bytes,
    *,
    local: bool,
    slots: int = 0,
    store_bytes: int = 0,
    patience_s: float = 0.0,
    lease: str | None = None,
) -> int:
    """Serve the client on that descriptor (None: on stdin and stdout); 0 for our own choice.

    Exit status: 0 when the client ended, that of a BurstError, 70 for a bug.
    """
    try:
        os.makedirs(root, mode=0o700, exist_ok=True)
        start_log(root)
        settings = Settings(
            root=os.path.abspath(root),
            local=local,
            slots=max(1, slots or default_slots()),
            store_limit_bytes=store_bytes or DEFAULT_LIMIT_BYTES,
            patience_s=patience_s,
            lease=lease or (FOLDER if not local and usable(FOLDER) else None),
        )
        tune()
        asyncio.run(_serve(settings, fd))
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


def tune() -> None:
    """What every agent process sets for itself before its loop starts. EnvironmentProblem."""
    os.umask(0o077)
    _allow_files()
    # Threads hash and copy; one that is done must not wait 5 ms for the interpreter.
    sys.setswitchinterval(0.0005)
    # Modules stay; what a unit leaves behind is counted, mostly, and not collected.
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)


def _allow_files() -> None:
    """Undo an `ulimit -n` that is too low, as far as it can be undone; never more than usual, since
    what runs here inherits it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= _FILES or soft == resource.RLIM_INFINITY:
        return
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if most < _FILES_MIN:
        raise EnvironmentProblem(
            f"only {most} files may be open at once, and it needs {_FILES_MIN} (raise `ulimit -n`)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _serve(settings: Settings, fd: int | None) -> None:
    streams = await (open_stdio() if fd is None else open_socket(fd))
    house = House(settings)
    try:
        # Before our Hello: a store that cannot be opened is why we end.
        place = await house.open()
        session = Session(Role.AGENT, BUILD, os.getpid())
        conversation = Conversation(house, Connection.over(session, *streams))
        await until_signalled(conversation.serve())
        house.leave(place)
    finally:
        await house.close()
    _log.info("agent %d ends", os.getpid())


async def until_signalled(work: Coroutine[Any, Any, None]) -> None:
    """SIGTERM, SIGINT and SIGHUP cancel it, and are an orderly end."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    _log.info("agent %d starts, build %s", os.getpid(), BUILD)
    try:
        await task
    except asyncio.CancelledError:
        _log.info("ended by a signal")


def start_log(root: bytes) -> None:
    """Never stdout, which may carry the protocol, and not stderr, which ssh shows to the user."""
    handler = logging.handlers.RotatingFileHandler(
        os.fsdecode(root) + "/agent.log", maxBytes=_LOG_BYTES, backupCount=_LOG_FILES
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(process)d %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    logging.raiseExceptions = False
