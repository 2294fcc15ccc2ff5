"""What is loaded when, since the first unit of a build waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def said(
    script: str, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> list[str]:
    """The words that a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()


def test_a_plain_build_loads_nothing_of_the_verbs() -> None:
    """What a daemon and an agent load before the first unit, that unit waits for. A `cargo burst`
    verb can wait for the rest."""
    script = "import sys, burst_wrapper.daemon.life, burst_agent.single\nprint(*sys.modules)"
    loaded = said(script)
    for_verbs = (
        "burst_wrapper.mirror",
        "burst_wrapper.verbs",
        "burst_wrapper.driver",
        "burst_wrapper.daemon.sessions",
        "burst_wrapper.daemon.home_session",
        "burst_wrapper.daemon.orphans",
        "burst_wrapper.daemon.program_needs",
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


def test_the_first_child_of_a_daemon_begins_before_anything_is_loaded(tmp_path: Path) -> None:
    """The digests of a toolchain are the first build's longest wait: when the child that computes
    them is forked, there are our few modules and builtin ones."""
    rustc = tmp_path / "toolchain/bin/rustc"
    rustc.parent.mkdir(parents=True)
    rustc.touch()
    (tmp_path / "toolchain/lib/rustlib").mkdir(parents=True)
    script = (
        "import os, sys\n"
        "bare = set(sys.modules)\n"
        "def fork():\n"
        "    print(*sorted(set(sys.modules) - bare))\n"
        "    sys.stdout.flush()\n"
        "    os._exit(0)\n"
        "os.fork = fork\n"
        "from burst_wrapper.daemon.main import start\n"
        f"sys.argv[1:] = ['--fd', '3', '--rustc', {str(rustc)!r}]\n"
        "start()"
    )
    environ = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    loaded = said(script, env=environ)
    ours = [name for name in loaded if name.startswith("burst_")]
    assert ours == [
        "burst_lifecycle",
        "burst_lifecycle.xdg",
        "burst_wrapper",
        "burst_wrapper.daemon",
        "burst_wrapper.daemon.early_hash",
        "burst_wrapper.daemon.main",
        "burst_wrapper.hot",
        "burst_wrapper.paths",
    ]
    others = set(loaded) - set(ours) - set(sys.builtin_module_names)
    assert others == {"__future__", "_socket"}


def test_a_verb_loads_what_it_needs(tmp_path: Path) -> None:
    """What a `cargo burst build` without any configuration imports before cargo starts is most of
    what it costs (`benchmarks/verbs`): nothing that only some builds need."""
    script = (
        "import os, sys\n"
        "from burst_wrapper.cli import afterwards, cargo_burst\n"
        "from burst_wrapper.verbs import entry, job, perform\n"
        "from burst_wrapper import config, session_client\n"
        "environ = dict(os.environb)\n"
        "entry.CargoSettings.read(os.getcwdb(), environ, [])\n"
        "config.load_for(config.config_path(environ), os.getcwdb(), environ)\n"
        "afterwards.say()\n"
        "print(*sys.modules)"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environ |= {"HOME": str(tmp_path), "CARGO_HOME": str(tmp_path / ".cargo")}
    loaded = said(script, env=environ, cwd=tmp_path)
    for_some = (
        "argparse",
        "asyncio",
        "concurrent",
        "decimal",
        "difflib",
        "logging",
        "pathspec",
        "shutil",
        "socket",
        "tempfile",
        "tomllib",
        "burst_lifecycle.admin",
        "burst_lifecycle.ledger",
        "burst_protocol.messages",
        "burst_protocol.programs",
        "burst_wrapper.driver",
        "burst_wrapper.mirror",
        "burst_wrapper.verbs.help_text",
    )
    packages = {
        name for part in for_some for name in loaded if name == part or name.startswith(f"{part}.")
    }
    assert packages == set()
    daemon = {name for name in loaded if name.startswith("burst_wrapper.daemon.")}
    assert daemon == {"burst_wrapper.daemon.request"}
