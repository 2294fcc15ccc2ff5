"""`burst-admin cache`: asks the agent's own program, which alone knows what a store looks like."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.setting_keys import default
from burst_lifecycle.settings import load, read_user
from burst_lifecycle.xdg import cache_dir
from burst_protocol.errors import AgentGone


def run(options: argparse.Namespace, desk: Desk) -> int:
    """The agent's exit status; its output is ours."""
    command = argv(options, store_root(options, desk), store_bytes(desk))
    try:
        done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True)
    except OSError as error:
        raise AgentGone(f"cannot start it: {error.strerror}") from error
    desk.stdout.write(done.stdout.decode(errors="replace"))
    desk.stdout.flush()
    desk.stderr.write(done.stderr.decode(errors="replace"))
    return done.returncode


def argv(options: argparse.Namespace, root: str, limit_bytes: int) -> list[str]:
    """Of the agent. Pure."""
    words = [sys.executable, "-m", "burst_agent.main", "cache", options.action, "--root", root]
    if options.action != "list":
        words += ["--store-bytes", str(limit_bytes)]
    if options.action == "evict":
        if options.to_gb is not None:
            words += ["--to-bytes", str(int(options.to_gb * 1e9))]
        if options.older is not None:
            words += ["--older", str(options.older)]
    if options.json:
        words.append("--json")
    return words


def store_root(options: argparse.Namespace, desk: Desk) -> str:
    """The daemon's: `store` in the cache folder."""
    if options.root:
        return os.path.abspath(str(options.root))
    environ = {os.fsencode(key): os.fsencode(value) for key, value in desk.environ.items()}
    return os.path.join(os.fsdecode(cache_dir(environ)), "store")


def store_bytes(desk: Desk) -> int:
    """`store_gb` of the configuration, which is checked as a whole."""
    load(desk.places)
    values = read_user(desk.places.config_file).values
    return int(float(values.get("store_gb", default("store_gb"))) * 1e9)
