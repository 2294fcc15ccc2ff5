"""A real client of ours that is killed by SIGKILL at a point of its way.

    python killed.py POINT LOG admin up
    python killed.py POINT LOG daemon

Points are after each request to the API and each command on a server; LOG gets their names, one a
line. A question that is asked again and again (is it done?) is one point as often as it follows
itself. POINT is a number (from 1), the beginning of a name, or `never`. A name can also be that of
the moment before a command, which has no number: it is after something else. Nothing else of the
program is another: it is the program, with functions that count. BURST_TEST_CLOCK: its clock is
ahead by so many seconds, as that of a local cloud whose time was advanced: volumes are deleted by
themselves only while the two agree.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_IDS: Final = "{id}"


class Points:
    """Counts, writes down, and strikes."""

    def __init__(self, at: str, log: str) -> None:
        self._at = at
        self._log = open(log, "a", encoding="utf-8")  # noqa: SIM115 - as long as the process lives
        self._number = 0
        self._last = ""

    def __call__(self, name: str) -> None:
        if name == self._last and name.startswith("after GET"):
            return
        self._last = name
        self._log.write(name + "\n")
        self._log.flush()
        if name.startswith("after"):
            self._number += 1
            if self._at == str(self._number):
                os.kill(os.getpid(), signal.SIGKILL)
        if not self._at.isdigit() and name.startswith(self._at):
            os.kill(os.getpid(), signal.SIGKILL)


def _request(method: str, path: str) -> str:
    parts = [_IDS if part.isdigit() else part for part in path.split("?", maxsplit=1)[0].split("/")]
    return f"{method} {'/'.join(parts)}"


def _command(argv: Sequence[str]) -> str:
    words = [word.rpartition("/")[2] for word in argv[:3]]
    return f"ssh {' '.join(word for word in words if chr(10) not in word)}"


def _watch(points: Points) -> None:
    from burst_lifecycle.cloud import hetzner
    from burst_lifecycle.remote.pinned import PinnedSsh

    once, run, follow = hetzner._Client.once, PinnedSsh.run, PinnedSsh.follow

    def watched_once(self: Any, method: str, path: str, *more: Any) -> Any:
        # Before it: that is after the one before.
        answer = once(self, method, path, *more)
        points(f"after {_request(method, path)}")
        return answer

    async def watched_run(self: Any, login: Any, argv: Sequence[str], **more: Any) -> Any:
        points(f"before {_command(argv)}")
        answer = await run(self, login, argv, **more)
        points(f"after {_command(argv)}")
        return answer

    async def watched_follow(self: Any, login: Any, argv: Sequence[str], **more: Any) -> Any:
        points(f"before {_command(argv)}")
        answer = await follow(self, login, argv, **more)
        points(f"after {_command(argv)}")
        return answer

    setattr(hetzner._Client, "once", watched_once)  # noqa: B010 - types
    setattr(PinnedSsh, "run", watched_run)  # noqa: B010
    setattr(PinnedSsh, "follow", watched_follow)  # noqa: B010


def _daemon() -> int:
    """On the socket that the next wrapper looks for. Says `listening` when it can."""
    from burst_wrapper import paths
    from burst_wrapper.daemon.main import main

    path = paths.socket_path(dict(os.environb))
    place = Path(os.fsdecode(path))
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # a killed daemon's
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(4096)
    print("listening", flush=True)
    return main(["--fd", str(listener.detach())])


def _shift_clock(by_s: float) -> None:
    real = time.time
    setattr(time, "time", lambda: real() + by_s)  # noqa: B010 - types


def run(argv: Sequence[str]) -> int:
    at, log, what, *arguments = argv
    if ahead := os.environ.get("BURST_TEST_CLOCK"):
        _shift_clock(float(ahead))
    if what == "daemon":
        # The daemon forks its agent before anything else is loaded.
        from burst_wrapper.daemon import server_keeper

        del server_keeper
    _watch(Points(at, log))
    if what == "daemon":
        return _daemon()
    from burst_lifecycle.admin.main import main

    return main(arguments)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
