"""Real clients are killed (SIGKILL) between the API's answers and the commands on real servers.

Servers are containers with cloud-init, sshd, volumes, our agent. `make test` kills at the points
that tell most, `make test-all` at each one. Whatever was killed: either the next command carries
on, and everything works; or nobody comes, time passes, and one reap finds nothing of ours too much.
What is somebody else's stays as it was.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bake_mirror import mirror
from builds import machine
from localcloud import Image, LocalCloud, Server, Volume
from server_builds import admin, admin_json, configure, ready_servers, settle
from space import Space
from tiers import thorough
from trixie import Unavailable

pytest_plugins = ("cloud_fixtures",)
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1200)]

KILLED = Path(__file__).resolve().parents[1] / "support" / "killed.py"
_DAY_S = 86_400
_PATIENCE_S = 300
_MOST = 300
"""No command has more points."""
_TOGETHER = 8
"""So many points are one test: they share a cloud, and tests run side by side."""
_NEVER = "never"
_CHOSEN = os.environ.get("BURST_TEST_POINTS", "")
"""By hand: `3,9,15`, the numbers of some."""
_NOBODY = "BURST_TEST_NOBODY" in os.environ
"""By hand: after none of them somebody comes; of a bake that is the cheaper half by far."""

Points = tuple[str, ...]


def killed_at(*usual: str, about: int) -> pytest.MarkDecorator:
    """Cases with the points at which a command is killed: the usual ones, and in `make test-all`
    each, until it comes to its end without being killed. It has about so many."""
    starts = range(1, about, _TOGETHER)
    ends = [*starts[1:], _MOST]
    each = [
        tuple(str(number) for number in range(start, end))
        for start, end in zip(starts, ends, strict=True)
    ]
    cases = [tuple(_CHOSEN.split(","))] if _CHOSEN else thorough([usual], each)
    return pytest.mark.parametrize("points", cases, ids=lambda points: str(points[0]))


@contextmanager
def stage(cloud: LocalCloud, **settings: object) -> Iterator[Space]:
    """A developer with a project and `[hetzner]`."""
    with machine(CARGO_INCREMENTAL="0") as space:
        space.write(
            {
                "Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n',
                "Cargo.lock": 'version = 4\n\n[[package]]\nname = "app"\nversion = "0.1.0"\n',
                "src/main.rs": "fn main() {}\n",
            }
        )
        configure(space, cloud, **settings)
        yield space


def foreign(cloud: LocalCloud) -> dict[str, list[str]]:
    """Somebody else's, with names and labels that look like ours."""
    client = cloud.client()
    marked: Any = {"burst": "1", "burst-role": "access"}  # the library says `str`
    client.firewalls.create("burst-access-theirs", labels=marked)
    client.ssh_keys.create(
        "burst-theirs",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJTCnrF7jWLJRvVbfzBdV8aGQKS8TCSkhfGl1LbSJd1k",
        labels={"burst": "1"},
    )
    return cloud.holdings()


def killed(space: Space, at: str, *arguments: str, ahead_s: float = 0) -> tuple[bool, list[str]]:
    """`burst-admin`, until that point; whether it came there, and where it was."""
    log = space.folder / "points"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, KILLED, at, log, "admin", *arguments],
        cwd=space.project,
        env={**space.env, "BURST_TEST_CLOCK": str(ahead_s)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    struck = done.returncode == -signal.SIGKILL
    assert struck or done.returncode == 0, done.stderr.decode()
    return struck, log.read_text().splitlines()


def expire(space: Space, cloud: LocalCloud, theirs: dict[str, list[str]]) -> None:
    """Nobody comes: boot deadlines, hard ends and idle times pass, then a reaper comes by."""
    for _ in range(4):
        cloud.clock.advance(100 * _DAY_S)
        killed(space, _NEVER, "reap", "--quiet", ahead_s=cloud.clock.now() - time.time())
        if cloud.holdings() == theirs:
            return
    assert cloud.holdings() == theirs


def carry_on(space: Space, cloud: LocalCloud) -> None:
    """The next command finishes what was begun: one server, one volume, and it compiles there."""
    told = admin(space, "up").check()
    assert len(ready_servers(cloud)) == 1
    (volume,) = cloud.all(Volume)
    assert volume.labels["burst-fs"].startswith("ready-"), told.stderr
    assert volume.server is not None
    (server,) = [one for one in admin_json(space, "status")["resources"] if one["kind"] == "server"]
    assert server["lease"] is not None
    space.fresh_target()
    space.cargo("build", "--offline").check()
    space.stop()


def everything_goes(space: Space, cloud: LocalCloud, theirs: dict[str, list[str]]) -> None:
    admin(space, "down", "--everything", "--yes").check()
    assert cloud.holdings() == theirs


class Account:
    """Prints one line a point: which, where that was, what came of it, and the seconds it took."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._since = time.monotonic()

    def __call__(self, at: str, name: str, came: str) -> None:
        now = time.monotonic()
        print(f"{self._what}: {at} ({name}): {came}, {now - self._since:.0f} s", flush=True)
        self._since = now


def at_each(
    cloud: LocalCloud, space: Space, points: Points, before: Callable[[], None], *command: str
) -> None:
    """Kill it at each of the points; by turns somebody or nobody comes afterwards."""
    theirs = cloud.holdings()
    account = Account(command[0])
    for number, at in enumerate(points):
        before()
        struck, names = killed(space, at, *command)
        if not struck and at.isdigit():
            everything_goes(space, cloud, theirs)
            account(at, names[-1], "came to its end")
            break
        assert struck, f"{at} is none of {names}"
        if number % 2 or _NOBODY:
            expire(space, cloud, theirs)
            account(at, names[-1], "nobody came")
        else:
            carry_on(space, cloud)
            everything_goes(space, cloud, theirs)
            account(at, names[-1], "carried on")
    settle(space, cloud)
    cloud.expect(**theirs)


@killed_at("after ssh burst-agent volume format", about=88)
def test_up(real_cloud: LocalCloud, points: Points) -> None:
    """From nothing to a server that is ready."""
    foreign(real_cloud)
    with stage(real_cloud) as space:
        at_each(real_cloud, space, points, lambda: None, "up")


@pytest.mark.thorough
@killed_at("after ssh burst-agent lease drain", about=29)
def test_down(real_cloud: LocalCloud, points: Points) -> None:
    """In the middle of taking a server away in good order."""
    foreign(real_cloud)
    with stage(real_cloud) as space:
        at_each(real_cloud, space, points, lambda: up(space), "down", "--yes")


def up(space: Space) -> None:
    admin(space, "up").check()


@pytest.mark.thorough
@killed_at("after POST /volumes/{id}/actions/detach", about=33)
def test_reap(real_cloud: LocalCloud, points: Points) -> None:
    """One that is idle at the edge of its paid hour."""
    cloud = real_cloud
    foreign(cloud)
    with stage(cloud, keep_alive_s=1) as space:

        def idle() -> None:
            up(space)
            cloud.clock.advance(3000)

        at_each(cloud, space, points, idle, "reap")


@contextmanager
def killable_daemon(space: Space, at: str) -> Iterator[subprocess.Popen[str]]:
    """The user's daemon, which ends at that point."""
    log = space.folder / "points"
    log.unlink(missing_ok=True)
    with subprocess.Popen(
        [sys.executable, KILLED, at, log, "daemon"],
        env=space.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        try:
            yield process
        finally:
            process.kill()


@killed_at("before ssh burst-agent hostkey", about=80)
def test_a_build_that_boots(real_cloud: LocalCloud, points: Points) -> None:
    """The daemon dies while it boots a server that a unit waits for: the build ends as if nothing
    had been; the next one's carries on, and compiles there."""
    cloud = real_cloud
    theirs = foreign(cloud)
    account = Account("boot")
    with stage(cloud, boot_after_s=0, wait=True) as space:
        for number, at in enumerate(points):
            space.stop()  # the one that a wrapper has started after the killed one
            space.forget_store()
            space.fresh_target()
            with killable_daemon(space, at) as daemon:
                space.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0").check()
                cloud.wait_for(
                    lambda: daemon.poll() is not None or ready_servers(cloud),
                    "it ends",
                )
                struck = daemon.poll() is not None
            assert struck or at.isdigit()
            name = (space.folder / "points").read_text().splitlines()[-1]
            if number % 2 or _NOBODY:
                expire(space, cloud, theirs)
                account(at, name, "nobody came")
            else:
                space.fresh_target()
                space.cargo("build", "--offline", "--release").check()
                (server,) = ready_servers(cloud)
                assert {unit["executor"] for unit in space.units()} == {server}
                space.stop()
                everything_goes(space, cloud, theirs)
                account(at, name, "carried on")
            if not struck:
                account(at, name, "came to its end")
                break
        settle(space, cloud)
        cloud.expect(**theirs)


@pytest.mark.thorough
@killed_at("after POST /servers", about=90)
def test_a_bake(real_cloud: LocalCloud, points: Points) -> None:
    """The next `image build` makes one image, and no server is left. (In the middle of the recipe:
    `tests/cloud/test_bake.py`, in `make test`.)"""
    cloud = real_cloud
    cloud.quota().dedicated_cores = 50
    try:
        sources = str(mirror())
    except Unavailable as error:
        pytest.skip(str(error))
    command = ("image", "build", "--mirror", sources)
    theirs = foreign(cloud)
    account = Account("bake")
    with stage(cloud) as space:
        for number, at in enumerate(points):
            struck, names = killed(space, at, *command)
            if number % 4 == 2 and not _NOBODY:
                _, more = killed(space, _NEVER, *command)
                assert not cloud.all(Server), more[-1]
                assert len(cloud.all(Image)) == 1
                everything_goes(space, cloud, theirs)
                account(at, names[-1], "carried on")
            else:
                expire(space, cloud, theirs)
                account(at, names[-1], "nobody came")
            if not struck:
                account(at, names[-1], "came to its end")
                break
        everything_goes(space, cloud, theirs)
        settle(space, cloud)
        cloud.expect(**theirs)
