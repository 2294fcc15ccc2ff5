"""One connected wrapper: what may be said to it, and whether it still listens."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from typing import Final

STDOUT: Final = b"O"
STDERR: Final = b"E"
RENAME: Final = b"R"
EXIT: Final = b"X"
LOCAL: Final = b"L"
LOCAL_WITH_TOKEN: Final = b"J"
HEARTBEAT: Final = b"H"
ABORT: Final = b"A"
FAILURE: Final = b"F"


class Client:
    """Frames to one wrapper. After it is gone, or was answered, nothing more is sent."""

    def __init__(self, transport: asyncio.WriteTransport, pid: int) -> None:
        self.pid = pid
        self.answered = False
        self.relayed = False
        """Something of rustc's was shown: from now on only the same bytes may follow."""
        self.gone = asyncio.Event()
        self._stdout_shown = 0
        self._stdout_known = 0
        self._lines_shown: Counter[bytes] = Counter()
        self._lines_known: Counter[bytes] = Counter()
        self._transport = transport
        self._waiting: list[bytes] = []
        self._to_rename: list[bytes] = []
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def listening(self) -> bool:
        return not self.answered and not self.gone.is_set()

    def pause(self) -> None:
        self._writable.clear()

    def resume(self) -> None:
        self._writable.set()

    async def room(self) -> None:
        """Wait while the wrapper reads more slowly than rustc writes."""
        await self._writable.wait()

    def _send(self, tag: bytes, payload: bytes) -> None:
        if not self.listening:
            return
        if not self._waiting:
            # One system call, and one wake-up of the wrapper, for all that is said in one go.
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(tag + len(payload).to_bytes(4, "little") + payload)

    def _flush(self) -> None:
        if self._waiting and not self._transport.is_closing():
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()

    def again(self) -> None:
        """The unit begins anew (another run, or a stored result): what it repeats was shown.

        A warning must not come twice, and a second announcement of metadata makes cargo panic.
        """
        self._stdout_known = self._stdout_shown
        self._lines_known = Counter(self._lines_shown)

    def stdout(self, data: bytes) -> None:
        self.relayed = True
        known = min(self._stdout_known, len(data))
        self._stdout_known -= known
        self._stdout_shown += len(data) - known
        if data[known:]:
            self._send(STDOUT, data[known:])

    def stderr(self, line: bytes) -> None:
        """One line."""
        self.relayed = True
        if self._lines_known[line] > 0:
            self._lines_known[line] -= 1
            return
        self._lines_shown[line] += 1
        self._send(STDERR, line)

    def rename(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """The wrapper itself gives finished files their names."""
        self._to_rename += [temporary for temporary, _ in pairs]
        self._send(RENAME, b"\0".join(part for pair in pairs for part in pair))

    def heartbeat(self) -> None:
        self._send(HEARTBEAT, b"")

    def exit(self, code: int) -> None:
        self._finish(EXIT, code.to_bytes(4, "little", signed=True))

    def local(self, reason: str, token_source: bytes | None = None) -> None:
        """Compile at home; with a token source, take a token there first."""
        if token_source:
            self._finish(LOCAL_WITH_TOKEN, token_source)
        else:
            self._finish(LOCAL, reason.encode())

    def failure(self, text: str) -> None:
        """Only under BURST_REQUIRE_REMOTE: the wrapper prints this and exits 1."""
        self._finish(FAILURE, text.encode())

    def abort(self) -> None:
        """Another call owns the outputs now: end without touching anything."""
        self._finish(ABORT, b"")

    def leave(self) -> None:
        """Not a word: the wrapper takes it for the end of a daemon, and asks another one."""
        self.answered = True
        self._transport.abort()

    def _finish(self, tag: bytes, payload: bytes) -> None:
        """Our half of the connection ends. The other one does when the wrapper itself does: `gone`
        says that it can write no more, not only that it was told so."""
        self._send(tag, payload)
        self.answered = True
        self._flush()
        if not self._transport.is_closing():
            self._transport.write_eof()

    def left(self) -> None:
        """The wrapper has ended. It may have been killed, or broken off at a dead cargo's stderr,
        before it gave every file its name."""
        self.gone.set()
        for temporary in self._to_rename:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        self._to_rename.clear()
