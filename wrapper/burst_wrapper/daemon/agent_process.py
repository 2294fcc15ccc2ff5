"""The process of the embedded agent, and our end of its socket pair.

The first agent is forked from the daemon as soon as that has loaded what both need, and loads the
rest of itself side by side with the daemon. Later ones are programs of their own: by then the
daemon has threads, an event loop and open files.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn, Protocol

_PROGRAM: Final = "burst_agent.main"
_MODULE: Final = "burst_agent.single"
"""Names and no imports: the wrapper does not know the agent, it only starts it."""
_SHARED: Final = (
    "asyncio",
    "hashlib",
    "json",
    "logging.handlers",
    "burst_protocol.messages",
    "burst_protocol.session",
)
"""What daemon and agent both load; most of what an agent loads."""
_NAME: Final = "burst-agent"
_END_S: Final = 5.0
_POLL_S: Final = 0.02


class Place(NamedTuple):
    """Where an embedded agent keeps its store, and where it says what is wrong."""

    root: bytes
    log: bytes

    @classmethod
    def of(cls, cache_dir: bytes, state_dir: bytes) -> Place:
        """As the daemon lays them out."""
        return cls(os.path.join(cache_dir, b"store"), os.path.join(state_dir, b"agent.log"))


class _Child(Protocol):
    """What is needed of a `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int:
        """`subprocess.TimeoutExpired` if it has not ended by then."""

    def kill(self) -> None:
        """SIGKILL."""


class _Forked:
    """A child that is no `Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Blocking; `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self._status is None and timeout is not None:
            self._until(time.monotonic() + timeout, timeout)
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def _until(self, end_s: float, timeout: float) -> None:
        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:  # Linux before 5.3
            while not os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if time.monotonic() > end_s:
                    raise subprocess.TimeoutExpired(_NAME, timeout) from None
                time.sleep(_POLL_S)
            return
        try:
            if not select.select([pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(_NAME, timeout)
        finally:
            os.close(pidfd)

    def kill(self) -> None:
        """Not once it was waited for: its number may be another's."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)


class AgentProcess:
    """Running until `end`, or until it ends by itself."""

    def __init__(
        self, process: _Child, stream: socket.socket, log: bytes, said_before: int
    ) -> None:
        self._process = process
        self.stream = stream
        self._log = log
        self._said_before = said_before

    @classmethod
    def start(cls, place: Place, slots: int, store_bytes: int) -> AgentProcess:
        """`slots`, `store_bytes`: 0 for the agent's own choice. OSError if it cannot be started."""

        def spawn(theirs: int, output: int) -> _Child:
            isolated = ["-I"] if sys.flags.isolated else []
            return subprocess.Popen(
                [
                    sys.executable,
                    *isolated,
                    "-m",
                    _PROGRAM,
                    *_options(place, slots, store_bytes, theirs),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs,),
                cwd="/",
                start_new_session=True,
            )

        return cls._start(place, spawn)

    @classmethod
    def fork(cls, place: Place, slots: int, store_bytes: int) -> AgentProcess:
        """The same out of this very process: with one thread, and nothing open that is at work."""

        def spawn(theirs: int, output: int) -> _Child:
            pid = os.fork()
            if not pid:
                _become(place, slots, store_bytes, theirs, output)
            return _Forked(pid)

        for name in _SHARED:
            importlib.import_module(name)

        return cls._start(place, spawn)

    @classmethod
    def _start(cls, place: Place, spawn: Callable[[int, int], _Child]) -> AgentProcess:
        """`spawn` is given the descriptors of the agent's end and of its log."""
        os.makedirs(os.path.dirname(place.log), mode=0o700, exist_ok=True)
        ours, theirs = socket.socketpair()
        try:
            output = os.open(
                place.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            try:
                said_before = os.fstat(output).st_size
                process = spawn(theirs.fileno(), output)
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
        said = [line for line in lines if line.startswith(f"{_NAME}: ")]
        return said[-1].removeprefix(f"{_NAME}: ") if said else ""

    def busy(self) -> bool:
        """Whether one of its threads computes or waits for a disk: not stopped, not at rest."""
        folder = f"/proc/{self._process.pid}/task"
        try:
            for thread in os.listdir(folder):
                with open(f"{folder}/{thread}/stat", "rb") as file:
                    if file.read().rpartition(b") ")[2][:1] in b"RD":
                        return True
        except OSError:  # it has ended
            pass
        return False

    def end(self, *, at_once: bool = False) -> None:
        """Waits until it has ended, and sees to that. Blocking. `at_once`: it hangs."""
        self.stream.close()
        try:
            self._process.wait(0 if at_once else _END_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


def _options(place: Place, slots: int, store_bytes: int, fd: int) -> list[str]:
    options = ["--fd", str(fd), "--root", os.fsdecode(place.root), "--local"]
    if slots:
        options += ["--slots", str(slots)]
    if store_bytes:
        options += ["--store-bytes", str(store_bytes)]
    return options


def _become(place: Place, slots: int, store_bytes: int, stream: int, output: int) -> NoReturn:
    """Be the agent, in a new child. Whatever happens, the daemon's code does not go on here."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) != stream:
                with contextlib.suppress(OSError):  # the listing's own is closed already
                    os.close(int(name))
        os.chdir("/")
        # For who looks at processes; the command line stays the daemon's.
        with open("/proc/self/comm", "w") as comm:
            comm.write(_NAME)
        agent = importlib.import_module(_MODULE)
        status = agent.run(stream, place.root, local=True, slots=slots, store_bytes=store_bytes)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
