"""The agent's networks in a process of their own, by lines of JSON on stdin and stdout.

Run by `networks.Driver`, also as another user and with the interpreter that hosts are sent: so it
imports the standard library and the agent only.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from burst_agent.network.entry import Entry
from burst_agent.network.network import Network
from burst_protocol.errors import BurstError

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000


class Driver:
    def __init__(self, folder: str, linger_s: float, deadline_s: float) -> None:
        self._network = Network(
            os.fsencode(folder),
            hidden=(os.fsencode(folder),),
            linger_s=linger_s,
            deadline_s=deadline_s,
        )
        self._entries: dict[int, Entry] = {}
        self._numbers = 0
        self._started: list[subprocess.Popen[bytes]] = []

    async def answer(self, do: str, words: list[Any]) -> Any:
        return await getattr(self, f"do_{do}")(*words)

    async def do_enter(self, mirror: str, services: list[str]) -> dict[str, Any]:
        entry = await self._network.enter(mirror, tuple(services))
        self._numbers += 1
        self._entries[self._numbers] = entry
        return {
            "entry": self._numbers,
            "notes": entry.notes,
            "resolv_conf": entry.resolv_conf.decode(),
            "own": entry.net_fd >= 0,
        }

    async def do_leave(self, number: int) -> None:
        await self._entries.pop(number).leave()

    async def do_close(self) -> None:
        await self._network.close()

    async def do_inside(self, number: int, argv: list[str]) -> dict[str, Any]:
        """Run a program there (0: on the machine itself). It keeps the capabilities that it gets by
        entering: the worst one."""
        done = await asyncio.to_thread(
            subprocess.run,
            argv,
            check=False,
            capture_output=True,
            preexec_fn=self._way(number),
        )
        return {"status": done.returncode, "said": (done.stdout + done.stderr).decode()}

    async def do_start(self, number: int, argv: list[str]) -> None:
        """As `inside`; it is left running when it has said a line."""
        await asyncio.to_thread(self._start, number, argv)

    def _start(self, number: int, argv: list[str]) -> None:
        way = self._way(number)
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, preexec_fn=way)  # noqa: PLW1509
        self._started.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    async def do_kill(self) -> None:
        """End what was started."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()

    def _way(self, number: int) -> Callable[[], None]:
        """setns is for one thread, which a forked child is."""
        entry = self._entries.get(number)
        libc = ctypes.CDLL(None, use_errno=True)

        def enter() -> None:
            if entry is None:
                return
            for fd, kind in ((entry.user_fd, _NEW_USER), (entry.net_fd, _NEW_NET)):
                if fd >= 0 and libc.setns(fd, kind):
                    raise OSError(ctypes.get_errno(), "setns")

        return enter

    async def do_talk(self, mirror: str, port: int, said: str) -> str:
        """Connect, say it, and hear one line."""
        sock = await self._network.connect(mirror, port)
        reader, writer = await asyncio.open_connection(sock=sock)
        writer.write(said.encode())
        line = await reader.readline()
        writer.close()
        return line.decode()

    async def do_sql(self, mirror: str, user: str, database: str, statement: str) -> list[str]:
        """What PostgreSQL answers: first values of rows, or `error CODE`."""
        sock = await self._network.connect(mirror, 5432)
        reader, writer = await asyncio.open_connection(sock=sock)
        names = f"user\0{user}\0database\0{database}\0\0".encode()
        writer.write(struct.pack("!II", 8 + len(names), 3 << 16) + names)
        words = statement.encode() + b"\0"
        writer.write(b"Q" + struct.pack("!I", 4 + len(words)) + words)
        answers: list[str] = []
        ready = 0
        while ready < 2:
            kind, size = struct.unpack("!cI", await reader.readexactly(5))
            data = await reader.readexactly(size - 4)
            ready += kind == b"Z"
            if kind == b"D":
                (length,) = struct.unpack_from("!i", data, 2)
                answers.append(data[6 : 6 + length].decode())
            elif kind == b"E":
                fields = {part[:1]: part[1:].decode() for part in data.split(b"\0") if part}
                answers.append(f"error {fields[b'C']}")
        writer.close()
        return answers


async def main() -> None:
    os.umask(0o077)  # as `burst_agent.single`
    driver = Driver(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(os.getpid()), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        do, *words = json.loads(line)
        try:
            answer: Any = {"ok": await driver.answer(do, words)}
        except BurstError as error:
            answer = {"code": error.code, "text": str(error)}
        print(json.dumps(answer), flush=True)
    await driver.do_kill()
    await driver.do_close()


if __name__ == "__main__":
    asyncio.run(main())
