"""What every `cargo burst` command says beside its own business, and that silence costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.admin.doctor import Check
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import Created, Deleted, Reap
from burst_lifecycle.ledger import Ledger
from burst_lifecycle.machine import machine_key
from burst_lifecycle.notices import Level, Notice, Notices
from burst_lifecycle.places import Places
from burst_lifecycle.token import ENDPOINT, Token
from burst_wrapper.cli import afterwards, doctor, stop
from localcloud import LocalCloud

pytest_plugins = ("cloud_fixtures",)

LIMIT_S = 0.002
SERVER = Created(
    at_s=1_800_000_000.0,
    operation="0123456789abcdef",
    kind=Kind.SERVER,
    id=42,
    name="burst-build-0123456789",
    type="ccx63",
    location="fsn1",
    eur_per_hour=Decimal("1.3678"),
)


@attrs.frozen
class Said:
    code: int
    out: str
    err: str


def cargo_burst(*words: str, cwd: Path) -> Said:
    command = [sys.executable, "-m", "burst_wrapper.cli.cargo_burst", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def notices(home: Path) -> Notices:
    return Notices(Places.of().cloud)


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger(Places.of().cloud, "0a1b2c3d")


def test_notices_are_shown_once_after_the_commands_own_words(home: Path, notices: Notices) -> None:
    """On stderr, also beside a document on stdout; the next command has nothing to say."""
    notices.post(Notice("no ccx63 in fsn1", "no-capacity", Level.WARNING, "name more types"))
    said = cargo_burst("explain", "--json", cwd=home)
    assert json.loads(said.out) == {"schema": 1, "units": []}
    assert said.code == 1
    assert said.err.startswith("notice: ")
    assert said.err.endswith("no ccx63 in fsn1\nhint: name more types\n")
    assert notices.pending() == ()
    assert cargo_burst("stop", cwd=home) == Said(0, "no daemon is running\n", "")


def test_a_command_that_fails_shows_them_too(home: Path, notices: Notices) -> None:
    """Its own error first."""
    notices.post(Notice("no ccx63 in fsn1", "no-capacity"))
    said = cargo_burst("enable", "--project", cwd=home)
    error, _, rest = said.err.partition("notice:")
    assert error.startswith("error: no cargo project here")
    assert "no ccx63 in fsn1" in rest
    assert notices.pending() == ()


def test_questions_about_burst_itself_do_not_use_them_up(home: Path, notices: Notices) -> None:
    """`--help` is read for itself, and `--version` by scripts."""
    notices.post(Notice("no ccx63 in fsn1", "no-capacity"))
    for words in (["--help"], ["--version"], ["explain", "--help"]):
        said = cargo_burst(*words, cwd=home)
        assert (said.code, said.err) == (0, "")
    assert len(notices.pending()) == 1


def test_silence_costs_nothing(home: Path, notices: Notices) -> None:
    """Without any notice, and with a hundred that were shown: less than two milliseconds of this
    processor, and no module is loaded for it."""
    for count in (0, 100):
        for number in range(count):
            notices.post(Notice(f"text {number}", f"key {number}"))
            notices.shown(notices.pending())
        loaded = set(sys.modules)
        costs_s = []
        for _ in range(5):
            begin_s = time.thread_time()
            afterwards.say()
            costs_s.append(time.thread_time() - begin_s)
        assert min(costs_s) < LIMIT_S
        assert set(sys.modules) == loaded


def test_the_quick_look_agrees_with_the_real_one(notices: Notices) -> None:
    """Whatever was posted and shown, in whatever order, also between torn lines."""
    path = os.fsencode(notices.path)
    assert not afterwards.notices_wait(path)
    notices.post(Notice("a", "a"))
    first = notices.pending()
    notices.post(Notice("b", "b"))
    notices.shown(first)
    with open(notices.path, "a") as file:
        file.write('{"torn": \n[]\n')
    assert [notice.text for notice in notices.pending()] == ["b"]
    assert afterwards.notices_wait(path)
    notices.shown(notices.pending())
    assert not afterwards.notices_wait(path)


def test_what_has_no_effect_is_named(home: Path) -> None:
    """By every command, once: in the user's file and in the project's."""
    config = Path(Places.of().config_file)
    config.parent.mkdir(parents=True)
    config.write_text('unexclude = ["taget"]\n')
    project = home / "app"
    (project / "src").mkdir(parents=True)
    (project / ".config").mkdir()
    (project / "Cargo.lock").write_text("version = 4\n")
    (project / ".config" / "burst.toml").write_text('key_env = ["SECRET"]\n')
    said = cargo_burst("stop", cwd=project / "src")
    assert said.out == "no daemon is running\n"
    assert said.err == (
        "warning: configuration: `unexclude`: 'taget' is not built in; did you mean `target/`?\n"
        f"warning: {project}/.config/burst.toml is not trusted: `key_env` has no effect\n"
        "hint: read it, then `cargo burst enable --trust` in that project\n"
    )
    config.write_text("unexclud = []\n")
    said = cargo_burst("stop", cwd=home)
    assert said.code == 0
    assert said.err.startswith(f"warning: {config}: unknown key `unexclud`; did you mean")


def test_stop_names_a_server_that_goes_on(
    home: Path, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    """The daemon was who would have reaped it."""
    assert stop.run([]) == 0
    assert capsys.readouterr().err == ""
    volume = attrs.evolve(SERVER, kind=Kind.VOLUME, id=43, name="burst-store-1")
    ledger.append(SERVER, volume)
    assert stop.run([]) == 0
    err = capsys.readouterr().err
    assert "server burst-build-0123456789 (ccx63 in fsn1), €1.3678 an hour" in err
    assert "burst-store-1" not in err
    assert "hint: `burst-admin down` deletes it now" in err


def configure(home: Path, text: str) -> None:
    config = Path(Places.of().config_file)
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(text)


def mine(home: Path, token: str) -> Created:
    """A server that was made with this token; it is the configured one."""
    path = home / "token"
    path.write_text(token)
    path.chmod(0o600)
    configure(home, f'[hetzner]\ntoken = {{ file = "{path}" }}\n')
    key = machine_key(Places.of().cloud)
    fingerprint = Token(token, ENDPOINT, "test").fingerprint(key)
    return attrs.evolve(SERVER, endpoint=ENDPOINT, token=fingerprint)


def test_nobody_comes_by(home: Path, ledger: Ledger) -> None:
    """Said by every command while something bills; not after a good reap."""
    ledger.append(mine(home, "secret-token"))
    said = cargo_burst("stop", cwd=home)
    assert said.code == 0
    assert "warning: something bills, and the last good reap was never" in said.err
    ledger.append(Reap(at_s=time.time(), ok=True))
    said = cargo_burst("explain", cwd=home)
    assert said.err == ""


def test_what_another_token_made_is_named_until_it_is_gone(home: Path, ledger: Ledger) -> None:
    """With the token switched, unreadable or not configured any more: what, where to look, euros
    per hour, and a status that is not zero."""
    ledger.append(mine(home, "secret-token"), Reap(at_s=time.time(), ok=True))
    for change in (
        lambda: (home / "token").write_text("other-token"),
        lambda: (home / "token").chmod(0o644),
        lambda: configure(home, ""),
    ):
        change()
        said = cargo_burst("stop", cwd=home)
        assert said.code == 55
        assert "burst-build-0123456789" in said.err
        assert "€1.3678/h" in said.err
        assert "https://console.hetzner.com" in said.err
        assert "error: something still costs money" in said.err
        assert "secret-token" not in said.err
    ledger.append(Deleted(at_s=time.time(), kind=Kind.SERVER, id=SERVER.id))
    assert cargo_burst("stop", cwd=home) == Said(0, "no daemon is running\n", "")


@pytest.mark.parametrize("verb", ["status", "audit", "doctor"])
def test_a_revoked_token_in_the_configuration(
    home: Path, ledger: Ledger, paper_cloud: LocalCloud, verb: str
) -> None:
    """It made what bills, so by its fingerprint nothing is another's; but it ends nothing."""
    made = mine(home, paper_cloud.token)
    config = Path(Places.of().config_file)
    config.write_text(config.read_text() + f'endpoint = "{paper_cloud.endpoint}"\n')
    ledger.append(
        attrs.evolve(made, endpoint=paper_cloud.endpoint), Reap(at_s=time.time(), ok=True)
    )
    paper_cloud.revoke(paper_cloud.token)
    command = [sys.executable, "-m", "burst_lifecycle.admin.main", verb]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=home)
    assert done.returncode != 0, done.stdout
    assert "burst-build-0123456789" in done.stderr
    assert "€1.3678/h" in done.stderr
    assert "https://console.hetzner.com" in done.stderr


def test_doctor_looks_at_servers_where_there_are_any(
    home: Path, paper_cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `burst-admin doctor` checks, under the same words."""

    async def none(*_: object) -> list[Check]:
        return []

    monkeypatch.setattr(doctor, "_agent", none)
    assert all(not check.what.startswith("servers") for check in doctor._checks())
    token = home / "token"
    token.write_text(paper_cloud.token)
    token.chmod(0o600)
    config = Path(Places.of().config_file)
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[hetzner]\ntoken = {{ file = "{token}" }}\nendpoint = "{paper_cloud.endpoint}"\n'
        "max_eur_per_hour = 2\n"
    )
    checks = {check.what: check for check in doctor._checks()}
    assert checks["servers: token"].result == f"file {token} works"
    assert checks["servers: token may write"].ok
    assert checks["servers: reaper"].hint == "`burst-admin reap --install`"
    assert checks["host"].result == "none configured: units run on servers of your own"
    paper_cloud.revoke(paper_cloud.token)
    checks = {check.what: check for check in doctor._checks()}
    assert not checks["servers: token"].ok
