"""`burst-agent hostkey …`: a host key of the server's own, as root. One JSON answer.

The key that a server first shows came with its user data, which can be read for as long as the
server lives. So after the first verified login a new one is made here, whose private half never
leaves:

    rotate            makes the next key and says its public half; sshd still shows the old one
    rotate --commit   sshd shows the next key from now on, the old one is gone for good

In between home pins both. Each step can be repeated, whatever was killed in the middle.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

FOLDER: Final = "/etc/ssh"
PID_FILE: Final = "/run/sshd.pid"
DONE: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2
_KEY: Final = "ssh_host_ed25519_key"
_NEXT: Final = "burst_next_ed25519_key"
_TOOL_S: Final = 60.0

Answer = dict[str, object]


class HostKeys:
    """The keys in one folder, and how sshd is told that they changed."""

    def __init__(self, folder: str, reload: Callable[[], None]) -> None:
        self._current = f"{folder}/{_KEY}"
        self._next = f"{folder}/{_NEXT}"
        self._reload = reload

    def status(self) -> Answer:
        """The public halves; `next` is null if nothing is being rotated."""
        return {"current": public_half(self._current), "next": public_half(self._next)}

    def rotate(self) -> Answer:
        """Makes the next key, once: asked again it is the same."""
        if public_half(self._next) is None:
            temp = f"{self._next}.new"
            for path in (temp, f"{temp}.pub"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            keygen("-q", "-t", "ed25519", "-N", "", "-C", "burst", "-f", temp)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{temp}.pub")
            sync(temp)
            os.rename(temp, self._next)
        return {**self.status(), "committed": False}

    def commit(self) -> Answer:
        """The next key takes the current one's place. Refused if there is none."""
        if public_half(self._next) is None:
            return {**self.status(), "committed": False, "why": "nothing to commit"}
        os.rename(self._next, self._current)  # the private half: from here on there is one key
        public = public_half(self._current)
        temp = f"{self._current}.pub.new"
        with open(temp, "w", encoding="ascii") as file:
            file.write(f"{public}\n")
        os.chmod(temp, 0o644)
        os.rename(temp, f"{self._current}.pub")
        sync(os.path.dirname(self._current))
        self._reload()
        return {**self.status(), "committed": True}


def public_half(path: str) -> str | None:
    """From the private one, which is what counts; None if there is none, or none that is whole."""
    try:
        said = keygen("-y", "-P", "", "-f", path)
    except subprocess.CalledProcessError:
        return None
    return " ".join(said.split()[:2]) or None


def keygen(*argv: str) -> str:
    return subprocess.run(
        ["ssh-keygen", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=_TOOL_S,
        check=True,
    ).stdout


def sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def reload_sshd(pid_file: str) -> None:
    """Running logins stay. Debian and Ubuntu call the unit `ssh`; without one, SIGHUP (sshd(8))."""
    if os.path.isdir("/run/systemd/system") and pid_file == PID_FILE:
        unit = ["systemctl", "try-reload-or-restart", "ssh.service"]
        subprocess.run(unit, stdin=subprocess.DEVNULL, timeout=_TOOL_S, check=True)
        return
    with open(pid_file, encoding="ascii") as file:
        os.kill(int(file.read()), signal.SIGHUP)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="burst-agent hostkey")
    parser.add_argument("--folder", default=FOLDER, help=argparse.SUPPRESS)
    parser.add_argument("--pid-file", default=PID_FILE, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status")
    rotate = verbs.add_parser("rotate")
    rotate.add_argument("--commit", action="store_true", help="sshd shows it from now on")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done, 1 refused, 2 something failed that should not."""
    options = parse(argv)
    keys = HostKeys(options.folder, lambda: reload_sshd(options.pid_file))
    try:
        if options.verb == "status":
            found = keys.status()
        else:
            found = keys.commit() if options.commit else keys.rotate()
        status = REFUSED if "why" in found else DONE
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        found, status = {"why": "error", "detail": str(error)}, UNUSABLE
    sys.stdout.write(json.dumps(found) + "\n")
    return status
