"""`reap --install`: a timer, proved by one run through it; against small programs in place of
systemd's and cron's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from admin_stage import CONFIG, Stage
from burst_lifecycle.admin import reaper_unit
from burst_lifecycle.admin.reaper_unit import Machine, cron_line, service_unit, timer_unit
from burst_lifecycle.errors import ReaperProblem
from burst_lifecycle.events import Reap
from burst_lifecycle.places import Places

# Says what it was asked, and does what the test prepared for that.
_PROGRAM = """\
#!/bin/sh
echo "${0##*/} $*" >> "$FAKE/asked"
case "${0##*/} $*" in
  "systemctl --user show-environment") exit "$(cat "$FAKE/systemd" 2>/dev/null || echo 1)" ;;
  "systemctl --user start burst-reap.service") exec "$FAKE/run" ;;
  "loginctl show-user"*) cat "$FAKE/linger" ;;
  "crontab -l") cat "$FAKE/crontab" 2>/dev/null || { echo "no crontab for me" >&2; exit 1; } ;;
  "crontab -") cat > "$FAKE/crontab" ;;
esac
"""


class Host:
    """A folder of programs, and what they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        for name in ("systemctl", "loginctl", "crontab"):
            self.program(f"bin/{name}", _PROGRAM)
        self.program("run", "#!/bin/sh\nexit 0\n")
        (folder / "linger").write_text("Linger=yes\n")

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def reaps(self, stage: Stage) -> None:
        """The service that systemd starts is a good reap."""
        unit = Path(stage.environ["XDG_CONFIG_HOME"], "systemd/user/burst-reap.service")
        proof = self.places.cloud + "/reaper-proof"
        self.program(
            "run",
            f"#!/bin/sh\nmkdir -p '{self.places.cloud}'\n"
            f"sed -n 's/.*BURST_REAPER=\\([0-9a-f]*\\).*/\\1/p' '{unit}' > '{proof}'\n",
        )

    def has_systemd(self) -> None:
        (self.folder / "systemd").write_text("0")

    @property
    def environ(self) -> dict[str, str]:
        return {"FAKE": str(self.folder), "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    @property
    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def reap(self, text: str) -> None:
        """A good run of what stands there."""
        word = text.partition("BURST_REAPER=")[2][:16]
        reaper_unit.prove(self.places, {"BURST_REAPER": word})

    @property
    def places(self) -> Places:
        """As `Stage` has them."""
        state = os.fsencode(self.folder.parent / "user" / "state")
        return Places.of({b"XDG_STATE_HOME": state, b"HOME": b"/nowhere"})

    @property
    def crontab(self) -> str:
        path = self.folder / "crontab"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


@pytest.fixture
def stage(tmp_path: Path, host: Host) -> Stage:
    return Stage(tmp_path / "user", environ=host.environ)


class Clock:
    """Waiting takes no time; what was written runs after some of it."""

    def __init__(self, host: Host, reaps_after_s: float | None) -> None:
        self.host = host
        self.now_s = 1000.0
        self.reaps_after_s = reaps_after_s

    def time(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.reaps_after_s is not None and self.now_s >= 1000 + self.reaps_after_s:
            self.host.reap(self.host.crontab)


def machine(stage: Stage, clock: Clock) -> Machine:
    environ = {os.fsencode(k): os.fsencode(v) for k, v in stage.environ.items()}
    return Machine(Places.of(environ), stage.environ, clock.time, clock.sleep)


def test_systemd(stage: Stage, host: Host) -> None:
    """Units written, one run through the service was good, then the timer is enabled."""
    host.has_systemd()
    host.reaps(stage)
    where = machine(stage, Clock(host, None))
    assert reaper_unit.install("auto", where, lambda _text: None) == "systemd"
    folder = Path(stage.environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
    assert "Persistent=true" in (folder / "burst-reap.timer").read_text()
    assert "Type=oneshot" in (folder / "burst-reap.service").read_text()
    assert host.asked[1:] == [
        "systemctl --user daemon-reload",
        "systemctl --user start burst-reap.service",
        "systemctl --user enable --now burst-reap.timer",
    ]
    assert reaper_unit.installed(where.places) == "systemd"
    assert reaper_unit.uninstall(where)
    assert list(folder.iterdir()) == []
    assert reaper_unit.installed(where.places) == ""
    assert not reaper_unit.uninstall(where)


@pytest.mark.parametrize("status", [0, 1])
def test_a_run_that_was_not_good_installs_nothing(stage: Stage, host: Host, status: int) -> None:
    """Whether systemd says so, or nothing stands in the ledger afterwards."""
    host.has_systemd()
    host.program("run", f"#!/bin/sh\necho 'no token' >&2\nexit {status}\n")
    # Others reap, too, and a clock that is behind takes every reap for a new one.
    stage.ledger.append(Reap(at_s=stage.now_s + 86_400, ok=True))
    where = machine(stage, Clock(host, None))
    with pytest.raises(ReaperProblem):
        reaper_unit.install("systemd", where, lambda _text: None)
    folder = Path(stage.environ["XDG_CONFIG_HOME"]) / "systemd" / "user"
    assert list(folder.iterdir()) == []
    assert reaper_unit.installed(where.places) == ""


def test_cron(stage: Stage, host: Host) -> None:
    """Every minute until it ran once, then every five; other lines stay as they are."""
    (host.folder / "crontab").write_text("0 3 * * * backup\n")
    where = machine(stage, Clock(host, 70))
    assert reaper_unit.install("auto", where, lambda _text: None) == "cron"
    lines = host.crontab.splitlines()
    assert lines[0] == "0 3 * * * backup"
    assert len(lines) == 2
    assert lines[1].startswith("*/5 * * * * ")
    reaper_unit.install("cron", machine(stage, Clock(host, 5)), lambda _text: None)
    assert len(host.crontab.splitlines()) == 2
    assert reaper_unit.uninstall(where)
    assert host.crontab == "0 3 * * * backup\n"


def test_cron_that_does_not_run(stage: Stage, host: Host) -> None:
    """Waited for, and then taken back."""
    with pytest.raises(ReaperProblem, match="cron did not run it"):
        reaper_unit.install("cron", machine(stage, Clock(host, None)), lambda _text: None)
    assert "burst" not in host.crontab


def test_a_crontab_that_cannot_be_read_is_not_replaced(stage: Stage, host: Host) -> None:
    """`crontab -l` says 1 for that, too."""
    (host.folder / "crontab").write_text("0 3 * * * backup\n")
    here = '"crontab -l")'
    refusing = _PROGRAM.replace(here, f'{here} echo "a full disk" >&2; exit 1 ;;\n  x)')
    host.program("bin/crontab", refusing)
    with pytest.raises(ReaperProblem, match="a full disk"):
        reaper_unit.install("cron", machine(stage, Clock(host, 5)), lambda _text: None)
    assert host.crontab == "0 3 * * * backup\n"


def test_a_token_that_only_the_environment_has(stage: Stage, host: Host) -> None:
    """A timer would not see it: refused before anything is written."""
    stage.configure(CONFIG.replace('{ file = "/nowhere/token" }', "{ env = true }"))
    said = stage.run("reap", "--install")
    assert (said.code, said.out) == (41, "")
    assert "a timer does not see HCLOUD_TOKEN" in said.err
    assert host.asked == []


def test_the_whole_command(stage: Stage, host: Host) -> None:
    """Success is said once there was a run; lingering is looked at."""
    host.has_systemd()
    (host.folder / "linger").write_text("Linger=no\n")
    host.reaps(stage)
    said = stage.run("reap", "--install")
    assert said.code == 0
    assert said.out == (
        "the reaper runs every 5 minutes by systemd, and one run through it was good\n"
    )
    assert "hint: `loginctl enable-linger`" in said.err
    assert "reaper by systemd" in stage.run("status").out
    assert stage.run("reap", "--uninstall").out == "the reaper is not installed any more\n"
    assert stage.run("reap", "--uninstall").out == "no reaper was installed\n"


_ODD = ["/opt/my %python", "-m", 'a"b', "$HOME", "back\\slash"]


def test_a_unit_says_exactly_these_words() -> None:
    """Whatever systemd would expand is escaped, and no token is in it."""
    unit = service_unit(_ODD, {"XDG_STATE_HOME": "/s t", "HCLOUD_TOKEN": "secret", "HOME": "/h"})
    assert 'ExecStart="/opt/my %%python" "-m" "a\\"b" "$$HOME" "back\\\\slash"\n' in unit
    assert 'Environment="XDG_STATE_HOME=/s t"\n' in unit
    assert "secret" not in unit
    assert "OnCalendar=*:0/5\nPersistent=true\n" in timer_unit()


def test_a_crontab_line_says_exactly_these_words(tmp_path: Path) -> None:
    """As cron reads it (`\\%`) and a shell runs it."""
    show = tmp_path / "show %me"
    show.write_text('#!/bin/sh\nprintf "%s\\n" "$XDG_STATE_HOME" "$@" > "$OUT"\n')
    show.chmod(0o755)
    words = [str(show), *_ODD[2:]]
    line = cron_line(words, {"XDG_STATE_HOME": "/s 't", "HCLOUD_TOKEN": "secret"}, 5)
    assert "secret" not in line
    assert line.startswith("*/5 * * * * ")
    command = line.removeprefix("*/5 * * * * ").replace("\\%", "%").replace(">/dev/null 2>&1", "")
    subprocess.run(["/bin/sh", "-c", command], check=True, env={"OUT": str(tmp_path / "out")})
    assert (tmp_path / "out").read_text().splitlines() == ["/s 't", *_ODD[2:]]
