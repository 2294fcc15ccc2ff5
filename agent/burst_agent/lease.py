"""The lease on a server: who works here, since when nobody does, and until when it may live.

::

    /run/burst/            root:burst 0775
      lease.lock           the one lock (flock); everything below changes under it
      lease.json           the agents: pid, start time, runs, clients, last activity; notices
      draining             exists: no new client and no new run, for good. Its text is the reason
      ending               exists: unmounting or power-off has begun, `cancel` comes too late
      heartbeat            when there was a last sign of life (replaced, so its mtime says it too)
      hard-end, keep-alive, created, armed    one number each, for the dead man (a shell script)

All times are seconds of CLOCK_BOOTTIME, which is what /proc/uptime shows: no wall clock, and nobody
outside ever tells a date. A container shares that clock with its host, so `armed` holds when this
server started.

A drain is granted only if nothing runs, and whoever begins a run looks for `draining` under the
same lock: never both. An agent that died counts no more; its pid may be another's by now, so the
start time (proc(5), field 22) must fit, too. Standard library only: `burst-agent lease` is run
over ssh in the middle of everything.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from burst_protocol.errors import Draining, EnvironmentProblem
from burst_protocol.version import BUILD

FOLDER: Final = "/run/burst"
BEAT_S: Final = 5.0
"""How often the heartbeat is written at most."""
WARN_S: Final = 600.0
"""So long before the hard end clients are told."""
MAX_NOTICES: Final = 20
MAX_NOTICE_CHARS: Final = 500
MAX_ACTIONS: Final = 100
"""That are listed; all are counted."""
MAX_NAME_CHARS: Final = 64
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_READ_BYTES: Final = 1 << 20


def boottime_s() -> float:
    """CLOCK_BOOTTIME: goes on while the machine sleeps, and no clock that is set moves it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def start_time(pid: int) -> int | None:
    """Clock ticks between the machine's boot and that process's start; None: no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


class Entry:
    """One agent process."""

    __slots__ = ("actions", "active_s", "clients", "detached", "pid", "running", "start")

    def __init__(
        self,
        pid: int,
        start: int,
        *,
        running: int = 0,
        detached: int = 0,
        clients: int = 0,
        active_s: float = 0.0,
        actions: Iterable[tuple[str, float, bool]] = (),
    ) -> None:
        self.pid = pid
        self.start = start
        self.running = running
        """Runs from acceptance to their end, without the detached ones."""
        self.detached = detached
        """Runs that shall go on when their client is gone."""
        self.clients = clients
        self.active_s = active_s
        self.actions = list(actions)
        """Of the runs: what each compiles, since when, and whether it is detached. For people: what
        counts are the numbers above."""

    def line(self) -> str:
        """The dead man reads this with sed: keep names and order."""
        return (
            f'{{"pid":{self.pid},"start":{self.start},"running":{self.running},'
            f'"detached":{self.detached},"clients":{self.clients},"active_s":{self.active_s:.3f},'
            f'"actions":{json.dumps(self.actions[:MAX_ACTIONS], separators=(",", ":"))}}}'
        )

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.start


class State:
    """What lease.json holds."""

    __slots__ = ("active_s", "agents", "notices")

    def __init__(self) -> None:
        self.active_s = 0.0
        """The last activity of agents that are no longer listed; 0: none."""
        self.agents: list[Entry] = []
        self.notices: list[tuple[int, str]] = []
        """(number, text), numbers rising."""

    @classmethod
    def decode(cls, data: bytes) -> State:
        """An unreadable file counts as an empty one: every agent writes itself in again."""
        state = cls()
        try:
            raw: dict[str, Any] = json.loads(data)
            state.active_s = float(raw["active_s"])
            state.notices = [(int(number), str(text)) for number, text in raw["notices"]]
            state.agents = [
                Entry(
                    int(one["pid"]),
                    int(one["start"]),
                    running=int(one["running"]),
                    detached=int(one["detached"]),
                    clients=int(one["clients"]),
                    active_s=float(one["active_s"]),
                    actions=[
                        (str(name), float(since_s), bool(detached))
                        for name, since_s, detached in one.get("actions", ())
                    ],
                )
                for one in raw["agents"]
            ]
        except (ValueError, KeyError, TypeError):
            return cls()
        return state

    def encode(self) -> bytes:
        agents = ",\n".join(entry.line() for entry in self.agents)
        notices = json.dumps(self.notices)
        return (
            f'{{"active_s":{self.active_s:.3f},"notices":{notices},"agents":[\n{agents}\n]}}\n'
        ).encode()

    def prune(self) -> None:
        """Forgets agents that have ended without a word."""
        for entry in [entry for entry in self.agents if not entry.alive]:
            self.forget(entry)

    def forget(self, entry: Entry) -> None:
        self.agents.remove(entry)
        self.active_s = max(self.active_s, entry.active_s)

    @property
    def running(self) -> int:
        return sum(entry.running for entry in self.agents)

    @property
    def detached(self) -> int:
        return sum(entry.detached for entry in self.agents)

    @property
    def last_active_s(self) -> float:
        return max([self.active_s, *(entry.active_s for entry in self.agents)])


class Lease:
    """The files of one server. Every method is one short critical section. OSError if not ours."""

    def __init__(self, folder: str = FOLDER, *, now_s: Callable[[], float] = boottime_s) -> None:
        self.folder = folder
        self.now_s = now_s
        # A lock needs no right to write, so it matters not whether root or `burst` made the file.
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(f"{folder}/lease.lock", flags, 0o644)
        with contextlib.suppress(PermissionError):
            os.fchmod(self._lock, 0o644)
        self._raw: bytes | None = None
        self._state = State()

    def close(self) -> None:
        os.close(self._lock)

    @contextlib.contextmanager
    def locked(self, *, write: bool = True) -> Iterator[State]:
        """The state, for as long as nobody else can change it; written at the end of the block."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            raw = self._read()
            if raw != self._raw:
                self._raw, self._state = raw, State.decode(raw)
            try:
                yield self._state
            except BaseException:
                self._raw = None
                raise
            if write:
                self._write("lease.json", self._state.encode())
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    @property
    def draining(self) -> str | None:
        """The reason; None while work is welcome."""
        return self._text("draining")

    # What people and other machines ask: `burst-agent lease …`

    def status(self) -> dict[str, object]:
        with self.locked(write=False) as state:
            agents = [entry for entry in state.agents if entry.alive]
            now_s = self.now_s()
            hard_end_s = self.number("hard-end")
            return {
                "state": "ready" if self.draining is None else "draining",
                "clients": sum(entry.clients for entry in agents),
                "running": sum(entry.running for entry in agents),
                "detached": sum(entry.detached for entry in agents),
                "idle_s": self._idle_s(agents, state.last_active_s, now_s),
                "uptime_s": round(now_s - (self.number("armed") or 0.0), 3),
                "hard_end_in_s": None if hard_end_s is None else round(hard_end_s - now_s, 3),
                "keep_alive_s": self.number("keep-alive"),
                "boot_id": self._boot_id(),
                "build": BUILD,
                "actions": _listed(agents, now_s),
            }

    def drain(self, min_idle_s: float, reason: str) -> dict[str, object]:
        """Granted only if nothing runs and nothing has for `min_idle_s`; then nothing ever will."""
        with self.locked() as state:
            state.prune()
            now_s = self.now_s()
            idle_s = self._idle_s(state.agents, state.last_active_s, now_s)
            if self.draining is not None:
                why = ""
            elif state.detached:
                why = "detached"
            elif state.running:
                why = "running"
            elif idle_s < min_idle_s:
                why = "active"
            else:
                why = ""
                self._write("draining", f"{reason}\n".encode())
        if why:
            return {"granted": False, "why": why, "idle_s": idle_s}
        return {"granted": True, "idle_s": idle_s}

    def cancel_drain(self) -> dict[str, object]:
        """Work is welcome again, unless the end has begun."""
        with self.locked(write=False):
            if self._text("ending") is not None:
                return {"cancelled": False, "why": "ending"}
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.folder}/draining")
        return {"cancelled": True}

    def begin_end(self) -> bool:
        """From here on a drain is not taken back. False if none was granted."""
        with self.locked(write=False):
            if self.draining is None:
                return False
            self._write("ending", b"\n")
            return True

    def extend(
        self,
        hard_end_in_s: float | None = None,
        keep_alive_s: float | None = None,
        age_s: float | None = None,
    ) -> dict[str, object]:
        """Durations from now on. `age_s`: how old the server is, for the edge of its paid hour."""
        with self.locked(write=False):
            if self.draining is not None:
                return {"extended": False, "why": "draining"}
            now_s = self.now_s()
            numbers = {
                "hard-end": None if hard_end_in_s is None else now_s + hard_end_in_s,
                "keep-alive": keep_alive_s,
                "created": None if age_s is None else now_s - age_s,
            }
            for name, value in numbers.items():
                if value is not None:
                    self._write(name, f"{value:.0f}\n".encode())
        return {"extended": True}

    def notice(self, text: str) -> dict[str, object]:
        """Every attached client is told within `BEAT_S`, and later ones when they come."""
        with self.locked() as state:
            number = state.notices[-1][0] + 1 if state.notices else 1
            state.notices = [*state.notices, (number, text[:MAX_NOTICE_CHARS])][-MAX_NOTICES:]
        return {"noticed": True}

    # Inside

    def number(self, name: str) -> float | None:
        """What a file of one number says."""
        try:
            return float(self._text(name) or "")
        except ValueError:
            return None

    def _idle_s(self, agents: list[Entry], last_active_s: float, now_s: float) -> float:
        if any(entry.running or entry.detached for entry in agents):
            return 0.0
        since_s = max(last_active_s, self.number("armed") or 0.0)
        return round(max(0.0, now_s - since_s), 3)

    def _boot_id(self) -> str:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot_id = file.read().strip()
        armed = self._text("armed")
        return boot_id if armed is None else f"{boot_id}-{armed}"

    def _text(self, name: str) -> str | None:
        try:
            with open(f"{self.folder}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read(4096).strip()
        except FileNotFoundError:
            return None

    def _read(self) -> bytes:
        try:
            fd = os.open(f"{self.folder}/lease.json", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.read(fd, _READ_BYTES)
        finally:
            os.close(fd)

    def _write(self, name: str, data: bytes) -> None:
        """Atomically, whoever owns the old file: root and `burst` both write here."""
        temp = f"{self.folder}/.{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(temp, flags, 0o644)
        except FileExistsError:  # somebody died in the middle of this
            os.unlink(temp)
            fd = os.open(temp, flags, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        os.rename(temp, f"{self.folder}/{name}")
        if name == "lease.json":
            self._raw = data


class Share:
    """This process's entry in the lease. Only for one thread.

    A run costs two updates, each some tens of microseconds (`benchmarks/lease.py`).
    """

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self._mine = Entry(os.getpid(), start_time(os.getpid()) or 0)
        self._dirty = False
        self._beaten_s = float("-inf")
        self._noticed = 0
        self._hard_end_s: float | None = None
        with self._keeping(), lease.locked() as state:
            state.prune()
            self._put(state)

    def close(self) -> None:
        """Takes the entry away."""
        with contextlib.suppress(OSError), self.lease.locked() as state:
            self._put(state)
            state.forget(self._mine)
        self.lease.close()

    @property
    def clients(self) -> int:
        return self._mine.clients

    def attach(self) -> None:
        """A client came. Draining: it must go.

        That somebody is there is no activity: a daemon that stays connected all night keeps no
        server. The dead man only wants to know that anybody ever came.
        """
        self._change(clients=1, admit=True)
        if not os.path.exists(f"{self.lease.folder}/heartbeat"):
            self._beat()

    def detach(self) -> None:
        self._change(clients=-1)

    def begin(self, *, detached: bool = False, prolongs: bool = True, name: str = "") -> None:
        """A run is accepted; `name` is what people are told about it. Draining: it must not;
        EnvironmentProblem if nobody would know."""
        action = (name[:MAX_NAME_CHARS] or "?", round(self.lease.now_s(), 1), detached)
        self._mine.actions.append(action)
        try:
            self._change(running=not detached, detached=detached, admit=True, active=prolongs)
        except BaseException:
            self._mine.actions.remove(action)
            raise

    def end(self, *, detached: bool = False, prolongs: bool = True, name: str = "") -> None:
        wanted = (name[:MAX_NAME_CHARS] or "?", detached)
        before = list(self._mine.actions)
        for action in before:
            if (action[0], action[2]) == wanted:
                self._mine.actions.remove(action)
                break
        try:
            self._change(running=-(not detached), detached=-detached, active=prolongs)
        except BaseException:
            self._mine.actions = before
            raise

    def active(self) -> None:
        """A sign of life that is no run; written down by the next update or `beat`."""
        self._mine.active_s = self.lease.now_s()
        self._dirty = True

    def beat(self, *, busy: bool) -> None:
        """Every `BEAT_S`: writes down what was remembered; `busy` is a sign of life."""
        if busy:
            self.active()
        if self._dirty:
            self._change()
            self._beat()

    def news(self) -> list[str]:
        """What clients should be told and were not yet: notices, and that the hard end is near."""
        with self._keeping(), self.lease.locked(write=False) as state:
            texts = [text for number, text in state.notices if number > self._noticed]
            if state.notices:
                self._noticed = state.notices[-1][0]
        hard_end_s = self.lease.number("hard-end")
        if hard_end_s is not None and hard_end_s != self._hard_end_s:
            left_s = hard_end_s - self.lease.now_s()
            if left_s <= WARN_S:
                self._hard_end_s = hard_end_s
                minutes = max(0, round(left_s / 60))
                texts.append(f"this server ends in {minutes} minutes, busy or not")
        return texts

    def _change(
        self,
        *,
        running: int = 0,
        detached: int = 0,
        clients: int = 0,
        admit: bool = False,
        active: bool = False,
    ) -> None:
        """All of it or nothing, for us and for everybody else."""
        mine = self._mine
        before = (mine.running, mine.detached, mine.clients, mine.active_s)
        try:
            with self._keeping(), self.lease.locked() as state:
                reason = self.lease.draining if admit else None
                if reason is not None:
                    raise Draining(reason or "no reason given")
                mine.running += running
                mine.detached += detached
                mine.clients += clients
                if active:
                    mine.active_s = self.lease.now_s()
                self._put(state)
        except BaseException:
            mine.running, mine.detached, mine.clients, mine.active_s = before
            raise
        self._dirty = False
        if active:
            self._beat()

    def _put(self, state: State) -> None:
        for number, entry in enumerate(state.agents):
            if entry is self._mine:
                return
            if entry.pid == self._mine.pid and entry.start == self._mine.start:
                state.agents[number] = self._mine
                return
        state.agents.append(self._mine)

    def _beat(self) -> None:
        now_s = self.lease.now_s()
        if now_s - self._beaten_s >= BEAT_S:
            self._beaten_s = now_s
            with self._keeping(), self.lease.locked(write=False):
                self.lease._write("heartbeat", f"{now_s:.0f}\n".encode())

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise EnvironmentProblem(f"the lease cannot be kept: {error}") from error


def _listed(agents: Iterable[Entry], now_s: float) -> list[dict[str, object]]:
    """What runs, the longest first."""
    actions = sorted(
        (since_s, name, detached) for entry in agents for name, since_s, detached in entry.actions
    )
    return [
        {"crate": name, "for_s": round(max(0.0, now_s - since_s), 1), "detached": detached}
        for since_s, name, detached in actions[:MAX_ACTIONS]
    ]


def usable(folder: str = FOLDER) -> bool:
    """Whether this machine keeps a lease, and we may write into it."""
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)
