"""The dead man's real script, in a folder, with a clock that the test sets."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import burst_lifecycle.server as files
from burst_agent.lease import Entry, Lease, Share, State, start_time
from burst_protocol.errors import Draining
from tiers import EVERYTHING

SCRIPT = Path(files.__file__).parent / "deadman.sh"
BOOT_S = 5_000
"""A container's host has long been up when the server starts."""
HOUR_S = 3_600
AGE_S = 60

_FAKE = """#!/bin/sh
echo "{name} $*" >>"$CALLS"
{more}
"""


class Machine:
    """A root folder, a clock, and programs that only write down how they were called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run" / "burst"
        self.calls_file = root / "calls"
        self.programs = root / "programs"
        for folder in ("proc", "etc/burst", "var/lib/cloud/data", "mnt/burst/101", "programs"):
            (root / folder).mkdir(parents=True)
        (root / "proc" / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
        for name in ("systemctl", "umount", "sync", "curl"):
            self.program(name)
        self.set_clock(BOOT_S)

    def program(self, name: str, more: str = "") -> None:
        path = self.programs / name
        path.write_text(_FAKE.format(name=name, more=more))
        path.chmod(0o755)

    def set_clock(self, uptime_s: float) -> None:
        self.uptime_s = uptime_s
        (self.root / "proc" / "uptime").write_text(f"{uptime_s:.2f} 99999.00\n")

    def at(self, age_s: float) -> None:
        """So long after the server's creation."""
        self.set_clock(BOOT_S - AGE_S + age_s)

    def script(self, verb: str) -> str:
        done = subprocess.run(
            ["dash", str(SCRIPT), verb] if os.path.exists("/bin/dash") else [str(SCRIPT), verb],
            env={
                "PATH": f"{self.programs}:/usr/bin:/bin",
                "BURST_ROOT": str(self.root),
                "CALLS": str(self.calls_file),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.strip()

    def check(self) -> str:
        return self.script("check")

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def is_off(self) -> bool:
        return any(call.endswith("poweroff") for call in self.calls())

    def configure(self, **values: int) -> None:
        text = "".join(f"{name.upper()}={value}\n" for name, value in values.items())
        (self.root / "etc/burst/deadman.conf").write_text(text)

    def lease(self) -> Lease:
        return Lease(str(self.run), now_s=lambda: self.uptime_s)

    def agent(self) -> Share:
        return Share(self.lease())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Armed when it had just started."""
    machine = Machine(tmp_path / "machine")
    machine.script("arm")
    return machine


# When


def test_a_server_that_nobody_came_to_goes_after_a_quarter_of_an_hour(machine: Machine) -> None:
    """Counted from its own start, not its host's."""
    machine.at(AGE_S + 899)
    assert machine.check() == "stay"
    machine.at(AGE_S + 900)
    assert machine.check() == "off: no client since boot"
    assert machine.is_off


@pytest.mark.parametrize(
    ("age_s", "idle_s", "off"),
    [
        pytest.param(2_999, 2_000, False, id="before the edge"),
        pytest.param(3_000, 900, True, id="at the edge"),
        pytest.param(3_599, 900, True, id="at its end"),
        pytest.param(3_000, 899, False, id="not idle for long enough"),
        pytest.param(3_600, 2_000, False, id="the next hour is paid"),
        pytest.param(3 * HOUR_S + 3_100, 4_000, True, id="hours later"),
    ],
)
def test_an_idle_server_goes_at_the_edge_of_its_paid_hour(
    machine: Machine, age_s: int, idle_s: int, off: bool
) -> None:
    """A deletion earlier would save nothing, one later costs an hour."""
    machine.at(age_s - idle_s)
    share = machine.agent()
    share.attach()
    share.begin()
    share.end()
    machine.at(age_s)
    assert machine.check().startswith("off: idle") == off
    assert machine.is_off == off


def test_a_window_that_was_missed_comes_again(machine: Machine) -> None:
    """Something ran at the edge; the next hour has one, too."""
    machine.at(1_000)
    share = machine.agent()
    share.begin()
    machine.at(3_100)
    assert "something runs" in machine.check()
    share.end()
    assert machine.check() == "stay"
    machine.at(HOUR_S + 3_000)
    assert machine.check().startswith("off: idle")


def test_the_hard_end_asks_nobody(machine: Machine) -> None:
    """Twelve hours after boot, busy or not, and whoever holds the lock."""
    machine.at(1_000)
    share = machine.agent()
    share.begin()
    machine.at(AGE_S + 43_199)
    share.beat(busy=True)
    assert machine.check() == "stay"
    machine.at(AGE_S + 43_200)
    with share.lease.locked(write=False):
        assert machine.check() == "off: the hard end has passed"
    assert machine.is_off
    with pytest.raises(Draining):
        share.begin()


def test_what_the_lease_extends_is_what_counts(machine: Machine) -> None:
    """Hard end, keep-alive and age: three numbers both sides understand."""
    machine.configure(hard_end_s=100)
    machine.at(1_000)
    share = machine.agent()
    share.attach()
    assert machine.lease().extend(hard_end_in_s=50_000, keep_alive_s=7_000, age_s=2_000)["extended"]
    machine.at(2_100)  # it is 3100 s old
    assert machine.check() == "stay"
    machine.at(1_000 + 7_000)  # 9000 s: minute 30
    assert machine.check() == "stay"
    machine.at(1_000 + 8_400)  # 10400 s: minute 53
    assert machine.check().startswith("off: idle")


def test_a_hard_end_can_come_sooner(machine: Machine) -> None:
    """From the very next look."""
    machine.lease().extend(hard_end_in_s=10)
    machine.at(AGE_S + 11)
    assert machine.check() == "off: the hard end has passed"


def test_thresholds_come_from_the_configuration(tmp_path: Path) -> None:
    """Numbers only: whatever else stands there is nothing."""
    machine = Machine(tmp_path / "machine")
    times = files.DeadmanTimes(first_client_s=20, hard_end_s=1_000, age_at_boot_s=AGE_S)
    text = times.text() + "FIRST_CLIENT_S=$(touch /tmp/oh-no)\nPATH=/nowhere\nEDGE_S=\nrm -rf\n"
    (machine.root / "etc/burst/deadman.conf").write_text(text)
    machine.script("arm")
    assert (machine.run / "hard-end").read_text() == f"{BOOT_S + 1000}\n"
    machine.at(AGE_S + 20)
    assert machine.check() == "off: no client since boot"
    assert not Path("/tmp/oh-no").exists()


def test_every_time_of_the_configuration_is_one_the_script_reads() -> None:
    """And has the same default."""
    script = SCRIPT.read_text()
    for line in files.DeadmanTimes().text().splitlines():
        assert f"\n{line} " in script, line


def test_a_heartbeat_that_was_only_touched_counts(machine: Machine) -> None:
    """Whoever has no agent, a bake say, keeps a server with `touch`."""
    (machine.run / "heartbeat").touch()
    machine.at(AGE_S + 1_000)
    assert machine.check() == "stay"


def test_an_agent_that_is_dead_keeps_nothing(machine: Machine) -> None:
    """Its pid is another process's by now."""
    state = State()
    mine = start_time(os.getpid()) or 0
    state.agents = [Entry(os.getpid(), mine + 1, running=3), Entry(999_999_999, 5, detached=1)]
    (machine.run / "lease.json").write_bytes(state.encode())
    machine.at(AGE_S + 900)
    assert machine.check() == "off: no client since boot"


@pytest.mark.parametrize("detached", [False, True])
def test_never_while_something_runs(machine: Machine, detached: bool) -> None:
    """By the same lines that the lease itself reads, and the refusal leaves no trace."""
    share = machine.agent()
    share.begin(detached=detached)
    (machine.run / "heartbeat").unlink(missing_ok=True)
    machine.at(AGE_S + 900)
    assert machine.check() == "stay: no client since boot, but something runs"
    assert machine.lease().status()["state"] == "ready"
    share.begin()


def test_a_locked_lease_is_waited_for_and_then_left_alone(machine: Machine) -> None:
    """Until the next look."""
    machine.configure(lock_s=0)
    machine.at(AGE_S + 900)
    with machine.lease().locked(write=False):
        assert machine.check() == "stay: no client since boot, but the lease is locked"
    assert machine.check() == "off: no client since boot"


_WORKER = """
import mmap, sys, time
from burst_agent.lease import Lease, Share
from burst_protocol.errors import Draining
with open(sys.argv[2], "r+b") as file:
    inside = mmap.mmap(file.fileno(), 16)
share = Share(Lease(sys.argv[1]))
while not inside[1]:
    try:
        share.begin(prolongs=False)
    except Draining:
        inside[2] = 1
        continue
    inside[0] = 1
    time.sleep(0.002)
    inside[0] = 0
    share.end(prolongs=False)
    time.sleep(0.002)
"""


@pytest.mark.slow
def test_it_never_meets_a_starting_action(machine: Machine) -> None:
    """Raced (1,000 times by `make test-all`): whenever it says off, nothing is inside, and nothing
    comes inside any more."""
    shared = machine.root / "inside"
    shared.write_bytes(bytes(16))
    with open(shared, "r+b") as file:
        inside = mmap.mmap(file.fileno(), 16)
    argv = [sys.executable, "-c", _WORKER, str(machine.run), str(shared)]
    offs = stays = 0
    with subprocess.Popen(argv) as worker:
        (machine.root / "proc" / str(worker.pid)).symlink_to(f"/proc/{worker.pid}")
        machine.at(AGE_S + 900)
        try:
            for _ in range(1000 if EVERYTHING else 60):
                inside[2] = 0
                said = machine.check()
                if not said.startswith("off"):
                    assert "something runs" in said
                    stays += 1
                    continue
                offs += 1
                while not inside[2]:
                    assert not inside[0]
                    assert worker.poll() is None
                assert not inside[0]
                for name in ("off-since", "ending", "draining"):
                    (machine.run / name).unlink()
        finally:
            inside[1] = 1
            worker.wait(30)
    print(f"off {offs}, stayed {stays}")
    assert offs
    assert stays


# How


def test_the_order_of_the_end(machine: Machine) -> None:
    """No more work, the agent stopped, volumes unmounted, synced; only then off."""
    machine.at(AGE_S + 900)
    machine.check()
    assert machine.calls() == [
        "systemctl stop burst-agent*",
        f"umount {machine.root}/mnt/burst/101",
        "sync ",
        "systemctl --no-block poweroff",
    ]
    assert machine.lease().status()["state"] == "draining"
    assert machine.lease().cancel_drain() == {"cancelled": False, "why": "ending"}


def test_a_volume_that_is_held_does_not_keep_the_server(machine: Machine) -> None:
    """Lazily, then."""
    machine.program("umount", "case $1 in -l) ;; *) exit 32 ;; esac")
    machine.at(AGE_S + 900)
    machine.check()
    assert f"umount -l {machine.root}/mnt/burst/101" in machine.calls()
    assert machine.is_off


def test_a_power_off_that_does_not_happen_is_repeated_by_force(machine: Machine) -> None:
    """Some unit hangs in its stop."""
    machine.at(AGE_S + 900)
    machine.check()
    machine.at(AGE_S + 930)
    assert machine.check() == ""
    machine.at(AGE_S + 960)
    assert machine.check() == "off: by force"
    assert "systemctl --force --force poweroff" in machine.calls()


def test_self_deletion_is_opt_in_and_no_secret_is_an_argument(machine: Machine) -> None:
    """After everything is safe, and off comes all the same."""
    private = machine.root / "run" / "burst-private"
    private.mkdir()
    (private / "self-delete").write_text('url = "x"\nheader = "Authorization: Bearer s3cret"\n')
    machine.program("curl", "exit 22")
    machine.at(AGE_S + 900)
    machine.check()
    calls = machine.calls()
    assert f"curl -sS -K {private}/self-delete" in calls
    assert calls.index("sync ") < calls.index(f"curl -sS -K {private}/self-delete")
    assert calls[-1] == "systemctl --no-block poweroff"
    assert "s3cret" not in "".join(calls)


def test_nothing_is_written_through_what_somebody_laid_there(machine: Machine) -> None:
    """Builds' user may write into the folder."""
    precious = machine.root / "precious"
    precious.write_text("mine")
    for name in ("draining", "ending", "off-since"):
        (machine.run / name).symlink_to(precious)
    (machine.run / "draining").unlink()
    (machine.run / "off-since").unlink()
    machine.at(AGE_S + 900)
    machine.check()
    assert precious.read_text() == "mine"


# Arming


def test_arming_again_moves_nothing(machine: Machine) -> None:
    """cloud-init does it at every boot, setup.sh once more."""
    before = {path.name: path.read_text() for path in machine.run.iterdir()}
    machine.set_clock(BOOT_S + 500)
    machine.script("arm")
    assert {path.name: path.read_text() for path in machine.run.iterdir()} == before


def test_an_unarmed_server_arms_itself(tmp_path: Path) -> None:
    """The first look does it."""
    machine = Machine(tmp_path / "machine")
    assert machine.check() == "stay"
    assert (machine.run / "armed").read_text() == f"{BOOT_S}\n"


def boot_again(machine: Machine, wall: Callable[[int], int]) -> int:
    """What the machine thinks its age is after another boot, when its note was written then."""
    for path in machine.run.iterdir():
        path.unlink()
    note = machine.root / "var/lib/burst/created"
    created, _, of = note.read_text().partition(" ")
    note.write_text(f"{wall(int(created))} {of}")
    machine.set_clock(100)
    machine.script("arm")
    return 100 - int((machine.run / "created").read_text())


def test_a_server_that_was_off_is_older_than_its_boot(machine: Machine) -> None:
    """Its paid hour goes on while it is off."""
    assert 2_060 <= boot_again(machine, lambda created: created - 2_000) <= 2_070


def test_a_clock_that_went_back_is_not_believed(machine: Machine) -> None:
    """Created in the future: then it is as old as its boot."""
    assert boot_again(machine, lambda created: created + 5_000) == AGE_S


def test_an_images_own_note_does_not_count(machine: Machine) -> None:
    """It was made on the server that was baked."""
    (machine.root / "var/lib/cloud/data/instance-id").write_text("another\n")
    assert boot_again(machine, lambda created: created - 2_000) == AGE_S


# User data


def test_what_arms_it_is_one_entry_of_bootcmd(tmp_path: Path) -> None:
    """It brings its own files: bootcmd runs before write_files. Run here for real, elsewhere."""
    argv = list(files.arming(files.DeadmanTimes(first_client_s=7)))
    assert argv[4:7] == [files.FOLDER, "/etc/systemd/system", files.CONFIGURATION]
    machine = Machine(tmp_path / "machine")
    root = machine.root
    argv[4:7] = [f"{root}/lib", f"{root}/units", f"{root}/etc/burst/deadman.conf"]
    environment = {
        "PATH": f"{machine.programs}:/usr/bin:/bin",
        "BURST_ROOT": str(root),
        "CALLS": str(machine.calls_file),
    }
    for _ in range(2):
        subprocess.run(argv, env=environment, check=True)
    assert (machine.run / "armed").read_text() == f"{BOOT_S}\n"
    assert "FIRST_CLIENT_S=7\n" in (root / "etc/burst/deadman.conf").read_text()
    assert sorted(path.name for path in (root / "units").iterdir()) == [
        "burst-deadman.service",
        "burst-deadman.timer",
    ]
    assert machine.calls()[:2] == [
        "systemctl daemon-reload",
        "systemctl start --no-block burst-deadman.timer",
    ]


def test_it_fits_into_user_data() -> None:
    """32 KiB for all of it, keys included."""
    size = sum(map(len, files.arming(files.DeadmanTimes())))
    size += sum(len(text) for _, text in files.setup_files().values())
    assert size < 24 * 1024
