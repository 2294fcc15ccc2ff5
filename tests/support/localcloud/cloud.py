"""`LocalCloud`: one running cloud, and everything a test may want to do to it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from .actions import Planned
from .billing import Bill
from .clock import Clock
from .control import Control
from .faults import Call, Fault, Faults, Journal
from .firewalls import filter_machines
from .machines import Backend, Quirk
from .model import Resource, Server, Volume
from .server import PREFIX, ApiServer
from .servers import went_off
from .world import Quota, Timings, Token, World

if TYPE_CHECKING:
    from hcloud import Client

Json = dict[str, Any]
R = TypeVar("R", bound=Resource)
DEFAULT: Final = "default"
PATIENCE_S: Final = 60.0


class LocalCloud:
    """Bind, serve, and in the end be gone: `with LocalCloud() as cloud`. See the package's text.

    `seed` makes ids the same in every run. `backend` is made by a function of the world; without
    one servers are on paper.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        clock: Clock | None = None,
        timings: Timings | None = None,
        backend: Callable[[World], Backend] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.clock = clock or Clock()
        self.world = World(self.clock, seed)
        if timings is not None:
            self.world.timings = timings
        if backend is not None:
            self.world.backend = backend(self.world)
        self.expected: dict[str, list[str]] = {}
        self.expected_incidents: list[str] = []
        self.faults = Faults()
        self.journal = Journal()
        self.default = self.world.add_token(DEFAULT, name=DEFAULT)
        self.control = Control(self)
        self._api = ApiServer(self.world, self.faults, self.journal, self.control, address)
        self._thread = threading.Thread(
            target=self._api.serve_forever, args=(0.02,), name="localcloud", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Also ends every machine and removes all that this cloud made on this computer."""
        self._api.close()
        self._thread.join()
        self.world.backend.close()

    # the oracle

    def expect(self, **names: Collection[str]) -> None:
        """What the cloud may hold at the end of the test, by kind (`servers`, `volumes`, …); of
        images their descriptions. Without a call: nothing."""
        self.expected = {kind: sorted(found) for kind, found in names.items() if found}

    def check(self) -> None:
        """AssertionError if it holds anything else, or a machine tells of an incident."""
        assert not self._api.crashes, "\n".join(self._api.crashes)
        incidents = self.world.backend.incidents
        assert incidents == self.expected_incidents, incidents
        self._finish_actions()
        found = self.holdings()
        assert found == self.expected, f"the cloud holds {found}, expected {self.expected}"

    def _finish_actions(self) -> None:
        """Time flies until all are over, also where it stood still; what never ends is left."""
        while True:
            self.settle()
            with self.world.lock:
                left = [one for one in self.world.engine.running() if one.due < float("inf")]
                # Those that wait for another are due later than they say.
                due = min((one.due for one in left if one.begun), default=None)
            if due is None:
                return
            self.clock.advance(max(0.0, due - self.clock.now()))
            self.faults.closing.wait(0.002)  # for work on real machines

    # how to reach it

    @property
    def root(self) -> str:
        host, port = self._api.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def endpoint(self) -> str:
        return self.root + PREFIX

    @property
    def token(self) -> str:
        """Read and write, of project `default`."""
        return self.default.value

    @property
    def secret(self) -> str:
        """For the control path (`control`'s text)."""
        return self._api.secret

    def environment(self) -> dict[str, str]:
        """Of a process that is to use this cloud."""
        local = "127.0.0.1,localhost"
        ours = {"HCLOUD_ENDPOINT": self.endpoint, "HCLOUD_TOKEN": self.token}
        return {**os.environ, **ours, "NO_PROXY": local, "no_proxy": local}

    def client(
        self, token: Token | str | None = None, *, timeout: tuple[float, float] = (5.0, 30.0)
    ) -> Client:
        """The real library. It polls every 20 ms."""
        from hcloud import Client

        value = token.value if isinstance(token, Token) else token
        return Client(
            value or self.token,
            api_endpoint=self.endpoint,
            poll_interval=0.02,
            poll_max_retries=3000,
            timeout=timeout,
        )

    # accounts

    def add_token(self, project: str = DEFAULT, *, readonly: bool = False) -> Token:
        """Of a project that is made if need be."""
        with self.world.lock:
            return self.world.add_token(project, readonly=readonly)

    def revoke(self, token: Token | str) -> None:
        value = token.value if isinstance(token, Token) else token
        self.world.tokens[value].revoked = True

    def quota(self, project: str = DEFAULT) -> Quota:
        """To be changed in place."""
        return self.world.projects[project].quota

    # what is scarce, slow or broken

    def set_capacity(self, type_: str, location: str, left: int | None) -> None:
        """How many more servers can be had; None: no end."""
        with self.world.lock:
            if left is None:
                self.world.capacity.pop((type_, location), None)
            else:
                self.world.capacity[type_, location] = left

    def hold(self, kind: str, ident: int, seconds: float) -> None:
        """Locked for that long (API time), as if by an action: `server`, `volume`, …"""
        with self.world.lock:
            self.world.holds[kind, ident] = self.clock.now() + seconds

    def fail_action(
        self,
        command: str,
        code: str = "action_failed",
        message: str = "injected",
        *,
        times: int = 1,
        after_s: float | None = None,
    ) -> None:
        """The next ones of that command fail after their request was accepted."""
        with self.world.lock:
            self.world.engine.planned.append(Planned(command, code, message, times, after_s))

    def next_server(self, *quirks: Quirk) -> None:
        """What is odd about the machine of the next server created."""
        with self.world.lock:
            self.world.quirks.append(set(quirks))

    def keep_volumes_attached(self, servers: int = 1) -> None:
        """Volumes of the next deleted servers count as attached until they are detached."""
        self.world.sticky_volumes = servers

    def fault(self, fault: Fault) -> None:
        self.faults.add(fault)

    # looking and waiting

    def settle(self) -> None:
        """Carry out what is due."""
        with self.world.lock:
            self.world.engine.settle()
            filter_machines(self.world)

    def wait_idle(self) -> None:
        """Until no action runs."""
        self.wait_for(lambda: not self.world.engine.running(), "no action runs")

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Until it holds. TimeoutError after a minute of real time."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self.settle()
            if condition():
                return
            self.faults.closing.wait(0.005)
        raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {what}")

    def all(self, kind: type[R], project: str = DEFAULT) -> list[R]:
        """The project's own, by id."""
        with self.world.lock:
            self.world.engine.settle()
            return [entry for entry in self.world.of(kind, project) if entry.project]

    def one(self, kind: type[R], name: str, project: str = DEFAULT) -> R:
        return next(entry for entry in self.all(kind, project) if entry.name == name)

    def server(self, name: str, project: str = DEFAULT) -> Server:
        return self.one(Server, name, project)

    def volume(self, name: str, project: str = DEFAULT) -> Volume:
        return self.one(Volume, name, project)

    def machine(self, name: str) -> Any:
        """What stands behind the server: a PaperMachine, or that of the backend in use."""
        return self.server(name).machine

    def guest_off(self, name: str) -> None:
        """The system inside powers off by itself, as a dead man does. On paper at once."""
        self.server(name).machine.switch_off()

    def crash(self, name: str) -> None:
        """The host dies under it: `off` without a word."""
        server = self.server(name)
        server.machine.power_off()
        went_off(self.world, server)

    def holdings(self) -> dict[str, list[str]]:
        """All that bills or stays, of all projects: kind to names (of images: descriptions)."""
        self.settle()
        found: dict[str, list[str]] = {}
        with self.world.lock:
            for plural, entries in self.world.resources.items():
                names = [_title(entry) for entry in entries.values() if entry.project]
                if names:
                    found[plural] = sorted(names)
        return found

    def bill(self, project: str | None = None) -> Bill:
        self.settle()
        with self.world.lock:
            return self.world.bill(project)

    def calls(self, operation: str = "*") -> list[Call]:
        return self.journal.of(operation)


def _title(entry: Any) -> str:
    return str(entry.name or entry.description)
