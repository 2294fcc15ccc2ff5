"""Fixtures every test has: a home of its own, and skips for what this machine cannot do.

Fixtures of one subject live in `tests/support/*.py` and are loaded through `pytest_plugins`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from tiers import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Whoever runs us in the background may have SIGINT ignored; every cargo would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about what else runs on the machine.
settings.register_profile("burst", deadline=None, print_blob=True)
settings.load_profile("burst")

pytest_plugins: list[str] = ["fake_daemon", "fake_programs", "native_client", "fake_plan"]
if importlib.util.find_spec("xdist") is not None:
    pytest_plugins.append("side_by_side")

# What would make a test depend on whoever runs it.
FOREIGN_VARIABLES = (
    "CARGO",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
)


_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not EVERYTHING:
        _leave_out(config, items)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the many cases of one slow test, the first and the last (real projects are chosen where
    they stand). Tests marked `thorough` wholly."""
    left_out = {item for item in items if item.get_closest_marker("thorough")}
    cases: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("slow") and item.path.name != "test_projects.py":
            name = getattr(item, "originalname", item.name)
            cases.setdefault((item.path, name), []).append(item)
    left_out |= {item for same in cases.values() for item in same[1:-1]}
    if left_out:
        config.stash[_LEFT_OUT] = len(left_out)
        if hasattr(config, "workeroutput"):
            config.workeroutput["left_out"] = len(left_out)
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a process of pytest-xdist has left out; each has left out the same."""
    node.config.stash[_LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    number = config.stash.get(_LEFT_OUT, 0)
    if number:
        terminalreporter.line(f"left out: {number} cases that `make test-all` has")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new home folder with XDG folders and cargo home in it; rustup's toolchains stay usable.

    The runtime folder lies directly under /tmp: socket paths hold 107 bytes at most.
    """
    rustup = os.environ.get("RUSTUP_HOME") or os.path.expanduser("~/.rustup")
    place = tmp_path / "home"
    place.mkdir()
    runtime = tempfile.mkdtemp(prefix="burst-", dir="/tmp")
    for name in list(os.environ):
        if name.startswith("BURST_") or name in FOREIGN_VARIABLES:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    for variable, folder in {
        "XDG_CONFIG_HOME": ".config",
        "XDG_CACHE_HOME": ".cache",
        "XDG_DATA_HOME": ".local/share",
        "XDG_STATE_HOME": ".local/state",
        "CARGO_HOME": ".cargo",
    }.items():
        monkeypatch.setenv(variable, str(place / folder))
    if os.path.isdir(rustup):
        monkeypatch.setenv("RUSTUP_HOME", rustup)
    yield place
    shutil.rmtree(runtime, ignore_errors=True)
