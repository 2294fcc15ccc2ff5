"""A developer's own machine as a container: systemd with users' services, or cron, and our package.

A Debian root by debootstrap (once, a minute or two) on which the package of this checkout runs: its
interpreter and environment are shown at their own paths. No way leads from it to any network.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from booted import PATIENCE_S, Booted
from trixie import Unavailable, cached_tree, debootstrap

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPE: Final = 1
USER: Final = "dev"
HOME: Final = f"/home/{USER}"
_UID: Final = 1000
_PACKAGES: Final = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "cron",
    "util-linux",
    "libssl3t64",
    "libffi8",
    "libsqlite3-0",
    "libbz2-1.0",
    "liblzma5",
)
_POLL_S: Final = 0.2


def tree() -> Path:
    """The made root. Skips where none can be made."""
    if Path(sys.base_prefix).is_relative_to("/usr"):
        pytest.skip("this interpreter lies in /usr, where the container has its own")
    try:
        return cached_tree(f"workstation-{RECIPE}", lambda root: debootstrap(root, _PACKAGES))
    except Unavailable as error:
        pytest.skip(str(error))


class Workstation(Booted):
    """One machine; `as_user` runs something as its developer, with a cloud on its loopback."""

    def boot(self) -> None:
        shown = {Path(sys.base_prefix), Path(sys.prefix), ROOT}
        command = [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
            "--console=pipe", "--private-network", "--resolv-conf=off", "--timezone=off",
            f"--directory={self.folder / 'root'}", f"--machine=burst-{id(self):x}",
            *(f"--bind-ro={path}" for path in sorted(shown)),
        ]  # fmt: skip
        with open(self.folder / "console", "wb") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )
        self.until(self._is_up, "it is up")

    def _is_up(self) -> bool:
        if self.leader is None:
            return False
        said = self.run("systemctl", "is-system-running", check=False).strip()
        return said in {"running", "degraded"}

    patience_s = PATIENCE_S

    def until(
        self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S
    ) -> None:
        """AssertionError with the console if it does not hold in time."""
        end_s = time.monotonic() + patience_s
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, self.console
            assert time.monotonic() < end_s, f"not: {what}\n{self.console[-3000:]}"
            time.sleep(_POLL_S)

    def as_user(self, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """As over ssh: nothing of a session but the runtime folder that lingering made."""
        enter = ["nsenter", f"--target={self.leader}", "--all", f"--wdns={HOME}"]
        become = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups"]
        variables = {
            "HOME": HOME,
            "USER": USER,
            "PATH": "/usr/bin:/bin",
            "XDG_RUNTIME_DIR": f"/run/user/{_UID}",
            **environ,
        }
        words = [f"{key}={value}" for key, value in variables.items()]
        return subprocess.run(
            [*enter, *become, "env", "-i", *words, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def admin(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`burst-admin`, as the developer."""
        program = Path(sys.executable).parent / "burst-admin"
        return self.as_user(str(program), *arguments, **environ)

    @contextlib.contextmanager
    def cloud(self) -> Iterator[dict[str, Any]]:
        """A cloud on its loopback: endpoint, token, …; it ends when nobody reads any more."""
        enter = ["nsenter", f"--target={self.leader}", "--all", "--wd=/"]
        path = f"PYTHONPATH={ROOT}/tests/support"
        command = [*enter, "env", "-i", "PATH=/usr/bin:/bin", path, sys.executable]
        with subprocess.Popen(
            [*command, "-m", "localcloud"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield json.loads(process.stdout.readline())
            finally:
                process.stdin.close()

    def configure(self, cloud: dict[str, Any]) -> None:
        """`[hetzner]`, with the token in a file."""
        folder = f"{HOME}/.config/burst"
        self.as_user("mkdir", "-p", folder)
        self.write(f"{HOME}/token", cloud["token"] + "\n", 0o600)
        lines = [f'token = {{file = "{HOME}/token"}}', f'endpoint = "{cloud["endpoint"]}"']
        lines += ['owner = "dev"', "max_eur_per_hour = 1.0"]
        self.write(f"{folder}/config.toml", "\n".join(["[hetzner]", *lines, ""]), 0o644)

    def write(self, path: str, text: str, mode: int) -> None:
        """A file of the developer's."""
        target = self.root / path.lstrip("/")
        target.write_text(text)
        target.chmod(mode)
        self.run("chown", f"{_UID}:{_UID}", path)

    def reaps(self) -> int:
        """Good ones that stand in the developer's ledger."""
        folder = self.root / HOME.lstrip("/") / ".local/state/burst/cloud"
        lines = "".join(path.read_text() for path in folder.glob("ledger*"))
        return lines.count('"reap"')


@contextlib.contextmanager
def workstation(folder: Path) -> Iterator[Workstation]:
    """Booted, with its user."""
    lower = tree()
    machine = Workstation(folder)
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    machine.upper.chmod(0o755)
    for shown in (Path(sys.base_prefix), Path(sys.prefix), ROOT):
        # Its own /root is closed to the developer.
        for parent in reversed(shown.parents[:-1]):
            place = machine.upper / str(parent).lstrip("/")
            place.mkdir(exist_ok=True)
            place.chmod(0o755)
    options = f"lowerdir={lower},upperdir={machine.upper},workdir={folder / 'work'}"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "root")]
    subprocess.run(mount, check=True)
    try:
        subprocess.run(
            ["chroot", folder / "root", "useradd", "-m", "-u", str(_UID), "-s", "/bin/sh", USER],
            check=True,
        )
        machine.boot()
        yield machine
    finally:
        machine.end()
        subprocess.run(["umount", "-l", folder / "root"], check=False)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)
