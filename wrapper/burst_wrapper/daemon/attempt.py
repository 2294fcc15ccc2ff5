"""One attempt to run a unit on one agent: send, stream, judge, forward.

All stderr lines are held until the dep-info line has come and the run was judged, or until exit;
errors always until exit, and so is what is no JSON and all that follows it: LLVM's last words come
when rustc's work is done, and may be about the sandbox. So nothing is shown of a run that saw
another world than home's, and yet the metadata reaches cargo while code generation goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import attrs

from burst_protocol import errors
from burst_protocol import messages as m
from burst_protocol.action import ActionResult, OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    AgentBug,
    AgentGone,
    BlobMissing,
    BurstError,
    DiskFull,
    LimitExceeded,
    LinkLost,
    RustcKilled,
)
from burst_wrapper import depinfo
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.deliver import Delivery
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.gather import Gathered
from burst_wrapper.daemon.judge import Judge, Verdict
from burst_wrapper.daemon.link import AgentLink
from burst_wrapper.daemon.plan import Plan
from burst_wrapper.depinfo import DepInfo
from burst_wrapper.rustc_json import Artifact, Text, classify, is_error, is_suspicious

_ICE: Final = 101
# A blob may be evicted again before it is used, but an agent that keeps asking cannot store it.
ASKED_IN_VAIN: Final = 3


class End(enum.Enum):
    DONE = "done"
    """Everything was delivered and the wrapper knows the exit code."""
    HIT = "hit"
    """The agent had a result after all."""
    LISTS = "lists"
    """The agent knows input lists that we do not."""
    AGAIN = "again"
    """Something was missing; the verdict says what."""
    HOME = "home"
    """This must run at home; the verdict or `why` says why."""


@attrs.define
class Ended:
    end: End
    verdict: Verdict = attrs.field(factory=Verdict)
    hit: m.Hit | None = None
    lists: tuple[bytes, ...] = ()
    result: ActionResult | None = None
    exit_code: int = 0
    why: str = ""
    coalesced: bool = False
    plain_stderr: bool = True
    mentions: bool = False
    wall_ms: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


_BY_CODE: Final = {
    cls.code: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, BurstError)
}


def error_of(failed: m.Failed, host: str) -> BurstError:
    """The agent's failure as an exception of the tree."""
    cls = _BY_CODE.get(failed.code, AgentBug)
    detail = _whose(failed.detail, host) if cls is DiskFull else failed.detail
    return cls(detail, host=host, path="")


def _whose(trouble: str, host: str) -> str:
    """Of two machines that have a disk."""
    return trouble if host == "embedded" else f"on {host}: {trouble}"


def unkept(link: AgentLink) -> BurstError:
    """Why an agent asks again and again for what it was sent."""
    if link.complaint is not None:
        return error_of(link.complaint, link.name)
    return BlobMissing("the agent does not keep what it is sent")


# What a machine's trouble looks like in rustc's errors: disk full, out of memory, files or
# processes, a disk that fails (errno(3)). Home may be better off.
_TROUBLE: Final = re.compile(
    rb"\(os error (?:5|11|12|23|24|27|28|30|122)\)|No space left on device|Disk quota exceeded"
)
_FULL: Final = re.compile(rb"\(os error (?:28|122)\)|No space left|quota exceeded")


_KERNEL_FILE: Final = re.compile(rb"(?<![\w./-])/(?:proc|sys)/")
_GONE: Final = b"No such file or directory"
_LINKING: Final = b"linking with "
"""A linker's command line names all folders, whatever it is that the linker did not find."""


def machine_trouble(
    lines: list[bytes], folders: Iterable[bytes] = (), host: str = "embedded"
) -> BurstError | None:
    """If a failed run tells of its machine, `host`, rather than of the code.

    `folders` are those that the sandbox has for what the run writes, as the command line names
    them: they lie in the agent's store, which may be deleted at any time.
    """
    for line in lines:
        found = _TROUBLE.search(line)
        if found is not None and is_error(classify(line)):
            text = _whose(found[0].decode(), host)
            return DiskFull(text) if _FULL.search(line) else LimitExceeded(text)
        is_gone = _GONE in line and any(folder in line for folder in folders)
        if is_gone and _LINKING not in line and is_error(classify(line)):
            return AgentGone("its folders were removed")
    return None


def is_about_kernel(lines: list[bytes]) -> bool:
    """If a failed run tells of a file of the kernel's: a sandbox has few of them, and others.

    Which were looked for tells nothing: rustc itself asks for control groups and huge pages.
    """
    return any(_KERNEL_FILE.search(line) and is_error(classify(line)) for line in lines)


class Attempt:
    def __init__(
        self,
        plan: Plan,
        client: Client,
        executor: Executor,
        gathered: Gathered,
        delivery: Delivery,
        *,
        prolongs: bool = True,
        left: Callable[[OutputFile], bool] | None = None,
    ) -> None:
        """`left`: which outputs stay on the agent; then nothing is sent without being asked for."""
        self._prolongs = prolongs
        self._left = left
        self._plan = plan
        self._client = client
        self._executor = executor
        self._link = executor.link
        self._gathered = gathered
        self._delivery = delivery
        self._judge = Judge(plan, gathered.shown, gathered.sent_env, executor.isolates)
        self._identity = self._link.new_id()
        self._began_ns = time.time_ns()
        self._outputs: dict[bytes, OutputFile] = {}
        self._lines: list[bytes] = []
        self._held: list[bytes] = []
        self._stdout = b""
        self._judged = False
        self._failing = False
        self._holding = False
        self._dep_info: DepInfo | None = None
        self._origin = plan.out_dir
        self._coalesced = False
        self._sent_bytes = 0
        self._fetched_bytes = 0
        self._asked: Counter[Digest] = Counter()

    @property
    def judge(self) -> Judge:
        return self._judge

    @property
    def dep_info(self) -> DepInfo | None:
        return self._dep_info

    @property
    def identity(self) -> int:
        return self._identity

    async def run(self, strong_keys: tuple[bytes, ...], lists_tried: int) -> Ended:
        """Errors of the tree mean that this agent failed us; Ended says anything else."""
        self._client.again()
        queue = self._link.open_stream(self._identity)
        request = m.Execute(
            self._identity,
            self._plan.weak_key,
            strong_keys,
            lists_tried,
            self._gathered.action_key,
            self._gathered.action,
            push=not self._link.local and self._left is None,
            prolongs=self._prolongs,
        )
        finished = False
        try:
            before = self._link.sent_bytes
            self._link.send(request)
            self._sent_bytes += self._link.sent_bytes - before
            ended = await self._follow(queue, request)
            finished = ended.end in (End.DONE, End.HIT, End.LISTS)
            ended.coalesced = self._coalesced
            ended.sent_bytes = self._sent_bytes
            ended.received_bytes = self._executor.received(self._identity) + self._fetched_bytes
            return ended
        finally:
            self._link.close_stream(self._identity)
            if not finished and self._link.gone is None:
                with contextlib.suppress(BurstError, OSError):
                    self._link.send(m.Cancel(self._identity))
                self._executor.forget(self._identity, [o.digest for o in self._outputs.values()])

    async def _follow(self, queue: asyncio.Queue[m.Message | None], request: m.Execute) -> Ended:
        while True:
            message = await queue.get()
            if message is None:
                raise self._link.gone or LinkLost("it ended", host=self._link.name)
            match message:
                case m.Stderr():
                    ended = await self._line(message.line)
                    if ended is not None:
                        return ended
                case m.Output():
                    self._outputs[message.file.path] = message.file
                    if self._link.local:
                        self._delivery.made(self._blob(message.file), self._began_ns)
                    elif self._left is not None and not self._left(message.file):
                        self._fetched_bytes += await self._executor.fetch(message.file.digest)
                case m.Observed():
                    self._judge.add(message.observation, last=message.last)
                case m.Stdout():
                    self._stdout += message.data
                    if self._judged:
                        self._client.stdout(message.data)
                case m.Exited():
                    return await self._exited(message)
                case m.Started():
                    self._origin = message.out_dir
                    self._judge.ran_in = self._origin_target()
                    self._coalesced = message.coalesced
                case m.Missing():
                    self._asked.update(message.digests)
                    if max(self._asked[d] for d in message.digests) >= ASKED_IN_VAIN:
                        raise unkept(self._link)
                    self._sent_bytes += await self._executor.uploader.send(
                        self._identity,
                        message.digests,
                        [self._gathered.sources, self._plan.platform.sources],
                    )
                    self._link.send(request)
                case m.Hit():
                    return Ended(End.HIT, hit=message)
                case m.Lists():
                    return Ended(End.LISTS, lists=message.lists)
                case m.Failed():
                    raise error_of(message, self._link.name)
                case _:
                    pass

    async def _line(self, line: bytes) -> Ended | None:
        self._lines.append(line)
        artifact = classify(line)
        if self._judged:
            # Whether an error, of the linker say, is home's too is known at the end only.
            self._failing = self._failing or is_error(artifact)
            self._holding = self._holding or isinstance(artifact, Text)
            if self._failing or (self._holding and not isinstance(artifact, Artifact)):
                self._held.append(line)
            else:
                await self._forward(line)
            return None
        self._held.append(line)
        if isinstance(artifact, Artifact) and artifact.emit == b"dep-info":
            return await self._judge_now()
        return None

    async def _judge_now(self) -> Ended | None:
        """At the dep-info line: macros have run, nothing was shown yet."""
        self._read_dep_info()
        if self._foreign():
            return Ended(End.AGAIN, mentions=True)
        verdict = self._verdict()
        if not verdict.right:
            return Ended(End.AGAIN if not verdict.home else End.HOME, verdict, why=verdict.home)
        if not verdict.complete and self._plan.unknown_macros:
            return Ended(End.HOME, verdict, why="unobserved macro")
        self._judged = True
        held, self._held = self._held, []
        if self._stdout:
            self._client.stdout(self._stdout)
        for line in held:
            # rustc goes on after an error, far enough to name its sources.
            self._failing = self._failing or is_error(classify(line))
            if self._failing:
                self._held.append(line)
            else:
                await self._forward(line)
        return None

    def _verdict(self) -> Verdict:
        return self._judge.verdict(self._dep_info)

    def _foreign(self) -> bool:
        """Coalesced with a run of another target directory, which used that (or may have)."""
        if self._origin == self._plan.out_dir:
            return False
        return not (self._judge.seen and self._judge.complete) or self._uses_target()

    def _uses_target(self) -> bool:
        """Bytes that speak of the directory, or something in it that was looked at."""
        return any(
            output.mentions and not output.path.endswith(b".d") for output in self._outputs.values()
        ) or self._judge.uses_target(self._dep_info)

    def _origin_target(self) -> bytes:
        """The target directory of another unit's run; its actions are ours but for that."""
        plan = self._plan
        below = plan.out_dir[len(plan.target_dir) :]
        if self._origin == plan.out_dir or not below or not self._origin.endswith(below):
            return b""
        return self._origin[: -len(below)]

    def _read_dep_info(self) -> None:
        for output in self._outputs.values():
            if output.path.endswith(b".d"):
                with contextlib.suppress(OSError), open(self._blob(output), "rb") as file:
                    found = depinfo.parse(file.read())
                    files = tuple(self._judge.here(name) for name in found.files)
                    self._dep_info = attrs.evolve(found, files=files)

    def _blob(self, output: OutputFile) -> bytes:
        return self._executor.blob(output.digest)

    async def _forward(self, line: bytes) -> None:
        """Show one line; the file it announces has its name by then."""
        artifact = classify(line)
        if isinstance(artifact, Artifact):
            prefix = self._origin + b"/"
            if artifact.path.startswith(prefix):
                await self._deliver(artifact.path[len(prefix) :])
        self._client.stderr(self._delivery.line(line, self._origin))
        await self._client.room()

    async def _deliver(self, relative: bytes) -> None:
        output = self._outputs.get(relative)
        if output is None:
            return
        stub = self._left is not None and self._left(output)
        await self._delivery.place(output, self._blob(output), self._origin, stub=stub)
        self._delivery.commit()

    async def _exited(self, exited: m.Exited) -> Ended:
        if exited.signal:
            raise RustcKilled(f"signal {exited.signal}")
        if self._dep_info is None:
            self._read_dep_info()
        if self._foreign():
            if self._judged:
                return Ended(End.HOME, why="outputs name another target directory")
            return Ended(End.AGAIN, mentions=True)
        verdict = self._verdict()
        again = Ended(End.AGAIN, verdict)
        if exited.code != 0:
            return await self._failed(exited, verdict, again)
        if not verdict.right:
            # What was shown already is not shown twice: the linker, say, may lack something late.
            return Ended(End.HOME, verdict, why=verdict.home) if verdict.home else again
        if not self._judged:
            self._judged = True
            if self._stdout:
                self._client.stdout(self._stdout)
        for line in self._held:
            await self._forward(line)
        for relative in list(self._outputs):
            await self._deliver(relative)
        result = ActionResult(
            tuple(self._outputs.values()),
            self._stdout,
            tuple(self._lines),
            self._origin,
            self._plan.target_dir if self._origin == self._plan.out_dir else b"",
            exited.wall_ms,
        )
        return Ended(
            End.DONE,
            verdict,
            result=result,
            plain_stderr=all(isinstance(classify(line), Artifact) for line in self._lines),
            mentions=self._uses_target(),
            wall_ms=exited.wall_ms,
        )

    async def _failed(self, exited: m.Exited, verdict: Verdict, again: Ended) -> Ended:
        """A failure is shown only if the sandbox lacked nothing that home has."""
        if exited.code == _ICE:
            return Ended(End.HOME, verdict, why="the compiler crashed")
        call = self._plan.call
        written = [folder for folder in (call.out_dir, call.incremental) if folder]
        trouble = machine_trouble(self._lines, written, self._link.name)
        if trouble is not None:
            raise trouble
        if verdict.home:
            return Ended(End.HOME, verdict, why=verdict.home)
        if not verdict.right:
            return again
        if is_about_kernel(self._lines):
            return Ended(End.HOME, verdict, why="a failure that speaks of this machine's kernel")
        if not verdict.complete or (
            self._plan.call.links
            and any(is_suspicious(classify(line)) for line in self._lines)
            and not self._link_seen()
        ):
            return Ended(End.HOME, verdict, why="a failure that was not seen whole")
        if not self._judged and self._stdout:
            self._client.stdout(self._stdout)
        for relative in list(self._outputs):
            if relative.endswith(b".d"):
                await self._deliver(relative)
        for line in self._held:
            self._client.stderr(self._delivery.line(line, self._origin))
        return Ended(End.DONE, verdict, exit_code=exited.code, wall_ms=exited.wall_ms)

    def _link_seen(self) -> bool:
        """Links are always repeated at home before their failure is shown."""
        return False

    def digests(self) -> list[Digest]:
        return [output.digest for output in self._outputs.values()]
