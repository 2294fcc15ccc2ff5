"""A client for tests: starts the real agent over a socket pair and speaks the real protocol."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Self

import attrs

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.action import (
    KIND_DIRECTORY,
    KIND_FILE,
    KIND_SYMLINK,
    Action,
    ActionResult,
    Incremental,
    Input,
    Observation,
    OutputFile,
)
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.errors import VersionMismatch
from burst_protocol.framing import CHUNK_BYTES
from burst_protocol.messages import Message
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD
from burst_wrapper.native_build import build_native

_ENDS = (m.Exited, m.Failed, m.Hit, m.Lists, m.Missing)
_PATIENCE_S = 60


@attrs.define
class Outcome:
    """Everything one Execute was answered, in order, with the time each message came."""

    messages: list[Message] = attrs.field(factory=list)
    times_s: list[float] = attrs.field(factory=list)

    @property
    def end(self) -> Message:
        return self.messages[-1]

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.messages if isinstance(message, kind)]

    def names(self) -> list[str]:
        return [type(message).__name__ for message in self.messages]

    @property
    def outputs(self) -> dict[bytes, OutputFile]:
        return {o.file.path: o.file for o in self.messages if isinstance(o, m.Output)}

    @property
    def stderr(self) -> list[bytes]:
        return [line.line for line in self.messages if isinstance(line, m.Stderr)]

    @property
    def observations(self) -> list[Observation]:
        return [o.observation for o in self.messages if isinstance(o, m.Observed)]

    def accesses(self) -> dict[bytes, bool]:
        """Path to whether it was found at least once."""
        seen: dict[bytes, bool] = {}
        for observation in self.observations:
            for access in observation.accesses:
                seen[access.path] = seen.get(access.path, False) or access.found
        return seen

    def time_of(self, wanted: Message) -> float:
        return self.times_s[self.messages.index(wanted)]

    def result(self, action: Action) -> ActionResult:
        end = self.end
        assert isinstance(end, m.Exited)
        return ActionResult(
            outputs=tuple(self.outputs.values()),
            stdout=b"".join(s.data for s in self.messages if isinstance(s, m.Stdout)),
            stderr=tuple(self.stderr),
            out_dir=action.out_dir,
            target_dir=action.scan_for,
            wall_ms=end.wall_ms,
        )


@attrs.frozen
class Tools:
    """Our compiled parts, as bytes; None without a C compiler."""

    sandbox: bytes | None
    observer: bytes | None


def native_tools(base: Path) -> Tools:
    """Built once below `base`, with this machine's cc."""
    cc = shutil.which("cc")
    built = build_native(None if cc is None else cc.encode(), base / "burst-native")
    return Tools(
        *(path if path is None else path.read_bytes() for path in (built.sandbox, built.observer))
    )


@attrs.define
class AgentClient:
    """One connection to one agent process."""

    root: Path
    process: asyncio.subprocess.Process
    session: Session
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    ready: m.Ready | None = None
    _waiting: dict[int, asyncio.Queue[tuple[float, Message]]] = attrs.field(
        factory=lambda: defaultdict(asyncio.Queue)
    )
    _ids: int = 0
    _pump: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls,
        root: Path,
        *options: str,
        local: bool = True,
        build: str = BUILD,
        path: str | None = None,
    ) -> Self:
        """The agent; both sides have sent their Hello, or will."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "burst_agent.main",
                "--fd", str(theirs.fileno()), "--root", str(root),
                *(["--local"] if local else []), *options,
                pass_fds=[theirs.fileno()],
                env=dict(os.environ) if path is None else {**os.environ, "PATH": path},
                stderr=asyncio.subprocess.PIPE,
                stdin=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        reader, writer = await asyncio.open_connection(sock=ours)
        client = cls(root, process, Session(Role.CLIENT, build, os.getpid()), reader, writer)
        writer.write(client.session.hello())
        client.start_reading()
        return client

    def start_reading(self) -> None:
        self._pump = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> bytes:
        """Ends the connection and waits for the agent; what it wrote on stderr."""
        self.writer.close()
        _, stderr = await asyncio.wait_for(self.process.communicate(), _PATIENCE_S)
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait([self._pump])
        return stderr

    async def _read(self) -> None:
        while data := await self.reader.read(1 << 18):
            now_s = time.monotonic()
            try:
                received = self.session.receive(data)
            except VersionMismatch:
                return
            for message in received:
                key = message.token if isinstance(message, m.Pong) else getattr(message, "id", -1)
                self._waiting[key].put_nowait((now_s, message))

    def new_id(self) -> int:
        self._ids += 1
        return self._ids

    async def send(self, message: Message) -> None:
        self.writer.write(self.session.send(message))
        await self.writer.drain()

    async def next(self, request_id: int) -> Message:
        return (await self.next_timed(request_id))[1]

    async def next_timed(self, request_id: int) -> tuple[float, Message]:
        return await asyncio.wait_for(self._waiting[request_id].get(), _PATIENCE_S)

    def waiting(self, request_id: int) -> int:
        """Messages of this id that came and were not looked at."""
        return self._waiting[request_id].qsize()

    async def ask(self, message: Message) -> Message:
        """Sends, and waits for the first answer."""
        await self.send(message)
        return await self.next(message.id)  # type: ignore[union-attr]

    async def put(self, *datas: bytes) -> list[Digest]:
        digests = [Digest.of(data) for data in datas]
        blobs = tuple((m.CODEC_RAW, data) for data in datas)
        await self.send(m.PutBlobs(tuple(digests), blobs))
        return digests

    @classmethod
    async def start_ready(
        cls, tools: Tools, root: Path, *options: str, local: bool = True, path: str | None = None
    ) -> Self:
        """`start`, and it has chosen how to run things."""
        client = await cls.start(root, *options, local=local, path=path)
        await client.use_tools(tools.sandbox, tools.observer)
        return client

    async def use_tools(self, sandbox: bytes | None, observer: bytes | None) -> m.Ready:
        """Sends our compiled parts (their bytes) and waits until the agent is ready."""
        digests = [
            None if tool is None else (await self.put(tool))[0] for tool in (sandbox, observer)
        ]
        ready = await self.ask(m.UseTools(self.new_id(), digests[0], digests[1]))
        assert isinstance(ready, m.Ready), ready
        self.ready = ready
        return ready

    def request(
        self,
        action: Action,
        *,
        strong_keys: tuple[bytes, ...] = (),
        weak_key: bytes = bytes(32),
        lists_tried: int = -1,
        action_key: bytes | None = None,
        push: bool = False,
        request_id: int | None = None,
    ) -> m.Execute:
        key = action_key or Digest.of(repr(action).encode()).hash
        number = self.new_id() if request_id is None else request_id
        return m.Execute(number, weak_key, strong_keys, lists_tried, key, action, push)

    async def collect(self, request_id: int) -> Outcome:
        """All messages of a request until its end."""
        outcome = Outcome()
        while not outcome.messages or not isinstance(outcome.end, _ENDS):
            now_s, message = await self.next_timed(request_id)
            outcome.messages.append(message)
            outcome.times_s.append(now_s)
        return outcome

    async def execute(self, request: m.Execute) -> Outcome:
        await self.send(request)
        return await self.collect(request.id)

    async def fetch(self, digest: Digest) -> bytes:
        number = self.new_id()
        await self.send(m.Fetch(number, digest))
        return await self.receive_blob(number)

    async def receive_blob(self, request_id: int) -> bytes:

        data = b""
        while True:
            chunk = await self.next(request_id)
            assert isinstance(chunk, m.BlobChunk), chunk
            data += codec.decompress(chunk.codec, chunk.data, CHUNK_BYTES)
            if chunk.last:
                return data


def sandbox_processes(root: Path) -> list[int]:
    """Processes that have something below this agent's root open, mapped, mounted or in argv."""
    needle = os.fsencode(root)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        for part in ("cmdline", "mountinfo", "environ"):
            try:
                if needle in Path(f"/proc/{name}/{part}").read_bytes():
                    found.append(int(name))
                    break
            except OSError:
                continue
    return found


def system_inputs(toolchain: Path) -> tuple[Input, ...]:
    """Toolchain and libraries of this machine, by `local` hints: for agents with --local."""
    inputs = [
        Input(path, KIND_DIRECTORY, Digest.of(path), local=path)
        for path in (os.fsencode(toolchain), b"/usr")
    ]
    for name in ("bin", "lib", "lib32", "lib64", "sbin"):
        if os.path.islink("/" + name):
            target = os.readlink("/" + name).encode()
            inputs.append(Input(b"/" + name.encode(), KIND_SYMLINK, EMPTY, target=target))
        elif os.path.isdir("/" + name):
            path = b"/" + name.encode()
            inputs.append(Input(path, KIND_DIRECTORY, Digest.of(path), local=path))
    if os.path.isdir("/etc/alternatives"):
        path = b"/etc/alternatives"
        inputs.append(Input(path, KIND_DIRECTORY, Digest.of(path), local=path))
    return tuple(inputs)


@attrs.frozen
class Crate:
    """What a test compiles: one crate of one file, as cargo would call rustc for it."""

    toolchain: Path
    source: bytes
    name: str = "hello"
    kind: str = "lib"
    emit: str = "dep-info,metadata,link"
    extra: tuple[str, ...] = ()
    package: str = "/home/burst/pkg"
    out_dir: str = "/home/burst/target/debug/deps"
    incremental: Incremental | None = None

    @property
    def digest(self) -> Digest:
        return Digest.of(self.source)

    def argv(self) -> tuple[bytes, ...]:
        words = [
            f"{self.toolchain}/bin/rustc", "--crate-name", self.name, "--edition=2021",
            f"{self.package}/src/lib.rs", "--error-format=json",
            "--json=diagnostic-rendered-ansi,artifacts,future-incompat",
            "--crate-type", self.kind, f"--emit={self.emit}", "-C", "metadata=b0b0",
            "-C", "extra-filename=-b0b0", "--out-dir", self.out_dir, *self.extra,
        ]  # fmt: skip
        if self.incremental is not None:
            words += ["-C", f"incremental={self.incremental.path.decode()}"]
        return tuple(word.encode() for word in words)

    def action(self, **changes: Any) -> Action:
        source = Input(f"{self.package}/src/lib.rs".encode(), KIND_FILE, self.digest)
        action = Action(
            argv=self.argv(),
            env=((b"PATH", b"/usr/bin:/bin"), (b"CARGO_PKG_NAME", self.name.encode())),
            cwd=self.package.encode(),
            out_dir=self.out_dir.encode(),
            inputs=(*system_inputs(self.toolchain), source),
            incremental=self.incremental,
            scan_for=b"/home/burst/target",
            programs=(b"cc",),
            timeout_s=60,
            quiet=(str(self.toolchain).encode(), b"/usr", b"/lib", b"/lib64", b"/bin", b"/etc"),
        )
        return attrs.evolve(action, **changes)


def shell(script: str, *, gate: Path | None = None, **changes: Any) -> Action:
    """An action that runs /bin/sh instead of rustc: tests decide what it says, and when.

    `gate` is seen as /gate, live: the script can wait for files that the test makes there.
    """
    inputs = system_inputs(Path("/usr"))[1:]
    if gate is not None:
        path = os.fsencode(gate)
        inputs += (Input(b"/gate", KIND_DIRECTORY, Digest.of(path), local=path),)
    action = Action(
        argv=(b"/bin/sh", b"-c", script.encode()),
        env=((b"PATH", b"/usr/bin:/bin"),),
        cwd=b"/work",
        out_dir=b"/work/out",
        inputs=inputs,
        timeout_s=60,
        quiet=(b"/usr", b"/lib", b"/lib64", b"/bin", b"/etc"),
        programs=(b"/bin/sh",),
    )
    return attrs.evolve(action, **changes)


def announce(name: str, emit: str) -> str:
    """Shell words that say on stderr what rustc says of an artifact."""
    fields = f'"$message_type":"artifact","artifact":"/work/out/{name}","emit":"{emit}"'
    return f"echo '{{{fields}}}' >&2"


def wait_for(name: str) -> str:
    """Shell words that wait until the test makes this file in the gate."""
    return f"while [ ! -e /gate/{name} ]; do sleep 0.01; done"
