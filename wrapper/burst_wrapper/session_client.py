"""A session as `cargo burst` sees it: opened before cargo starts, closed when it has ended.

Between the two, cargo runs with `BURST_SESSION` in its environment. What its wrapper calls and
runners say then belongs to this session: where units go, where programs run, what is counted.

Blocking, for a plain thread; nothing here prints. A session ends with its connection, so whoever
is killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import attrs

from burst_protocol.errors import BurstError, DaemonUnavailable, RemoteProtocolError
from burst_wrapper import home_wire as w
from burst_wrapper import hot
from burst_wrapper.home_wire import KeptRequest, Progress, SessionInfo, SessionRequest, Summary
from burst_wrapper.launcher import write_hook, write_launcher

if TYPE_CHECKING:
    from _socket import socket  # without the module that Python wraps around it: 1.4 ms

__all__ = [
    "KeptRequest",
    "Progress",
    "Session",
    "SessionInfo",
    "SessionRequest",
    "Summary",
    "hook_path",
    "open_session",
]

_SILENCE_S: Final = 15.0
"""The daemon says something every 2 s while it has not answered."""
_READ_BYTES: Final = 65536


class Session:
    """One open session. Its methods may be called from several threads."""

    def __init__(self, connection: socket) -> None:
        self._connection = connection
        self._received = bytearray()
        self._lock = threading.Lock()
        self._info: SessionInfo | None = None

    @property
    def info(self) -> SessionInfo:
        assert self._info is not None
        return self._info

    @property
    def environ(self) -> dict[bytes, bytes]:
        """What cargo's environment gets besides the hooks: `BURST_SESSION`, and where programs stay
        on another machine `CARGO_TARGET_DIR`, which holds cargo's `build.build-dir`, too: a user's
        own is for real files."""
        added = {b"BURST_SESSION": self.info.id.encode()}
        if self.info.executor == "remote":
            for name in (b"CARGO_TARGET_DIR", b"CARGO_BUILD_BUILD_DIR"):
                added[name] = self.info.target_dir
        return added

    def progress(self) -> Progress:
        """A few milliseconds. BurstError if the daemon is gone."""
        answer: Progress = self._ask(w.ASK_PROGRESS, w.PROGRESS, Progress, None)
        return answer

    def fetch_kept(
        self, request: KeptRequest, on_note: Callable[[str], None] | None = None
    ) -> tuple[bytes, ...]:
        """What a cargo there has built: absolute paths of what came. BurstError."""
        payload = w.encode(attrs.evolve(request, umask=_umask()))
        answer: w.KeptFiles = self._ask(w.FETCH_KEPT, w.KEPT, w.KeptFiles, on_note, payload)
        return answer.written

    def close(self, on_note: Callable[[str], None] | None = None) -> Summary:
        """Fetch what programs wrote, and end. `on_note` hears what is being waited for.

        BurstError if the daemon is gone, or if what should have come back did not.
        """
        try:
            answer: Summary = self._ask(w.CLOSE, w.SUMMARY, Summary, on_note)
            return answer
        finally:
            self.drop()

    def drop(self) -> None:
        """End at once: nothing is fetched. So do its programs, but for detached ones."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drop()

    def _begin(self, request: SessionRequest, on_note: Callable[[str], None] | None) -> None:
        self._connection.sendall(w.opening(b"session", w.encode(request)))
        self._info = self._answer(w.INFO, SessionInfo, on_note)

    def _ask(
        self,
        kind: bytes,
        answer: bytes,
        cls: type[Any],
        on_note: Callable[[str], None] | None,
        payload: bytes = b"",
    ) -> Any:
        with self._lock:
            try:
                self._connection.sendall(w.frame(kind, payload))
            except OSError as error:
                raise _gone(error) from error
            return self._answer(answer, cls, on_note)

    def _answer(self, wanted: bytes, cls: type[Any], on_note: Callable[[str], None] | None) -> Any:
        while True:
            for kind, payload in w.frames(self._received):
                if kind == wanted:
                    return w.decode(cls, payload)
                if kind == w.ERROR:
                    raise w.decode(w.Trouble, payload).error()
                if kind == w.NOTE and on_note is not None:
                    on_note(payload.decode("utf-8", "replace"))
                elif kind not in (w.NOTE, w.HEARTBEAT):
                    raise RemoteProtocolError(f"the daemon sent an unknown frame {kind!r}")
            try:
                data = self._connection.recv(_READ_BYTES)
            except OSError as error:
                raise _gone(error) from error
            if not data:
                raise DaemonUnavailable("it closed the connection")
            self._received += data


def open_session(request: SessionRequest, on_note: Callable[[str], None] | None = None) -> Session:
    """Start the daemon if there is none, and begin.

    Waits for what the session needs: a host to be reached, a server to boot, the mirror to be
    brought up to date; `on_note` hears of it meanwhile. Where a host cannot be had the session is
    `home`, with a note, unless BURST_REQUIRE_REMOTE is set: then it is a BurstError.
    """
    environ = dict(request.environ) or dict(os.environb)
    connection = _connect(environ)
    session = Session(connection)
    try:
        session._begin(request, on_note)
        hot.answered(environ)
    except OSError as error:
        connection.close()
        raise _gone(error) from error
    except BaseException:
        connection.close()
        raise
    return session


def _umask() -> int:
    """This process's own. There is no way to ask but to set it; nothing else runs meanwhile."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _connect(environ: Mapping[bytes, bytes]) -> socket:
    try:
        connection = hot.connect_or_start(dict(environ))
    except Exception as error:
        if isinstance(error, BurstError):
            raise
        raise DaemonUnavailable(str(error)) from error
    connection.settimeout(_SILENCE_S)
    return connection


def _gone(error: OSError) -> DaemonUnavailable:
    return DaemonUnavailable(error.strerror or str(error) or "it does not answer")


def hook_path(name: str, environ: Mapping[bytes, bytes] | None = None) -> bytes:
    """What cargo's settings shall name for `burst-rustc`, `burst-runner` or `burst-rustdoc`.

    A launcher in our data folder where one can be written (it costs no shell), else the installed
    script. An absolute path, with whatever is in it: cargo splits a *runner* at white space, so
    one with a blank has to be given as a list in a `--config`. DaemonUnavailable if the
    installation is not whole.
    """
    environ = dict(os.environb) if environ is None else environ
    with contextlib.suppress(OSError):
        return write_launcher(environ) if name == "burst-rustc" else write_hook(name, environ)
    beside = os.path.join(os.path.dirname(sys.executable), name)
    if os.access(beside, os.X_OK):
        return os.fsencode(beside)
    import shutil  # noqa: PLC0415 - rare

    found = shutil.which(name)
    if found is None:
        raise DaemonUnavailable(f"`{name}` is not installed beside {sys.executable}")
    return os.fsencode(found)
