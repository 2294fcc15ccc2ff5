"""The ledger: what this machine asked the cloud for, and what became of it.

`$XDG_STATE_HOME/burst/cloud/ledger.jsonl`, append-only. An intent is durable *before* the request
that creates; so whatever happens to this process, its next command knows what to look for. Labels
are the truth about what exists; the ledger is the memory of what was, for costs, and the only one
of things that another token made.

Rotated at 1 MiB: the file is renamed to `ledger.NNNN.jsonl`, and what is open or unanswered is
written again into the new one, so that the oldest of the rotated files can go without losing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from burst_lifecycle import jsonlines
from burst_lifecycle.books import Books, add_up
from burst_lifecycle.events import Event, Unknown, Unreadable, decode, encode

ROTATE_BYTES: Final = 1 << 20
KEEP_FILES: Final = 16
_NAME: Final = "ledger.jsonl"
_ROTATED: Final = re.compile(r"ledger\.(\d{4,})\.jsonl")


@attrs.frozen
class History:
    """All events of one ledger, oldest first. `unreadable` lines (torn by a crash) are counted."""

    events: tuple[Event, ...] = ()
    unreadable: int = 0


@attrs.define
class Ledger:
    """Of one machine. Any number of processes may have it open; none holds a descriptor."""

    folder: str
    """`$XDG_STATE_HOME/burst/cloud`, see `places.Places.cloud`."""
    by: str
    """This machine, written on each line: `machine.machine_id`."""
    rotate_bytes: int = ROTATE_BYTES
    keep_files: int = KEEP_FILES

    @property
    def path(self) -> str:
        return os.path.join(self.folder, _NAME)

    def append(self, *events: Event) -> None:
        """All of them by one write, durable when it returns. Blocks for an fsync.

        DiskFull, or OSError: then nothing may be created (there would be no memory of it).
        """
        size = self._write(events)
        if size > self.rotate_bytes:
            # The line stands; another process may be rotating, or nobody can. Next time.
            with contextlib.suppress(OSError):
                self._rotate()

    async def record(self, *events: Event) -> None:
        """`append` from an event loop. A cancellation waits until the line stands."""
        writing = asyncio.ensure_future(asyncio.to_thread(self.append, *events))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                await asyncio.wait([writing])
            raise

    def read(self) -> History:
        """Every line of every file. OSError if one cannot be read."""
        # The newest first: if it is renamed meanwhile, its lines come twice, which does not matter.
        newest = jsonlines.read(self.path)
        lines = jsonlines.Lines()
        for path in self._rotated():
            lines += jsonlines.read(path)
        return parse(lines + newest)

    def books(self) -> Books:
        """What is open. OSError if a file cannot be read."""
        return add_up(self.read().events)

    def _write(self, events: Iterable[Event]) -> int:
        named = (event if event.by else attrs.evolve(event, by=self.by) for event in events)
        return jsonlines.append(self.path, [encode(event) for event in named])

    def _rotate(self) -> None:
        with self._alone() as alone:
            if not alone or os.stat(self.path).st_size <= self.rotate_bytes:
                return
            rotated = self._rotated()
            number = 1 + (_number(rotated[-1]) if rotated else 0)
            os.rename(self.path, os.path.join(self.folder, f"ledger.{number:04}.jsonl"))
            # From here on others make the new file; whoever still writes into the old one is read.
            books = self.books()
            reaps = () if books.last_good_reap is None else (books.last_good_reap,)
            self._write((*books.open, *books.growth, *books.pending, *reaps))
            for path in self._rotated()[: -self.keep_files]:
                os.unlink(path)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether we are the one that rotates; never waits."""
        fd = os.open(
            os.path.join(self.folder, "ledger.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(fd)

    def _rotated(self) -> list[str]:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        found = [os.path.join(self.folder, name) for name in names if _ROTATED.fullmatch(name)]
        return sorted(found, key=_number)


def parse(lines: jsonlines.Lines) -> History:
    """Of any copy: the one at home, or that on a volume. Newer events are skipped silently."""
    events: list[Event] = []
    unreadable = lines.unreadable
    for line in lines.objects:
        try:
            events.append(decode(line))
        except Unknown:
            continue
        except Unreadable:
            unreadable += 1
    return History(tuple(events), unreadable)


def _number(path: str) -> int:
    matched = _ROTATED.fullmatch(os.path.basename(path))
    return int(matched[1]) if matched else 0
