"""Networks of mirrors for tests: the agent's in a process that can be killed, as any user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from burst_lifecycle.remote import remote_bundle

HERE: Final = Path(__file__).resolve().parent
PLAIN_UID: Final = 54_321
"""A user without a name, and without any subuids."""
WAIT_S: Final = 30.0


class Refused(Exception):
    """The driver's BurstError."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@attrs.frozen
class Process:
    """One incarnation of a pid."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        fields = _stat(pid)
        return None if fields is None else cls(pid, fields[19])

    @property
    def alive(self) -> bool:
        fields = _stat(self.pid)
        return fields is not None and fields[19] == self.started and fields[0] != "Z"


def _stat(pid: int) -> list[str] | None:
    """Fields from the third one on (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def below(pid: int) -> list[Process]:
    """All that descends from it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))) is not None:
            parents.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        todo += children
        found += [it for child in children if (it := Process.of(child)) is not None]
    return found


def begun_since(pid: int, before: list[Process], number: int) -> list[Process]:
    """What descends from it and did not then; waits until there are so many."""
    end_s = time.monotonic() + WAIT_S
    while len(begun := [it for it in below(pid) if it not in before]) < number:
        assert time.monotonic() < end_s, begun
        time.sleep(0.01)
    return begun


def all_gone(processes: list[Process]) -> None:
    """Waits for it: what is killed by the kernel needs a moment."""
    end_s = time.monotonic() + WAIT_S
    while any(it.alive for it in processes):
        assert time.monotonic() < end_s, [it for it in processes if it.alive]
        time.sleep(0.01)


class Driver:
    """`network_driver.py`, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.pid: int = json.loads(self._out.readline())
        """It may run below a shell."""

    def __call__(self, do: str, *words: Any) -> Any:
        """Refused, if it raises a BurstError."""
        self._in.write(json.dumps([do, *words]) + "\n")
        self._in.flush()
        answer = json.loads(self._out.readline())
        if "ok" in answer:
            return answer["ok"]
        raise Refused(answer["code"], answer["text"])


@attrs.frozen
class Starter:
    """Starts drivers as one kind of user."""

    python: tuple[str, ...]
    folder: Path
    become: tuple[str, ...] = ()

    @contextmanager
    def __call__(
        self, *before: str, linger_s: float = 30, deadline_s: float = 60, **env: str
    ) -> Iterator[Driver]:
        """`before`: a command in front of it all. Ends in good order, unless it is dead."""
        script = (HERE / "network_driver.py").read_text()
        settings = (str(self.folder), str(linger_s), str(deadline_s))
        process = subprocess.Popen(
            [*before, *self.become, *self.python, "-c", script, *settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], **env},
        )
        try:
            driver = Driver(process)
            yield driver
            if process.poll() is None:
                driver("kill")
                left = below(driver.pid)
                driver("close")
                all_gone(left)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(WAIT_S)
            assert process.stdout is not None
            process.stdout.close()


def as_we_are(folder: Path) -> Starter:
    return Starter((sys.executable,), folder)


def as_plain_user(folder: Path, bundle: Path) -> Starter:
    """With the Python and the agent that a host is sent, as a user who has nothing else there and
    may become nobody else (as systemd's NoNewPrivileges has it on servers)."""
    os.chown(folder, PLAIN_UID, PLAIN_UID)
    words = (bundle / "COMMAND").read_text().replace("{dir}", str(bundle)).splitlines()
    user = f"--reuid={PLAIN_UID}"
    become = ("setpriv", user, f"--regid={PLAIN_UID}", "--clear-groups", "--no-new-privs", "--")
    return Starter(tuple(words[: words.index("-c")]), folder, become)


def unpacked_bundle(folder: Path) -> Path:
    """A bundle as it lies on a host; `folder` must be one that others can enter."""
    bundle = remote_bundle.build(str(folder / "cache"))
    target = folder / "bundle"
    with tarfile.open(os.fsdecode(bundle.path)) as archive:
        archive.extractall(target, filter="data")
    for path in (folder, target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() else 0o444))
    return target


def needs(*programs: str) -> None:
    """Skips where one of them is not installed."""
    for program in programs:
        path = f"{os.environ['PATH']}:/usr/sbin:/usr/lib/postgresql/15/bin"
        if shutil.which(program, path=path) is None:
            pytest.skip(f"{program} is not installed")
