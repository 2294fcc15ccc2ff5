"""In the middle of a boot somebody writes back labels that he read long before: a machine that was
suspended between its reading and its writing. The API knows no condition, so it lands.

At every point of the boot, each set of labels that the server had until then; and the machine that
boots goes on, or its process ends right there and another machine carries on. Against the cloud in
memory: seconds, in virtual time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import attrs
import pytest

from burst_lifecycle import access, labels
from burst_lifecycle.cloud.model import Kind, Server
from burst_lifecycle.errors import Busy, ServerProblem
from burst_lifecycle.hostkey import pin
from crashes import Killed, run
from lifecycles import Machine, box_of, fresh, second, the_server
from memory_bill import settled
from tiers import EVERYTHING

_RARELY = 3
"""`make test` takes every so many-th case."""


@pytest.fixture(autouse=True)
def _settled() -> Iterator[None]:
    with settled():
        yield


@attrs.define
class SlowWriter:
    """Watches the labels of the only server; at a point it writes back what it has read once."""

    machine: Machine
    at: int = -1
    """Which point."""
    version: int = 0
    """Which of the different sets of labels, the latest being 0."""
    kills: bool = False
    points: int = 0
    seen: list[dict[str, str]] = attrs.field(factory=list)
    cases: list[tuple[int, int]] = attrs.field(factory=list)
    name: str = ""

    def __call__(self, name: str) -> None:
        if name.startswith("step "):
            return
        held: dict[int, Server] = self.machine.account.held[Kind.SERVER]
        for server in held.values():
            if not self.seen or self.seen[-1] != dict(server.labels):
                self.seen.append(dict(server.labels))
        self.points += 1
        self.cases += [(self.points, version) for version in range(1, len(self.seen))]
        if self.points != self.at:
            return
        self.name = name
        (server,) = held.values()
        held[server.id] = attrs.evolve(server, labels=self.seen[-1 - self.version])
        if self.kills:
            raise Killed


def prepared(*, warm: bool) -> tuple[Machine, Machine]:
    """A machine that is about to boot, and another one of its owner's."""
    machine = fresh()
    other = second(machine)
    for one in (machine, other):
        run(access.owner_keys(one.lifecycle.context))
    if warm:
        run(machine.lifecycle.up("before"))
        machine.account.world.pass_time(3200)  # its dead man turns it off
    return machine, other


def cases(*, warm: bool) -> list[tuple[int, int]]:
    machine, _ = prepared(warm=warm)
    writer = SlowWriter(machine)
    machine.hook = writer
    run(machine.lifecycle.up("test"))
    return writer.cases


def again(machine: Machine) -> int:
    """As a daemon does: what failed is tried again with the next build."""
    for _ in range(2):
        with contextlib.suppress(Busy, ServerProblem):
            return int(run(machine.lifecycle.up("again")).server.id)
    return int(run(machine.lifecycle.up("again")).server.id)


@pytest.mark.parametrize("kills", [False, True], ids=["goes-on", "killed"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_labels_written_back_in_the_middle_of_a_boot(*, warm: bool, kills: bool) -> None:
    """It is the same server that both machines get, they can verify it, and it counts as ready for
    whoever only reads labels."""
    found = cases(warm=warm)
    assert len(found) > 20
    for at, version in found[:: 1 if EVERYTHING else _RARELY]:
        machine, other = prepared(warm=warm)
        writer = SlowWriter(machine, at, version, kills)
        machine.hook = writer
        with contextlib.suppress(Killed, Busy, ServerProblem):
            run(machine.lifecycle.up("test"))
        machine.hook = lambda _name: None
        where = f"{at} ({writer.name}), {version} before"
        assert writer.name, where
        first, then = (other, machine) if kills else (machine, other)
        server_id = again(first)
        assert again(then) == server_id, where
        assert run(other.lifecycle.join(make_volume=False)) is not None, where
        server, box = the_server(machine), box_of(machine)
        assert server.id == server_id
        assert server.labels[labels.PIN] == pin(box.host_key), where
        assert labels.READY in server.labels, where
        assert abs(box.hard_end_s - int(server.labels[labels.EXPIRES])) < 180, where
        assert machine.account.most_servers["alice"] == 1, where
        box.work()
        machine.account.world.pass_time(7200)
        for one in (machine, other):
            done = run(one.lifecycle.reap()).done
            assert Kind.SERVER not in {verdict.kind for verdict in done}, where
        assert box.running == 1, where
