"""One process with its terminal or pipes: started, signalled, ended, and nothing left of it.

It runs below our helper (`native/sandbox.c`, operation `group`), which tells on a pipe when it has
started, stopped and ended, and takes everything with it that the program leaves behind. Without the
helper (home has no C compiler) it is started as it is: what it leaves behind in sessions of its own
goes on then, and Ctrl-Z does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from burst_agent.process import exited
from burst_protocol.programs import TERMINAL_STDERR, TERMINAL_STDIN, TERMINAL_STDOUT

_STATUS_BYTES: Final = 64 * 1024
_INSIDE_S: Final = 5.0
"""Patience with an end from the inside, before all is killed from the outside."""
_IUTF8: Final = 0o40000
# dash is on every system; a session leader's first terminal becomes the controlling one (tty(4)).
_TAKE_TERMINAL: Final = b'exec 3<>"$0" 3>&-; exec "$@"'


@attrs.frozen
class Command:
    """What to start. `program` is its path as seen from where it will run."""

    program: bytes
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    cwd: bytes
    helper: bytes | None = None
    head: tuple[tuple[bytes, ...], ...] = ((b"plain",),)
    """What the helper is told about namespaces and mounts."""
    pass_fds: tuple[int, ...] = ()
    """What `head` names: they are the helper's alone."""


@attrs.frozen
class Terminals:
    """Which of the three are a terminal, and how large it is."""

    bits: int
    rows: int
    columns: int


@attrs.frozen
class Ended:
    """Exactly one of `code`, `signal` and `error` says something (0, 0 and "": exit code 0)."""

    code: int = 0
    signal: int = 0
    error: str = ""
    max_rss_bytes: int = 0


class Child:
    """Started from the event loop's thread, which must be the main one (PR_SET_PDEATHSIG).

    OSError or ValueError if it cannot be started. `stdin` and `outputs` (stream number,
    descriptor) then belong to the caller.
    """

    def __init__(
        self, command: Command, terminals: Terminals, stopped: Callable[[int], None]
    ) -> None:
        self._helper = command.helper is not None
        self._stopped = stopped
        self._facts: dict[str, list[str]] = {}
        self._status = b""
        self._running = not self._helper
        self._pending: list[int] = []
        self._master = -1
        with contextlib.ExitStack() as mine, contextlib.ExitStack() as theirs:
            slave = self._open_terminal(terminals, mine, theirs) if terminals.bits else -1
            self.end_mark = b""
            if terminals.bits & TERMINAL_STDIN:
                self.end_mark = _end_of_file(slave)
                self.stdin, given_in = _keep(mine, os.dup(self._master)), slave
            else:
                given_in, self.stdin = _pipe(theirs, mine)
            outputs: list[tuple[int, int]] = []
            given_out: list[int] = []
            for stream, bit in ((1, TERMINAL_STDOUT), (2, TERMINAL_STDERR)):
                if terminals.bits & bit:
                    given_out.append(slave)
                else:
                    ours, given = _pipe(mine, theirs)
                    given_out.append(given)
                    outputs.append((stream, ours))
            if terminals.bits:  # of stdin alone: what is typed is echoed there
                outputs.append((0, _keep(mine, os.dup(self._master))))
            self.outputs = tuple(outputs)
            self._popen, self._status_fd = _start(
                command, (given_in, given_out[0], given_out[1]), slave, mine
            )
            mine.pop_all()
        if self._status_fd >= 0:
            os.set_blocking(self._status_fd, False)
            asyncio.get_running_loop().add_reader(self._status_fd, self._read_status)
        self._exited = asyncio.ensure_future(exited(self._popen))

    def _open_terminal(
        self, terminals: Terminals, mine: contextlib.ExitStack, theirs: contextlib.ExitStack
    ) -> int:
        self._master, slave = pty.openpty()
        _keep(mine, self._master)
        _keep(theirs, slave)
        modes = termios.tcgetattr(slave)
        modes[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        self.resize(terminals.rows, terminals.columns)
        return slave

    # While it runs

    @property
    def pid(self) -> int:
        """Of the process that we have started; what it runs is below it."""
        return self._popen.pid

    def resize(self, rows: int, columns: int) -> None:
        """The kernel tells the program (SIGWINCH) if anything has changed."""
        if self._master >= 0:
            size = (max(0, min(rows, 0xFFFF)), max(0, min(columns, 0xFFFF)))
            termios.tcsetwinsize(self._master, size)

    def signal(self, number: int) -> None:
        """To the foreground group of its terminal, else to its own; once it runs."""
        if not 0 < number < signal.NSIG or self._exited.done():
            return
        if not self._running:
            self._pending.append(number)
            return
        group = 0
        if self._master >= 0:
            with contextlib.suppress(OSError):
                group = os.tcgetpgrp(self._master)
        group = group or self._program() or 0
        if group > 1:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)

    def kill(self) -> None:
        """SIGKILL to all of it; `wait` returns when it is gone."""
        if self._exited.done():
            return
        if not self._helper:
            _kill_all([*_descendants(self._popen.pid), self._popen.pid])
            return
        inside = _children(self._popen.pid)
        # Its init, with which the kernel kills the namespace; or the program, after which the
        # helper kills what is left. Either way the helper itself ends last.
        _kill_all(inside or [self._popen.pid])

    async def wait(self) -> Ended:
        """How it ended. May be cancelled, and asked again."""
        returncode = await asyncio.shield(self._exited)
        self._read_status()
        facts = self._facts
        rss_kib = (facts.get("usage") or ["0 0 0"])[0].split()[-1]
        ended = Ended(max_rss_bytes=int(rss_kib) * 1024)
        if not self._helper:
            code, number = max(returncode, 0), max(-returncode, 0)
        elif "error:" in facts:
            text, _, errno = facts["error:"][0].rpartition(": errno ")
            return attrs.evolve(ended, error=f"{text}: {os.strerror(int(errno))}")
        elif "exit" in facts or "signal" in facts:
            code, number = (int((facts.get(word) or ["0"])[0]) for word in ("exit", "signal"))
        else:  # killed with its init, or the helper itself
            code, number = 0, signal.SIGKILL
        return attrs.evolve(ended, code=code, signal=number)

    async def end(self) -> None:
        """Kills what is left of it; it is gone when this returns, even if cancelled meanwhile."""
        try:
            if not self._exited.done():
                self.kill()
                await asyncio.wait((self._exited,), timeout=_INSIDE_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                if not self._exited.done():
                    os.kill(self._popen.pid, signal.SIGKILL)
            try:
                await asyncio.shield(self._exited)
            except asyncio.CancelledError:
                await asyncio.wait((self._exited,))
                raise
            finally:
                self._close()

    def _close(self) -> None:
        if self._status_fd >= 0:
            asyncio.get_running_loop().remove_reader(self._status_fd)
            os.close(self._status_fd)
            self._status_fd = -1
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def _program(self) -> int | None:
        """The program's pid, which is that of its group, too."""
        if not self._helper:
            return self._popen.pid
        for pid in _children(self._popen.pid)[:1]:
            if self._contained(pid):
                return next(iter(_children(pid)), None)
            return pid
        return None

    def _contained(self, pid: int) -> bool:
        """Whether it is the init of a pid namespace below ours."""
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    return line.split()[-1] == b"1"
        return False

    def _read_status(self) -> None:
        if self._status_fd < 0:
            return
        while True:
            try:
                data = os.read(self._status_fd, _STATUS_BYTES)
            except BlockingIOError:
                return
            if not data:
                asyncio.get_running_loop().remove_reader(self._status_fd)
                return
            *records, self._status = (self._status + data).split(b"\0")
            for record in records:
                word, _, rest = record.decode(errors="replace").partition(" ")
                self._facts.setdefault(word, []).append(rest)
                if word == "running":
                    self._running = True
                    pending, self._pending = self._pending, []
                    for number in pending:
                        self.signal(number)
                elif word == "stopped":
                    self._stopped(int(rest))


def _keep(stack: contextlib.ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    return _keep(reader, ends[0]), _keep(writer, ends[1])


def _end_of_file(slave: int) -> bytes:
    mark = termios.tcgetattr(slave)[6][termios.VEOF]
    return mark if isinstance(mark, bytes) else b"\x04"


def _start(
    command: Command, stdio: tuple[int, int, int], slave: int, mine: contextlib.ExitStack
) -> tuple[subprocess.Popen[bytes], int]:
    """The process, and where its helper writes its records (-1: there is none)."""
    stdin, stdout, stderr = stdio
    if command.helper is None:
        argv, program = command.argv, command.program
        if slave >= 0:
            words = (b"/bin/sh", b"-c", _TAKE_TERMINAL, os.fsencode(os.ttyname(slave)))
            argv, program = (*words, program, *argv[1:]), words[0]
        popen = subprocess.Popen(
            argv,
            executable=program,
            env=dict(command.env),
            cwd=command.cwd,
            start_new_session=True,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
        )
        return popen, -1
    lines: list[tuple[bytes, ...]] = [
        (b"parent", b"%d" % os.getpid()),
        *command.head,
        (b"group",),
        (b"rlimit", b"4", b"0", b"0"),  # no core dumps
        (b"cwd", command.cwd),
        *((b"env", name + b"=" + value) for name, value in command.env),
        (b"exec", command.program),
        *((b"arg", argument) for argument in command.argv),
    ]
    if slave >= 0:
        lines.append((b"terminal", b"%d" % stdio.index(slave)))
    if any(b"\0" in token for line in lines for token in line):
        raise ValueError("NUL in a path, argument or variable")
    status, given = os.pipe()
    _keep(mine, status)
    lines.insert(0, (b"status", b"%d" % given))
    content = b"".join(token + b"\0" for line in lines for token in line)
    spec = os.memfd_create("burst-program")
    try:
        with open(spec, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(spec, 0, os.SEEK_SET)
        popen = subprocess.Popen(
            (command.helper, b"%d" % spec),
            env={},
            pass_fds=(*command.pass_fds, spec, given),
            start_new_session=True,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
        )
    finally:
        os.close(spec)
        os.close(given)
    return popen, status


def _children(pid: int) -> list[int]:
    """The oldest first. Empty if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    todo = [pid]
    while todo:
        parent = todo.pop()
        below: list[int] = []
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                    below.extend(map(int, file.read().split()))
        found.extend(below)
        todo.extend(below)
    return found


def descendants_memory_bytes(pid: int) -> int:
    """Memory that is its descendants' own (proc(5), statm): no files, nothing that is shared."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for child in _descendants(pid):
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{child}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
            total += (resident - shared) * page
    return total


def _kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
