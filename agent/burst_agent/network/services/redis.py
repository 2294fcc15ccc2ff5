"""Redis, in memory alone: what is written is gone with the network."""

from __future__ import annotations

from typing import ClassVar

from burst_agent.network.namespace import Command
from burst_agent.network.services.service import Conversation, Dial, Installed, Service, look


class Redis(Service):
    name: ClassVar[str] = "redis"
    title: ClassVar[str] = "Redis"
    package: ClassVar[str] = "redis-server"
    keeps: ClassVar[bool] = False

    def find(self) -> Installed | None:
        server = look(("redis-server", "valkey-server"))
        return None if server is None else Installed({"server": server})

    def initialise(self, installed: Installed) -> list[Command]:
        del installed
        return []

    def serve(self, installed: Installed) -> Command:
        # Settings on the command line alone; `-` before an address: it need not be there.
        options = {
            "--port": (str(self.port),),
            "--bind": ("127.0.0.1", "-::1"),
            "--save": ("",),
            "--appendonly": ("no",),
            "--daemonize": ("no",),
            "--dir": (self.folder,),
        }
        words = [word for name, values in options.items() for word in (name, *values)]
        return Command((installed["server"], *words), self.log)

    async def ready(self, dial: Dial) -> bool:
        talk = await Conversation.begin(dial, self.port)
        try:
            talk.writer.write(b"PING\r\n")
            return await talk.reader.readline() == b"+PONG\r\n"
        finally:
            talk.end()
