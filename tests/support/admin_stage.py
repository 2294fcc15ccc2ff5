"""`burst-admin` in this process, against a cloud in memory: what was printed, and the exit code."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from burst_lifecycle import ledger
from burst_lifecycle.admin import main
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.live import Live
from burst_lifecycle.admin.parser import make_parser
from burst_lifecycle.admin.ports import Control
from burst_protocol.errors import BurstError
from lifecycles import Machine, fresh

CONFIG = """\
[hetzner]
token = { file = "/nowhere/token" }
max_eur_per_hour = 2
"""


class Terminal(io.StringIO):
    """Somebody sits there."""

    def isatty(self) -> bool:
        return True


@attrs.frozen
class Said:
    code: int
    out: str
    err: str


@attrs.define
class Stage:
    """One machine's folders, its records, and the cloud behind it."""

    folder: Path
    machine: Machine = attrs.field(factory=fresh)
    environ: dict[str, str] = attrs.field(factory=dict)
    refusal: BurstError | None = None
    """Raised instead of a connection."""
    owner_known: bool = True

    def __attrs_post_init__(self) -> None:
        self.environ = {
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "XDG_DATA_HOME": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            **self.environ,
        }
        self.configure(CONFIG)
        self.machine.ledger = self.ledger  # type: ignore[assignment]  # a real one in its place

    def configure(self, text: str) -> None:
        path = self.folder / "config" / "burst" / "config.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def cloud_folder(self) -> str:
        return str(self.folder / "state" / "burst" / "cloud")

    @property
    def ledger(self) -> ledger.Ledger:
        return ledger.Ledger(self.cloud_folder, "0a1b2c3d")

    @property
    def now_s(self) -> float:
        return self.machine.account.world.now_s

    def desk(self, answers: str | None = None) -> Desk:
        """`answers` None: nobody can be asked."""
        stdin = io.StringIO() if answers is None else Terminal(answers)
        stderr = io.StringIO() if answers is None else Terminal()

        @asynccontextmanager
        async def opener(_desk: Desk) -> AsyncIterator[Control]:
            if self.refusal is not None:
                raise self.refusal
            yield Live(self.machine.lifecycle, "file /nowhere/token", self.owner_known)

        return Desk(
            {**self.environ, "NO_COLOR": "1"},
            stdin=stdin,
            stdout=io.StringIO(),
            stderr=stderr,
            opener=opener,
            clock=lambda: self.machine.account.world.now_s,
            cwd=str(self.folder),
        )

    def run(self, *words: str, answers: str | None = None) -> Said:
        """One command in a new process, as it were."""
        desk = self.desk(answers)
        code = main.run(make_parser().parse_args(words), desk)
        assert isinstance(desk.stdout, io.StringIO)
        assert isinstance(desk.stderr, io.StringIO)
        return Said(code, desk.stdout.getvalue(), desk.stderr.getvalue())


def words(text: str) -> Sequence[str]:
    """Without the widths of columns."""
    return text.split()
