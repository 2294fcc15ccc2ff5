"""`start`: the per-user daemon, started by a wrapper.

The wrapper has bound the socket already, so its unit waits in the backlog while we import. It also
waits for an agent and for the toolchain's digest. None of the three needs the others, so they are
begun as early as possible, side by side; that is all this module does. The order of its imports is
the point of it (a test holds what is there when the first of them begins).
"""

from __future__ import annotations

import gc
import os
import sys

from burst_wrapper import paths
from burst_wrapper.daemon.early_hash import EarlyHash

TYPE_CHECKING = False  # `typing` takes 8 ms
if TYPE_CHECKING:
    from typing import NoReturn

    from burst_wrapper.daemon.agent_process import AgentProcess, Place

_USAGE = "usage: burst-daemon --fd N [--rustc PATH]\n"


def main(argv: list[str]) -> int:
    """Exit status. `--fd`: the listening socket; `--rustc`: the compiler of who waits for us."""
    options = dict(zip(argv[::2], argv[1::2], strict=False))
    known = options.keys() <= {"--fd", "--rustc"}
    if len(argv) % 2 or not known or not options.get("--fd", "").isdigit():
        sys.stderr.write(_USAGE)
        return 2
    environ = dict(os.environb)
    state_dir, cache_dir = paths.state_dir(environ), paths.cache_dir(environ)
    early = None
    if not os.path.exists(os.path.join(cache_dir, b"home.db")):
        # Who has an index knows these digests, as a rule.
        early = EarlyHash.begin(options.get("--rustc", ""), int(options["--fd"]))
    import contextlib  # noqa: PLC0415 - from here on the child has begun
    import socket  # noqa: PLC0415

    from burst_wrapper.daemon.agent_process import Place  # noqa: PLC0415

    # Threads only copy and hash; one that has finished must not wait 5 ms for the interpreter.
    sys.setswitchinterval(0.0005)
    note = paths.socket_path(environ) + b".error"
    # What is loaded stays: looking for garbage among it is waste. `live` allows it again.
    gc.disable()
    try:
        for folder in (state_dir, cache_dir):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        agent = _start_agent(Place.of(cache_dir, state_dir))
        listener = socket.socket(fileno=int(options["--fd"]))
        listener.setblocking(False)
        from burst_wrapper.daemon.ground import Ground  # noqa: PLC0415 - takes a while: see above

        ground = Ground.lay(cache_dir, state_dir)
        ground.warm(os.fsencode(options.get("--rustc", "")), early)
        from burst_wrapper.daemon.life import live, prepare  # noqa: PLC0415 - takes longer still

        services = prepare(ground, agent)
    except OSError as error:
        # A full disk, a file where a folder should be: the wrapper that waits can say so.
        with contextlib.suppress(OSError), open(note, "w") as file:
            file.write(f"{_text(error.filename)}: {error.strerror}")
        return 1
    with contextlib.suppress(OSError):
        os.unlink(note)
    return live(services, listener)


def _start_agent(place: Place) -> AgentProcess | None:
    """None where it has to be tried again by somebody who can tell of the trouble."""
    from burst_protocol.errors import ConfigError  # noqa: PLC0415 - see above
    from burst_wrapper.config import Config, config_path, load  # noqa: PLC0415
    from burst_wrapper.daemon.agent_process import AgentProcess  # noqa: PLC0415

    try:
        config = load(config_path())
    except ConfigError:
        config = Config()
    try:
        return AgentProcess.fork(place, config.slots, config.store_bytes)
    except OSError:
        return None


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes | str) else str(name)


def start() -> NoReturn:
    """Entry of the process that a wrapper started (`hot._spawn`): its arguments are `main`'s."""
    sys.exit(main(sys.argv[1:]))
