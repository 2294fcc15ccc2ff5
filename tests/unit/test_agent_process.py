"""The first agent is forked: what it has of the daemon, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_DAEMON = """\
import os, socket, sys
from burst_wrapper.daemon import agent_process
agent_process._MODULE, agent_process._END_S = "made_up_agent", 0.5
listener = socket.socket(socket.AF_UNIX)
process = agent_process.AgentProcess.fork(agent_process.Place.of(b"cache", b"state"), 3, 0)
print(process.stream.recv(1000).decode(), flush=True)
print(process.said(), "burst_agent.main" in sys.modules, "made_up_agent" in sys.modules)
process.end()
print(process._process.wait())
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child is left")
"""


def run(folder: Path, agent: str) -> list[str]:
    """What a daemon tells of an agent that is this `run`."""
    lines = "".join(f"    {line}\n" for line in agent.splitlines())
    (folder / "made_up_agent.py").write_text(
        "import os, socket, sys, time\n"
        "def run(fd, root, *, local, slots, store_bytes):\n"
        f"    stream = socket.socket(fileno=fd)\n{lines}"
    )
    done = subprocess.run(
        [sys.executable, "-c", _DAEMON],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_it_has_nothing_of_the_daemon_but_its_socket(tmp_path: Path) -> None:
    """A session and a name of its own; neither the daemon's listener nor its output."""
    told = run(
        tmp_path,
        "fds = [f'/proc/self/fd/{n}' for n in sorted(os.listdir('/proc/self/fd'), key=int)]\n"
        "names = [os.readlink(fd) for fd in fds if os.path.lexists(fd)]\n"
        "names = ['socket' if name.startswith('socket:') else name for name in names]\n"
        "comm = open('/proc/self/comm').read().strip()\n"
        "what = [root, local, slots, os.getsid(0) == os.getpid(), os.getcwd(), comm, *names]\n"
        "print('burst-agent: all is well', flush=True)\n"
        "stream.sendall(repr(what).encode())\n"
        "while stream.recv(1): pass\n"
        "return 7\n",
    )
    log = str(tmp_path / "state/agent.log")
    assert told == [
        repr([b"cache/store", True, 3, True, "/", "burst-agent", "/dev/null", log, log, "socket"]),
        "all is well False False",
        "7",
        "no child is left",
    ]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise RuntimeError('a bug')", "1"),
        ("while True: time.sleep(60)", "-9"),
    ],
)
def test_its_end_is_its_own(tmp_path: Path, end: str, status: str) -> None:
    """The daemon's code never goes on in it, and one that hangs is killed."""
    told = run(tmp_path, f"stream.sendall(b'begun')\n{end}\n")
    assert told[0] == "begun"
    assert told[2:] == [status, "no child is left"]
