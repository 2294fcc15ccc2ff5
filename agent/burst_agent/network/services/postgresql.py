"""PostgreSQL: any password is right, and who asks for the superuser `postgres` finds one, too."""

from __future__ import annotations

import glob
import os
import signal
import struct
from typing import ClassVar, Final

from burst_agent.network.namespace import Command
from burst_agent.network.services.service import (
    Conversation,
    Dial,
    Installed,
    Service,
    look,
)
from burst_protocol.services import USER

_FOLDERS: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
"""Debian's, the project's own packages for others, its default."""
_PROTOCOL_3: Final = 3 << 16
_SETUP: Final = (
    ("SELECT 1 FROM pg_roles WHERE rolname = 'postgres'", "CREATE ROLE postgres LOGIN SUPERUSER"),
    ("SELECT 1 FROM pg_database WHERE datname = 'burst'", "CREATE DATABASE burst"),
)
"""If the first one finds nothing, the second one is said. The database comes last: who finds it
needs nothing else."""


class PostgreSql(Service):
    name: ClassVar[str] = "postgresql"
    title: ClassVar[str] = "PostgreSQL"
    package: ClassVar[str] = "postgresql"
    stop_signal: ClassVar[int] = signal.SIGINT  # "fast": sessions are cut, data written

    def find(self) -> Installed | None:
        found = [folder for pattern in _FOLDERS for folder in glob.glob(pattern)]
        folders = sorted(found, key=_version, reverse=True)
        server = look(("postgres",), folders)
        if server is None:
            return None
        maker = look(("initdb",), (os.path.dirname(os.path.realpath(server)),))
        return None if maker is None else Installed({"server": server, "maker": maker})

    def initialise(self, installed: Installed) -> list[Command]:
        argv = (
            installed["maker"],
            *("--pgdata", f"{self.folder}/data", "--username", USER, "--auth=trust"),
            *("--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"),
        )
        return [Command(argv, self.log)]

    def serve(self, installed: Installed) -> Command:
        settings = {
            "listen_addresses": "127.0.0.1,::1",
            "port": str(self.port),
            "unix_socket_directories": self.folder,
            "max_connections": "200",
            # Test data: what a crash of the machine costs is made again. Not synchronous_commit,
            # which would cost the last writes of a server that is killed, and next to no time here.
            "fsync": "off",
            "full_page_writes": "off",
            "ssl": "off",
            "logging_collector": "off",
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return Command((installed["server"], "-D", f"{self.folder}/data", *words), self.log)

    async def ready(self, dial: Dial) -> bool:
        talk = await Conversation.begin(dial, self.port)
        try:
            await _log_in(talk)
            for question, statement in _SETUP:
                if not await _ask(talk, question):
                    await _ask(talk, statement)
            return bool(await _ask(talk, _SETUP[-1][0]))
        finally:
            talk.end()


def _version(folder: str) -> tuple[int, ...]:
    digits = "".join(c if c.isdigit() else " " for c in folder)
    return tuple(int(word) for word in digits.split())


# The frontend/backend protocol: www.postgresql.org/docs/15/protocol-message-formats.html


async def _log_in(talk: Conversation) -> None:
    names = f"user\0{USER}\0database\0postgres\0\0".encode()
    talk.writer.write(struct.pack("!II", 8 + len(names), _PROTOCOL_3) + names)
    await _rows(talk)


async def _ask(talk: Conversation, statement: str) -> int:
    """How many rows it gives; none if it fails, too."""
    words = statement.encode() + b"\0"
    talk.writer.write(b"Q" + struct.pack("!I", 4 + len(words)) + words)
    return await _rows(talk)


async def _rows(talk: Conversation) -> int:
    """DataRows until ReadyForQuery. EOFError if it is starting: it says so, and hangs up."""
    rows = 0
    while True:
        kind, size = struct.unpack("!cI", await talk.reader.readexactly(5))
        await talk.reader.readexactly(size - 4)
        if kind == b"Z":
            return rows
        rows += kind == b"D"
