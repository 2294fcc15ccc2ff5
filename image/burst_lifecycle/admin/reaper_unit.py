"""`reap --install`: a systemd user timer, else a line in the user's crontab.

It is only called installed after one run *through it* was good: the unit carries a random word, and
a good reap writes down the word that it finds in its environment. (Times in the ledger are of the
API's clock, ours may be a day off; and a daemon reaps beside us.) What runs is this interpreter
with this package, by absolute path; the token is never written anywhere, so one that is only in the
environment cannot be used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from burst_lifecycle.admin.ports import Tell
from burst_lifecycle.atomic_file import write_atomically
from burst_lifecycle.errors import ReaperProblem
from burst_lifecycle.places import Places

NAME: Final = "burst-reap"
EVERY_MIN: Final = 5
_MARK: Final = "# burst-reap"
_PASSED_ON: Final = (
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "HCLOUD_ENDPOINT",
    "PATH",
)
PROOF: Final = "BURST_REAPER"
"""In the environment of runs by a timer or cron."""
_CRON_PATIENCE_S: Final = 150.0
_RUN_PATIENCE_S: Final = 300.0


@attrs.frozen
class Machine:
    """The programs and folders it works with."""

    places: Places
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def has(self, program: str) -> bool:
        return shutil.which(program, path=self.environ.get("PATH")) is not None

    def run(self, argv: Sequence[str], text: str | None = None) -> tuple[int, str, str]:
        """Status, stdout, stderr. 127 if it cannot be started."""
        program = shutil.which(argv[0], path=self.environ.get("PATH"))
        if program is None:
            return 127, "", f"{argv[0]} is not on PATH"
        try:
            done = subprocess.run(
                [program, *argv[1:]],
                input=text if text is not None else "",
                capture_output=True,
                text=True,
                check=False,
                env=dict(self.environ),
                timeout=_RUN_PATIENCE_S,
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"took longer than {_RUN_PATIENCE_S:g} s"
        except OSError as error:
            return 127, "", str(error)
        return done.returncode, done.stdout, done.stderr.strip()

    @property
    def units(self) -> str:
        """Where a user's own units lie (systemd.unit(5))."""
        base = self.environ.get("XDG_CONFIG_HOME", "")
        if not base.startswith("/"):
            base = os.path.join(self.environ.get("HOME") or os.path.expanduser("~"), ".config")
        return os.path.join(base, "systemd", "user")


def command() -> list[str]:
    """What the timer runs."""
    return [sys.executable, "-m", "burst_lifecycle.admin.main", "reap", "--quiet"]


def _passed_on(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """Folders and the endpoint; never a token."""
    return [(name, environ[name]) for name in (*_PASSED_ON, PROOF) if environ.get(name)]


def prove(places: Places, environ: Mapping[str, str]) -> None:
    """After a good reap: if it was through what `install` wrote, `install` sees it."""
    word = environ.get(PROOF, "")
    if word.isalnum():
        write_atomically(_proof(places), word.encode() + b"\n", mode=0o600)


def _proof(places: Places) -> bytes:
    return os.fsencode(os.path.join(places.cloud, "reaper-proof"))


def _proven(places: Places, word: str) -> bool:
    with contextlib.suppress(OSError), open(_proof(places), encoding="ascii") as file:
        return file.read(64).strip() == word
    return False


# -- what is written: pure -----------------------------------------------------------------------


def service_unit(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """systemd.service(5). `%` and `$` would be expanded, so they are doubled."""
    variables = "".join(
        f"Environment={_quoted(f'{name}={value}')}\n" for name, value in _passed_on(environ)
    )
    line = " ".join(_quoted(word).replace("$", "$$") for word in argv)
    return (
        "[Unit]\n"
        "Description=delete burst's servers that are idle or have expired\n"
        "Documentation=man:systemd.timer(5)\n\n"
        "[Service]\n"
        "Type=oneshot\n"
        f"{variables}"
        f"ExecStart={line}\n"
        f"TimeoutStartSec={_RUN_PATIENCE_S:.0f}\n"
    )


def timer_unit() -> str:
    """`Persistent`: what was missed while the machine slept is made up for at once."""
    return (
        "[Unit]\n"
        "Description=delete burst's servers that are idle or have expired\n\n"
        "[Timer]\n"
        f"OnCalendar=*:0/{EVERY_MIN}\n"
        "Persistent=true\n"
        "RandomizedDelaySec=20\n\n"
        "[Install]\n"
        "WantedBy=timers.target\n"
    )


def _quoted(word: str) -> str:
    """systemd.syntax(7)."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def cron_line(argv: Sequence[str], environ: Mapping[str, str], minutes: int) -> str:
    """crontab(5): `%` is a line break there unless escaped."""
    words = [f"{name}={shlex.quote(value)}" for name, value in _passed_on(environ)]
    words += [shlex.quote(word) for word in argv]
    when = "*" if minutes == 1 else f"*/{minutes}"
    line = " ".join(words).replace("%", "\\%")
    return f"{when} * * * * {line} >/dev/null 2>&1 {_MARK}"


def without_ours(crontab: str) -> str:
    kept = [line for line in crontab.splitlines() if not line.endswith(_MARK)]
    return "".join(f"{line}\n" for line in kept)


# -- doing it -------------------------------------------------------------------------------------


def _record(places: Places) -> bytes:
    return os.fsencode(os.path.join(places.cloud, "reaper"))


def installed(places: Places) -> str:
    """`systemd`, `cron`, or nothing; as `install` left it."""
    try:
        with open(_record(places), encoding="ascii", errors="replace") as file:
            word = file.read().strip()
    except OSError:
        return ""
    return word if word in {"systemd", "cron"} else ""


def install(way: str, machine: Machine, tell: Tell) -> str:
    """`auto`, `systemd` or `cron`; which it became. ReaperProblem, and then nothing is left."""
    if way == "auto":
        usable = machine.run(["systemctl", "--user", "show-environment"])[0] == 0
        way = "systemd" if usable else "cron"

    word = secrets.token_hex(8)
    machine = attrs.evolve(machine, environ={**machine.environ, PROOF: word})

    def reaped() -> bool:
        return _proven(machine.places, word)

    try:
        if way == "systemd":
            _install_systemd(machine, reaped, tell)
        else:
            _install_cron(machine, reaped, tell)
    except BaseException:
        uninstall(machine)
        raise
    write_atomically(_record(machine.places), way.encode() + b"\n", mode=0o600)
    return way


def _install_systemd(machine: Machine, reaped: Callable[[], bool], tell: Tell) -> None:
    folder = machine.units
    service = os.path.join(folder, f"{NAME}.service")
    timer = os.path.join(folder, f"{NAME}.timer")
    text = service_unit(command(), machine.environ)
    write_atomically(os.fsencode(service), text.encode(errors="surrogateescape"))
    write_atomically(os.fsencode(timer), timer_unit().encode())
    _must(machine, ["systemctl", "--user", "daemon-reload"])
    tell("one run through it …")
    status, _, detail = machine.run(["systemctl", "--user", "start", f"{NAME}.service"])
    if status != 0 or not reaped():
        said = detail or "no good run is on record"
        raise ReaperProblem(f"a run through systemd failed: {said}; `journalctl --user -u {NAME}`")
    _must(machine, ["systemctl", "--user", "enable", "--now", f"{NAME}.timer"])


def lingers(machine: Machine) -> bool | None:
    """Whether the user's timers run while nobody is logged in (loginctl(1)). None: unknown."""
    user = machine.environ.get("USER") or machine.environ.get("LOGNAME") or str(os.getuid())
    status, said, _ = machine.run(["loginctl", "show-user", user, "--property=Linger"])
    if status != 0 or not said.startswith("Linger="):
        return None
    return said.strip() == "Linger=yes"


def _install_cron(machine: Machine, reaped: Callable[[], bool], tell: Tell) -> None:
    if not machine.has("crontab"):
        raise ReaperProblem("neither a systemd of the user nor `crontab` is there")
    _write_crontab(machine, cron_line(command(), machine.environ, 1))
    tell("waiting for cron to run it once, up to two minutes …")
    deadline_s = machine.clock() + _CRON_PATIENCE_S
    while not reaped():
        if machine.clock() >= deadline_s:
            raise ReaperProblem("cron did not run it within two minutes; is cron running?")
        machine.sleep(1.0)
    _write_crontab(machine, cron_line(command(), machine.environ, EVERY_MIN))


def _write_crontab(machine: Machine, line: str) -> None:
    status, present, detail = machine.run(["crontab", "-l"])
    if status != 0 and not _is_none_yet(status, detail):
        # One that is there and cannot be read now would be replaced by ours alone.
        raise ReaperProblem(f"`crontab -l`: {detail or f'status {status}'}")
    present = present if status == 0 else ""
    text = without_ours(present) + (f"{line}\n" if line else "")
    status, _, detail = machine.run(["crontab", "-"], text)
    if status != 0:
        raise ReaperProblem(f"`crontab -`: {detail}")


def _is_none_yet(status: int, detail: str) -> bool:
    """In the words of Vixie's cron and cronie, of dcron and of busybox: all say it with a 1."""
    said = detail.lower()
    return status == 1 and ("no crontab" in said or "no such file" in said)


def uninstall(machine: Machine) -> bool:
    """Whether there was anything."""
    found = bool(installed(machine.places))
    names = [f"{NAME}.timer", f"{NAME}.service"]
    paths = [os.path.join(machine.units, name) for name in names]
    if any(os.path.exists(path) for path in paths):
        found = True
        machine.run(["systemctl", "--user", "disable", "--now", f"{NAME}.timer"])
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        machine.run(["systemctl", "--user", "daemon-reload"])
    status, present, _ = machine.run(["crontab", "-l"]) if machine.has("crontab") else (1, "", "")
    if status == 0 and without_ours(present) != present:
        found = True
        _write_crontab(machine, "")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_record(machine.places))
    return found


def _must(machine: Machine, argv: Sequence[str]) -> None:
    status, _, detail = machine.run(argv)
    if status != 0:
        raise ReaperProblem(f"`{' '.join(argv)}`: {detail or f'status {status}'}")
