"""This machine's own toolchain, at its path there, for a cargo elsewhere that has no other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from burst_protocol.digest import Digest
from burst_protocol.errors import ToolchainProblem
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.processes import find_program, run_program
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import shares_its_folder
from burst_wrapper.treescan import TooLarge, TreeScanner

PARTS: Final = (b"bin", b"lib")
"""Of a sysroot; `share` holds documents, `libexec` what editors use."""

Trees = tuple[tuple[bytes, Digest], ...]


def sysroot(environ: Mapping[bytes, bytes], cwd: bytes, toolchain: str = "") -> str:
    """Of the toolchain that cargo would use here; empty: there is none, or it is a distribution's:
    all of /usr would go there, and hide what that machine has at these paths. Blocking.

    rustup here is not to install anything for the sake of another machine.
    """
    rustc = find_program(b"rustc", cwd, environ)
    if rustc is None:
        return ""
    words = [rustc, *([b"+" + os.fsencode(toolchain)] if toolchain else [])]
    quiet = {**environ, b"RUSTUP_AUTO_INSTALL": b"0"}
    done = run_program([*words, b"--print", b"sysroot"], cwd, quiet)
    found = os.fsdecode(done.stdout.strip()) if done.status == 0 else ""
    cargo = os.path.join(found, "bin", "cargo")
    usable = found.startswith("/") and os.access(cargo, os.X_OK)
    return found if usable and not shares_its_folder(os.fsencode(found)) else ""


def trees(folder: bytes, stats: StatCache) -> tuple[Trees, Sources]:
    """What is shown of it, and where its bytes are. ToolchainProblem. Blocking: half a gigabyte is
    hashed the first time."""
    scanner = TreeScanner(stats)
    found: list[tuple[bytes, Digest]] = []
    sources = Sources()
    for part in PARTS:
        path = os.path.join(os.path.normpath(folder), part)
        try:
            tree = scanner.whole(path)
        except (OSError, TooLarge) as error:
            raise ToolchainProblem(f"{os.fsdecode(path)} cannot be sent: {error}") from error
        found.append((path, tree.digest))
        sources.add(tree)
    return tuple(found), sources
