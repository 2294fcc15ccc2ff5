"""`cargo burst` on real projects, with a host: ripgrep's own tests, criterion's report, a web
server."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest

from builds import machine, with_project
from space import CARGO_BURST, Space
from sshd import Sshd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.projects,
    pytest.mark.timeout(3600),
]

_RESULT = re.compile(r"^test .+ \.\.\. \w+", re.MULTILINE)
_TOTAL = re.compile(r"^test result: \w+\. \d+ passed; \d+ failed; \d+ ignored", re.MULTILINE)


@pytest.fixture(scope="module")
def home() -> Iterator[Space]:
    """A machine with a host."""
    with (
        Sshd.for_user() as server,
        machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space,
    ):
        shutil.copytree(server.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        space.env["BURST_HOST"] = server.address
        yield space


@pytest.fixture(scope="module")
def web(home: Space) -> Space:
    """A server by axum with a benchmark by criterion; the toolchain is there."""
    space = with_project(home, "web")
    space.cargo("build", "--offline").check()
    return space


def test_a_server_there_is_reached_from_here(web: Space) -> None:
    """By a port of ours that differs from its own; Ctrl-C ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(CARGO_BURST), "burst", "run", "--offline", "-L", f"{port}:8000", "--", "8000"]
    with subprocess.Popen(
        command, cwd=web.project, env=web.env, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n", web.log()
        for _ in range(2):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert answer.read().startswith(b"pid ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT


def test_the_report_of_a_benchmark_comes_back(web: Space) -> None:
    """With the processor it was measured on, which the next one is compared with."""
    done = web.burst("bench", "--offline", "--", "--save-baseline", "first").check()
    assert "sums" in done.stdout
    folder = web.project / "target/criterion"
    assert "<html" in (folder / "report/index.html").read_text()
    assert (folder / "sums/first/estimates.json").exists()
    known = (folder / "burst-baselines.json").read_text()
    assert '"first"' in known
    done = web.burst("bench", "--offline", "--", "--baseline", "first").check()
    assert "warning: baseline" not in done.stderr
    (folder / "burst-baselines.json").write_text(known.replace('"first": "', '"first": "No '))
    done = web.burst("bench", "--offline", "--", "--baseline", "first").check()
    assert "warning: baseline `first` was measured on another processor" in done.stderr


def test_ripgreps_tests_have_the_same_results_there(home: Space) -> None:
    """Each test by name; then nextest, and plain cargo with the host gone."""
    space = with_project(home, "ripgrep")
    plain = space.plain("test", "--workspace", "--offline").check()
    ours = space.burst("test", "--cargo-test", "--workspace", "--offline").check()
    wanted = sorted(_RESULT.findall(plain.stdout))
    assert len(wanted) > 300
    assert sorted(_RESULT.findall(ours.stdout)) == wanted
    assert _TOTAL.findall(ours.stdout) == _TOTAL.findall(plain.stdout)
    if shutil.which("cargo-nextest") is not None:
        # One after another: each of its processes takes the first number that is free below
        # /tmp/rust-ignore, and two at once take the same one, with plain nextest, too.
        one_by_one = {"NEXTEST_TEST_THREADS": "1"}
        done = space.burst("test", "--workspace", "--offline", **one_by_one).check()
        assert re.search(r"(\d+) tests run: \1 passed", done.stderr), done.stderr[-3000:]
    after = space.plain("test", "--workspace", "--offline").check()
    assert _TOTAL.findall(after.stdout) == _TOTAL.findall(plain.stdout)
    assert "Compiling" not in after.stderr
