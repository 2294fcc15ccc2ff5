"""Notices: what we have to say while plain cargo runs, whose output stays cargo's.

Stored in `$XDG_STATE_HOME/burst/cloud/notices.jsonl`, shown by the next `cargo burst` or
`burst-admin` command, live in `burst-admin status --watch`, and by the program in `notify`.
The same `key` is told once until it was shown, and its latest text counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import attrs

from burst_lifecycle import jsonlines
from burst_protocol.errors import BurstError

_COMPACT_BYTES: Final = 256 << 10
_NOTIFY_S: Final = 10.0
KEEP_S: Final = 30 * 86400.0
"""What nobody has looked at for so long is old news."""


class Level(StrEnum):
    INFO = "info"
    WARNING = "warning"
    MONEY = "money"
    """Something costs, or will."""


@attrs.frozen
class Notice:
    """`error` style: what happened, to what; then what to do. By home's clock."""

    text: str
    key: str
    """What it is about (`no-capacity`, `hard-end:4711`); a newer one replaces it."""
    level: Level = Level.INFO
    hint: str = ""
    at_s: float = 0.0
    id: str = ""

    @classmethod
    def of(cls, error: BurstError, *, key: str = "", level: Level = Level.WARNING) -> Notice:
        """What an error says; its code is the key unless there is a better one."""
        return cls(str(error), key or error.code, level, error.hint)


@attrs.define
class Notices:
    """Of one user on one machine; any number of processes write and read."""

    folder: str
    notify: Sequence[str] = ()
    """argv of a program that is told, too: level and text are appended as one argument each."""
    clock: Callable[[], float] = time.time

    @property
    def path(self) -> str:
        return os.path.join(self.folder, "notices.jsonl")

    def post(self, notice: Notice) -> bool:
        """Stores it; False if that very text waits to be shown already. Never raises OSError: a
        full disk must not stop what the notice is about."""
        with contextlib.suppress(OSError, BurstError):
            waiting = {known.key: known for known in self.pending()}
            known = waiting.get(notice.key)
            if known is not None and (known.text, known.hint) == (notice.text, notice.hint):
                return False
            stored = attrs.evolve(notice, id=secrets.token_hex(4), at_s=notice.at_s or self.clock())
            size = jsonlines.append(self.path, [_encode(stored)])
            if size > _COMPACT_BYTES:
                self._compact()
        return True

    def withdraw(self, key: str) -> None:
        """What waits to be said about that is not so any more."""
        self.shown(notice for notice in self.pending() if notice.key == key)

    async def tell(self, notice: Notice) -> None:
        """`post`, and if it is news the `notify` program, whose failure is nobody's."""
        if await asyncio.to_thread(self.post, notice) and self.notify:
            await _run([*self.notify, str(notice.level), _one_line(notice)])

    def pending(self) -> tuple[Notice, ...]:
        """Not shown yet, oldest first, one per key. Empty if they cannot be read."""
        try:
            lines = jsonlines.read(self.path)
        except OSError:
            return ()
        waiting: dict[str, Notice] = {}
        oldest_s = self.clock() - KEEP_S
        for line in lines.objects:
            shown = line.get("shown")
            if isinstance(shown, list):
                waiting = {key: one for key, one in waiting.items() if one.id not in shown}
                continue
            notice = _decode(line)
            if notice is not None and notice.at_s >= oldest_s:
                waiting.pop(notice.key, None)
                waiting[notice.key] = notice
        return tuple(waiting.values())

    def shown(self, notices: Iterable[Notice]) -> None:
        """A person has seen these."""
        ids = [notice.id for notice in notices]
        if ids:
            with contextlib.suppress(OSError, BurstError):
                jsonlines.append(self.path, [{"shown": ids}])

    def _compact(self) -> None:
        """Leaves those that wait. What another process appends in that moment can be lost for show,
        so whoever writes takes no lock; only two compactions must not meet."""
        fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            waiting = self.pending()
            temporary = f"{self.path}.new"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            jsonlines.append(temporary, [_encode(notice) for notice in waiting])
            os.rename(temporary, self.path)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def _one_line(notice: Notice) -> str:
    return f"{notice.text}; {notice.hint}" if notice.hint else notice.text


async def _run(argv: Sequence[str]) -> None:
    """No shell, no input, no output, ten seconds; a cancellation ends it, too."""
    try:
        child = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except (OSError, ValueError):
        return
    try:
        async with asyncio.timeout(_NOTIFY_S):
            await child.wait()
    except TimeoutError:
        pass
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _encode(notice: Notice) -> dict[str, Any]:
    line = attrs.asdict(notice)
    line["level"] = str(notice.level)
    return {key: value for key, value in line.items() if value != ""}


def _decode(line: Mapping[str, Any]) -> Notice | None:
    text, key, ident = (line.get(name) for name in ("text", "key", "id"))
    at_s, hint = line.get("at_s"), line.get("hint", "")
    if not all(isinstance(value, str) for value in (text, key, ident, hint)):
        return None
    if isinstance(at_s, bool) or not isinstance(at_s, int | float):
        return None
    level = line.get("level")
    known = Level(level) if level in set(Level) else Level.INFO
    return Notice(str(text), str(key), known, str(hint), float(at_s), str(ident))
