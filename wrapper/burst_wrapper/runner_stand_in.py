"""Stands in for a program that runs elsewhere: its streams, terminal, signals and end.

Loaded by `runner`, by its path, and as light. The frames are in that module's docstring.
"""

import _socket
import posix
import sys

from burst_wrapper import hot, runner_daemon
from burst_wrapper import runner_terminal as terminals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

SIGINT, SIGCONT, SIGSTOP, SIGTSTP, SIGTTOU, SIGWINCH = 2, 18, 19, 20, 22, 28
EIO = 5
POLLIN = 1
GRACE_S = 10.0
"""For a program that an interrupt does not end, as nextest has it: then, or at the second one, it
is ended. cargo would have gone at the first."""
STAYING = (b"cargo", b"rustdoc")
"""Who starts a program and waits for it beside it, in the terminal's group; `cargo run` becomes
it."""


class Here(Exception):
    """The program runs on this machine."""


class Failed(Exception):
    """It was not run to its end, by no fault of it; the argument is what to show."""


class _Lost(Exception):
    """It cannot be told how the program ended; the argument completes `error: `."""


def _shown(path: bytes) -> str:
    return "`" + path.decode("utf-8", "replace") + "`"


class StandIn:
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
        self.interrupted_s = 0.0
        self.bits = 0
        """Which of the three streams are terminals."""
        self.modes = terminals.Modes()
        self.terminal: terminals.Terminal | None = None
        self.tty_out = 1
        self.heard_s = 0.0
        self.wake: _socket.socket | None = None

    # -- the way of a program --------------------------------------------------------------------

    def follow(self, session: bytes) -> "NoReturn":
        """To the end of the program, which is ours. Here, Failed."""
        try:
            self._open(session)
            self._loop()
        except Here:
            self.connection.close()
            raise
        except _Lost as lost:
            self._end_badly(str(lost))
        except (OSError, hot._Unavailable) as problem:
            if not self.runs and not isinstance(problem, BrokenPipeError):
                self.connection.close()
                raise Here(f"the daemon does not answer: {problem}") from None
            self._end_badly(f"lost the daemon while {_shown(self.argv[0])} ran: {problem}")

    def _open(self, session: bytes) -> None:
        bits = sum(1 << fd for fd in (0, 1, 2) if terminals.is_terminal(fd))
        self.tty_out = 1 if bits & 2 else 2 if bits & 4 else 0
        rows, columns = terminals.size(bits)
        opening = runner_daemon.opening(
            b"program",
            runner_daemon.VERSION,
            session,
            posix.getcwdb(),
            b"\0".join(self.argv),
            b"".join([b"%b=%b\0" % item for item in self.environ.items()]),
            b"%d" % bits,
            b"%d" % rows,
            b"%d" % columns,
        )
        self.connection.settimeout(runner_daemon.SILENCE_S)
        self.connection.sendall(opening)
        self.bits = bits

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
            if self.interrupted_s and time.monotonic() - self.interrupted_s > GRACE_S:
                self._interrupt_all()
            if time.monotonic() - self.heard_s > runner_daemon.SILENCE_S:
                if not self.runs:
                    message = "the daemon is silent"
                    raise Here(message)
                raise _Lost(f"the daemon is silent, {_shown(self.argv[0])} may still run")

    def _receive(self) -> None:
        try:
            data = self.connection.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError):
            data = b""
        if not data:
            if not self.runs:
                message = "the daemon does not know it"
                raise Here(message)
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
            raise Here(payload.decode("utf-8", "replace"))
        elif tag == b"F":
            self._leave_terminal(badly=True)
            raise Failed(payload.decode("utf-8", "surrogateescape"))
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
        for number in (*terminals.FORWARDED, SIGCONT, SIGTSTP, SIGWINCH):
            # What our caller ignores (nohup) stays ignored, here and by the program.
            if signals.getsignal(number) != signals.SIG_IGN:
                signals.signal(number, _noted)
        if self.bits:
            # Who writes to a terminal from the background is not to be stopped for it.
            signals.signal(SIGTTOU, signals.SIG_IGN)
        if self.bits & 1:
            self.terminal = terminals.Terminal()
            self.terminal.take()

    def _end(self, status: int) -> "NoReturn":
        self._leave_terminal(badly=False)
        if status >= 0:
            posix._exit(status & 0xFF)
        if -status == SIGINT and self.typed_interrupt:
            self._interrupt_group()
        try:
            import resource  # noqa: PLC0415 - its memory image is not here; ours helps nobody

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        except (ImportError, OSError, ValueError):
            pass
        hot._die(-status)

    def _interrupt_group(self) -> None:
        """As a terminal would have done, which is raw: cargo ends, too."""
        signals = sys.modules["_signal"]
        signals.signal(SIGINT, signals.SIG_DFL)
        posix.kill(0, SIGINT)

    def _interrupt_all(self) -> "NoReturn":
        """Of a program that goes on after an interrupt: without us it is ended."""
        self._leave_terminal(badly=True)
        self._interrupt_group()
        posix._exit(hot.EXIT_INTERRUPTED)

    def _end_badly(self, text: str) -> "NoReturn":
        self._leave_terminal(badly=True)
        hint = "hint: nothing is known of how it would have ended; run it again\n"
        raise Failed(f"error: {text}\n{hint}")

    def _leave_terminal(self, *, badly: bool) -> None:
        if badly and self.bits:
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
        self.credit -= len(data)
        self._say(b"I", data)
        if self.terminal is not None and self.terminal.interrupt in data:
            self._interrupted(data.count(self.terminal.interrupt))

    def _interrupted(self, times: int) -> None:
        """Typed by the user. Where cargo waits for us it would have died of the first one, and
        nothing else here could end a program that ignores it."""
        import time  # noqa: PLC0415 - builtin

        self.typed_interrupt = True
        if not _caller_stays():
            return
        if self.interrupted_s or times > 1:
            self._interrupt_all()
        self.interrupted_s = time.monotonic()

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
        rows, columns = terminals.size(self.bits)
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


def _caller_stays() -> bool:
    """Whether who started us waits for us, and is none that handles interrupts."""
    try:
        program = posix.readlink(b"/proc/%d/exe" % posix.getppid())
    except OSError:
        return False
    return hot._name(program) in STAYING


def _noted(number: int, frame: object) -> None:
    """The wake-up descriptor has it already."""
