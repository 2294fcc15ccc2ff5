"""The process cargo and nextest start for every program: `burst-runner PROGRAM ARGS…`.

cargo's own runner setting leads here. Without a session, or in one whose programs run at home,
this process becomes the program, exactly as cargo would have started it. Else the daemon has it run
where it was linked, and this process is its stand-in: its stdin, stdout and stderr, its terminal,
its signals, its exit code and its death.

It starts as light as `hot.py`: no Python module but that one, which it loads by its path (a test
holds the list); `termios` only where there is a terminal.

Opening (see `home_wire`): `program`, a version, session, cwd, argv joined by NUL, the environment
as in /proc/self/environ, which of the three are terminals (bits 1, 2, 4), rows, columns. Then
frames.

From the daemon: `B` it runs; `O`, `E`, `T` bytes for stdout, stderr, the terminal; `C` so many more
bytes of stdin may come (u32); `Z` it stopped itself (signal, u8); `X` its end (i32, negative: a
signal); `L` run it here; `F` our failure: a text to show; `D` it goes on without us; `H` heartbeat.
To the daemon: `I` stdin, empty: its end; `R` rows and columns (u16 each); `S` a signal (u8); `W`
nobody takes stdout (1) or stderr (2) any more (u8).

Nothing of ours goes to stdout, and to stderr only why a program could not be run to its end: then
the exit code is 125, which neither cargo nor nextest takes for success.
"""

import _socket
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from burst_wrapper import hot
else:

    def _load_hot() -> object:
        """`hot.py` beside us, without the package: -S knows no site-packages."""
        from _frozen_importlib_external import SourceFileLoader  # noqa: PLC0415 - here only

        path = f"{__file__.rpartition('/')[0]}/hot.py"
        code = SourceFileLoader("burst_wrapper.hot", path).get_code("burst_wrapper.hot")
        module = type(sys)("burst_wrapper.hot")
        module.__file__ = path
        exec(code, module.__dict__)  # noqa: S102 - our own
        return module

    hot = sys.modules.get("burst_wrapper.hot") or _load_hot()

VERSION = b"2"
MAGIC = b"BRS2"
OWN_NAME = b"burst-runner"
SESSION = b"BURST_SESSION"
STUB_HEAD = b"#!/usr/bin/env burst-stub\nburst-stub 1 "
EXIT_OURS = 125
"""As `env`, `nice` and `docker run` do: the program was not run to its end, by no fault of it."""
SILENCE_S = 15.0

SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM = 1, 2, 3, 10, 12, 15
SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH = 18, 19, 20, 21, 22, 28
FORWARDED = (SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM)
EIO = 5
POLLIN, POLLERR, POLLHUP, POLLNVAL = 1, 8, 16, 32


class _Here(Exception):
    """The program runs on this machine."""


class _Lost(Exception):
    """It cannot be told how the program ended; the argument completes `error: `."""


def from_launcher() -> "NoReturn":
    """Entry of the launcher: its arguments are those of cargo."""
    main(hot._arguments(1), hot.own_environ())


def from_script() -> "NoReturn":
    """Entry of the installed `sh` script, which puts its environment before the arguments."""
    shell, *argv = hot._arguments(1)
    main(argv, hot.environ_before_shell(shell))


def main(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Run one program. `environ` is what cargo gave."""
    if argv[:1] == [b"--burst-rustdoc"]:  # of scripts/burst-rustdoc
        rustdoc(argv[1:], environ)
    while argv and hot._name(argv[0]) == OWN_NAME:
        argv = argv[1:]
    if not argv:
        hot._write(2, b"usage: CARGO_TARGET_<TRIPLE>_RUNNER=burst-runner cargo test\n")
        posix._exit(2)
    session = environ.get(SESSION, b"")
    why = "no daemon knows its session"
    if session and not hot._switch(environ, b"BURST_DISABLE"):
        try:
            connection = _connected(environ)
            if connection is not None:
                _Stand(connection, argv, environ).follow(session)
        except _Here as reason:
            why = str(reason) or why
        except KeyboardInterrupt:
            posix._exit(hot.EXIT_INTERRUPTED)
    here(argv, environ, why)


# --- rustdoc ---


def rustdoc_from_launcher() -> "NoReturn":
    """Entry of `burst-rustdoc`: cargo's RUSTDOC."""
    rustdoc(hot._arguments(1), hot.own_environ())


def rustdoc_from_script() -> "NoReturn":
    """As `from_script`."""
    shell, *argv = hot._arguments(1)
    rustdoc(argv, hot.environ_before_shell(shell))


def rustdoc(argv: list[bytes], environ: dict[bytes, bytes]) -> "NoReturn":
    """Become the real one. cargo's tests of documentation are linked here, and run here: a runner
    of ours would bring each of them to another machine. Only a session with services has them
    started by it, in the network where those are.

    BURST_RUSTDOC names the user's own, if there is one.
    """
    program = environ.get(b"BURST_RUSTDOC") or b"rustdoc"
    if hot._name(program) == b"burst-rustdoc":
        program = b"rustdoc"
    tests = b"--test" in argv
    if not (tests and environ.get(SESSION) and _keeps_runner(environ)):
        argv = without_runner(argv)
    hot.execute([program, *argv], environ)


def _keeps_runner(environ: dict[bytes, bytes]) -> bool:
    """Whether the daemon wants tests of documentation to be started by the runner (`K`)."""
    connection = _connected(environ)
    if connection is None:
        return False
    try:
        connection.settimeout(SILENCE_S)
        connection.sendall(_opening(b"rustdoc", VERSION, environ[SESSION]))
        received = bytearray()
        while data := connection.recv(4096):
            received += data
            for tag, _ in hot._frames(received):
                if tag != b"H":
                    return tag == b"K"
    except (OSError, hot._Unavailable):
        pass
    finally:
        connection.close()
    return False


def without_runner(argv: list[bytes]) -> list[bytes]:
    """rustdoc's arguments less the run tool that is ours, with all that belongs to it.

    The user's own run tool, which ours was put before, is one again.
    """
    kept: list[bytes] = []
    tool: list[bytes] = []
    words = iter(argv)
    for word in words:
        name, separator, value = word.partition(b"=")
        if name not in (b"--test-runtool", b"--runtool", b"--test-runtool-arg"):
            kept.append(word)
            continue
        tool.append(value if separator else next(words, b""))
    while tool and hot._name(tool[0]) == OWN_NAME:
        del tool[0]
    if not tool:
        return kept
    rest = [part for one in tool[1:] for part in (b"--test-runtool-arg", one)]
    return [*kept, b"--test-runtool", tool[0], *rest]


# --- programs ---


def here(argv: list[bytes], environ: dict[bytes, bytes], why: str) -> "NoReturn":
    """Become the program, unless what lies here only stands for it."""
    if is_stub(argv[0]):
        text = f"error: {_shown(argv[0])} is not on this machine, and {why}\n"
        fail(text + "hint: `cargo burst run` and `cargo burst test` run it where it was linked\n")
    hot.execute(argv, environ)


def is_stub(path: bytes) -> bool:
    """Whether this file stands for a program that lies on another machine."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)
    except OSError:
        return False
    try:
        return posix.read(fd, len(STUB_HEAD)) == STUB_HEAD
    except OSError:
        return False
    finally:
        posix.close(fd)


def fail(text: str) -> "NoReturn":
    hot._write(2, text.encode("utf-8", "surrogateescape"))
    posix._exit(EXIT_OURS)


def _shown(path: bytes) -> str:
    return "`" + path.decode("utf-8", "replace") + "`"


def _connected(environ: dict[bytes, bytes]) -> "_socket.socket | None":
    """To the daemon that runs, if one does: a session of one that has ended has ended, too."""
    try:
        folder = hot.runtime_dir(environ)
        hot.check_private(folder)
        return hot._connect(folder + b"/" + hot.socket_name(), SILENCE_S)
    except Exception:
        return None


def _opening(*fields: bytes) -> bytes:
    body = b"".join([len(one).to_bytes(4, "little") + one for one in fields])
    return MAGIC + len(body).to_bytes(4, "little") + body


class _Stand:
    """Stands in for a program that runs elsewhere."""

    def __init__(
        self, connection: "_socket.socket", argv: list[bytes], environ: dict[bytes, bytes]
    ) -> None:
        self.connection = connection
        self.argv = argv
        self.environ = environ
        self.received = bytearray()
        self.runs = False
        self.credit = 0
        self.ended_input = False
        self.stopped: set[int] = set()
        self.interrupt = -1
        self.typed_interrupt = False
        self.modes = _Modes()
        self.terminal: _Terminal | None = None
        self.tty_out = 1
        self.heard_s = 0.0
        self.wake: _socket.socket | None = None

    # -- the way of a program --------------------------------------------------------------------

    def follow(self, session: bytes) -> "NoReturn":
        """To the end of the program; `_Here` if it is to be run by this very process."""
        try:
            self._open(session)
            self._loop()
        except _Here:
            self.connection.close()
            raise
        except _Lost as lost:
            self._end_badly(str(lost))
        except (OSError, hot._Unavailable) as problem:
            if not self.runs and not isinstance(problem, BrokenPipeError):
                self.connection.close()
                raise _Here(f"the daemon does not answer: {problem}") from None
            self._end_badly(f"lost the daemon while {_shown(self.argv[0])} ran: {problem}")

    def _open(self, session: bytes) -> None:
        terminals = sum(1 << fd for fd in (0, 1, 2) if _isatty(fd))
        self.tty_out = 1 if terminals & 2 else 2 if terminals & 4 else 0
        rows, columns = _size(terminals)
        opening = _opening(
            b"program",
            VERSION,
            session,
            posix.getcwdb(),
            b"\0".join(self.argv),
            b"".join([b"%b=%b\0" % item for item in self.environ.items()]),
            b"%d" % terminals,
            b"%d" % rows,
            b"%d" % columns,
        )
        self.connection.settimeout(SILENCE_S)
        self.connection.sendall(opening)
        self.terminals = terminals

    def _loop(self) -> "NoReturn":
        import select  # noqa: PLC0415 - a C module, and not needed to run at home
        import time  # noqa: PLC0415 - builtin

        self.heard_s = time.monotonic()
        poll = select.poll()
        poll.register(self.connection.fileno(), POLLIN)
        stdin = False
        while True:
            wanted = self._reads_stdin()
            if wanted != stdin:
                if wanted:
                    poll.register(0, POLLIN)
                else:
                    poll.unregister(0)
                stdin = wanted
            if self.wake is not None:
                poll.register(self.wake.fileno(), POLLIN)
            ready = dict(poll.poll(1000))
            if self.connection.fileno() in ready:
                self._receive()
                self.heard_s = time.monotonic()
            # Also if poll(2) does not say so: a signal that came with a key is delivered on its way
            # back, and what came first (a new size) has to go first.
            if self.wake is not None and self._signals():
                self.heard_s = time.monotonic()
            if ready.get(0):
                self._stdin()
            if time.monotonic() - self.heard_s > SILENCE_S:
                if not self.runs:
                    message = "the daemon is silent"
                    raise _Here(message)
                raise _Lost(f"the daemon is silent, {_shown(self.argv[0])} may still run")

    def _receive(self) -> None:
        try:
            data = self.connection.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            if not self.runs:
                message = "the daemon does not know it"
                raise _Here(message)
            raise _Lost(f"the daemon ended while {_shown(self.argv[0])} ran")
        self.received += data
        for tag, payload in hot._frames(self.received):
            self._obey(tag, payload)

    def _obey(self, tag: bytes, payload: bytes) -> None:
        if tag == b"O":
            self._show(1, payload)
        elif tag == b"E":
            self._show(2, payload)
        elif tag == b"T":
            self.modes.saw(payload)
            hot._write(self.tty_out, payload)
        elif tag == b"C":
            self.credit += int.from_bytes(payload, "little")
        elif tag == b"B":
            self._begin()
        elif tag == b"X":
            self._end(int.from_bytes(payload, "little", signed=True))
        elif tag == b"Z":
            self._stop_too()
        elif tag == b"L":
            raise _Here(payload.decode("utf-8", "replace"))
        elif tag == b"F":
            self._leave_terminal(badly=True)
            hot._write(2, payload)
            posix._exit(EXIT_OURS)
        elif tag == b"D":
            self._leave_terminal(badly=False)
            posix._exit(0)
        elif tag != b"H":
            raise _Lost(f"the daemon sent an unknown frame {tag!r}")

    def _show(self, fd: int, data: bytes) -> None:
        """What the program wrote. Where that fails (`| head`, a full disk), it is for the program
        to notice by its next write, and to end or not."""
        if fd in self.stopped:
            return
        try:
            hot.write_all(fd, data)
        except OSError:
            self.stopped.add(fd)
            self._say(b"W", bytes([fd]))

    def _begin(self) -> None:
        """It runs: from now on its signals and its terminal are not ours."""
        self.runs = True
        theirs, ours = _socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        self.wake = ours
        self._theirs = theirs
        signals = sys.modules["_signal"]
        signals.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in (*FORWARDED, SIGCONT, SIGTSTP, SIGWINCH):
            # What our caller ignores (nohup) stays ignored, here and by the program.
            if signals.getsignal(number) != signals.SIG_IGN:
                signals.signal(number, _noted)
        if self.terminals:
            # Who writes to a terminal from the background is not to be stopped for it.
            signals.signal(SIGTTOU, signals.SIG_IGN)
        if self.terminals & 1:
            self.terminal = _Terminal()
            self.terminal.take()

    def _end(self, status: int) -> "NoReturn":
        self._leave_terminal(badly=False)
        if status >= 0:
            posix._exit(status & 0xFF)
        if -status == SIGINT and self.typed_interrupt:
            # A terminal would have sent it to the whole group: cargo ends, too.
            signals = sys.modules["_signal"]
            signals.signal(SIGINT, signals.SIG_DFL)
            posix.kill(0, SIGINT)
        try:
            import resource  # noqa: PLC0415 - its memory image is not here; ours helps nobody

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        except (ImportError, OSError, ValueError):
            pass
        hot._die(-status)

    def _end_badly(self, text: str) -> "NoReturn":
        self._leave_terminal(badly=True)
        hint = "hint: nothing is known of how it would have ended; run it again\n"
        fail(f"error: {text}\n{hint}")

    def _leave_terminal(self, *, badly: bool) -> None:
        if badly and self.terminals:
            undo = self.modes.undo()
            if undo:
                hot._write(self.tty_out, undo)
        if self.terminal is not None:
            self.terminal.leave()

    # -- stdin -------------------------------------------------------------------------------------

    def _reads_stdin(self) -> bool:
        if not self.runs or self.ended_input or self.credit <= 0:
            return False
        return self.terminal is None or self.terminal.is_ours()

    def _stdin(self) -> None:
        try:
            data = posix.read(0, min(self.credit, 1 << 16))
        except BlockingIOError:
            return
        except InterruptedError:
            return
        except OSError as error:
            if error.errno == EIO and self.terminal is not None and not self.terminal.is_ours():
                return  # in the background
            data = b""
        if not data:
            self.ended_input = True
        elif self.terminal is not None and self.terminal.interrupt in data:
            self.typed_interrupt = True
        self.credit -= len(data)
        self._say(b"I", data)

    def _say(self, tag: bytes, payload: bytes) -> None:
        self.connection.sendall(tag + len(payload).to_bytes(4, "little") + payload)

    # -- signals -----------------------------------------------------------------------------------

    def _signals(self) -> bool:
        """Whether we had been stopped meanwhile: then silence says nothing."""
        assert self.wake is not None
        try:
            numbers = self.wake.recv(256)
        except BlockingIOError:
            return False
        resumed = False
        for number in numbers:
            if number == SIGWINCH:
                self._say_size()
            elif number == SIGCONT:
                resumed = True
                self._resume()
            elif number == SIGTSTP:
                self._say(b"S", bytes([SIGTSTP]))
                self._stop()
            else:
                self._say(b"S", bytes([number]))
        return resumed

    def _say_size(self) -> None:
        rows, columns = _size(self.terminals)
        self._say(b"R", rows.to_bytes(2, "little") + columns.to_bytes(2, "little"))

    def _stop(self) -> None:
        """Only we: whoever stopped us knows whom else to stop."""
        if self.terminal is not None:
            self.terminal.give_back()
        posix.kill(posix.getpid(), SIGSTOP)

    def _stop_too(self) -> None:
        """The program stopped: by itself, or by Ctrl-Z, which stops the whole group."""
        if self.terminal is None or not self.terminal.is_ours():
            self._stop()
            return
        self.terminal.give_back()
        signals = sys.modules["_signal"]
        before = signals.signal(SIGTSTP, signals.SIG_DFL)
        posix.kill(0, SIGTSTP)
        # We go on here when somebody says so, or at once if nobody could (an orphaned group).
        signals.signal(SIGTSTP, before)
        self._resume()

    def _resume(self) -> None:
        if self.terminal is not None:
            self.terminal.take()
            self._say_size()
        self._say(b"S", bytes([SIGCONT]))


def _noted(number: int, frame: object) -> None:
    """The wake-up descriptor has it already."""


class _Terminal:
    """Our stdin's mode: raw while the program has it, and as it was however we end.

    A child of ours waits for that: it puts the mode back if we are killed.
    """

    def __init__(self) -> None:
        import termios  # noqa: PLC0415 - see the module's docstring

        self._termios = termios
        self._before: list[Any] = termios.tcgetattr(0)
        self._raw = False
        self._guard = -1
        self._alive = -1
        self.interrupt: bytes = self._before[6][termios.VINTR]

    def is_ours(self) -> bool:
        """Whether we are in the foreground."""
        try:
            return posix.tcgetpgrp(0) == posix.getpgrp()
        except OSError:
            return True  # not our controlling terminal: nobody takes it away

    def take(self) -> None:
        """In the background nothing happens: SIGCONT tells when that is over."""
        if self._raw or not self.is_ours():
            return
        termios = self._termios
        try:
            if self._guard < 0:
                self._start_guard()
            self._before = termios.tcgetattr(0)
            mode: list[Any] = [*self._before[:6], list(self._before[6])]
            mode[0] &= ~(
                termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
            )  # fmt: skip
            mode[1] &= ~termios.OPOST
            mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
            mode[3] &= ~(
                termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
            )
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
            self._raw = True
        except termios.error:
            pass  # it hung up

    def give_back(self) -> None:
        if not self._raw:
            return
        self._raw = False
        try:
            self._termios.tcsetattr(0, self._termios.TCSADRAIN, self._before)
        except self._termios.error:
            pass

    def leave(self) -> None:
        self.give_back()
        if self._guard > 0:
            try:
                posix.write(self._alive, b"k")
                posix.waitpid(self._guard, 0)
            except OSError:
                pass
            self._guard = -1

    def _start_guard(self) -> None:
        waits, self._alive = posix.pipe()
        self._guard = posix.fork()
        if self._guard:
            posix.close(waits)
            return
        try:
            # A session of its own: no terminal stops it, and who ends our group does not end it.
            posix.setsid()
            signals = sys.modules["_signal"]
            signals.set_wakeup_fd(-1)
            for number in (*FORWARDED, SIGCONT, SIGTSTP, SIGWINCH):
                signals.signal(number, signals.SIG_IGN)
            # It must hold nobody's pipe, and not our connection.
            for name in posix.listdir("/proc/self/fd"):
                if int(name) not in (0, waits):
                    try:
                        posix.close(int(name))
                    except OSError:
                        pass
            if not posix.read(waits, 1):
                self._termios.tcsetattr(0, self._termios.TCSADRAIN, self._before)
        finally:
            posix._exit(0)


class _Modes:
    """Which of a terminal's private modes a program has switched: alternate screen, mouse …

    Only put back when a program's end is not known: one that ends has done so, or wanted them.
    """

    KEPT = (1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1047, 1049, 2004)

    def __init__(self) -> None:
        self._on: dict[int, None] = {}
        self._hidden = False
        self._tail = b""

    def saw(self, data: bytes) -> None:
        data = self._tail + data
        at = data.find(b"\x1b[?")
        while at >= 0:
            end = at + 3
            while end < len(data) and data[end] in b"0123456789;":
                end += 1
            if end == len(data):
                break
            for number in data[at + 3 : end].split(b";"):
                if data[end] in b"hl" and number.isdigit():
                    self._switch(int(number), data[end] == ord("h"))
            at = data.find(b"\x1b[?", end)
        self._tail = data[at:][:64] if at >= 0 else data[-2:]

    def _switch(self, number: int, on: bool) -> None:
        if number == 25:
            self._hidden = not on
        elif number in self.KEPT:
            if on:
                self._on[number] = None
            else:
                self._on.pop(number, None)

    def undo(self) -> bytes:
        """Empty if there is nothing to put back."""
        text = b"".join([b"\x1b[?%dl" % number for number in self._on])
        if self._hidden:
            text += b"\x1b[?25h"
        return text + b"\x1b[0m" if text else b""


def _isatty(fd: int) -> bool:
    try:
        return posix.isatty(fd)
    except OSError:
        return False


def _size(terminals: int) -> tuple[int, int]:
    """Rows and columns of whichever is a terminal; 24 and 80 if none knows."""
    for fd in (1, 2, 0):
        if terminals & (1 << fd):
            try:
                columns, rows = posix.get_terminal_size(fd)
            except OSError:
                continue
            if rows and columns:
                return rows, columns
    return 24, 80
