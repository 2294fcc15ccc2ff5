"""One run: lays the input root out, starts the command in its sandbox and tells what happens.

The order of what is told is the whole point. An artifact line on stderr lets cargo start the
dependents, so before it go: what the command was seen to look at, then the file itself. All of
that happens while the command goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs

from burst_agent import diskfile, inputs
from burst_agent.incremental import IncrementalStates, Lease
from burst_agent.jobserver import Jobserver
from burst_agent.materialise import Materialiser
from burst_agent.mounts import Mount
from burst_agent.observations import Reporter
from burst_agent.process import PIECE_BYTES, Process
from burst_agent.results import OutputCollector, parse_artifact, relative_to
from burst_agent.runs import Event
from burst_agent.sandbox import Launch, Launcher, Limits, Outcome, SandboxSpec
from burst_agent.store import BlobStore
from burst_protocol import messages as m
from burst_protocol.action import Action, OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import AgentGone, LimitExceeded, RustcKilled, SandboxUnavailable

T = TypeVar("T")

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
MAX_TEXT_BYTES: Final = 256 * 1024 * 1024
MAX_FILE_BYTES: Final = 16 * 1024**3
# Linux: 128 KiB for one argument with its NUL; for all of them and the environment a quarter of
# the stack's limit, 2 MiB as a rule. rustc takes the others from a file.
MAX_ARGUMENT_BYTES: Final = 128 * 1024
MAX_ARGV_BYTES: Final = 1024 * 1024
_ARGUMENTS_PATH: Final = b"/.burst/arguments"
_SIGXFSZ: Final = 25
# After the end of the sandbox its pipes are at their end too. Without isolation a daemonised child
# may keep them open; nobody waits for that.
_LINGER_S: Final = 2.0
_LAST_EMIT: Final = "link"
_SMALL_OUTPUT_BYTES: Final = 256 * 1024
_OOM_SCORE: Final = 500
_JUDGED_EMITS: Final = frozenset({"dep-info", "metadata"})


@attrs.define
class Workshop:
    """What a run needs: the store it works in, and its client's tools."""

    store: BlobStore
    materialiser: Materialiser
    states: IncrementalStates
    jobserver: Jobserver
    local: bool
    room: Callable[[], Awaitable[None]]
    """Waits while its clients read too slowly."""
    launcher: Launcher | None = None
    helper: bytes | None = None
    """`native/sandbox.c`, built; it can do some things where namespaces are refused."""
    observer: bytes | None = None


def missing_inputs(workshop: Workshop, action: Action) -> list[Digest]:
    """Blobs that must come before this action can run. Blocking."""
    if workshop.launcher is not None and not workshop.launcher.isolates:
        return []  # it sees the machine as it is
    return inputs.missing_inputs(
        workshop.store, workshop.materialiser, action, local=workshop.local
    )


async def finished(work: Callable[[], T]) -> T:
    """In a thread, and done when this returns: a cancelled caller waits for the thread first."""
    future = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait((future,))
        raise


@attrs.define
class _Prepared:
    launch: Launch
    collector: OutputCollector
    reporter: Reporter
    log_path: bytes | None
    lease: Lease | None

    def still_there(self) -> bool:
        """False if somebody emptied the store meanwhile: what the command says is no fact then."""
        folders = [self.collector.folder, *(() if self.lease is None else (self.lease.path,))]
        return all(map(os.path.isdir, folders))


class Execution:
    """`run` publishes Output, Stdout, Stderr and Observed, and at the end Exited."""

    def __init__(
        self,
        workshop: Workshop,
        action: Action,
        publish: Callable[[Event], None],
        release_slot: Callable[[], None],
    ) -> None:
        self._workshop = workshop
        self._action = action
        self._publish = publish
        self._release_slot: Callable[[], None] | None = release_slot
        self._text_bytes = 0
        self._moves = 0
        self._held: list[bytes] | None = None
        """What was said since a linked file was announced."""

    async def run(self) -> None:
        """BurstError for what is ours; nothing is left running or lying about, however it ends."""
        stack = contextlib.ExitStack()
        try:
            try:
                prepared = await finished(lambda: self._prepare(stack))
            except OSError as error:  # an input that was there a moment ago, say
                raise SandboxUnavailable(f"laying out the input root: {error}") from error
            await self._run(prepared)
        finally:
            self._leave()
            await finished(stack.close)

    @property
    def _launcher(self) -> Launcher:
        if self._workshop.launcher is None:
            raise SandboxUnavailable("nothing can be run here")
        return self._workshop.launcher

    # Before

    def _prepare(self, stack: contextlib.ExitStack) -> _Prepared:
        action, shop = self._action, self._workshop
        scratch = shop.store.root.temp_path()
        with diskfile.disk_errors("making a scratch directory"):
            os.mkdir(scratch, 0o700)
            stack.callback(diskfile.remove_tree, scratch)
            os.mkdir(scratch + b"/out", 0o755)
            log_path, log_fd = self._open_log(stack)
        isolated = self._launcher.isolates
        lease = self._lease()
        if lease is not None:
            stack.callback(lease.end, intact=False)
        name, value = shop.jobserver.environment
        env = tuple(
            pair
            for pair in action.env
            if pair[0] != name and not (isolated and pair[0] == b"TMPDIR")
        )
        mounts = self._mounts(scratch, lease, stack) if isolated else ()
        argv = action.argv
        if is_too_long(argv):
            path = scratch + b"/arguments"
            argv = with_argument_file(argv, path, _ARGUMENTS_PATH if isolated else path)
            if isolated and argv is not action.argv:
                mounts = (*mounts, Mount.read(path, _ARGUMENTS_PATH))
        spec = SandboxSpec(
            mounts=mounts,
            argv=argv,
            env=(*env, (name, value)),
            cwd=action.cwd,
            limits=Limits(memory_bytes=_physical_bytes(), file_bytes=MAX_FILE_BYTES),
            observer_path=None if log_fd is None else shop.observer,
            observer_fd=log_fd,
            pass_fds=shop.jobserver.fds,
            oom_score_adj=_OOM_SCORE,
        )
        launch = stack.enter_context(self._launcher.prepare(spec))
        collector = OutputCollector(
            store=shop.store,
            folder=scratch + b"/out" if isolated else action.out_dir,
            scan_for=action.scan_for,
            mount_points=inputs.mount_points(action),
            only_stem=None if isolated else _stem(action.argv),
            # By the clock that file systems use, which is behind the other one.
            not_before_ns=0 if isolated else os.stat(scratch).st_mtime_ns,
        )
        return _Prepared(
            launch, collector, Reporter(action, isolated, _private(scratch)), log_path, lease
        )

    def _open_log(self, stack: contextlib.ExitStack) -> tuple[bytes | None, int | None]:
        if self._workshop.observer is None:
            return None, None
        # In memory: to make and remove files is what a disk does worst.
        fd = os.memfd_create("observed", os.MFD_CLOEXEC)
        stack.callback(os.close, fd)
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        return b"/proc/self/fd/%d" % fd, fd

    def _lease(self) -> Lease | None:
        wanted = self._action.incremental
        if wanted is None or not self._launcher.isolates:
            return None
        with diskfile.disk_errors("the incremental state"):
            return self._workshop.states.lease(wanted.state_key)

    def _mounts(
        self, scratch: bytes, lease: Lease | None, stack: contextlib.ExitStack
    ) -> tuple[Mount, ...]:
        action, shop = self._action, self._workshop
        mounts = inputs.input_mounts(
            shop.store, shop.materialiser, action, local=shop.local, stack=stack
        )
        mounts.append(Mount.write(scratch + b"/out", action.out_dir))
        if lease is not None and action.incremental is not None:
            mounts.append(Mount.write(lease.path, action.incremental.path))
        return tuple(mounts)

    def _leave(self) -> None:
        release, self._release_slot = self._release_slot, None
        if release is not None:
            release()

    # While it runs

    async def _run(self, prepared: _Prepared) -> None:
        launch = prepared.launch
        started_s = time.monotonic()
        try:
            process = Process(launch)
        except OSError as error:
            raise SandboxUnavailable(f"starting it: {error}") from error
        try:
            await process.connect()
            returncode = await self._follow(process, prepared)
        finally:
            await process.end()
            self._leave()  # hashing and tidying need no core for long: the next may start
        wall_ms = int((time.monotonic() - started_s) * 1000)
        outcome = launch.outcome(returncode)
        self._check(outcome, returncode)
        if outcome.exit_code and not prepared.still_there():
            raise AgentGone("its folders were removed")
        code, signal = outcome.exit_code or 0, outcome.signal or 0
        for output in await finished(lambda: self._conclude(prepared, code, signal)):
            self._publish(m.Output(0, output))
        for line in self._held or ():
            self._publish(m.Stderr(0, line))
        self._observe(prepared, last=True)
        self._publish(m.Exited(0, code, signal, wall_ms, outcome.max_rss_bytes))

    def _conclude(self, prepared: _Prepared, code: int, signal: int) -> list[OutputFile]:
        """Everything that must have happened when the client hears of the end: whoever compiles
        the same unit right afterwards wants the incremental state back."""
        outputs = list(prepared.collector.rest(failed=bool(code or signal)))
        if prepared.lease is not None:
            prepared.lease.end(intact=code in {0, 1} and not signal)
        return outputs

    async def _follow(self, process: Process, prepared: _Prepared) -> int:
        """Relays what it says until it has ended."""
        pumps = {
            asyncio.create_task(self._relay_stdout(process.stdout)),
            asyncio.create_task(self._relay_stderr(process.stderr, prepared)),
        }
        end = asyncio.create_task(process.wait())
        try:
            async with asyncio.timeout(self._action.timeout_s):
                await _all_or_first_error({*pumps, end}, until=end)
            await self._drain(pumps)
            return end.result()
        except TimeoutError:
            raise LimitExceeded(f"{self._action.timeout_s} s") from None
        finally:
            for task in (*pumps, end):
                task.cancel()
            await asyncio.wait((*pumps, end))

    async def _drain(self, pumps: set[asyncio.Task[None]]) -> None:
        """What is still in the pipes; gives up when nothing moves and the pipes stay open."""
        while any(not pump.done() for pump in pumps):
            moves = self._moves
            done, _ = await asyncio.wait(pumps, timeout=_LINGER_S)
            for pump in done:
                pump.result()
            if len(done) < len(pumps) and self._moves == moves and not self._launcher.isolates:
                return

    async def _relay_stdout(self, stream: asyncio.StreamReader) -> None:
        while piece := await stream.read(PIECE_BYTES):
            self._count(len(piece))
            self._publish(m.Stdout(0, piece))
            await self._workshop.room()

    async def _relay_stderr(self, stream: asyncio.StreamReader, prepared: _Prepared) -> None:
        parts: list[bytes] = []
        size = 0
        while piece := await stream.read(PIECE_BYTES):
            self._count(len(piece))
            *lines, rest = piece.split(b"\n")
            for line in lines:
                await self._line(b"".join((*parts, line, b"\n")), prepared)
                parts, size = [], 0
            parts.append(rest)
            size += len(rest)
            if size > MAX_LINE_BYTES:
                raise LimitExceeded(f"a line of more than {MAX_LINE_BYTES} bytes on stderr")
            await self._workshop.room()
        if size:
            await self._line(b"".join(parts), prepared)

    async def _line(self, line: bytes, prepared: _Prepared) -> None:
        """Before an announcement goes what it announces, and what led to it."""
        artifact = parse_artifact(line)
        if artifact is not None and artifact.emit == _LAST_EMIT and self._launcher.isolates:
            # The largest file, and the end is near: by then it can be moved instead of copied.
            self._held = self._held or []
        if self._held is not None:
            self._held.append(line)
            return
        if artifact is not None:
            path = os.path.join(self._action.cwd, artifact.path)
            relative = relative_to(path, self._action.out_dir)
            output = None
            if relative is not None:
                announced = relative
                with diskfile.disk_errors("storing an output"):
                    output = await self._take(prepared.collector, announced)
            if artifact.emit in _JUDGED_EMITS:
                self._observe(prepared, last=False)
            if output is not None:
                self._publish(m.Output(0, output))
        self._publish(m.Stderr(0, line))

    async def _take(self, collector: OutputCollector, relative: bytes) -> OutputFile | None:
        if collector.size_bytes(relative) < _SMALL_OUTPUT_BYTES:
            return collector.take(relative)  # sooner done than a thread has woken up
        return await finished(lambda: collector.take(relative))

    def _observe(self, prepared: _Prepared, *, last: bool) -> None:
        # A millisecond or two, of which a thread would spare nobody anything.
        observation = prepared.reporter.report(prepared.log_path, last=last)
        self._publish(m.Observed(0, observation, last))

    def _count(self, size: int) -> None:
        self._moves += 1
        self._text_bytes += size
        if self._text_bytes > MAX_TEXT_BYTES:
            raise LimitExceeded(f"more than {MAX_TEXT_BYTES} bytes on stdout and stderr")

    def _check(self, outcome: Outcome, returncode: int) -> None:
        if outcome.signal == _SIGXFSZ:
            raise LimitExceeded(f"a file of more than {MAX_FILE_BYTES} bytes")
        if outcome.error and returncode < 0:
            raise RustcKilled(outcome.error)
        if outcome.error:
            raise SandboxUnavailable(outcome.error)


async def _all_or_first_error(
    tasks: set[asyncio.Task[None] | asyncio.Task[int]], until: asyncio.Task[int]
) -> None:
    """Until `until` is done; what another task raises before that is raised."""
    pending = set(tasks)
    while not until.done():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


def is_too_long(argv: tuple[bytes, ...]) -> bool:
    """Whether the kernel would refuse this command line."""
    return (
        any(len(argument) >= MAX_ARGUMENT_BYTES for argument in argv)
        or sum(map(len, argv)) + 9 * len(argv) > MAX_ARGV_BYTES
    )


def with_argument_file(argv: tuple[bytes, ...], path: bytes, seen_as: bytes) -> tuple[bytes, ...]:
    """Write rustc's arguments to `path`, one in a line, and name that file instead.

    As it is if an argument holds a line feed: such a file could not say so.
    """
    drivers = 2 if os.path.basename(argv[0]) == b"clippy-driver" else 1
    arguments = argv[drivers:]
    if any(b"\n" in argument for argument in arguments):
        return argv
    with diskfile.disk_errors("writing an argument file"), open(path, "wb") as file:
        file.write(b"".join(argument + b"\n" for argument in arguments))
    return (*argv[:drivers], b"@" + seen_as)


def _private(scratch: bytes) -> tuple[bytes, ...]:
    """Our own places, which say nothing about the action."""
    return (os.path.dirname(_ARGUMENTS_PATH), scratch)


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _stem(argv: tuple[bytes, ...]) -> bytes:
    """`name-hash`: what the names of this call's outputs hold, where the out-dir is shared."""
    name = extra = b""
    for before, argument in itertools.pairwise(argv):
        if before == b"--crate-name":
            name = argument
        if argument.startswith(b"extra-filename=") and before in {b"-C", b"--codegen"}:
            extra = argument.partition(b"=")[2]
        if argument.startswith(b"-Cextra-filename="):
            extra = argument.partition(b"=")[2]
    return name + extra
