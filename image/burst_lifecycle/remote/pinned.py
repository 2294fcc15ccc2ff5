"""Commands on servers of our own: `context.Ssh` over `ssh.pinned_login`.

What goes through a shell there is a constant; the argv travels as JSON on stdin and is executed by
Python, which every image has because cloud-init needs it. Connections are kept and shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import DeadlinePassed, ServerProblem
from burst_protocol.errors import AgentGone, LinkLost

if TYPE_CHECKING:
    from burst_lifecycle.remote.ssh.channel import AgentChannel
    from burst_lifecycle.remote.ssh.pinned_login import PinnedConnection

# The line is read unbuffered: what follows it is the command's own stdin.
COMMAND: Final = (
    "exec python3 -I -S -c 'import json,os;"
    'a=json.loads(open(0,"rb",0,closefd=False).readline());os.execvp(a[0],a)\''
)
_LIMIT_BYTES: Final = 4 * 1024 * 1024
_TAIL_BYTES: Final = 64 * 1024
_Key = tuple[str, int, str, tuple[str, ...], str]


class PinnedSsh:
    """One machine's connections to its servers. `close` when done."""

    def __init__(self, *, connect_timeout_s: float = 10.0, silence_s: float = 15.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._silence_s = silence_s
        self._open: dict[_Key, PinnedConnection] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}

    async def connection(self, login: Login) -> PinnedConnection:
        """A live one; made if there is none. Errors as `connect_pinned`."""
        from burst_lifecycle.remote.ssh.pinned_login import connect_pinned  # noqa: PLC0415 - 0.2 s

        key = _key(login)
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = self._open.get(key)
            if found is None or found.is_closed:
                found = await connect_pinned(
                    login.host,
                    login.port,
                    user=login.user,
                    pins=login.pins,
                    key_path=str(login.key_path),
                    connect_timeout_s=self._connect_timeout_s,
                    silence_s=self._silence_s,
                )
                self._open[key] = found
            return found

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        """See `context.Ssh.run`."""
        connection = await self.connection(login)
        try:
            async with asyncio.timeout(timeout_s):
                channel = await connection.run(COMMAND)
                try:
                    return await _converse(channel, argv, stdin, connection.host_key)
                finally:
                    channel.close()
        except TimeoutError as error:
            detail = f"no end within {timeout_s:g} s"
            raise DeadlinePassed(detail, what=f"`{argv[0]}` on {login.host}") from error
        except LinkLost:
            await self.forget(login)
            raise

    async def follow(
        self,
        login: Login,
        argv: Sequence[str],
        *,
        stdin: AsyncIterable[bytes],
        show: Callable[[bytes], None],
        timeout_s: float,
    ) -> Answer:
        """See `context.Ssh.follow`."""
        connection = await self.connection(login)
        try:
            async with asyncio.timeout(timeout_s):
                channel = await connection.run(COMMAND)
                try:
                    return await _follow(channel, argv, stdin, show, connection.host_key)
                finally:
                    channel.close()
        except TimeoutError as error:
            detail = f"no end within {timeout_s:g} s"
            raise DeadlinePassed(detail, what=f"`{argv[0]}` on {login.host}") from error
        except LinkLost:
            await self.forget(login)
            raise

    async def forget(self, login: Login) -> None:
        """Hang up."""
        found = self._open.pop(_key(login), None)
        if found is not None:
            found.close()

    async def close(self) -> None:
        """Hang up everywhere."""
        while self._open:
            _, connection = self._open.popitem()
            connection.close()


async def _converse(
    channel: AgentChannel, argv: Sequence[str], stdin: bytes, host_key: str
) -> Answer:
    channel.write(json.dumps(list(argv)).encode() + b"\n" + stdin)
    with contextlib.suppress(AgentGone):  # it ended before it read everything: its status says why
        await channel.drain()
    channel.write_eof()
    parts = bytearray()
    while data := await channel.read(65536):
        parts += data
        if len(parts) > _LIMIT_BYTES:
            raise ServerProblem("says more than 4 MiB", what=channel.host)
    await channel.wait_closed()
    status = channel.exit_status
    if status is None:
        raise LinkLost("the command's end was not told", host=channel.host)
    return Answer(status, bytes(parts), channel.stderr_tail, host_key)


async def _follow(
    channel: AgentChannel,
    argv: Sequence[str],
    stdin: AsyncIterable[bytes],
    show: Callable[[bytes], None],
    host_key: str,
) -> Answer:
    async def feed() -> None:
        try:
            channel.write(json.dumps(list(argv)).encode() + b"\n")
            async for piece in stdin:
                channel.write(piece)
                await channel.drain()
            channel.write_eof()
        except AgentGone:
            pass  # it ended before it read everything: its status says why
        except BaseException:
            channel.close()  # or it would wait for the rest for ever
            raise

    feeding = asyncio.create_task(feed())
    tail = bytearray()
    try:
        while data := await channel.read(65536):
            show(data)
            tail += data
            del tail[:-_TAIL_BYTES]
        await channel.wait_closed()
        if feeding.done():
            feeding.result()
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    status = channel.exit_status
    if status is None:
        raise LinkLost("the command's end was not told", host=channel.host)
    return Answer(status, bytes(tail), channel.stderr_tail, host_key)


def _key(login: Login) -> _Key:
    return login.host, login.port, login.user, login.pins, str(login.key_path)
