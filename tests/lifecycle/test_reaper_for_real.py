"""`reap --install` on a machine of its own: real systemd with lingering users, real cron."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiers import EVERYTHING
from workstation import HOME, USER, Workstation, workstation

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

_STAMP = f"{HOME}/.local/share/systemd/timers/stamp-burst-reap.timer"
_FAST = "[Timer]\nOnCalendar=*:*:0/2\nRandomizedDelaySec=0\nAccuracySec=100ms\n"
_SERVER = """
import sys, time
from hcloud import Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
client = Client(sys.argv[2], sys.argv[1], poll_interval=0.05)
labels = {"burst": "1", "burst-owner": "dev", "burst-role": "build", "burst-op": "0" * 16,
          "burst-ready": "1", "burst-expires": str(int(time.time()) - 60)}
made = client.servers.create(sys.argv[3], ServerType("cx23"), Image(name="debian-13"),
                             location=Location("fsn1"), labels=labels)
made.action.wait_until_finished()
"""
_NAMES = """
import sys
from hcloud import Client
print([one.name for one in Client(sys.argv[2], sys.argv[1]).servers.get_all()])
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Workstation]:
    with workstation(tmp_path / "machine") as machine:
        yield machine


def python(machine: Workstation, text: str, *words: str) -> str:
    import sys

    done = machine.as_user(sys.executable, "-c", text, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_timer_of_a_user_who_is_not_logged_in(machine: Workstation) -> None:
    """Installed, it fires, it deletes what has expired, and makes up for what it slept through."""
    machine.run("loginctl", "enable-linger", USER)
    runtime = machine.root / "run/user/1000/systemd"
    machine.until(runtime.exists, "the user's systemd runs")
    with machine.cloud() as cloud:
        account = (cloud["endpoint"], cloud["token"])
        machine.configure(cloud)
        done = machine.admin("reap", "--install")
        assert done.returncode == 0, done.stderr
        assert "by systemd, and one run through it was good" in done.stdout
        assert "warning" not in done.stderr  # it lingers, and that was seen
        unit = machine.root / f"{HOME}/.config/systemd/user/burst-reap.service".lstrip("/")
        assert cloud["token"] not in unit.read_text()
        timers = machine.as_user("systemctl", "--user", "list-timers", "--all").stdout
        assert "burst-reap.timer" in timers

        # It fires by itself (every two seconds: nobody waits five minutes here).
        python(machine, _SERVER, *account, "forgotten")
        folder = f"{HOME}/.config/systemd/user/burst-reap.timer.d"
        machine.as_user("mkdir", "-p", folder)
        machine.write(f"{folder}/fast.conf", _FAST, 0o644)
        assert machine.as_user("systemctl", "--user", "daemon-reload").returncode == 0
        machine.as_user("systemctl", "--user", "restart", "burst-reap.timer")
        machine.until(lambda: python(machine, _NAMES, *account) == "[]\n", "it is deleted")

        # The machine sleeps for an hour; `Persistent` runs it when it is back, not at the next
        # round time. (What systemd knows of the last time is this file's.)
        machine.as_user("rm", "-r", folder)
        machine.run("systemctl", "stop", "user@1000.service")
        stamp = machine.root / _STAMP.lstrip("/")
        assert stamp.exists()
        slept_s = stamp.stat().st_mtime - 3600
        os.utime(stamp, (slept_s, slept_s))
        python(machine, _SERVER, *account, "slept")
        before = machine.reaps()
        machine.run("systemctl", "start", "user@1000.service")
        machine.until(lambda: machine.reaps() > before, "it is made up for")
        machine.until(lambda: python(machine, _NAMES, *account) == "[]\n", "it is deleted")

        assert machine.admin("reap", "--uninstall").returncode == 0
        timers = machine.as_user("systemctl", "--user", "list-timers", "--all").stdout
        assert "burst-reap" not in timers


def test_refusals_leave_nothing(machine: Workstation) -> None:
    """A token in the environment only; one that is revoked. And who does not linger is told."""
    # A session of that user, as by a login.
    session = ["--unit=login", "--property=PAMName=login", f"--property=User={USER}"]
    machine.run("systemd-run", *session, "sleep", "infinity")
    runtime = machine.root / "run/user/1000/systemd"
    machine.until(runtime.exists, "the user's systemd runs")
    with machine.cloud() as cloud:
        machine.configure(cloud)
        config = f"{HOME}/.config/burst/config.toml"
        text = (machine.root / config.lstrip("/")).read_text()
        token = text.splitlines()[1]

        machine.write(config, text.replace(token, "token = { env = true }"), 0o644)
        done = machine.admin("reap", "--install", HCLOUD_TOKEN=cloud["token"])
        assert done.returncode == 41, done.stderr
        assert "a timer does not see HCLOUD_TOKEN" in done.stderr

        # A run through it that is not good.
        machine.write(config, text, 0o644)
        machine.write(f"{HOME}/token", "revoked\n", 0o600)
        done = machine.admin("reap", "--install", "systemd")
        assert done.returncode != 0
        assert "a run through systemd failed" in done.stderr, done.stderr
        units = machine.as_user("systemctl", "--user", "list-unit-files").stdout
        assert "burst-reap" not in units

        machine.write(f"{HOME}/token", cloud["token"] + "\n", 0o600)
        done = machine.admin("reap", "--install")
        assert done.returncode == 0, done.stderr
        assert "`loginctl enable-linger`" in done.stderr


def test_cron(machine: Workstation) -> None:
    """No systemd of the user's: one run within two minutes, then every five; other lines stay."""
    machine.run("systemctl", "start", "cron.service")
    with machine.cloud() as cloud:
        machine.configure(cloud)
        machine.write(f"{HOME}/mine", "0 3 * * * true\n", 0o644)
        assert machine.as_user("crontab", f"{HOME}/mine").returncode == 0
        python(machine, _SERVER, cloud["endpoint"], cloud["token"], "forgotten")
        done = machine.admin("reap", "--install")
        assert done.returncode == 0, done.stderr
        assert "by cron, and one run through it was good" in done.stdout
        assert python(machine, _NAMES, cloud["endpoint"], cloud["token"]) == "[]\n"
        lines = machine.as_user("crontab", "-l").stdout.splitlines()
        assert lines[0] == "0 3 * * * true"
        assert lines[1].startswith("*/5 * * * * ")
        assert cloud["token"] not in lines[1]
        if EVERYTHING:  # up to five minutes
            before = machine.reaps()
            end = 2 * machine.patience_s
            machine.until(lambda: machine.reaps() > before, "it fires again", end)
        assert machine.admin("reap", "--uninstall").returncode == 0
        assert machine.as_user("crontab", "-l").stdout == "0 3 * * * true\n"


def test_cron_that_is_not_running(machine: Workstation) -> None:
    """Refused after two minutes, and the crontab is as it was; `make test-all` waits for it."""
    if not EVERYTHING:
        pytest.skip("takes two and a half minutes")
    machine.run("systemctl", "stop", "cron.service")
    with machine.cloud() as cloud:
        machine.configure(cloud)
        done = machine.admin("reap", "--install", "cron")
        assert done.returncode != 0
        assert "is cron running?" in done.stderr
        assert "burst" not in machine.as_user("crontab", "-l").stdout
