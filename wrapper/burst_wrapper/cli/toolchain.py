"""`cargo burst toolchain list|install`: the toolchains of the machine that drives.

For machines without cargo, or `--driver remote`: rustup there installs into a folder of ours on its
volume, so that a server's toolchains outlive the server.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from burst_lifecycle.places import Places
from burst_lifecycle.settings import load
from burst_wrapper.driver.drive import nowhere
from burst_wrapper.driver.there import There
from burst_wrapper.driver.toolchains import Machine, Wanted
from burst_wrapper.session_client import SessionRequest, open_session
from burst_wrapper.verbs.summary import Voice


def run(args: Sequence[str]) -> int:
    """0; BurstError if there is no such machine, or it cannot."""
    parser = argparse.ArgumentParser(
        prog="cargo burst toolchain",
        description="Toolchains of the machine where cargo runs with `--driver remote`.",
    )
    parser.add_argument("--host", default="", help="user@host[:port]; default: as configured")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list|install")
    verbs.add_parser("list", help="what is there")
    install = verbs.add_parser("install", help="one more, by rustup there")
    install.add_argument("toolchain", nargs="+", help="as for rustup: `1.80`, `nightly`")
    install.add_argument("--component", "-c", action="append", default=[])
    install.add_argument("--target", "-t", action="append", default=[])
    install.add_argument("--profile", default="")
    options = parser.parse_args(list(args))
    environ = dict(os.environb)
    voice = Voice(environ)
    root = nowhere(environ)
    request = SessionRequest(
        verb="toolchain",
        cwd=root,
        workspace_root=root,
        target_dir=root + b"/target",
        host=options.host,
        environ=tuple(environ.items()),
        drives=True,
    )
    load(Places.of(environ))  # what is wrong about it is said first
    os.chdir(root)
    with open_session(request, voice.progress) as session:
        there = There(session, environ, voice)
        if options.verb == "list":
            _list(there.machine)
            return 0
        for name in options.toolchain:
            there.install(
                Wanted(
                    channel=name,
                    components=tuple(options.component),
                    targets=tuple(options.target),
                    profile=options.profile,
                )
            )
    return 0


def _list(machine: Machine) -> None:
    """One per line, rustup's by name, others by folder."""
    for folder in machine.toolchains:
        name = os.path.basename(folder)
        print(f"{name} (default)" if name == machine.default else name)
    for folder in machine.plain:
        print(folder)
