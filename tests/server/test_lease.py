"""The lease: who works on a server, and that a drain is granted only to who finds it idle."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burst_agent import lease_cli
from burst_agent.lease import BEAT_S, WARN_S, Entry, Lease, Share, State, start_time
from burst_protocol.errors import Draining, EnvironmentProblem

NOW_S = 1000.0


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> str:
    run = tmp_path / "run"
    run.mkdir()
    (run / "armed").write_text("400\n")
    return str(run)


@pytest.fixture
def lease(folder: str, clock: Clock) -> Lease:
    return Lease(folder, now_s=clock)


def share_of(folder: str, clock: Clock) -> Share:
    """An agent's part, as another process would have it: with a lock of its own."""
    return Share(Lease(folder, now_s=clock))


def ask(folder: str, *argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = lease_cli.main(["--folder", folder, *argv])
    return code, json.loads(capsys.readouterr().out)


def test_a_server_that_nobody_used_is_idle_since_it_was_armed(lease: Lease) -> None:
    """And all of it is durations."""
    status = lease.status()
    assert status["state"] == "ready"
    assert status["idle_s"] == status["uptime_s"] == 600
    assert status["hard_end_in_s"] is None
    assert status["keep_alive_s"] is None
    assert str(status["boot_id"]).endswith("-400")


def test_what_runs_and_who_is_there_is_counted(folder: str, lease: Lease, clock: Clock) -> None:
    """Over all agents of the machine."""
    share = share_of(folder, clock)
    share.attach()
    share.begin()
    share.begin()
    share.begin(detached=True)
    share.end()
    status = lease.status()
    assert (status["clients"], status["running"], status["detached"]) == (1, 1, 1)
    assert status["idle_s"] == 0
    share.end()
    share.end(detached=True)
    clock.now_s += 30
    assert lease.status()["idle_s"] == 30


def test_what_runs_has_names(folder: str, lease: Lease, clock: Clock) -> None:
    """Crates and since when, the longest first: `burst-admin down` says what would be lost."""
    share = share_of(folder, clock)
    share.begin(name="serde")
    clock.now_s += 40
    share.begin(name='odd"\n\udcff', detached=True)
    share.begin(name="serde")
    clock.now_s += 2
    share.begin(name="x" * 1000)
    share.end(name="x" * 1000)
    assert lease.status()["actions"] == [
        {"crate": "serde", "for_s": 42.0, "detached": False},
        {"crate": 'odd"\n\udcff', "for_s": 2.0, "detached": True},
        {"crate": "serde", "for_s": 2.0, "detached": False},
    ]
    share.end(name="serde")
    share.end(name='odd"\n\udcff', detached=True)
    assert lease.status()["actions"] == [{"crate": "serde", "for_s": 2.0, "detached": False}]
    for _ in range(300):
        share.begin(name="many")
    status = lease.status()
    assert status["running"] == 301
    assert len(status["actions"]) == 100  # type: ignore[arg-type]  # it is a list


def test_an_end_that_could_not_be_written_down_is_told_again(
    folder: str, lease: Lease, clock: Clock
) -> None:
    """Number and name together."""
    share = share_of(folder, clock)
    share.begin(name="serde")
    os.rename(folder, f"{folder}.away")
    with pytest.raises(EnvironmentProblem):
        share.end(name="serde")
    os.rename(f"{folder}.away", folder)
    clock.now_s += 1
    share.begin(name="other")
    assert [one["crate"] for one in lease.status()["actions"]] == ["serde", "other"]  # type: ignore[attr-defined]
    share.end(name="serde")
    assert [one["crate"] for one in lease.status()["actions"]] == ["other"]  # type: ignore[attr-defined]


def test_a_client_that_only_stays_is_no_activity(folder: str, lease: Lease, clock: Clock) -> None:
    """A daemon is connected all night; the server's idle time goes on."""
    share = share_of(folder, clock)
    share.attach()
    share.beat(busy=False)
    clock.now_s += 100
    share.detach()
    assert lease.status()["idle_s"] == 700
    share.active()
    share.beat(busy=False)
    assert lease.status()["idle_s"] == 0


def test_runs_that_do_not_prolong_are_runs_all_the_same(
    folder: str, lease: Lease, clock: Clock
) -> None:
    """`cargo check` on every save keeps no server, but is not cut off in the middle either."""
    share = share_of(folder, clock)
    share.begin(prolongs=False)
    assert lease.drain(0, "test")["why"] == "running"
    share.end(prolongs=False)
    assert lease.status()["idle_s"] == 600
    assert not Path(folder, "heartbeat").exists()


@pytest.mark.parametrize(
    ("detached", "why"), [pytest.param(False, "running"), pytest.param(True, "detached")]
)
def test_no_drain_while_something_runs(
    folder: str, lease: Lease, clock: Clock, detached: bool, why: str
) -> None:
    """However long it has been silent."""
    share = share_of(folder, clock)
    share.begin(detached=detached)
    clock.now_s += 10_000
    assert lease.drain(0, "test") == {"granted": False, "why": why, "idle_s": 0}
    share.end(detached=detached)
    assert lease.drain(60, "test") == {"granted": False, "why": "active", "idle_s": 0}
    clock.now_s += 60
    assert lease.drain(60, "test") == {"granted": True, "idle_s": 60}


def test_a_granted_drain_is_final(folder: str, lease: Lease, clock: Clock) -> None:
    """No client, no run; asked again it is still granted, and nothing is extended."""
    share = share_of(folder, clock)
    share.attach()
    assert lease.drain(0, "the paid hour ends")["granted"]
    for refused in (share.attach, share.begin):
        with pytest.raises(Draining, match="the paid hour ends"):
            refused()
    status = lease.status()
    assert (status["state"], status["clients"], status["running"]) == ("draining", 1, 0)
    assert lease.drain(0, "again")["granted"]
    assert lease.draining == "the paid hour ends"
    assert lease.extend(hard_end_in_s=60) == {"extended": False, "why": "draining"}


def test_a_drain_is_taken_back_only_before_the_end_has_begun(
    folder: str, lease: Lease, clock: Clock
) -> None:
    """Unmounting and power-off mark it."""
    share = share_of(folder, clock)
    assert not lease.begin_end()
    lease.drain(0, "test")
    assert lease.cancel_drain() == {"cancelled": True}
    share.begin()
    share.end()
    lease.drain(0, "test")
    assert lease.begin_end()
    assert lease.cancel_drain() == {"cancelled": False, "why": "ending"}
    with pytest.raises(Draining):
        share.begin()


def test_an_agent_that_died_counts_no_more(folder: str, lease: Lease, clock: Clock) -> None:
    """Killed in the middle of runs: they died with it. Its last activity is not forgotten."""
    code = (
        "import sys\nfrom burst_agent.lease import Lease, Share\n"
        "share = Share(Lease(sys.argv[1], now_s=lambda: 990.0))\n"
        "share.attach()\nshare.begin()\nprint('up', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"up\n"
        assert lease.status()["running"] == 1
        assert lease.drain(0, "test")["why"] == "running"
        agent.kill()
    assert lease.status()["running"] == 0
    assert lease.drain(20, "test") == {"granted": False, "why": "active", "idle_s": 10}
    assert lease.drain(10, "test")["granted"]


def test_a_recycled_process_number_is_another_process(folder: str, lease: Lease) -> None:
    """The start time does not fit."""
    state = State()
    state.agents = [Entry(os.getpid(), (start_time(os.getpid()) or 0) - 1, running=3)]
    Path(folder, "lease.json").write_bytes(state.encode())
    assert lease.status()["running"] == 0
    assert lease.drain(0, "test")["granted"]


def test_agents_see_each_other(folder: str, lease: Lease, clock: Clock) -> None:
    """Two versions on one server: nobody overwrites anybody's line."""
    state = State()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        state.agents = [Entry(other.pid, start_time(other.pid) or 0, running=2, active_s=900.0)]
        Path(folder, "lease.json").write_bytes(state.encode())
        share = share_of(folder, clock)
        share.begin()
        assert lease.status()["running"] == 3
        share.close()
        assert lease.status()["running"] == 2


@pytest.mark.parametrize("junk", [b"", b"{", b"[1]", b'{"agents":3}', b"\xff\xfe"])
def test_a_damaged_state_is_an_empty_one(
    folder: str, lease: Lease, clock: Clock, junk: bytes
) -> None:
    """Every agent writes itself in with its next word."""
    share = share_of(folder, clock)
    share.begin()
    Path(folder, "lease.json").write_bytes(junk)
    share.beat(busy=True)
    assert lease.status()["running"] == 1


def test_a_run_that_cannot_be_counted_is_refused(folder: str, clock: Clock) -> None:
    """Else a drain would not know of it. And it is not counted afterwards either."""
    share = share_of(folder, clock)
    os.rename(folder, folder + ".away")
    with pytest.raises(EnvironmentProblem, match="the lease cannot be kept"):
        share.begin()
    os.rename(folder + ".away", folder)
    share.begin()
    assert Lease(folder).status()["running"] == 1


def test_what_a_dead_writer_left_is_in_nobodys_way(folder: str, lease: Lease) -> None:
    """Killed between making the new file and giving it its name."""
    Path(folder, ".lease.json.new").write_text("half")
    assert lease.notice("still here") == {"noticed": True}


def test_the_heartbeat_is_written_at_most_every_five_seconds(folder: str, clock: Clock) -> None:
    """It holds the same clock's seconds: what sets the wall clock does not age it."""
    heartbeat = Path(folder, "heartbeat")
    share = share_of(folder, clock)
    assert not heartbeat.exists()
    share.attach()
    assert heartbeat.read_text() == "1000\n"
    clock.now_s += BEAT_S - 1
    share.begin()
    assert heartbeat.read_text() == "1000\n"
    clock.now_s += 1
    share.beat(busy=True)
    assert heartbeat.read_text() == "1005\n"


def test_clients_hear_each_notice_once_and_of_the_hard_end(
    folder: str, lease: Lease, clock: Clock
) -> None:
    """Ten minutes before, again when it was moved."""
    share = share_of(folder, clock)
    lease.notice("first")
    lease.extend(hard_end_in_s=WARN_S + 60)
    assert share.news() == ["first"]
    lease.notice("second")
    clock.now_s += 60
    assert share.news() == ["second", "this server ends in 10 minutes, busy or not"]
    assert share.news() == []
    lease.extend(hard_end_in_s=WARN_S * 2)
    assert share.news() == []
    clock.now_s += 2 * WARN_S - 120
    assert share.news() == ["this server ends in 2 minutes, busy or not"]


def test_durations_become_points_of_this_machines_clock(
    folder: str, lease: Lease, clock: Clock
) -> None:
    """And the dead man reads plain numbers."""
    assert lease.extend(hard_end_in_s=3600, keep_alive_s=300, age_s=2000) == {"extended": True}
    assert Path(folder, "hard-end").read_text() == "4600\n"
    assert Path(folder, "keep-alive").read_text() == "300\n"
    assert Path(folder, "created").read_text() == "-1000\n"
    clock.now_s += 100
    status = lease.status()
    assert (status["hard_end_in_s"], status["keep_alive_s"]) == (3500, 300)


# The command


def test_every_answer_is_one_json_document(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With a status that scripts can use."""
    assert ask(folder, "status", capsys=capsys)[0] == 0
    assert ask(folder, "notice", "hello", capsys=capsys) == (0, {"noticed": True})
    assert ask(folder, "extend", "--hard-end-in", "60", capsys=capsys) == (0, {"extended": True})
    share = Share(Lease(folder))
    share.begin()
    code, refused = ask(folder, "drain", "--min-idle", "0", "--reason", "x", capsys=capsys)
    assert (code, refused["granted"], refused["why"]) == (1, False, "running")
    share.end()
    assert ask(folder, "drain", capsys=capsys)[0] == 0
    assert ask(folder, "drain", "--cancel", capsys=capsys) == (0, {"cancelled": True})
    code, problem = ask(folder + "/none", "status", capsys=capsys)
    assert code == 2
    assert "No such file" in problem["error"]


@pytest.mark.parametrize("bad", ["-1", "nan", "inf", "1e12", "soon"])
def test_only_durations_are_durations(folder: str, bad: str) -> None:
    """A date by mistake would be a server for ever."""
    with pytest.raises(SystemExit):
        lease_cli.main(["--folder", folder, "extend", f"--hard-end-in={bad}"])


def test_the_command_needs_nothing_but_the_standard_library(folder: str) -> None:
    """It is run over ssh, often, and while the machine is busy."""
    code = (
        "import sys\nfrom burst_agent.main import main\n"
        f"code = main(['lease', '--folder', {folder!r}, 'status'])\n"
        "assert not {'asyncio', 'attrs', 'blake3', 'msgpack', 'zstandard'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["state"] == "ready"


# The race

_WORKER = """
import mmap, sys
from burst_agent.lease import Lease, Share
from burst_protocol.errors import Draining
with open(sys.argv[2], "r+b") as file:
    inside = mmap.mmap(file.fileno(), 16)
share = Share(Lease(sys.argv[1]))
while not inside[1]:
    try:
        share.begin()
    except Draining:
        inside[2] = 1
        continue
    inside[0] = 1
    inside[0] = 0
    share.end()
"""


@pytest.mark.slow
def test_a_thousand_drains_never_meet_a_starting_action(tmp_path: Path) -> None:
    """Never both: whoever is granted one sees nothing begin until it is taken back."""
    run = tmp_path / "run"
    run.mkdir()
    shared = tmp_path / "inside"
    shared.write_bytes(bytes(16))
    with open(shared, "r+b") as file:
        inside = mmap.mmap(file.fileno(), 16)
    lease = Lease(str(run))
    granted = refused = 0
    with subprocess.Popen([sys.executable, "-c", _WORKER, str(run), str(shared)]) as worker:
        try:
            while lease.status()["running"] == 0 and not inside[2]:
                assert worker.poll() is None
            for _ in range(1000):
                if not lease.drain(0, "race")["granted"]:
                    refused += 1
                    continue
                granted += 1
                inside[2] = 0
                # Both ways round: it says that it is inside, or it runs into the wall.
                while not inside[2]:
                    assert not inside[0]
                    os.sched_yield()
                    assert worker.poll() is None
                assert lease.status()["running"] == 0
                assert lease.cancel_drain()["cancelled"]
        finally:
            inside[1] = 1  # it leaves its loop, draining or not
            worker.wait(30)
    print(f"granted {granted}, refused {refused}")
    assert granted > 0
