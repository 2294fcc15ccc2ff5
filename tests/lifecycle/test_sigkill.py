"""`burst-admin`, a real process, is killed (SIGKILL) at every call it makes, before its answer comes.

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
from pathlib import Path
from typing import Any

import attrs
import pytest
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from builds import machine
from localcloud import LocalCloud
from server_builds import BURST_ADMIN, admin, configure
from space import Space

pytest_plugins = ("cloud_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

_DAY_S = 86_400
_CALLS_LIMIT = 60


def foreign(cloud: LocalCloud) -> dict[str, list[str]]:
    """Somebody else's in the same account, one of them with names and labels that look like ours."""
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
    return {kind: list(names) for kind, names in cloud.holdings().items()}


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


def killed_at(space: Space, cloud: LocalCloud, nth: int, *arguments: str) -> tuple[bool, str]:
    """Run it until its `nth` call; whether it was killed, and what it had asked last."""
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
    made = cloud.journal.operations()[before:]
    return killer.struck, made[-1] if made else ""


def only_foreign(cloud: LocalCloud, expected: dict[str, list[str]]) -> None:
    found = {kind: list(names) for kind, names in cloud.holdings().items()}
    assert found == expected


def expire(space: Space, cloud: LocalCloud) -> None:
    """Boot deadlines, hard ends, idle volumes, keys: all of it, and a reaper that comes by."""
    for days in (0.1, 1, 10, 100):
        cloud.clock.advance(days * _DAY_S)
        admin(space, "reap", "--quiet")


def test_up_is_killed_at_every_call(paper_cloud: LocalCloud, tmp_path: Path) -> None:
    """Up to where it waits for a server that does not answer."""
    cloud = paper_cloud
    theirs = foreign(cloud)
    seen: list[str] = []
    with machine() as space:
        configure(space, cloud, boot_deadline_s=600)
        for nth in range(1, _CALLS_LIMIT):
            struck, last = killed_at(space, cloud, nth, "up")
            seen.append(last)
            assert struck, f"it ended by itself after {seen}"
            assert admin(space, "status").status == 0
            expire(space, cloud)
            only_foreign(cloud, theirs)
            if seen[-3:].count("GET /servers/{id}") == 3:
                break
        else:
            pytest.fail(f"it never came to wait for its server: {seen}")
    assert "POST /servers" in seen
    assert "POST /ssh_keys" in seen
    assert "POST /firewalls" in seen
    cloud.expect(**theirs)


def test_down_is_killed_at_every_call(paper_cloud: LocalCloud) -> None:
    """The next one carries on, and nobody else's goes with it."""
    cloud = paper_cloud
    theirs = foreign(cloud)
    with machine() as space:
        configure(space, cloud, boot_deadline_s=600)
        killed_at(space, cloud, 1_000, "status")
        for nth in range(1, _CALLS_LIMIT):
            # A server that nobody finished: its boot deadline is over, so it may go.
            killed_at(space, cloud, 22, "up")
            cloud.clock.advance(700)
            struck, _ = killed_at(space, cloud, nth, "down", "--everything", "--yes")
            admin(space, "down", "--everything", "--yes")
            expire(space, cloud)
            only_foreign(cloud, theirs)
            if not struck:
                break
        else:
            pytest.fail("it never ended")
    cloud.expect(**theirs)
