"""What a verb works with: streams, folders, this machine's records, and a way to the cloud.

The records (settings, ledger, notices) are read only when a verb asks for them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cached_property
from typing import Any, TextIO

from burst_lifecycle import books, ledger, machine, notices
from burst_lifecycle.admin.ports import Control
from burst_lifecycle.books import Account, Books
from burst_lifecycle.cloud.model import Inventory
from burst_lifecycle.errors import NotConfigured, TokenProblem, Unauthorized
from burst_lifecycle.events import Event
from burst_lifecycle.ledger import History as Records
from burst_lifecycle.places import Places
from burst_lifecycle.settings import Hetzner, Settings, load
from burst_protocol.errors import BurstError, DiskFull

Opener = Callable[["Desk"], AbstractAsyncContextManager[Control]]


class Desk:
    """Of one command. `opener` makes the connection to the cloud; by default the real one."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        stdin: TextIO | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        opener: Opener | None = None,
        clock: Callable[[], float] = time.time,
        cwd: str | None = None,
    ) -> None:
        self.environ = dict(os.environ if environ is None else environ)
        self.stdin = sys.stdin if stdin is None else stdin
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.clock = clock
        self.cwd = os.getcwd() if cwd is None else cwd
        self._opener = opener
        self.account: Account | None = None
        """Known once a verb has talked to the cloud."""
        self.for_project = False
        """Whether the connection is for the project of this folder: `up`."""
        self.comes_by = True
        """Whether this command also ends servers that bill for nothing."""
        self.refused = False
        """Whether the token was: nothing that bills can be ended with it."""
        self.seen: Inventory | None = None
        """The last look at everything."""

    # -- saying ------------------------------------------------------------------------------------

    def out(self, *lines: str) -> None:
        """Results, and nothing else."""
        for line in lines:
            self.stdout.write(line + "\n")
        self.stdout.flush()

    def say(self, *lines: str) -> None:
        """Everything else."""
        for line in lines:
            self.stderr.write(line + "\n")
        self.stderr.flush()

    def document(self, value: Mapping[str, Any], *, one_line: bool = False) -> None:
        """JSON on stdout."""
        import json  # noqa: PLC0415 - only for those who ask

        self.out(json.dumps(value, indent=None if one_line else 1, ensure_ascii=False))

    def ask(self, question: str) -> bool:
        """True for a yes. Only a terminal can answer; see `can_ask`."""
        self.stderr.write(f"{question} [y/N] ")
        self.stderr.flush()
        return self.stdin.readline().strip().lower() in {"y", "yes"}

    @property
    def can_ask(self) -> bool:
        return self.stdin.isatty() and self.stderr.isatty()

    def painted(self, style: str, words: str, stream: TextIO) -> str:
        """NO_COLOR, then FORCE_COLOR, then whether it is a terminal; each stream by itself."""
        codes = {"red": "31", "yellow": "33", "green": "32", "cyan": "36", "bold": "1"}
        if self.environ.get("NO_COLOR"):
            return words
        if not (self.environ.get("FORCE_COLOR") or stream.isatty()):
            return words
        return f"\x1b[{codes[style]}m{words}\x1b[0m"

    # -- this machine's records ----------------------------------------------------------------

    @cached_property
    def places(self) -> Places:
        environ = {os.fsencode(k): os.fsencode(v) for k, v in self.environ.items()}
        return Places.of(environ)

    @cached_property
    def settings(self) -> Settings:
        """The user's own: a project's file has no say about looking and deleting."""
        return load(self.places)

    @property
    def hetzner(self) -> Hetzner:
        """NotConfigured without `[hetzner]`."""
        found = self.settings.hetzner
        if found is None:
            raise NotConfigured("there is no [hetzner] in the configuration")
        return found

    @property
    def key_path(self) -> str:
        """This machine's private burst key; it need not be there yet."""
        return os.path.expanduser(self.hetzner.ssh_key_path or self.places.ssh_key)

    @property
    def has_key(self) -> bool:
        return os.path.exists(self.key_path)

    @cached_property
    def ledger(self) -> ledger.Ledger:
        name = machine.machine_id(machine.machine_key(self.places.cloud))
        return ledger.Ledger(self.places.cloud, name)

    @cached_property
    def history(self) -> Records:
        """What this machine's ledger says; empty if there never was one."""
        if not os.path.isdir(self.places.cloud):
            return Records()
        return self.ledger.read()

    def books(self) -> Books:
        return books.add_up(self.history.events)

    def last_good_reap_s(self) -> float | None:
        """API time, as far as it was known. Read anew at every call."""
        self.forget()
        last = self.books().last_good_reap
        return None if last is None else last.at_s

    @cached_property
    def notices(self) -> notices.Notices:
        return notices.Notices(self.places.cloud, clock=self.clock)

    async def remember(self, events: Sequence[Event]) -> None:
        """Into this machine's ledger; a full disk does not keep anybody from looking."""
        if events:
            try:
                await self.ledger.record(*events)
            except (OSError, DiskFull) as error:
                self.say(f"note: the ledger could not be written: {error}")
            self.forget()

    def forget(self) -> None:
        """Read the records anew when they are asked for next."""
        for name in ("history", "settings"):
            self.__dict__.pop(name, None)

    # -- the cloud --------------------------------------------------------------------------

    @asynccontextmanager
    async def control(self) -> AsyncIterator[Control]:
        """NotConfigured, TokenProblem, and whatever the cloud says."""
        opener = self._opener
        if opener is None:
            from burst_lifecycle.admin.connect import connect  # noqa: PLC0415 - hcloud, asyncssh

            opener = connect
        try:
            async with opener(self) as control:
                self.account = control.account
                yield control
                if self.comes_by and control.owner_known:
                    await self._come_by(control)
        except (Unauthorized, TokenProblem):
            # Also where a command has something to say without the cloud.
            self.refused = True
            raise

    async def _come_by(self, control: Control) -> None:
        """Somebody must, and this command has the token in its hand."""
        try:
            outcome = await control.come_by(self.say)
        except BurstError as error:
            self.say(f"note: nobody could look for what is to be deleted: {error}")
            return
        for what, why in outcome.failed:
            self.say(f"note: {what} could not be deleted: {why}")
        if outcome.deleted:
            await self.look(control)

    async def look(self, control: Control) -> Inventory:
        """Everything in the cloud's project, whoever's it is."""
        self.seen = await control.cloud.inventory("")
        return self.seen
