"""CPU time of every process that ends, from the kernel: taskstats over generic netlink (root).

Source: linux/taskstats.h and Documentation/accounting/taskstats.rst. Used instead of rusage because
only this tells short-lived processes apart, and of cgroups because it needs none.
"""

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

import attrs

_GENERIC: Final = 16
_ID_CTRL: Final = 16
_GET_FAMILY: Final = 3
_FAMILY_ID, _FAMILY_NAME = 1, 2
_GET: Final = 1
_ASK_TGID, _LISTEN, _DEAF = 2, 3, 4
_STATS, _AGGREGATE = 3, (4, 5)
_ERROR: Final = 2
_RCVBUFFORCE: Final = 33
_CPU_NS, _COMM, _IDS, _TGID, _LEAST_BYTES = 72, 80, 128, 368, 372
"""Offsets in struct taskstats: cpu_run_virtual_total, ac_comm, ac_pid, ac_tgid (version 12)."""


class TaskstatsError(Exception):
    """The kernel does not tell us: not root, not the first pid namespace, or too old."""


@attrs.frozen
class Ended:
    """One thread that ended."""

    tgid: int
    pid: int
    parent: int
    name: str
    cpu_s: float


class Taskstats:
    """Hears of every thread of the machine that ends from now on."""

    def __init__(self) -> None:
        if os.readlink("/proc/self/ns/pid") != "pid:[4026531836]":
            raise TaskstatsError("the kernel tells only the first pid namespace who ended")
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC)
        self._asking = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC)
        for each in (self._socket, self._asking):
            each.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 128 << 20)
            each.bind((0, 0))
        self._family = _ID_CTRL
        answer = self._ask(self._asking, _GET_FAMILY, _FAMILY_NAME, b"TASKSTATS\0")
        self._family = int.from_bytes(dict(_attributes(answer[4:]))[_FAMILY_ID], "little")
        self._cpus = f"0-{(os.cpu_count() or 1) - 1}\0".encode()
        self._send(self._socket, _GET, _LISTEN, self._cpus, 5)
        self._reply(self._socket.recv(1 << 16))

    def close(self) -> None:
        """Listen no more."""
        self._send(self._socket, _GET, _DEAF, self._cpus, 1)
        self._socket.close()
        self._asking.close()

    def ended(self) -> list[Ended]:
        """All that ended since the last call. TaskstatsError if some were lost."""
        found: list[Ended] = []
        while True:
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError as error:
                raise TaskstatsError(f"some processes were not counted: {error}") from error
            for kind, stats in _statistics(self._reply(data)):
                if kind == _AGGREGATE[0]:
                    pid, parent = struct.unpack_from("<II", stats, _IDS)
                    name = stats[_COMM : _COMM + 32].partition(b"\0")[0].decode("utf-8", "replace")
                    tgid = struct.unpack_from("<I", stats, _TGID)[0]
                    found.append(Ended(tgid, pid, parent, name, _cpu_s(stats)))

    def of_running(self, tgid: int) -> float:
        """CPU seconds of a process, all its threads, also those that ended."""
        answer = self._ask(self._asking, _GET, _ASK_TGID, tgid.to_bytes(4, "little"))
        return sum(_cpu_s(stats) for _, stats in _statistics(answer))

    def _send(self, to: socket.socket, command: int, kind: int, value: bytes, flags: int) -> None:
        size = 4 + len(value)
        body = struct.pack("<BBHHH", command, 1, 0, size, kind) + value + bytes(-size % 4)
        to.send(struct.pack("<IHHII", 16 + len(body), self._family, flags, 1, 0) + body)

    def _ask(self, by: socket.socket, command: int, kind: int, value: bytes) -> bytes:
        self._send(by, command, kind, value, 1)
        return self._reply(by.recv(1 << 16))

    def _reply(self, data: bytes) -> bytes:
        size, kind = struct.unpack_from("<IH", data)
        if kind == _ERROR:
            number = -struct.unpack_from("<i", data, 16)[0]
            if number:
                raise TaskstatsError(f"taskstats: {os.strerror(number)}")
        return data[16:size]


def _cpu_s(stats: bytes) -> float:
    return int.from_bytes(stats[_CPU_NS : _CPU_NS + 8], "little") / 1e9


def _statistics(reply: bytes) -> Iterator[tuple[int, bytes]]:
    """Of a generic netlink message: whose (a thread's, a process's), and the struct."""
    for kind, value in _attributes(reply[4:]):
        for inner, stats in _attributes(value) if kind in _AGGREGATE else ():
            if inner == _STATS and len(stats) >= _LEAST_BYTES:
                yield kind, stats


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("<HH", data)
        yield kind, data[4:size]
        data = data[max(4, (size + 3) & ~3) :]
