"""The process of the embedded agent, and our end of its socket pair.

Nothing but the standard library is loaded here: the agent is started before the daemon has loaded
the rest of itself, so that both do so side by side.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import Final, NamedTuple

_NAME: Final = "burst-agent: "
_END_S: Final = 5.0


class Place(NamedTuple):
    """Where an embedded agent keeps its store, and where it says what is wrong."""

    root: bytes
    log: bytes

    @classmethod
    def of(cls, cache_dir: bytes, state_dir: bytes) -> Place:
        """As the daemon lays them out."""
        return cls(os.path.join(cache_dir, b"store"), os.path.join(state_dir, b"agent.log"))


class AgentProcess:
    """Running until `end`, or until it ends by itself."""

    def __init__(
        self, process: subprocess.Popen[bytes], stream: socket.socket, log: bytes, said_before: int
    ) -> None:
        self._process = process
        self.stream = stream
        self._log = log
        self._said_before = said_before

    @classmethod
    def start(cls, place: Place, slots: int, store_bytes: int) -> AgentProcess:
        """`slots`, `store_bytes`: 0 for the agent's own choice. OSError if it cannot be started."""
        os.makedirs(os.path.dirname(place.log), mode=0o700, exist_ok=True)
        ours, theirs = socket.socketpair()
        argv = [sys.executable, *(["-I"] if sys.flags.isolated else []), "-m", "burst_agent.main"]
        argv += ["--fd", str(theirs.fileno()), "--root", os.fsdecode(place.root), "--local"]
        if slots:
            argv += ["--slots", str(slots)]
        if store_bytes:
            argv += ["--store-bytes", str(store_bytes)]
        try:
            output = os.open(
                place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            try:
                said_before = os.fstat(output).st_size
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                os.close(output)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(process, ours, place.log, said_before)

    def said(self) -> str:
        """Its last line, in which it says why it could not start; empty if there is none."""
        try:
            with open(self._log, "rb") as file:
                file.seek(self._said_before)
                lines = file.read(4096).decode("utf-8", "replace").split("\n")
        except OSError:
            return ""
        said = [line for line in lines if line.startswith(_NAME)]
        return said[-1].removeprefix(_NAME) if said else ""

    def end(self) -> None:
        """Waits until it has ended, and sees to that. Blocking."""
        self.stream.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
