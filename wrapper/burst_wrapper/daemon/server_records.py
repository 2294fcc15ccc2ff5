"""What the daemon writes into the ledger of servers: builds, and when it was attached to one.

The same lines are put onto the project's volume, as long as a server has it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections.abc import Sequence
from typing import Final

import attrs

from burst_lifecycle.boot import Booted
from burst_lifecycle.events import Command, Part, Session, encode
from burst_lifecycle.ledger import Ledger
from burst_lifecycle.project import Project
from burst_lifecycle.session import Lifecycle
from burst_protocol.errors import BurstError
from burst_wrapper.daemon.servers import Build

_GRACE_S: Final = 5.0
_KEPT: Final = 1000
"""So many builds wait for a volume at most."""
_APPEND: Final = 'cat >>"$1"'
_APPEND_S: Final = 10.0

_log: Final = logging.getLogger("burst")


class Records:
    """Of one project. Nothing waits for a line to be on the disk but `close`."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self.lifecycle: Lifecycle | None = None
        """Whose ledger; without one nothing is written."""
        self._server_id: int | None = None
        self._session = ""
        self._attached_s = 0.0
        self._writing: set[asyncio.Task[None]] = set()
        self._unshared: list[Command] = []
        """Not on the volume yet."""

    def attached(self, server_id: int) -> None:
        """From now on this server is used; nothing new if it was already."""
        if self._server_id != server_id:
            self._server_id = server_id
            self._session = secrets.token_hex(8)
            self._attached_s = time.time() + self._offset_s

    def detached(self) -> None:
        self.note()
        self._server_id = None

    def note(self) -> None:
        """Written again and again while we are attached: of several lines the longest counts."""
        if self._server_id is not None:
            self._write(self._until_now(self._server_id))

    def _until_now(self, server_id: int) -> Session:
        now_s = time.time() + self._offset_s
        return Session(
            at_s=now_s,
            session=self._session,
            id=server_id,
            start_s=self._attached_s,
            end_s=now_s,
            project=self._project.key,
        )

    async def share(self, booted: Booted | None) -> None:
        """Onto the volume: other machines' `audit` finds them there, and ours if it lost its own.

        As the builds' user, whose file it is: that might lead anywhere.
        """
        lifecycle = self.lifecycle
        if booted is None or lifecycle is None or booted.store.volume_id is None:
            return
        events = self._take_unshared()
        if not events:
            return
        ledger = lifecycle.context.ledger
        by = ledger.by if isinstance(ledger, Ledger) else ""
        lines = [json.dumps(encode(attrs.evolve(event, by=by))) for event in events]
        path = f"{booted.store.folder}/ledger.jsonl"
        try:
            answer = await lifecycle.context.ssh.run(
                booted.login,
                ["sh", "-c", _APPEND, "burst", path],
                stdin="".join(f"{line}\n" for line in lines).encode(),
                timeout_s=_APPEND_S,
            )
        except BurstError as error:
            _log.info("records are not on the volume yet: %s", error)
        else:
            if answer.status == 0:
                return
        self._give_back(events)

    def _take_unshared(self) -> list[Command | Session]:
        """What the ledger on the volume lacks: builds there since the last time, and the session
        until now. Nothing while nothing was built."""
        taken: list[Command | Session] = [*self._unshared]
        self._unshared.clear()
        if taken and self._server_id is not None:
            taken.append(self._until_now(self._server_id))
        return taken

    def _give_back(self, events: Sequence[Command | Session]) -> None:
        """They could not be written there."""
        self._unshared[:0] = [one for one in events if isinstance(one, Command)]
        del self._unshared[:-_KEPT]

    def ended(self, build: Build) -> None:
        """A build is over."""
        parts = ((Part.REMOTE, build.spent.remote_s), (Part.HOME, build.spent.home_s))
        offset_s = self._offset_s
        command = Command(
            at_s=build.last_s + offset_s,
            command=secrets.token_hex(8),
            id=self._server_id if build.spent.remote_s else None,
            verb=os.fsdecode(build.caller.verb) or "build",
            start_s=build.began_s + offset_s,
            end_s=build.last_s + offset_s,
            ok=not build.failed,
            split=tuple((part, round(spent_s, 3)) for part, spent_s in parts if spent_s),
            project=self._project.key,
        )
        self._write(command)
        if command.id is not None:
            self._unshared.append(command)
            del self._unshared[:-_KEPT]

    async def close(self) -> None:
        """Until all of it is written, five seconds at most."""
        self.note()
        if self._writing:
            await asyncio.wait(list(self._writing), timeout=_GRACE_S)

    @property
    def _offset_s(self) -> float:
        """Of the API's clock from ours."""
        lifecycle = self.lifecycle
        return 0.0 if lifecycle is None else lifecycle.context.cloud.offset_s or 0.0

    def _write(self, event: Command | Session) -> None:
        if self.lifecycle is None:
            return
        task = asyncio.create_task(self.lifecycle.context.ledger.record(event))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("not in the ledger: %s", error)
