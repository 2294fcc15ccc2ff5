"""What a cloud with real machines makes on this computer, by name, so that none of it is forgotten.

All of a run lies in one folder, /tmp/burst-cloud-RUN, which its owner keeps locked as long as it
lives; network namespaces and links are called bcRUN…; mounts and loop devices lie in the folder.
`leftovers` finds them, `sweep` removes those of runs whose owner is dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, TypeVar

T = TypeVar("T")
PARENT: Final = Path("/tmp")
PREFIX: Final = "burst-cloud-"
_RUN: Final = re.compile(r"[0-9a-f]{6}")
_NEWNET: Final = 0x40000000
PATIENCE_S: Final = 20.0
GRACE_S: Final = 3.0


def run(command: Sequence[str | Path], *, check: bool = True) -> str:
    """What it prints. RuntimeError with its last words."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise RuntimeError(f"{' '.join(map(str, command))}: {words}")
    return done.stdout


class Run:
    """The folder and the names of one run."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(3)
        self.folder = PARENT / f"{PREFIX}{self.id}"
        self.folder.mkdir(mode=0o711)
        self._lock: IO[bytes] = open(self.folder / "lock", "wb")  # noqa: SIM115
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def name(self, number: int) -> str:
        """Of a namespace or a link: at most 15 characters."""
        return f"bc{self.id}{number % 10**6}"

    def close(self) -> None:
        """RuntimeError if something of it is left (which is removed all the same)."""
        end = time.monotonic() + GRACE_S
        while (found := leftovers(self.id)) and time.monotonic() < end:
            time.sleep(0.02)  # the kernel may take a moment to let go
        remove(self.id)
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        if found:
            raise RuntimeError(f"left over of run {self.id}: {found}")


def runs() -> list[str]:
    """Ids of all whose folder exists."""
    names = (path.name.removeprefix(PREFIX) for path in PARENT.glob(f"{PREFIX}*"))
    return [name for name in names if _RUN.fullmatch(name)]


def sweep() -> list[str]:
    """Remove what dead owners left. Returns their ids."""
    swept = []
    for ident in runs():
        folder = PARENT / f"{PREFIX}{ident}"
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            with open(folder / "lock", "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(ident)
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(ident)
    return swept


def leftovers(ident: str) -> list[str]:
    """Processes, mounts, loop devices, namespaces and links of that run."""
    return [
        *(f"process {pid}" for pid in _processes(ident)),
        *(f"mount {path}" for path in _mounts(ident)),
        *(f"loop device {device}" for device in _loops(ident)),
        *(f"namespace {name}" for name in _namespaces(ident)),
        *(f"link {name}" for name in _links(ident)),
    ]


def remove(ident: str) -> list[str]:
    """End and remove all of it; returns what there was."""
    found = leftovers(ident)
    processes = _processes(ident)
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE_S
    while processes and time.monotonic() < end:
        processes = [pid for pid in processes if _alive(pid)]
        time.sleep(0.01)
    for path in sorted(_mounts(ident), reverse=True):
        run(["umount", "--lazy", path], check=False)
    for device in _loops(ident):
        run(["losetup", "--detach", device], check=False)
    for name in _namespaces(ident):
        run(["ip", "netns", "del", name], check=False)
    for name in _links(ident):
        run(["ip", "link", "del", name], check=False)
    return found


def _alive(pid: int) -> bool:
    """Not if it is a zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _processes(ident: str) -> list[int]:
    """Those whose command line names the run's folder, sessions of its sshds, and all that live in
    one of its network namespaces: what is inside a container tells no other way whose it is."""
    places = {os.stat(f"/run/netns/{name}").st_ino for name in _namespaces(ident)}
    folder = str(PARENT / f"{PREFIX}{ident}")
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                inside = os.stat(f"/proc/{name}/ns/net").st_ino in places
                line = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
                around = Path(f"/proc/{name}/environ").read_bytes()
                session = f"BURST_TEST_ROOT={folder}".encode() in around
                ours = inside or session or folder in line
                if ours and _alive(int(name)):
                    found.append(int(name))
    return found


def _mounts(ident: str) -> list[str]:
    folder = str(PARENT / f"{PREFIX}{ident}")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split()[4] for line in lines if line.split()[4].startswith(folder)]


def _loops(ident: str) -> list[str]:
    folder = str(PARENT / f"{PREFIX}{ident}")
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(folder):
                found.append(f"/dev/{backing.parts[3]}")
    return found


def _namespaces(ident: str) -> list[str]:
    place = Path("/run/netns")
    return [path.name for path in place.glob(f"bc{ident}*")] if place.is_dir() else []


def _links(ident: str) -> list[str]:
    if shutil.which("ip") is None:
        return []
    text = run(["ip", "-json", "link"], check=False)
    return [
        link["ifname"]
        for link in (json.loads(text) if text else [])
        if link["ifname"].startswith(f"bc{ident}")
    ]


def in_namespace(name: str, action: Callable[[], T]) -> T:
    """Its result, called in a thread that lives in the network namespace: sockets made there stay
    there."""
    results: list[T] = []
    failures: list[BaseException] = []

    def enter() -> None:
        try:
            with open(f"/run/netns/{name}", "rb") as handle:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(handle.fileno(), _NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {name}")
            results.append(action())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def listen_in(name: str, address: str, port: int) -> socket.socket:
    """A listening socket inside that namespace."""

    def listen() -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(16)
        return listener

    return in_namespace(name, listen)


def neighbour(address: str) -> str:
    """The address before it."""
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) - 1}"


def free_net() -> str:
    """A /24 of RFC 2544's range for tests that is not in use here."""
    used = run(["ip", "-4", "-o", "addr"]) + run(["ip", "-4", "route"])
    while True:
        net = f"198.19.{random.randrange(256)}"
        if f" {net}." not in used:
            return net
