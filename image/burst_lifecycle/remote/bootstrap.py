"""From an SSH connection to a running agent: find a Python there, install what is missing, start.

One round trip when this version is installed already. Everything goes over the one channel that
becomes the agent's: the remote command is a constant, nothing about us stands in a command line.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from burst_lifecycle.remote import remote_stub
from burst_protocol.errors import (
    AgentGone,
    BurstError,
    DiskFull,
    LinkLost,
    RemoteProtocolError,
    RemoteTooOld,
    Unreachable,
)

if TYPE_CHECKING:
    from burst_lifecycle.remote.remote_bundle import Bundle
    from burst_lifecycle.remote.ssh.channel import AgentChannel

_VERSIONS: Final = " ".join(f"python3.{minor}" for minor in range(16, 10, -1))

# For any login shell (sh, bash, zsh, fish, csh): one line in single quotes, without a single quote,
# backslash, newline or exclamation mark inside. The loader contains no string literal, so it needs
# no quotes: a line with the stub's length, then the stub. `m=...` is apart from its use so that a
# shell that echoes the command does not produce the marker.
COMMAND: Final = (
    "exec /bin/sh -c '"
    'PATH="$PATH:/usr/local/bin:/usr/bin:/bin"; export PATH; f=; '
    f"for p in python3 /usr/local/bin/python3 {_VERSIONS}; do "
    'q=$(command -v "$p") || continue; '
    'v=$("$q" -I -S -c "import sys;print(*sys.version_info[:2])" 2>/dev/null </dev/null) '
    "|| continue; "
    'set -- $v; if [ "$1" -eq 3 ] && [ "$2" -ge 11 ]; then '
    'exec "$q" -I -S -c "import sys;i=sys.stdin.buffer;exec(i.read(int(i.readline())))"; '
    'fi; f="$f $1.$2"; '
    "done; "
    'm=burst-none-1; echo; echo "$m:$f:"\''
)
_NONE_MARKER: Final = b"\nburst-none-1:"
_NOISE_LIMIT_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 64 * 1024
_FRAME_LIMIT_BYTES: Final = 64 * 1024
CACHE_PLACE: Final = "{cache}"
"""Within agent_args: replaced there by the remote user's cache directory."""


class Channel(Protocol):
    """What is needed of an AgentChannel."""

    @property
    def host(self) -> str: ...

    async def read(self, limit_bytes: int) -> bytes: ...

    async def read_exactly(self, size_bytes: int) -> bytes: ...

    def unread(self, data: bytes) -> None: ...

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    async def ending(self) -> str: ...


class Connection(Protocol):
    """What is needed of an SshConnection."""

    async def run(self, fixed_command: str) -> AgentChannel: ...


@attrs.frozen
class RemoteFacts:
    """What the stub said about the host."""

    python: str
    arch: str
    kernel: str
    libc: str
    home: str
    root: str
    free_bytes: int
    uploaded_bytes: int = 0
    """0 when this version was there already."""


async def start_agent(
    connection: Connection,
    bundle_provider: Callable[[], Awaitable[Bundle]],
    *,
    agent_args: Sequence[str],
    answer_timeout_s: float = 30.0,
    on_upload: Callable[[int, int], None] | None = None,
) -> AgentChannel:
    """A channel that speaks the agent's protocol from its next byte on.

    `agent_args` are constants; `{cache}` in them becomes the cache directory there. The timeout is
    for the first sign of life after login (shells can have long start files); what follows is
    watched by the connection's own patience with silence. `on_upload(sent_bytes, size_bytes)`.
    Raises RemoteTooOld, DiskFull, Unreachable, LinkLost, AgentGone, RemoteProtocolError.
    """
    channel, _ = await start_agent_with_facts(
        connection,
        bundle_provider,
        agent_args=agent_args,
        answer_timeout_s=answer_timeout_s,
        on_upload=on_upload,
    )
    return channel


async def start_agent_with_facts(
    connection: Connection,
    bundle_provider: Callable[[], Awaitable[Bundle]],
    *,
    agent_args: Sequence[str],
    answer_timeout_s: float = 30.0,
    on_upload: Callable[[int, int], None] | None = None,
    root: str = "",
) -> tuple[AgentChannel, RemoteFacts]:
    """As `start_agent`, with what the host said about itself. `root`: not in the user's cache."""
    bundle = await bundle_provider()
    channel = await connection.run(COMMAND)
    try:
        facts = await _converse(channel, bundle, agent_args, answer_timeout_s, on_upload, root=root)
    except BaseException:
        channel.close()
        raise
    return channel, facts


async def _converse(
    channel: Channel,
    bundle: Bundle,
    agent_args: Sequence[str],
    answer_timeout_s: float,
    on_upload: Callable[[int, int], None] | None,
    *,
    root: str = "",
) -> RemoteFacts:
    stub = await asyncio.to_thread(_stub_source)
    question = {
        "identity": bundle.identity,
        "size_bytes": bundle.size_bytes,
        "unpacked_bytes": bundle.unpacked_bytes,
        "arch": bundle.arch,
        "agent_args": list(agent_args),
        "root": root,
    }
    channel.write(b"%d\n%s" % (len(stub), stub) + _frame(b"Q", json.dumps(question).encode()))
    try:
        async with asyncio.timeout(answer_timeout_s):
            rest = await _skip_noise(channel)
    except TimeoutError as error:
        detail = f"logged in, but nothing answered within {answer_timeout_s:g} s"
        raise Unreachable(detail, host=channel.host) from error
    frames = _Frames(channel, rest)
    uploaded_bytes = 0
    kind, answer = await frames.next()
    if kind == b"W":
        uploaded_bytes = bundle.size_bytes
        # The stub may refuse in the middle (no space): it must be heard while we are still sending.
        upload = asyncio.create_task(_upload(channel, bundle, on_upload))
        try:
            kind, answer = await frames.next()
            if kind == b"S":
                await upload
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
    if kind == b"E":
        raise _refusal(channel.host, answer)
    if kind != b"S":
        raise RemoteProtocolError(f"frame {kind!r} from the stub")
    if frames.rest:
        # On a busy machine the agent's first words are there before we look.
        channel.unread(frames.rest)
    return _facts(answer, uploaded_bytes)


def _stub_source() -> bytes:
    # Through the loader, so that it also works from a zip file.
    loader: Any = remote_stub.__loader__
    source: str = loader.get_source(remote_stub.__name__)
    return source.encode()


def _frame(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload


async def _skip_noise(channel: Channel) -> bytes:
    """Read up to the marker; returns what followed it already."""
    # The line break that starts a marker may be the very first byte, or follow any noise.
    seen = b""
    while len(seen) < _NOISE_LIMIT_BYTES:
        data = await channel.read(_NOISE_LIMIT_BYTES)
        if not data:
            raise Unreachable(
                f"its shell ended before anything of ours ran: {await channel.ending()}",
                host=channel.host,
            )
        seen += data
        _, marker, rest = seen.partition(remote_stub.MARKER)
        if marker:
            return rest
        _, marker, rest = seen.partition(_NONE_MARKER)
        if marker and b"\n" in rest:
            raise _too_old(channel.host, rest)
    raise Unreachable(
        "its shell prints more than 64 KiB at login; silence it for non-interactive use",
        host=channel.host,
    )


def _too_old(host: str, rest: bytes) -> RemoteTooOld:
    found = rest.partition(b":")[0].decode("ascii", "replace").split()
    versions = ", ".join(dict.fromkeys(found))
    return RemoteTooOld(f"found only {versions}" if versions else "found no python3", host=host)


class _Frames:
    """Frames from the stub. `rest` is what came behind them already: the agent's words."""

    def __init__(self, channel: Channel, rest: bytes) -> None:
        self._channel = channel
        self.rest = rest

    async def _take(self, size_bytes: int) -> bytes:
        missing = size_bytes - len(self.rest)
        if missing > 0:
            try:
                self.rest += await self._channel.read_exactly(missing)
            except AgentGone as error:
                raise AgentGone(f"while it was set up: {error.detail}") from error
        taken, self.rest = self.rest[:size_bytes], self.rest[size_bytes:]
        return taken

    async def next(self) -> tuple[bytes, dict[str, Any]]:
        head = await self._take(5)
        size_bytes = int.from_bytes(head[1:], "little")
        if size_bytes > _FRAME_LIMIT_BYTES:
            raise RemoteProtocolError("the stub's answer is too long")
        try:
            answer = json.loads(await self._take(size_bytes))
        except ValueError as error:
            raise RemoteProtocolError("the stub's answer is no JSON") from error
        if not isinstance(answer, dict):
            raise RemoteProtocolError("the stub's answer is no object")
        return head[:1], answer


async def _upload(
    channel: Channel, bundle: Bundle, on_upload: Callable[[int, int], None] | None
) -> None:
    sent_bytes = 0
    handle = await asyncio.to_thread(os.open, bundle.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while data := await asyncio.to_thread(os.read, handle, _PIECE_BYTES):
            channel.write(_frame(b"T", data))
            await channel.drain()
            sent_bytes += len(data)
            if on_upload is not None:
                on_upload(sent_bytes, bundle.size_bytes)
        channel.write(_frame(b"T", b""))
        await channel.drain()
    finally:
        os.close(handle)


def _refusal(host: str, answer: dict[str, Any]) -> BurstError:
    detail = str(answer.get("detail", ""))
    match answer.get("kind"):
        case "space":
            return DiskFull(f"on {host}: {detail}")
        case "gone":
            return LinkLost(detail, host=host)
        case "arch" | "unusable":
            return Unreachable(f"the agent cannot run there: {detail}", host=host)
        case _:
            return RemoteProtocolError(f"setting up {host}: {detail}")


def _facts(answer: dict[str, Any], uploaded_bytes: int) -> RemoteFacts:
    return RemoteFacts(
        python=str(answer.get("python", "")),
        arch=str(answer.get("arch", "")),
        kernel=str(answer.get("kernel", "")),
        libc=str(answer.get("libc", "")),
        home=str(answer.get("home", "")),
        root=str(answer.get("root", "")),
        free_bytes=int(answer.get("free_bytes", 0)),
        uploaded_bytes=uploaded_bytes,
    )
