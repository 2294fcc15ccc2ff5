"""Starts one program with exactly the files, environment and limits it is given.

Three launchers with one interface. `NativeLauncher` uses our own helper (native/sandbox.c),
`BubblewrapLauncher` what distributions carry; `PlainLauncher` isolates nothing and is only for an
agent on the user's own machine, where the observer alone carries the promise.

    with launcher.prepare(spec) as launch:
        process = await asyncio.create_subprocess_exec(*launch.argv, env=dict(launch.env),
            pass_fds=launch.pass_fds, cwd=launch.cwd, start_new_session=True, ...)
        outcome = launch.outcome(await process.wait())

Start it from the main thread: the helper dies with the *thread* that started it (PR_SET_PDEATHSIG).
`launch.kill(process.pid)` leaves nothing behind.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import attrs

from burst_agent.mounts import How, Mount, Operation, plan, standard
from burst_protocol.errors import SandboxUnavailable

OBSERVER_PATH: Final = b"/.burst/observer.so"
"""Where the observer is seen in a sandbox: no project and no distribution has such a directory."""

SETUP_FAILED: Final = 125
PROBE_TIMEOUT_S: Final = 20.0

# The memory limit is RLIMIT_DATA, not RLIMIT_AS. Measured with rustc 1.95 and a hello world of
# 89 MiB resident: RLIMIT_DATA 200 MiB is enough, RLIMIT_AS 300 MiB is a segmentation fault, since
# it counts every library and metadata file that rustc maps.
_LIMIT_MEMORY: Final = resource.RLIMIT_DATA


@attrs.frozen
class Limits:
    """0 is no limit."""

    memory_bytes: int = 0
    """Private writable memory of each process."""
    cpu_s: int = 0
    file_bytes: int = 0
    """Size of each file written; more ends the program with SIGXFSZ."""

    def numbers(self) -> tuple[tuple[int, int], ...]:
        """(RLIMIT_..., value) pairs. Core dumps are never wanted."""
        pairs = (
            (_LIMIT_MEMORY, self.memory_bytes),
            (resource.RLIMIT_CPU, self.cpu_s),
            (resource.RLIMIT_FSIZE, self.file_bytes),
        )
        return ((resource.RLIMIT_CORE, 0), *((which, value) for which, value in pairs if value))


@attrs.frozen
class SandboxSpec:
    """What to run. argv[0] is the absolute path of the program, as seen inside."""

    mounts: tuple[Mount, ...]
    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    cwd: bytes
    limits: Limits = Limits()
    observer_path: bytes | None = None
    """Observer library, outside."""
    observer_fd: int | None = None
    """Regular file opened O_APPEND for its log."""
    pass_fds: tuple[int, ...] = ()
    """Descriptors that keep their numbers, such as a jobserver's pipe."""
    tmp_size_bytes: int = 0
    oom_score_adj: int = 0


@attrs.frozen
class Outcome:
    """How it ended: exactly one of `exit_code`, `signal` and `error` is given."""

    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    """Why there is no result: the program was not started, or we were killed."""
    cpu_ms: int = 0
    max_rss_bytes: int = 0
    """Peak of the largest process; 0 if not known."""
    has_proc: bool = True


@attrs.frozen
class Launch:
    """What to start, and how to understand its end. Valid inside `prepare` only."""

    argv: tuple[bytes, ...]
    env: tuple[tuple[bytes, bytes], ...]
    cwd: bytes | None
    pass_fds: tuple[int, ...]
    _judge: Callable[[int], Outcome]
    contained: bool = False
    """Whether it runs below an init of its own, whose end is reaped only when nothing of it is
    left (pid_namespaces(7))."""

    def outcome(self, returncode: int) -> Outcome:
        """Given what `wait` returned (negative: the outer process was killed by that signal)."""
        return self._judge(returncode)

    def kill_inside(self, pid: int) -> bool:
        """Ends what is contained: the process then ends by itself, and everything is gone by then.
        False if there is nothing like that (yet, any more). Never for a pid that was reaped."""
        if not self.contained:
            return False
        try:
            with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:  # a kernel without CONFIG_PROC_CHILDREN
            return False
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        return bool(children)

    def kill(self, pid: int) -> None:
        """Ends all of it; what is contained follows in a moment. The process must have been started
        as leader of a session."""
        for end in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(pid, signal.SIGKILL)


class Launcher(abc.ABC):
    """`isolates`: whether what was not declared is invisible."""

    name: str
    isolates: bool

    @abc.abstractmethod
    def prepare(self, spec: SandboxSpec) -> contextlib.AbstractContextManager[Launch]:
        """Temporaries live as long as the context. Raises MountConflict, OSError."""

    @abc.abstractmethod
    def probe_spec(self) -> tuple[SandboxSpec, int]:
        """Something tiny to run, and the exit code it must have."""

    async def probe(self) -> str | None:
        """Really runs something. None if it works, else why not. Never raises for that."""
        try:
            spec, expected = self.probe_spec()
            with self.prepare(spec) as launch:
                process = await asyncio.create_subprocess_exec(
                    *launch.argv,
                    env=dict(launch.env),
                    cwd=launch.cwd,
                    pass_fds=launch.pass_fds,
                    start_new_session=True,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
                try:
                    async with asyncio.timeout(PROBE_TIMEOUT_S):
                        _, said = await process.communicate()
                except TimeoutError:
                    launch.kill(process.pid)
                    await process.wait()
                    return f"{self.name}: no answer within {PROBE_TIMEOUT_S:g} s"
                outcome = launch.outcome(process.returncode or 0)
        except (OSError, SandboxUnavailable) as problem:
            return f"{self.name}: {problem}"
        if outcome.exit_code == expected:
            return None
        why = outcome.error or said.decode(errors="replace").strip()
        return f"{self.name}: {why or f'ended with {outcome.exit_code}, signal {outcome.signal}'}"


def _environment(spec: SandboxSpec, observer: bytes | None) -> list[tuple[bytes, bytes]]:
    """The declared environment, and what makes the observer load. It takes its own out again."""
    env = dict(spec.env)
    if observer is not None and spec.observer_fd is not None:
        theirs = env.pop(b"LD_PRELOAD", b"")
        env[b"LD_PRELOAD"] = observer + (b":" + theirs if theirs else b"")
        env[b"BURST_OBSERVER_FD"] = str(spec.observer_fd).encode()
    return list(env.items())


def _fds(spec: SandboxSpec) -> tuple[int, ...]:
    observer = () if spec.observer_fd is None else (spec.observer_fd,)
    return (*spec.pass_fds, *observer)


def _operations(spec: SandboxSpec) -> tuple[Operation, ...]:
    mounts = [*standard(spec.tmp_size_bytes), *spec.mounts, Mount.directory(spec.cwd)]
    if spec.observer_path is not None:
        mounts.append(Mount.read(spec.observer_path, OBSERVER_PATH))
    return plan(mounts)


@contextmanager
def _memory_file(name: str, content: bytes = b"") -> Iterator[int]:
    fd = os.memfd_create(name)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _killed(returncode: int) -> str:
    return (
        f"the sandbox was killed by signal {-returncode}"
        if returncode < 0
        else f"the sandbox ended with {returncode} and no word"
    )


# ---- our own helper -------------------------------------------------------------------------


def operation_tokens(
    operation: Operation, *, write: bytes = b"rwbind", proc: bytes = b"proc"
) -> tuple[bytes, ...]:
    """What our helper is told (native/sandbox.c): the words for writable binds and for /proc are
    others where programs run."""
    how, target, source = operation.how, operation.target, operation.source
    match how:
        case How.READ | How.TREE:
            return (b"bind", source, target)
        case How.WRITE:
            return (write, source, target)
        case How.TMPFS:
            return (b"tmpfs", target, b"%d" % operation.size_bytes)
        case How.DIRECTORY:
            return (b"dir", target)
        case How.SYMLINK:
            return (b"symlink", source, target)
        case How.PROC:
            return (proc, target)
        case How.DEV:
            return (b"dev", target)


def _judge_native(status_fd: int, returncode: int) -> Outcome:
    facts: dict[str, list[str]] = {}
    for line in _content(status_fd).decode(errors="replace").split("\0"):
        word, _, rest = line.partition(" ")
        facts.setdefault(word, []).append(rest)
    user_us, system_us, max_rss_kib = (facts.get("usage") or ["0 0 0"])[0].split()
    outcome = Outcome(
        cpu_ms=(int(user_us) + int(system_us)) // 1000,
        max_rss_bytes=int(max_rss_kib) * 1024,
        has_proc="noproc" not in facts,
    )
    if "error:" in facts:
        text, _, errno = facts["error:"][0].rpartition(": errno ")
        return attrs.evolve(outcome, error=f"{text}: {os.strerror(int(errno))}")
    if "exit" in facts:
        return attrs.evolve(outcome, exit_code=int(facts["exit"][0]))
    if "signal" in facts:
        return attrs.evolve(outcome, signal=int(facts["signal"][0]))
    return attrs.evolve(outcome, error=_killed(returncode))


@contextmanager
def _native_launch(
    helper: bytes, spec: SandboxSpec, head: list[tuple[bytes, ...]], observer: bytes | None
) -> Iterator[Launch]:
    limits = (
        (b"rlimit", b"%d" % which, b"%d" % n, b"%d" % n) for which, n in spec.limits.numbers()
    )
    with _memory_file("burst-status") as status_fd:
        lines: list[tuple[bytes, ...]] = [
            (b"status", b"%d" % status_fd),
            (b"parent", b"%d" % os.getpid()),
            *head,
            *limits,
            (b"cwd", spec.cwd),
            *((b"env", name + b"=" + value) for name, value in _environment(spec, observer)),
            (b"exec", spec.argv[0]),
            *((b"arg", argument) for argument in spec.argv),
        ]
        if spec.oom_score_adj:
            lines.append((b"oomadj", b"%d" % spec.oom_score_adj))
        if any(b"\0" in token for line in lines for token in line):
            raise SandboxUnavailable("NUL in a path, argument or variable")
        content = b"".join(token + b"\0" for line in lines for token in line)
        with _memory_file("burst-spec", content) as spec_fd:
            yield Launch(
                argv=(helper, b"%d" % spec_fd),
                env=(),
                cwd=None,
                pass_fds=(*_fds(spec), spec_fd, status_fd),
                judge=lambda returncode: _judge_native(status_fd, returncode),
                contained=(b"plain",) not in lines,
            )


@attrs.frozen
class NativeLauncher(Launcher):
    """`path`: the built helper, as an absolute path outside."""

    path: bytes
    name = "burst-sandbox"
    isolates = True

    @contextmanager
    def prepare(self, spec: SandboxSpec) -> Iterator[Launch]:
        head: list[tuple[bytes, ...]] = [(b"userns",), (b"netns",)]
        head.extend(operation_tokens(operation) for operation in _operations(spec))
        observer = OBSERVER_PATH if spec.observer_path is not None else None
        with _native_launch(self.path, spec, head, observer) as launch:
            yield launch

    def probe_spec(self) -> tuple[SandboxSpec, int]:
        # The one program that surely is static is the helper: it exits 2 for want of an argument.
        mounts = (Mount.read(self.path, b"/probe"),)
        return SandboxSpec(mounts, (b"/probe",), (), b"/"), 2


# ---- bubblewrap -----------------------------------------------------------------------------


def _options(operation: Operation) -> tuple[bytes, ...]:
    how, target, source = operation.how, operation.target, operation.source
    match how:
        case How.READ | How.TREE:
            return (b"--ro-bind", source, target)
        case How.WRITE:
            return (b"--bind", source, target)
        case How.TMPFS:
            return (b"--perms", b"1777", b"--tmpfs", target)
        case How.DIRECTORY:
            return (b"--dir", target)
        case How.SYMLINK:
            return (b"--symlink", source, target)
        case How.PROC:
            # For uid 0 /proc/sys is writable even without capabilities.
            return (b"--proc", target, b"--remount-ro", target)
        case How.DEV:
            return (b"--dev", target)


def _with_limits(limits: Limits, argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """bubblewrap sets no limits; the shell that every system has does."""
    letters = {
        resource.RLIMIT_CORE: ("c", 512),
        _LIMIT_MEMORY: ("d", 1024),
        resource.RLIMIT_CPU: ("t", 1),
        resource.RLIMIT_FSIZE: ("f", 512),
    }
    words = (
        f"ulimit -{letters[which][0]} {-(-value // letters[which][1])}"
        for which, value in limits.numbers()
    )
    script = " && ".join(words) + ' && exec "$@"'
    return (b"/bin/sh", b"-c", script.encode(), b"sh", *argv)


def _judge_bubblewrap(status_fd: int, returncode: int) -> Outcome:
    for line in _content(status_fd).splitlines():
        with contextlib.suppress(ValueError):
            code = json.loads(line).get("exit-code")
            if isinstance(code, int):
                # Its pid 1 reports a signal as 128+N and nothing tells the two apart; rustc,
                # clippy-driver and linkers have no exit codes of that range.
                return Outcome(signal=code - 128) if 128 < code < 193 else Outcome(exit_code=code)
    return Outcome(error=_killed(returncode))


@attrs.frozen
class BubblewrapLauncher(Launcher):
    """`path`: bwrap, searched along PATH if not given."""

    path: bytes = b"bwrap"
    name = "bubblewrap"
    isolates = True

    @contextmanager
    def prepare(self, spec: SandboxSpec) -> Iterator[Launch]:
        program = shutil.which(os.fsdecode(self.path))
        if program is None:
            raise SandboxUnavailable("bubblewrap is not installed")
        words: list[bytes] = [
            *(b"--unshare-user-try", b"--unshare-pid", b"--unshare-net", b"--unshare-ipc"),
            *(b"--unshare-uts", b"--unshare-cgroup-try", b"--hostname", b"burst"),
            *(b"--die-with-parent", b"--new-session", b"--cap-drop", b"ALL", b"--clearenv"),
        ]
        for operation in _operations(spec):
            words.extend(_options(operation))
        words += [b"--remount-ro", b"/", b"--chdir", spec.cwd]
        observer = OBSERVER_PATH if spec.observer_path is not None else None
        for name, value in _environment(spec, observer):
            words += [b"--setenv", name, value]
        with _memory_file("burst-status") as status_fd:
            words += [b"--json-status-fd", b"%d" % status_fd]
            with _memory_file("burst-args", b"".join(word + b"\0" for word in words)) as args_fd:
                command = (os.fsencode(program), b"--args", b"%d" % args_fd, b"--", *spec.argv)
                yield Launch(
                    argv=_with_limits(spec.limits, command),
                    env=(),
                    cwd=b"/",
                    pass_fds=(*_fds(spec), status_fd, args_fd),
                    judge=lambda returncode: _judge_bubblewrap(status_fd, returncode),
                    contained=True,
                )

    def probe_spec(self) -> tuple[SandboxSpec, int]:
        system = (b"/usr", b"/bin", b"/lib", b"/lib64", b"/nix", b"/gnu")
        mounts = tuple(
            Mount.symlink(os.readlink(path), path)
            if os.path.islink(path)
            else Mount.read(path, path)
            for path in system
            if os.path.lexists(path)
        )
        return SandboxSpec(mounts, (b"/bin/sh", b"-c", b"exit 2"), (), b"/"), 2


# ---- no isolation ---------------------------------------------------------------------------


def _judge_plain(returncode: int) -> Outcome:
    return Outcome(signal=-returncode) if returncode < 0 else Outcome(exit_code=returncode)


@attrs.frozen
class PlainLauncher(Launcher):
    """The program as it is, in its own session, with the environment and limits given.

    With the helper (`path`) also limits, usage and death with the agent; a linker that rustc had
    started may then outlive a SIGKILL of the agent itself until it is done.
    """

    path: bytes | None = None
    name = "none"
    isolates = False

    @contextmanager
    def prepare(self, spec: SandboxSpec) -> Iterator[Launch]:
        if self.path is not None:
            with _native_launch(self.path, spec, [(b"plain",)], spec.observer_path) as launch:
                yield launch
            return
        yield Launch(
            argv=spec.argv,
            env=tuple(_environment(spec, spec.observer_path)),
            cwd=spec.cwd,
            pass_fds=_fds(spec),
            judge=_judge_plain,
        )

    def probe_spec(self) -> tuple[SandboxSpec, int]:
        return SandboxSpec((), (b"/bin/sh", b"-c", b"exit 2"), (), b"/"), 2


@attrs.frozen
class Choice:
    """`refused`: what was tried before, with reasons, for `doctor`."""

    launcher: Launcher
    refused: tuple[str, ...]


async def choose_launcher(native: bytes | None, *, allow_plain: bool) -> Choice:
    """The first that works of helper, bubblewrap and, if allowed, no isolation.

    Raises SandboxUnavailable with all reasons if none does.
    """
    candidates: list[Launcher] = []
    refused: list[str] = []
    if native is None:
        refused.append("burst-sandbox: not built (no C compiler at home)")
    else:
        candidates.append(NativeLauncher(native))
    candidates.append(BubblewrapLauncher())
    if allow_plain:
        candidates.extend(PlainLauncher(path) for path in dict.fromkeys((native, None)))
    for candidate in candidates:
        reason = await candidate.probe()
        if reason is None:
            return Choice(candidate, tuple(refused))
        refused.append(reason)
    raise SandboxUnavailable("; ".join(refused))
