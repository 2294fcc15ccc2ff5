"""What a database must say about itself to be started in a network."""

from __future__ import annotations

import abc
import asyncio
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import ClassVar

import attrs

from burst_agent.network.holder import DATA
from burst_agent.network.namespace import Command
from burst_protocol.services import SERVICES

Dial = Callable[[int], Awaitable[socket.socket]]
"""Connects to a port there. OSError."""


@attrs.frozen
class Installed:
    """A service's programs on this machine, by what the service calls them."""

    programs: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.programs[name]


class Service(abc.ABC):
    """Stateless: one object per kind of database."""

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    """Debian's, which has all that is needed."""
    stop_signal: ClassVar[int] = signal.SIGTERM
    """Asks for an orderly, quick end."""
    renamed: ClassVar[frozenset[str]] = frozenset()
    """Programs that are started under another name (see `holder.BIN`)."""
    files: ClassVar[dict[str, str]] = {}
    """What else lies in its folder."""
    keeps: ClassVar[bool] = True
    """Whether it has data that the next network of this mirror finds again."""

    @abc.abstractmethod
    def find(self) -> Installed | None:
        """What is installed; None if something lacks."""

    @abc.abstractmethod
    def initialise(self, installed: Installed) -> list[Command]:
        """Programs that make the data, one after the other, in an empty folder."""

    @abc.abstractmethod
    def serve(self, installed: Installed) -> Command:
        """The server, in the foreground."""

    @abc.abstractmethod
    async def ready(self, dial: Dial) -> bool:
        """Whether it answers queries; makes user and database on the way, if they are missing.
        OSError, EOFError: not yet."""

    @property
    def port(self) -> int:
        return SERVICES[self.name].port

    @property
    def folder(self) -> str:
        """As seen in the network."""
        return f"{DATA}/{self.name}"

    @property
    def log(self) -> str:
        return f"{self.folder}/log"


def look(names: Iterable[str], folders: Iterable[str] = ()) -> str | None:
    """The first of these programs in those folders, on PATH, or where Debian has servers."""
    places = (*folders, *os.environ.get("PATH", os.defpath).split(os.pathsep))
    path = os.pathsep.join((*places, "/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/bin"))
    for name in names:
        found = shutil.which(name, path=path)
        if found is not None:
            # Its own name, whatever that is a link to: redis-server is redis-check-rdb by another
            # one. But the folder's real one: NixOS has them below /run, which services do not see.
            folder, own = os.path.split(found)
            return os.path.join(os.path.realpath(folder), own)
    return None


class Conversation:
    """A connection for `ready`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def begin(cls, dial: Dial, port: int) -> Conversation:
        return cls(*await asyncio.open_connection(sock=await dial(port)))

    def end(self) -> None:
        self.writer.close()
