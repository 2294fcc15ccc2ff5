"""`burst-agent adopt`: the agent that was just brought over ssh becomes a service of this server.

Run as root out of the bundle that home sent. A server without an agent gets this one as its own;
one that has another version keeps it, and this one serves beside it under its own name: clients of
two versions share the server's volumes and its lease, an upgrade needs no bake. Idempotent; answers
one JSON document. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

_FOLDER: Final = "/opt/burst/agent"
_RUN: Final = "/run/burst"
_UP_S: Final = 30.0
_POLL_S: Final = 0.05


class AdoptError(Exception):
    """Why it does not serve; for people."""


def main(argv: Sequence[str]) -> int:
    """`adopt [--from DIRECTORY]`; status 1 with `why` if the agent does not serve then."""
    given = argv[1] if len(argv) == 2 and argv[0] == "--from" else None
    if argv and given is None:
        sys.stderr.write("usage: burst-agent adopt [--from DIRECTORY]\n")
        return 2
    try:
        answer = adopt(given or own_bundle(os.path.abspath(__file__)))
    except (AdoptError, OSError) as error:
        _say({"serves": False, "why": str(error)})
        return 1
    _say({"serves": True, **answer})
    return 0


def _say(answer: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")


def adopt(bundle: str, root: str = "") -> dict[str, str]:
    """Identity and socket of the agent that serves now. `root` stands before all paths."""
    identity = os.path.basename(bundle)
    if not identity.isalnum():
        raise AdoptError(f"{identity!r} is no identity")
    folder = root + _FOLDER
    os.makedirs(folder, 0o755, exist_ok=True)
    _bring(bundle, os.path.join(folder, identity))
    current = os.path.join(folder, "current")
    path = f"{root}{_RUN}/agent-{identity}.sock"
    if _leads_to(current) is None:
        _link(identity, current)
    if _leads_to(current) == identity:
        unit, real = "burst-agent.service", f"{root}{_RUN}/agent.sock"
        _link("agent.sock", path)
    else:
        unit, real = f"burst-agent@{identity}.service", path
    _start(unit)
    _wait_until_it_serves(real, unit)
    return {"identity": identity, "socket": path, "unit": unit}


def own_bundle(file: str) -> str:
    """The folder of a bundle that this file lies in. AdoptError if it is not in one."""
    folder = os.path.dirname(file)
    while folder != "/":
        if os.path.exists(os.path.join(folder, "COMMAND")):
            return folder
        folder = os.path.dirname(folder)
    raise AdoptError("this agent was not brought over ssh")


def _bring(bundle: str, final: str) -> None:
    """Copied beside and renamed: its user may read it there, but not in root's home."""
    if os.path.exists(os.path.join(final, "COMMAND")):
        return
    temporary = f"{final}.new-{os.getpid()}"
    try:
        shutil.copytree(bundle, temporary, symlinks=True)
        os.chmod(temporary, 0o755)  # noqa: S103 - programs for everybody on this server
        with contextlib.suppress(FileExistsError, OSError):
            os.rename(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if not os.path.exists(os.path.join(final, "COMMAND")):
        raise AdoptError(f"{final} cannot be made")


def _leads_to(link: str) -> str | None:
    """None for one that leads nowhere: an image whose agent was removed, say."""
    try:
        name = os.path.basename(os.readlink(link))
    except OSError:
        return None
    there = os.path.join(os.path.dirname(link), name, "COMMAND")
    return name if os.path.exists(there) else None


def _link(target: str, path: str) -> None:
    temporary = f"{path}.new-{os.getpid()}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(target, temporary)
    os.rename(temporary, path)


def _start(unit: str) -> None:
    done = subprocess.run(
        ["systemctl", "start", unit], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise AdoptError(f"{unit} does not start: {said[-1] if said else done.returncode}")


def _wait_until_it_serves(path: str, unit: str) -> None:
    deadline_s = time.monotonic() + _UP_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except OSError as error:
                if time.monotonic() > deadline_s:
                    raise AdoptError(f"{unit} does not answer: {error.strerror}") from error
            else:
                return
        time.sleep(_POLL_S)
