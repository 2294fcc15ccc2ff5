"""Commands on servers of our own: one connection per login, kept while it works.

The real `context.Ssh`. Which server it is, its host key alone says, by the pins of its labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from burst_lifecycle.context import Answer, Login
from burst_lifecycle.errors import DeadlinePassed
from burst_protocol.errors import AgentGone, LinkLost

if TYPE_CHECKING:
    from burst_lifecycle.remote.ssh_transport import AgentChannel, SshConnection

_PIECE_BYTES: Final = 64 * 1024
_ANSWER_LIMIT_BYTES: Final = 64 << 20

_Key = tuple[str, int, str, tuple[str, ...], str]


def argv_line(argv: Sequence[str]) -> str:
    """One line that a POSIX shell takes apart into exactly these words.

    Only for servers of ours, whose login shells are known; ValueError for what no argv can hold.
    """
    if not argv or any("\0" in word for word in argv):
        raise ValueError("not an argv")
    return shlex.join(argv)


class PinnedSsh:
    """`async with`, or `aclose` it."""

    def __init__(self, *, connect_timeout_s: float = 10.0, silence_s: float = 15.0) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._silence_s = silence_s
        self._connections: dict[_Key, SshConnection] = {}
        self._locks: dict[_Key, asyncio.Lock] = {}

    async def connect(self, login: Login) -> SshConnection:
        """The connection of this login; a new one if there is none that works."""
        # asyncssh costs 0.2 s to import: only who has a server pays for it.
        from burst_lifecycle.remote.ssh_transport import (  # noqa: PLC0415
            SshTarget,
            connect_pinned,
        )

        key = _key(login)
        async with self._locks.setdefault(key, asyncio.Lock()):
            known = self._connections.get(key)
            if known is not None and not known.is_closed:
                return known
            made = await connect_pinned(
                SshTarget(login.host, login.user, login.port),
                pins=login.pins,
                key_path=login.key_path,
                connect_timeout_s=self._connect_timeout_s,
                silence_s=self._silence_s,
            )
            self._connections[key] = made
            return made

    async def run(
        self, login: Login, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30.0
    ) -> Answer:
        """See `context.Ssh`."""
        line = argv_line(argv)
        connection = await self.connect(login)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._talk(connection, line, stdin)
        except TimeoutError:
            detail = f"no end within {timeout_s:g} s"
            raise DeadlinePassed(detail, what=f"`{argv[0]}` on {login.host}") from None
        except LinkLost:
            await self.forget(login)
            raise

    async def _talk(self, connection: SshConnection, line: str, stdin: bytes) -> Answer:
        channel = await connection.run(line)
        try:
            writing = asyncio.create_task(_write(channel, stdin))
            try:
                said = await _read(channel)
            finally:
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError, LinkLost, AgentGone):
                    await writing
            await channel.wait_closed()
            status = channel.exit_status
            if status is None:
                raise LinkLost("the command ended without a status", host=channel.host)
            return Answer(status, said, channel.stderr_tail, connection.host_key)
        finally:
            channel.close()

    async def forget(self, login: Login) -> None:
        """Hang up, if there is a connection."""
        connection = self._connections.pop(_key(login), None)
        if connection is not None:
            connection.close()

    async def aclose(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


async def _write(channel: AgentChannel, data: bytes) -> None:
    for start in range(0, len(data), _PIECE_BYTES):
        channel.write(data[start : start + _PIECE_BYTES])
        await channel.drain()
    channel.write_eof()


async def _read(channel: AgentChannel) -> bytes:
    said = bytearray()
    while data := await channel.read(_PIECE_BYTES):
        said += data
        if len(said) > _ANSWER_LIMIT_BYTES:
            raise LinkLost("its answer does not end", host=channel.host)
    return bytes(said)


def _key(login: Login) -> _Key:
    return login.host, login.port, login.user, login.pins, str(login.key_path)
