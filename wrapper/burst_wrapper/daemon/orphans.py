"""Stubs of a session whose program is gone: cargo makes both again once the stub is removed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from burst_protocol import messages as m
from burst_protocol import programs as p
from burst_wrapper import stubs

if TYPE_CHECKING:
    from burst_wrapper.daemon.executor import Executor


class Orphans:
    """Found at any time, but never removed while cargo is at work: it may be about to link one to
    where it belongs."""

    def __init__(self) -> None:
        self._paths: list[bytes] = []

    async def find_all(self, folder: bytes) -> None:
        """Every stub of this target directory: what it stands for cannot be reached."""
        found = await asyncio.to_thread(list, stubs.find(folder))
        self._paths += [path for path, _ in found]

    async def find(self, folder: bytes, executor: Executor) -> None:
        """Those whose program that agent has not any more. BurstError."""
        found = await asyncio.to_thread(list, stubs.find(folder))
        if not found:
            return
        link = executor.link
        digests = tuple(dict.fromkeys(digest for _, digest in found))
        answer = await link.ask(p.AskMissing(link.new_id(), digests))
        gone = set(answer.digests) if isinstance(answer, m.Missing) else set()
        self._paths += [path for path, digest in found if digest in gone]

    def remove(self) -> None:
        """What was found so far."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._paths.clear()
