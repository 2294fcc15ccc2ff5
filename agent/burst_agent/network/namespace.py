"""The agent's end of one network: starts its holder (see `holder`) and asks it for things."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final

import attrs

from burst_agent.network import holder
from burst_protocol.errors import SandboxUnavailable, ServiceUnavailable

_READY_S: Final = 20.0
_ANSWER_S: Final = 20.0
_END_S: Final = 5.0
_FDS: Final = 2
_LOG_TAIL_BYTES: Final = 4096
LOG: Final = "holder.log"
"""What the holder and the way out say, in the network's folder."""


@attrs.frozen
class Wish:
    """What a network is made of."""

    folder: bytes
    user: int
    files: Mapping[str, str]
    programs: Mapping[str, str]
    out: tuple[str, ...]
    lock: int
    hidden: tuple[bytes, ...] = ()
    """Folders that nothing in it sees: a database's superuser runs programs, too."""


@attrs.frozen
class Command:
    """A program to start in there; its log is a path in there, too."""

    argv: tuple[str, ...]
    log: str
    env: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen(eq=False)
class Child:
    """A process of the network. `ended` is what os.waitstatus_to_exitcode says of it."""

    pid: int
    ended: asyncio.Future[int]


class Namespace:
    """Open until `close`, or until its holder dies: then `alive` is false and requests fail."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.user_fd = -1
        self.net_fd = -1
        self.out: Child | None = None
        self._process = process
        self._control = control
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._children: dict[int, asyncio.Future[int]] = {}
        self._ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reading = True
        asyncio.get_running_loop().add_reader(control.fileno(), self._read)

    @classmethod
    async def open(cls, wish: Wish) -> Namespace:
        """SandboxUnavailable if the machine does not let us make one. From the main thread."""
        process, ours = _launch(wish)
        namespace = cls(process, ours)
        try:
            async with asyncio.timeout(_READY_S):
                out = await namespace._ready
        except BaseException as error:
            await namespace.close()
            if isinstance(error, TimeoutError):
                raise SandboxUnavailable("no network of its own: its holder is silent") from error
            raise
        if out:
            namespace.out = namespace._child(out)
        return namespace

    @property
    def alive(self) -> bool:
        return self._reading

    async def start(self, command: Command) -> Child:
        """ServiceUnavailable if it cannot be executed or the network is gone."""
        words = {"argv": command.argv, "env": dict(command.env), "log": command.log}
        answer, _ = await self._ask("start", **words)
        return self._child(answer["pid"])

    async def signal(self, child: Child, number: int, *, group: bool = False) -> None:
        await self._ask("signal", pid=-child.pid if group else child.pid, number=number)

    async def socket(self, family: int) -> socket.socket:
        """A TCP socket of this network, not connected, non-blocking."""
        _, fds = await self._ask("socket", family=family)
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock

    async def routed(self) -> bool:
        """Whether there is a way out."""
        answer, _ = await self._ask("routed")
        return bool(answer["routed"])

    async def close(self) -> None:
        """Ends everything in it; nothing is left when this returns."""
        self._stop("the network is closed")
        ended = asyncio.get_running_loop().run_in_executor(None, self._wait)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            await asyncio.wait((ended,))
            raise
        finally:
            for fd in (self.user_fd, self.net_fd):
                if fd >= 0:
                    os.close(fd)
            self.user_fd = self.net_fd = -1

    def _wait(self) -> None:
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and its guard with it, by PDEATHSIG
            self._process.wait()

    # What the holder says

    async def _ask(self, do: str, **words: object) -> tuple[dict[str, Any], list[int]]:
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._control.send(json.dumps({"id": number, "do": do, **words}).encode())
            async with asyncio.timeout(_ANSWER_S):
                answer, fds = await future
        except TimeoutError as error:
            raise ServiceUnavailable("network: its holder is silent") from error
        except OSError as error:
            raise ServiceUnavailable(f"network: its holder is gone: {error}") from error
        finally:
            self._asked.pop(number, None)
        if "error" in answer:
            raise ServiceUnavailable(f"network: {answer['error']}")
        return answer, fds

    def _child(self, pid: int) -> Child:
        ended = self._children.get(pid)
        if ended is None:
            ended = self._children[pid] = asyncio.get_running_loop().create_future()
        return Child(pid, ended)

    def _read(self) -> None:
        while self._reading:
            try:
                data, fds, _, _ = socket.recv_fds(self._control, holder.PACKET_BYTES, _FDS)
            except BlockingIOError:
                return
            except OSError as error:
                self._stop(str(error))
                return
            if not data:
                self._stop("its holder has ended")
                return
            self._hear(json.loads(data), fds)

    def _hear(self, words: dict[str, Any], fds: list[int]) -> None:
        if "ended" in words:
            # Told once; whoever has the Child keeps the future.
            ended = self._child(words["ended"]).ended
            ended.set_result(os.waitstatus_to_exitcode(words["status"]))
            del self._children[words["ended"]]
        elif "ready" in words:
            self.user_fd, self.net_fd = fds
            if not self._ready.done():
                self._ready.set_result(words["out"])
        elif "id" not in words:
            self._stop(words["error"])
        elif (future := self._asked.get(words["id"])) is not None and not future.done():
            future.set_result((words, fds))
        else:
            for fd in fds:
                os.close(fd)

    def _stop(self, reason: str) -> None:
        if not self._reading:
            return
        self._reading = False
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        if not self._ready.done():
            self._ready.set_exception(SandboxUnavailable(f"no network of its own: {reason}"))
            self._ready.exception()  # looked at: nobody may be waiting any more
        for future in self._asked.values():
            if not future.done():
                future.set_result(({"error": reason}, []))
        for ended in self._children.values():
            if not ended.done():
                ended.set_result(-9)
        self._children.clear()


def _launch(wish: Wish) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A holder, and our end of its control. In the thread that calls this: the holder dies with it
    (PR_SET_PDEATHSIG)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # Files' content may be long; and argv is seen by others.
    spec = os.memfd_create("burst-network")
    settings = {
        "control": theirs.fileno(),
        "lock": wish.lock,
        "parent": os.getpid(),
        "user": wish.user,
        "folder": os.fsdecode(wish.folder),
        "files": dict(wish.files),
        "programs": dict(wish.programs),
        "out": list(wish.out),
        "hidden": [os.fsdecode(folder) for folder in wish.hidden],
    }
    try:
        os.write(spec, json.dumps(settings).encode())
        with open(os.path.join(wish.folder, LOG.encode()), "wb") as log:
            process = subprocess.Popen(
                [*interpreter(), holder.__file__, str(spec)],
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                cwd="/",
                pass_fds=(theirs.fileno(), wish.lock, spec),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
    except OSError as error:
        ours.close()
        raise SandboxUnavailable(f"no network of its own: {error}") from error
    finally:
        theirs.close()
        os.close(spec)
    ours.setblocking(False)
    return process, ours


def interpreter() -> list[str]:
    """The Python that runs us, as a command: it may be started by a loader of its own (the agent
    that home brings is)."""
    with open("/proc/self/cmdline", "rb") as file:
        words = [os.fsdecode(word) for word in file.read().split(b"\0")[:-1]]
    loader = words[: max(0, len(words) - len(sys.orig_argv))]
    return [*loader, sys.executable, "-I", "-S"]


def tail(path: bytes) -> str:
    """The last line of a log that says something; empty if there is none."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")
    return ""
