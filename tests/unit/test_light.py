"""What is loaded when, since the first unit of a build waits for it."""

from __future__ import annotations

import subprocess
import sys


def test_a_plain_build_loads_nothing_of_the_verbs() -> None:
    """What a daemon and an agent load before the first unit, that unit waits for. A `cargo burst`
    verb can wait for the rest."""
    script = "import sys, burst_wrapper.daemon.life, burst_agent.single\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    for_verbs = (
        "burst_wrapper.mirror",
        "burst_wrapper.verbs",
        "burst_wrapper.driver",
        "burst_wrapper.daemon.sessions",
        "burst_wrapper.daemon.home_session",
        "burst_wrapper.home_wire",
        "burst_protocol.programs",
        "burst_agent.programs",
        "burst_agent.mirror",
        "burst_agent.network",
        "pathspec",
        "asyncssh",
        "burst_wrapper.daemon.server_keeper",
    )
    assert [name for name in loaded if name.startswith(for_verbs)] == []
