"""Ctrl-C at several moments: no process left on either side, no late write, and a right build
afterwards."""

from __future__ import annotations

import functools
import os
import signal
from typing import TYPE_CHECKING

import pytest

import faults
from faults import Phase, Running, agent_pid, daemon_pid, hold, same, until
from space import Space
from sshd import SSHD, descendants

if TYPE_CHECKING:
    from ssh_lab import Lab

pytest_plugins = ("space_fixtures", "ssh_lab")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _childless(pid: int) -> bool:
    return not descendants(pid)


def nothing_left(space: Space) -> None:
    """No wrapper, no compiler, no sandbox; nothing half written in target/ or laid out below tmp.

    Daemon and agent stay: they wait for the next build.
    """
    agent, daemon = agent_pid(space), daemon_pid(space)
    until(lambda: not descendants(agent), "the end of what the agent ran")
    until(lambda: descendants(daemon) in ([agent], []), "the end of what the daemon ran")
    until(lambda: not scratch(space), "the removal of scratch folders")
    assert faults.leftovers(space.project) == []

    def wrappers() -> list[str]:
        ours = [line for line in faults.processes_of(space.project) if "burst_" not in line]
        found = [line for line in ours if faults.is_wrapper(int(line.split()[0]))]
        assert ours == found, "a compiler goes on"
        return found

    until(lambda: not wrappers(), "the end of wrappers that were told to end")


def scratch(space: Space) -> list[str]:
    """Folders of runs below the agent's tmp; the agent's own tools are plain files."""
    return [str(path) for path in space.store.glob("tmp/*/*") if path.is_dir()]


def quiet(space: Space) -> None:
    """Nothing changes in target/ any more, not even when the daemon ends."""
    before = faults.state_of(space.project / "target")
    space.stop()
    assert faults.state_of(space.project / "target") == before


def interrupted(cargo: Running) -> None:
    done = cargo.finish(30)
    assert done.status == -signal.SIGINT
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("phase", faults.PHASES)
def test_ctrl_c_in_mid_unit(space: Space, phase: Phase) -> None:
    """Before anything was shown, after the dep-info line, after the metadata is in use."""
    space.write(faults.held_project(phase))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        hold(space, phase)
        cargo.interrupt()
        interrupted(cargo)
        nothing_left(space)
    quiet(space)
    done = space.cargo("build")
    assert done.status == 0, done.stderr
    space.fresh_target()
    same(space, expected, space.cargo("build"))


def test_ctrl_c_while_everything_starts(space: Space) -> None:
    """The daemon is just being started, the agent sets itself up: they finish that, and stay."""
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        until(lambda: faults.socket_path(space).exists(), "the daemon's socket")
        cargo.interrupt()
        interrupted(cargo)
    same(space, expected, space.cargo("build"))
    nothing_left(space)
    quiet(space)


def test_ctrl_c_in_an_incremental_unit(space: Space) -> None:
    """The state of an interrupted compile is thrown away."""
    space.env["CARGO_INCREMENTAL"] = "1"
    space.write(faults.held_project("checking"))
    space.cargo("build").check()
    library = space.project / "held" / "src" / "lib.rs"
    library.write_text(library.read_text().replace("    7\n", "    70\n"))
    with Running.start(space) as cargo:
        hold(space, "checking")
        cargo.interrupt()
        interrupted(cargo)
        nothing_left(space)
    library.write_text(library.read_text().replace("    70\n", "    700\n"))
    space.cargo("build").check()
    assert space.run("target/debug/app").stdout == "701\n"


def test_a_killed_wrapper(space: Space) -> None:
    """SIGKILL for the wrapper alone, as by the OOM killer: its unit's rustc ends, cargo says so."""
    space.write(faults.held_project("checking"))
    with Running.start(space) as cargo:
        hold(space, "checking")
        wrapper = [pid for pid in descendants(cargo.process.pid) if faults.is_wrapper(pid)]
        assert len(wrapper) == 1
        faults.kill(wrapper[0])
        done = cargo.finish()
        assert done.status == 101
        assert "signal: 9, SIGKILL" in done.stderr
        nothing_left(space)
    quiet(space)
    space.cargo("build").check()


def test_a_killed_cargo(space: Space) -> None:
    """SIGKILL for cargo alone: its wrappers are orphans, and nobody wants what they wait for."""
    space.write(faults.held_project("checking"))
    with Running.start(space) as cargo:
        hold(space, "checking")
        faults.kill_unreaped(cargo.process)
        nothing_left(space)
    quiet(space)
    space.cargo("build").check()


def test_a_new_build_takes_over_from_a_killed_one(space: Space) -> None:
    """cargo is killed, an edit, a build at once: never the old program."""
    space.write(faults.held_project("generating"))
    with Running.start(space) as cargo:
        hold(space, "generating")
        faults.kill_unreaped(cargo.process)
    library = space.project / "held" / "src" / "lib.rs"
    library.write_text(library.read_text().replace("    7\n", "    70\n"))
    space.cargo("build").check()
    assert space.run("target/debug/app").stdout == "71\n"
    assert faults.leftovers(space.project / "target") == []
    done = space.cargo("build", "-v").check()
    assert done.stderr.count(" Fresh ") == 3


def test_stopping_the_daemon_during_a_build(space: Space) -> None:
    """`cargo burst stop`: the build goes on with plain rustc, or with another daemon."""
    space.write(faults.held_project("generating"))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        hold(space, "generating")
        space.stop()
        same(space, expected, cargo.finish())
    assert faults.unit(space, "held")["where"] == "local"


@pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")
@pytest.mark.parametrize("phase", faults.PHASES)
def test_ctrl_c_with_a_remote_host(lab: Lab, phase: Phase) -> None:
    """Nothing goes on there either, and nothing of the run stays in its store's tmp."""
    lab.space.cargo("build").check()
    lab.write_held(phase)
    with Running.start(lab.space) as cargo:
        rustc = lab.hold(phase)
        cargo.interrupt()
        interrupted(cargo)
        until(lambda: not faults.alive(rustc), "the end of rustc on the host")
        for agent in lab.agents():
            until(functools.partial(_childless, agent), "the end of all on the host")
        tmp = lab.sshd.remote_cache / "burst" / "store" / "tmp"
        until(lambda: not [p for p in tmp.glob("*/*") if p.is_dir()], "the removal of scratch")
        nothing_left(lab.space)
    quiet(lab.space)
    lab.space.cargo("build").check()
    assert lab.space.run("target/debug/app").stdout == "8\n"


@pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed")
def test_ctrl_c_while_the_host_is_reached(lab: Lab) -> None:
    """Waiting for the platform under BURST_REQUIRE_REMOTE: cargo ends at once."""
    lab.sshd.environment["XDG_CACHE_HOME"] = str(lab.sshd.folder / "slow")
    lab.sshd.restart()
    with Running.start(lab.space, BURST_REQUIRE_REMOTE="1") as cargo:
        until(lambda: list(lab.sshd.folder.glob("slow/burst/store/cas/*/*")), "the upload")
        cargo.interrupt()
        interrupted(cargo)
    quiet(lab.space)
    assert os.listdir(lab.space.project / "target" / "debug" / "deps") == []
