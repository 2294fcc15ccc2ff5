"""`burst-admin`, a real process, is killed (SIGKILL) at the calls it makes, before their answers.

On paper servers, which never let anybody in: what is begun is never finished by the one who began
it. Then time passes, and any later command cleans up: nothing with our labels outlives its expiry,
and nothing foreign is touched. (Kills between and after the steps on a server are in
`test_crashes.py`, in virtual time.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import Any

import attrs
import pytest
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from builds import machine
from localcloud import LocalCloud
from server_builds import BURST_ADMIN, admin, configure, settle
from space import Space
from tiers import EVERYTHING

pytest_plugins = ("cloud_fixtures",)
# Four minutes; in `make test` are kills on servers that are there (`test_sigkill_on_servers.py`).
pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.timeout(1800)]

_DAY_S = 86_400
_CALLS = 40
"""By then `up` waits for a server that never lets it in."""


def foreign(cloud: LocalCloud) -> dict[str, list[str]]:
    """Somebody else's in the same account, some with names and labels that look like ours."""
    client = cloud.client()
    fsn1 = Location(name="fsn1")
    made = client.servers.create(
        "web", ServerType(name="cx23"), Image(name="debian-13"), location=fsn1
    )
    made.action.wait_until_finished()
    labels: Any = {"burst": "1", "burst-role": "store"}
    client.volumes.create(10, "burst-store-looks-like-ours", location=fsn1, labels=labels)
    client.firewalls.create("burst-access-theirs")
    cloud.wait_for(lambda: not cloud.world.engine.running(), "all that is ready")
    return cloud.holdings()


@attrs.define
class Killer:
    """Kills a process while the cloud has done what it asked for and has not said so."""

    cloud: LocalCloud
    process: subprocess.Popen[bytes] | None = None
    struck: bool = False

    def __call__(self, _call: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.struck = True
            os.kill(self.process.pid, signal.SIGKILL)


def killed_at(space: Space, cloud: LocalCloud, nth: int, *arguments: str) -> tuple[bool, list[str]]:
    """Run it until its `nth` call; whether it was killed, and what it had asked."""
    killer = Killer(cloud)
    before = len(cloud.journal.operations())
    cloud.faults.on("performed", killer, nth=nth)
    process = subprocess.Popen(
        [BURST_ADMIN, *arguments],
        cwd=space.project,
        env=space.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    killer.process = process
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=60)
    if process.poll() is None:
        process.kill()
        process.wait()
    cloud.faults.clear()
    return killer.struck, cloud.journal.operations()[before:]


def expire(space: Space, cloud: LocalCloud, expected: dict[str, list[str]]) -> None:
    """Boot deadlines, hard ends, idle volumes, keys: all is over, and a reaper comes by."""
    for _ in range(4):
        cloud.clock.advance(100 * _DAY_S)
        admin(space, "reap", "--quiet")
        if cloud.holdings() == expected:
            return
    assert cloud.holdings() == expected


def calls_to_try(operations: list[str]) -> list[int]:
    """All of them with BURST_TEST_ALL; else those that change something."""
    if EVERYTHING:
        return list(range(1, len(operations) + 1))
    return [number for number, name in enumerate(operations, 1) if not name.startswith("GET")]


def test_up_is_killed(paper_cloud: LocalCloud) -> None:
    """Up to where it waits for a server that does not answer."""
    cloud = paper_cloud
    theirs = foreign(cloud)
    others = {item.id for item in cloud.bill().items}
    with machine() as space:
        configure(space, cloud, boot_deadline_s=600)
        struck, operations = killed_at(space, cloud, _CALLS, "up")
        assert struck, operations
        assert {"POST /servers", "POST /ssh_keys", "POST /firewalls"} <= set(operations)
        expire(space, cloud, theirs)
        for nth in calls_to_try(operations):
            struck, made = killed_at(space, cloud, nth, "up")
            assert struck, made
            expire(space, cloud, theirs)
        settle(space, cloud, others)
    cloud.expect(**theirs)


def test_down_is_killed(paper_cloud: LocalCloud) -> None:
    """The next one carries on, and nobody else's goes with it."""
    cloud = paper_cloud
    theirs = foreign(cloud)
    others = {item.id for item in cloud.bill().items}
    everything = ("down", "--everything", "--yes")
    with machine() as space:
        configure(space, cloud, boot_deadline_s=600)

        def abandoned() -> None:
            """A server that nobody finished, past its boot deadline: it may go."""
            killed_at(space, cloud, _CALLS, "up")
            cloud.clock.advance(700)

        abandoned()
        struck, operations = killed_at(space, cloud, 1_000, *everything)
        assert not struck
        assert cloud.holdings() == theirs
        for nth in calls_to_try(operations):
            abandoned()
            killed_at(space, cloud, nth, *everything)
            admin(space, *everything)
            assert cloud.holdings() == theirs, f"killed at call {nth}, {operations[nth - 1]}"
        settle(space, cloud, others)
    cloud.expect(**theirs)
