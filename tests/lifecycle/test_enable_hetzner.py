"""`cargo burst enable hetzner`, `disable hetzner`, `enable --trust`: consent, by the local cloud.

The real `hcloud` asks for prices; what is written down is read by the real configuration reader.
"""

from __future__ import annotations

import io
import os
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_stage import Terminal
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.errors import NoCapacity, TokenProblem
from burst_lifecycle.events import Created
from burst_lifecycle.labels import Claim, Role, new_operation
from burst_lifecycle.ledger import Ledger
from burst_lifecycle.places import Places
from burst_lifecycle.settings import Hetzner, load
from burst_lifecycle.trust import Trust
from burst_protocol.errors import BurstError, ConfigError
from burst_wrapper.cli import hetzner, trust
from burst_wrapper.cli.consent_file import ConsentFile
from burst_wrapper.cli.enable import run as enable_run
from localcloud import LocalCloud

pytest_plugins = ("cloud_fixtures",)

CONFIGS = {
    "nothing": "",
    "comments only": "# mine\n",
    "other keys": '# mine\nhost = "" # none\n\n[crate.x]\nkey_env = ["A"]\n',
    "no final newline": 'forward_env = ["A"]',
    "a table of mine": "[hetzner] # mine\nkeep_alive_s = 60 # short\n\n[crate.x]\n",
    "types of mine": (
        '[hetzner]\nserver_type = [\n  "ccx43", # big\n  "nope",\n]\nlocation = "fsn1"\n'
    ),
    "an inline table": "hetzner = { keep_alive_s = 60 }\n",
    "dotted keys": "hetzner.keep_alive_s = 60\n",
    "windows line ends": "[hetzner]\r\nkeep_alive_s = 60\r\n",
}


@attrs.define
class Person:
    """Somebody at a terminal, with an account at the local cloud."""

    cloud: LocalCloud
    home: Path

    @property
    def places(self) -> Places:
        return Places.of()

    @property
    def config(self) -> Path:
        return Path(self.places.config_file)

    @property
    def token_file(self) -> Path:
        return self.config.with_name("hetzner.token")

    def put(self, text: str) -> bytes:
        """Tokens are for the endpoint in the configuration only, unless a person says otherwise."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_bytes(text.encode())
        return text.encode()

    def put_token(self, value: str, mode: int = 0o600) -> None:
        self.token_file.parent.mkdir(parents=True, exist_ok=True)
        self.token_file.write_text(value + "\n")
        self.token_file.chmod(mode)

    def desk(self, answer: str | None) -> Desk:
        environ = {**os.environ, "HCLOUD_ENDPOINT": self.cloud.endpoint, "NO_COLOR": "1"}
        return Desk(
            environ,
            stdin=io.StringIO() if answer is None else Terminal(answer),
            stdout=io.StringIO(),
            stderr=io.StringIO() if answer is None else Terminal(),
            cwd=str(self.home),
        )

    def enable(self, *words: str, answer: str | None = "yes\n") -> tuple[int, str, str]:
        desk = self.desk(answer)
        return (hetzner.run(words, desk), *said(desk))

    def disable(self) -> tuple[int, str, str]:
        desk = self.desk(None)
        return (hetzner.run_disable([], desk), *said(desk))

    @property
    def settings(self) -> Hetzner:
        found = load(self.places).hetzner
        assert found is not None
        return found


def said(desk: Desk) -> tuple[str, str]:
    assert isinstance(desk.stdout, io.StringIO)
    assert isinstance(desk.stderr, io.StringIO)
    return desk.stdout.getvalue(), desk.stderr.getvalue()


@pytest.fixture
def person(paper_cloud: LocalCloud, home: Path) -> Person:
    found = Person(paper_cloud, home)
    found.put_token(paper_cloud.token)
    return found


def test_prices_are_shown_and_what_was_agreed_is_written(person: Person) -> None:
    """Live prices of this very cloud, the worst cases, then the question; never the token."""
    code, out, err = person.enable()
    assert code == 0
    types = {one.name: one for one in person.cloud.client().server_types.get_all()}
    for name in ("ccx63", "ccx53", "ccx43"):
        hourly = next(
            price["price_hourly"]["net"]
            for price in types[name].prices or []
            if price["location"] == "fsn1"
        )
        assert f"€{Decimal(hourly):.4f} per started hour" in out
    assert "forgotten for a weekend (60 h), no reaper" in out
    assert "May burst create servers like these for you?" in err
    assert "`burst-admin reap --install`, so that none is ever forgotten" in out
    table = tomllib.loads(person.config.read_text())["hetzner"]
    assert list(table) == ["token", "server_type", "location", "max_eur_per_hour"]
    found = person.settings
    assert found.server_type == ("ccx63", "ccx53", "ccx43")
    assert found.location == ("fsn1", "nbg1", "hel1")
    assert found.token.file == str(person.token_file)
    assert found.max_eur_per_hour is not None
    assert f"€{found.max_eur_per_hour} per hour is ever created" in out
    assert person.cloud.token not in out + err + person.config.read_text()
    assert [call.operation for call in person.cloud.calls() if call.method != "GET"] == [
        "PUT /ssh_keys/{id}"
    ], "only the question whether this token may write"


@pytest.mark.parametrize("answer", ["no\n", "\n", ""])
def test_a_no_changes_nothing(person: Person, answer: str) -> None:
    """No is the default."""
    before = person.put("# mine\n")
    code, _, err = person.enable(answer=answer)
    assert code == 1
    assert "nothing was changed" in err
    assert person.config.read_bytes() == before


def test_nobody_to_ask(person: Person) -> None:
    """A script must say `--yes`."""
    with pytest.raises(hetzner.NeedsConsent):
        person.enable(answer=None)
    assert not person.config.exists()
    code, out, _ = person.enable("--yes", answer=None)
    assert code == 0
    assert "servers are allowed now" in out


@pytest.mark.parametrize("name", CONFIGS)
def test_enable_and_disable_restore_every_byte(person: Person, name: str) -> None:
    """Every other key keeps its meaning, every comment its place."""
    text = CONFIGS[name]
    before = person.put(text)
    assert person.enable()[0] == 0
    after = tomllib.loads(person.config.read_bytes().decode())
    old = tomllib.loads(text)
    mine = {"token", "server_type", "location", "max_eur_per_hour"}
    assert {key: value for key, value in after.items() if key != "hetzner"} == {
        key: value for key, value in old.items() if key != "hetzner"
    }
    kept = {key: value for key, value in old.get("hetzner", {}).items() if key not in mine}
    assert after["hetzner"].items() >= kept.items()
    assert set(after["hetzner"]) == mine | set(kept)
    again = person.config.read_bytes()
    assert "allowed already" in person.enable()[1]
    assert person.config.read_bytes() == again
    code, out, _ = person.disable()
    assert code == 0
    assert "nothing of burst that costs money exists" in out
    if text:
        assert person.config.read_bytes() == before
    else:
        assert person.config.read_text() == ""


def test_a_created_file_goes_again(person: Person) -> None:
    person.enable()
    person.disable()
    assert not person.config.exists()
    assert "were not allowed" in person.disable()[1]


def test_a_second_consent_is_taken_back_wholly(person: Person) -> None:
    """Other types later: `disable` still restores what was there before burst came."""
    before = person.put("# mine\n[hetzner]\nkeep_alive_s = 60\n")
    person.enable()
    code, out, _ = person.enable("--server-type", "ccx43", "--location", "nbg1")
    assert code == 0
    assert "ccx63" not in out
    assert person.settings.server_type == ("ccx43",)
    assert person.settings.location == ("nbg1",)
    person.disable()
    assert person.config.read_bytes() == before


def test_what_was_written_later_stays(person: Person) -> None:
    """Keys that the user added to our table are the user's."""
    person.enable()
    with person.config.open("a") as file:
        file.write("keep_alive_s = 60 # mine\n")
    text = person.config.read_text().replace("max_eur_per_hour = ", "max_eur_per_hour = 1")
    person.put(text)
    person.disable()
    assert tomllib.loads(person.config.read_text()) == {"hetzner": {"keep_alive_s": 60}}
    assert "# mine" in person.config.read_text()


def test_a_limit_of_ones_own(person: Person) -> None:
    """What is dearer is named and left out."""
    _, out, _ = person.enable("--max-eur-per-hour", "0.5")
    assert "ccx63  costs more than €0.5 per hour, and left out" in out
    assert person.settings.server_type == ("ccx43",)
    with pytest.raises(NoCapacity):
        person.enable("--max-eur-per-hour", "0.01")


@pytest.mark.parametrize("type_", ["cax11", "nope"])
def test_what_cannot_be_used_is_said(person: Person, type_: str) -> None:
    """Another architecture, or a name that nobody sells."""
    _, out, _ = person.enable("--server-type", type_, "--server-type", "ccx13")
    assert f"  {type_}" in out
    assert "left out" in out
    assert person.settings.server_type == ("ccx13",)


def test_tokens_that_do_not_do(person: Person) -> None:
    """Absent, open to others, reading only: an error with a way out, and nothing is written."""
    person.put_token(person.cloud.token, mode=0o644)
    with pytest.raises(TokenProblem, match="others may read"):
        person.enable()
    person.put_token(person.cloud.add_token(readonly=True).value)
    with pytest.raises(hetzner.NoToken, match="it only reads") as caught:
        person.enable()
    assert "Read & Write" in caught.value.hint
    person.token_file.unlink()
    with pytest.raises(hetzner.NoToken, match=r"hetzner\.token"):
        person.enable()
    assert not person.config.exists()


def test_other_sources_of_the_token(person: Person, tmp_path: Path) -> None:
    """A named file (relative to here, written whole), a command, a variable that was asked for."""
    person.token_file.rename(person.home / "elsewhere")
    person.enable("--token-file", "elsewhere")
    assert person.settings.token.file == str(person.home / "elsewhere")
    person.enable("--token-command", "cat", str(person.home / "elsewhere"))
    assert person.settings.token.command == ("cat", str(person.home / "elsewhere"))
    desk = person.desk("yes\n")
    desk.environ["HCLOUD_TOKEN"] = person.cloud.token
    assert hetzner.run(["--token-env"], desk) == 0
    assert person.settings.token.env is True
    assert "needs a token in a file" in said(desk)[0]


def test_disable_names_what_exists_and_keeps_the_way_to_it(person: Person) -> None:
    """No server is made any more, but `burst-admin` can still see and delete what there is."""
    before = person.put('[hetzner]\nowner = "me"\n')
    person.enable()
    claim: Any = Claim("me", Role.STORE, new_operation(), 2_000_000_000, project="p1").labels()
    made = person.cloud.client().volumes.create(
        size=10,
        name="burst-store-0123456789",
        location=person.cloud.client().locations.get_by_name("fsn1"),
        labels=claim,  # the library says str
    )
    made.action.wait_until_finished()
    code, out, err = person.disable()
    assert code == 0
    assert "no server is made any more" in out
    assert "burst-store-0123456789" in out
    assert "`burst-admin down --everything`" in err
    assert person.settings.max_eur_per_hour is None
    assert person.settings.token.file == str(person.token_file)
    person.cloud.client().volumes.delete(made.volume)
    assert "nothing of burst that costs money" in person.disable()[1]
    assert person.config.read_bytes() == before


def test_disable_without_a_cloud_to_ask(person: Person) -> None:
    """The consent goes in any case; this machine says what it remembers."""
    person.enable()
    Ledger(person.places.cloud, "0a1b2c3d").append(
        Created(
            at_s=1_800_000_000.0,
            operation="0123456789abcdef",
            kind=Kind.SERVER,
            id=42,
            name="burst-build-0123456789",
            type="ccx63",
            location="fsn1",
        )
    )
    person.cloud.revoke(person.cloud.token)
    code, out, err = person.disable()
    assert code == 0
    assert "no server is made any more" in out
    assert "the cloud could not be asked" in err
    assert "server burst-build-0123456789 (ccx63 in fsn1)" in err
    assert person.settings.max_eur_per_hour is None


def test_a_broken_configuration_is_kept(person: Person) -> None:
    for content in (b"[hetzner\n", b"\xff\xfe"):
        person.config.parent.mkdir(parents=True, exist_ok=True)
        person.config.write_bytes(content)
        with pytest.raises(ConfigError):
            person.enable()
        with pytest.raises(ConfigError) as caught:
            person.disable()
        assert "cargo" not in caught.value.hint
        assert person.config.read_bytes() == content


LINES = st.lists(
    st.sampled_from(
        [
            "[hetzner]",
            "[crate.x]",
            "hetzner.keep_alive_s = 2",
            "keep_alive_s = 3",
            'location = "fsn1"',
            "location = [\n 'a', # b\n]",
            "# max_eur_per_hour = 9",
            "x = 1",
        ]
    ),
    max_size=6,
)


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_any_file_is_changed_in_our_keys_only(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    """Or it is refused as it is."""
    folder = tmp_path_factory.mktemp("consent")
    file = ConsentFile(Places(str(folder), str(folder), str(folder)))
    text = end.join(lines)
    Path(file.path).write_bytes(text.encode())
    entries = {"location": '["hel1"]', "max_eur_per_hour": "1.37"}
    try:
        before = tomllib.loads(text)
        file.set(entries, None)
    except (tomllib.TOMLDecodeError, BurstError):
        assert Path(file.path).read_bytes() == text.encode()
        return
    before.setdefault("hetzner", {}).update(location=["hel1"], max_eur_per_hour=1.37)
    assert tomllib.loads(file.read()) == before
    assert file.allowed
    file.take_back()
    assert file.read() == text


# -- a project's file ------------------------------------------------------------------------------


@pytest.fixture
def project(home: Path) -> Path:
    root = home / "app"
    (root / "src").mkdir(parents=True)
    (root / ".config").mkdir()
    (root / "Cargo.toml").write_text('[package]\nname = "app"\nversion = "0.1.0"\n')
    (root / "Cargo.lock").write_text("version = 4\n")
    (root / "src" / "lib.rs").write_text("")
    return root


def trusting(project: Path, *words: str, answer: str | None = "yes\n") -> tuple[int, str, str]:
    desk = Desk(
        {**os.environ, "NO_COLOR": "1"},
        stdin=io.StringIO() if answer is None else Terminal(answer),
        stdout=io.StringIO(),
        stderr=io.StringIO() if answer is None else Terminal(),
        cwd=str(project / "src"),
    )
    return (trust.run(["--trust", *words], desk), *said(desk))


def test_trust_is_for_the_bytes_that_were_shown(project: Path) -> None:
    """Shown whole, asked, then it counts, and no longer when a byte has changed."""
    file = project / ".config" / "burst.toml"
    file.write_text('forward_env = ["DATABASE_URL"] # for sqlx\nexclude = ["big/"]\n')
    assert load(Places.of(), str(project)).untrusted == ("forward_env",)
    assert trusting(project, answer="no\n")[0] == 1
    with pytest.raises(trust.NeedsTrust):
        trusting(project, answer=None)
    assert load(Places.of(), str(project)).untrusted == ("forward_env",)
    code, out, _ = trusting(project)
    assert code == 0
    assert '    forward_env = ["DATABASE_URL"] # for sqlx\n' in out
    assert "With your trust this counts: `forward_env`." in out
    assert load(Places.of(), str(project)).forward_env == (b"DATABASE_URL",)
    assert "trusted already" in trusting(project)[1]
    file.write_text(file.read_text() + "\n")
    assert load(Places.of(), str(project)).untrusted == ("forward_env",)
    assert trusting(project, "--yes", answer=None)[0] == 0
    desk = Desk(cwd=str(project), stdout=io.StringIO())
    assert trust.run_disable(["--trust"], desk) == 0
    assert load(Places.of(), str(project)).untrusted == ("forward_env",)


def test_nothing_is_hidden_from_who_trusts(project: Path) -> None:
    """Neither terminal sequences nor letters that turn the line around."""
    hidden = "\x1b[8m\u202e\r"
    assert trust.shown(f'x = 1 # {hidden}"\n'.encode()) == ['x = 1 # \\x1b[8m\\u202e\\r"']


def test_nothing_to_trust(project: Path, home: Path) -> None:
    with pytest.raises(trust.NoProjectFile):
        trusting(project)
    (project / ".config" / "burst.toml").write_text('exclude = ["big/"]\n')
    code, out, _ = trusting(project)
    assert code == 0
    assert "asks for nothing that needs trust" in out
    assert not Trust(Places.of().state).holds(str(project / ".config/burst.toml"), b"")
    (project / ".config" / "burst.toml").write_text('host = "x"\n')
    with pytest.raises(ConfigError, match="not a project's to set"):
        trusting(project)


def test_the_words_lead_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`enable hetzner` and `enable --trust` are not about cargo's configuration."""
    monkeypatch.chdir(project)
    with pytest.raises(trust.NoProjectFile):
        enable_run(["--trust"])
    with pytest.raises(hetzner.NoToken):
        enable_run(["hetzner"])
    assert not (Path(os.environ["CARGO_HOME"]) / "config.toml").exists()
