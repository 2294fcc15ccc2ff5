"""A program elsewhere whose host, connection or front end is lost: a clear end, never a pass.

And nothing goes on there that nobody asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import faults
from faults import kill, until
from space import Done
from sshd import SSHD, Proxy
from verbs_by_hand import APP, hooks, not_run_to_its_end, run, session_of, waiting_program

if TYPE_CHECKING:
    from ssh_lab import Lab

pytest_plugins = ("ssh_lab",)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(SSHD is None, reason="openssh-server is not installed"),
]
QUICK = "silence_s = 4\n"


def cut(lab: Lab, proxy: Proxy) -> None:
    proxy.cut()


def stall(lab: Lab, proxy: Proxy) -> None:
    proxy.stall()


def kill_agent(lab: Lab, proxy: Proxy) -> None:
    pids = lab.agents()
    assert pids
    for pid in pids:
        kill(pid)


def programs_there(lab: Lab) -> list[int]:
    """What runs our test program in a session of the host."""
    found = []
    for pid in lab.sshd.session_pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"debug/app") and b"wait" in words:
            found.append(pid)
    return found


@pytest.mark.parametrize("breaks", [cut, kill_agent, stall])
def test_a_test_that_was_lost_has_failed(lab: Lab, breaks: Callable[[Lab, Proxy], None]) -> None:
    """The runner ends with 125 and says why; nothing is left there; the next run is as ever."""
    space = lab.space
    faults.configure(space, QUICK)
    with Proxy(lab.sshd.port) as proxy:
        lab.through(proxy)
        lab.write(APP)
        assert run(space, "run", "-q", "--", "exit", "3").done.status == 3
        with (
            session_of(space, "run") as session,
            waiting_program(space, session) as process,
        ):
            assert programs_there(lab)
            breaks(lab, proxy)
            error = not_run_to_its_end(process)
        assert "was not run to its end" in error
        proxy.resume()
        if breaks is not stall:  # nobody tells a host of a connection that is silent
            assert until(lambda: not programs_there(lab), "its end there")
        assert run(space, "run", "-q", "--", "exit", "3").done.status == 3
        space.stop()


def test_a_killed_runner_ends_the_program_there(lab: Lab) -> None:
    """As a test that is killed for its time by nextest."""
    space = lab.space
    lab.write(APP)
    with session_of(space, "run") as session:
        with waiting_program(space, session) as process:
            assert programs_there(lab)
            process.kill()
        assert until(lambda: not programs_there(lab), "its end there")


def test_a_front_end_that_is_gone_leaves_no_session(lab: Lab) -> None:
    """What its cargo starts afterwards is not run by anybody, and fails."""
    space = lab.space
    lab.write(APP)
    with session_of(space, "run") as session:
        env = hooks(space, session)
        space.plain("build", **env).check()
        session.drop()
        failed: list[Done] = []

        def fails() -> bool:
            failed.append(space.plain("run", "-q", **env))
            return failed[-1].status == 125

        assert until(fails, "the session's end")
    assert failed[-1].stderr.startswith("error: `target/burst/debug/app` is not on this machine")
