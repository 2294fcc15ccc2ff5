"""Cargo as our child: the same terminal and process group, and its end as our own.

What the terminal sends (Ctrl-C, Ctrl-\\, Ctrl-Z) reaches cargo by itself, since both are in the
foreground; we only must not end before it does. What is sent to us alone is handed on.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

import attrs

from burst_protocol.errors import EnvironmentProblem

_HANDED_ON: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})
# What Python ignores, a program must not find ignored.
_PYTHONS: Final = frozenset({signal.SIGPIPE, signal.SIGXFSZ})
_SI_USER: Final = 0
"""`si_code` of kill(2); the terminal's signals have SI_KERNEL (sigaction(2))."""


class CannotStart(EnvironmentProblem):
    """cannot start {program}: {detail}"""

    exit_code = 127
    code = "cannot-start"
    hint = "check that it is installed and may be executed"


@attrs.frozen
class Ended:
    """How a process ended. `signal_number` is 0 unless one killed it."""

    code: int
    signal_number: int = 0
    asked: bool = False
    """Somebody wanted it to end: what handles that signal exits as it likes (nextest: 100)."""

    @classmethod
    def of(cls, status: int, *, asked: bool = False) -> Ended:
        """From a wait status."""
        code = os.waitstatus_to_exitcode(status)
        return cls(0, -code, asked) if code < 0 else cls(code, 0, asked)

    @property
    def good(self) -> bool:
        return self.code == 0 and self.signal_number == 0

    @property
    def interrupted(self) -> bool:
        """The user wanted it to end: nothing more is begun."""
        return self.asked or self.signal_number in _HANDED_ON


def run(
    argv: Sequence[bytes],
    environ: Mapping[bytes, bytes],
    *,
    started: Callable[[int], object] = lambda _: None,
) -> Ended:
    """Start it, hand signals on, and wait. CannotStart. Main thread only."""
    with _blocked() as (wanted, before):
        ignored = {one for one in _HANDED_ON if signal.getsignal(one) is signal.SIG_IGN}
        reset = (set(_HANDED_ON) | _PYTHONS) - ignored
        try:
            pid = os.posix_spawn(
                argv[0], list(argv), dict(environ), setsigmask=before, setsigdef=reset
            )
        except OSError as error:
            detail = error.strerror or str(error)
            raise CannotStart(detail, program=os.fsdecode(argv[0])) from None
        started(pid)
        return _wait(pid, wanted)


def _wait(pid: int, wanted: set[signal.Signals]) -> Ended:
    asked = False
    while True:
        # SIGCHLD may have come for a child of somebody else, and several of them count as one.
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return Ended.of(status, asked=asked)
        came = signal.sigwaitinfo(wanted)
        number = came.si_signo
        if number == signal.SIGCHLD:
            continue
        asked = True
        if number in _FROM_TERMINAL and came.si_code != _SI_USER:
            continue  # cargo has it already
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextmanager
def _blocked() -> Iterator[tuple[set[signal.Signals], set[signal.Signals]]]:
    """Signals wait to be fetched meanwhile; gives them, and the mask as it was before."""
    wanted = {signal.SIGCHLD, *_HANDED_ON}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        yield wanted, {signal.Signals(one) for one in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def replace(argv: Sequence[bytes], environ: Mapping[bytes, bytes]) -> NoReturn:
    """Become this program: for what needs nothing of us afterwards. CannotStart."""
    for one in _PYTHONS:
        signal.signal(one, signal.SIG_DFL)
    try:
        os.execve(argv[0], list(argv), dict(environ))  # noqa: S606 - there is to be no shell
    except OSError as error:
        detail = error.strerror or str(error)
        raise CannotStart(detail, program=os.fsdecode(argv[0])) from None


def die_of(number: int) -> NoReturn:
    """As our child did, without leaving a second core file."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # it is one that does not kill
