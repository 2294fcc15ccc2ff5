"""burst_lifecycle.settings and trust: layers, what a project may ask for, and clear refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.places import Places
from burst_lifecycle.setting_keys import KEYS, Form, Scope, TokenSource
from burst_lifecycle.settings import PROJECT_FILE, Hetzner, Settings, load
from burst_lifecycle.trust import Trust
from burst_protocol.errors import ConfigError
from burst_wrapper.config import config_path, load_for

HETZNER = """
[hetzner]
token = { file = "~/hetzner.token" }
owner = "me.2"
location = "hel1"
server_type = ["ccx43", "ccx33"]
max_eur_per_hour = 0.5
budget_eur_per_month = 20
keep_alive_s = 600
volume_gb = 50
on_location_full = "new-volume"
"""


@pytest.fixture
def places(home: Path) -> Places:
    return Places.of()


@pytest.fixture
def write(places: Places) -> Callable[[str], None]:
    def user(text: str) -> None:
        os.makedirs(places.config, exist_ok=True)
        Path(places.config_file).write_text(text)

    return user


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / ".config").mkdir(parents=True)
    return root


def ask(project: Path, text: str) -> bytes:
    (project / PROJECT_FILE).write_text(text)
    return text.encode()


def trusted(places: Places, project: Path, text: str) -> None:
    Trust(places.state).add(str(project / PROJECT_FILE), ask(project, text))


def test_without_a_table_there_are_no_servers(places: Places, write: Callable[[str], None]) -> None:
    """A token in the environment is none of our business; the table is what configures."""
    assert load(places) == Settings()
    assert load(places).hetzner is None
    write("[hetzner]")
    assert load(places).hetzner == Hetzner()
    assert Hetzner().max_eur_per_hour is None  # nothing agreed to: nothing is created


def test_values_of_the_table(places: Places, write: Callable[[str], None]) -> None:
    """Euros are exact, one location may be a string."""
    write(HETZNER)
    assert load(places).hetzner == Hetzner(
        token=TokenSource(file="~/hetzner.token"),
        owner="me.2",
        location=("hel1",),
        server_type=("ccx43", "ccx33"),
        max_eur_per_hour=Decimal("0.5"),
        budget_eur_per_month=Decimal(20),
        keep_alive_s=600.0,
        volume_gb=50,
        on_location_full="new-volume",
    )


def test_every_key_of_the_table_has_a_field_with_that_default() -> None:
    """The table of keys is the only place with defaults."""
    fields = {field.name: field.default for field in attrs.fields(Hetzner)}
    keys = {name.removeprefix("hetzner."): key for name, key in KEYS.items() if "." in name}
    assert set(fields) == set(keys)
    for name, key in keys.items():
        expected = TokenSource() if key.form is Form.TOKEN else key.default
        assert fields[name] == expected, name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "server_typ = 'x'",
            "unknown key `hetzner.server_typ`; did you mean `hetzner.server_type`?",
        ),
        ("host = 'x'", "unknown key `hetzner.host`; did you mean `host`?"),
        ("token = 'abcdef'", "a token does not belong into the configuration itself"),
        ("token = {}", "must be { file"),
        ("token = { file = 'a', env = true }", "must be { file"),
        ("token = { path = 'abcdef' }", "unknown key `hetzner.token.path`"),
        ("token = { file = '' }", "must be an absolute path"),
        ("token = { file = 'abcdef' }", "must be an absolute path, or one that begins with ~"),
        ("ssh_key_path = 'key'", "must be an absolute path"),
        ("token = { command = 'pass' }", "`hetzner.token.command` must be a list of strings"),
        ("token = { command = [] }", "is empty"),
        ("token = { env = 1 }", "must be true or false"),
        ("endpoint = 'http://api.example/v1'", "must be https, or http to a loopback address"),
        ("endpoint = 'https://me:abcdef@api.example/v1'", "must be like https://host/v1"),
        ("location = []", "must be a name or a list of names like `fsn1`"),
        ("location = 'FSN 1'", "must be a name or a list of names"),
        ("max_eur_per_hour = 0", "must be more than 0"),
        ("max_eur_per_hour = '1.5'", "must be a number"),
        ("max_eur_per_hour = nan", "must be a number"),
        ("volume_gb = 5", "must be a whole number from 10 to 10240"),
        ("owner = 'me@here'", "must be up to 63 letters"),
        ("on_location_full = 'wait'", "knows `local-disk`, `new-volume`"),
        ("reap = true", "must be a string"),
        ("wait = 'yes'", "must be true or false"),
    ],
)
def test_what_is_wrong_is_said_without_showing_it(
    places: Places, write: Callable[[str], None], text: str, complaint: str
) -> None:
    """A secret in the wrong place must not come back in a message."""
    write(f"[hetzner]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(places)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"{places.config_file}: ")
    assert "abcdef" not in str(caught.value)


def test_layers(places: Places, write: Callable[[str], None], project: Path) -> None:
    """User, then project, then options; lists that name what to send add up."""
    write('forward_env = ["A"]\nexclude = ["x/"]\n[hetzner]\nkeep_alive_s = 1\nvolume_gb = 20')
    trusted(
        places,
        project,
        'forward_env = ["B", "A"]\nexclude = ["y"]\n[hetzner]\nkeep_alive_s = 2\nlocation = "hel1"',
    )
    got = load(places, str(project), {"hetzner.keep_alive_s": 3})
    assert got.forward_env == (b"A", b"B")
    assert got.exclude == ("x/", "y")
    assert got.hetzner is not None
    assert (got.hetzner.keep_alive_s, got.hetzner.volume_gb) == (3.0, 20)
    assert got.hetzner.location == ("hel1",)
    assert load(places).hetzner == Hetzner(keep_alive_s=1.0, volume_gb=20)


def test_a_project_alone_configures_no_server(
    places: Places, write: Callable[[str], None], project: Path
) -> None:
    """Even a trusted one; it says that it has no effect."""
    trusted(places, project, "[hetzner]\nlocation = 'hel1'")
    got = load(places, str(project))
    assert got.hetzner is None
    assert "no effect" in got.warnings[0]


MONEY = """key_env = ["K"]
forward_env = ["AWS_SECRET"]
exclude = ["y"]
[hetzner]
boot_after_s = 0
wait = true"""


def test_what_costs_or_sends_needs_trust(
    places: Places, write: Callable[[str], None], project: Path
) -> None:
    """The rest of the file counts; the keys that wait are named."""
    write("[hetzner]")
    ask(project, MONEY)
    got = load(places, str(project))
    assert got.forward_env == ()
    assert got.exclude == ("y",)
    assert got.hetzner == Hetzner(wait=True)
    assert got.untrusted == ("key_env", "forward_env", "hetzner.boot_after_s")
    Trust(places.state).add(str(project / PROJECT_FILE), MONEY.encode())
    got = load(places, str(project))
    assert got.forward_env == (b"AWS_SECRET",)
    assert got.hetzner == Hetzner(wait=True, boot_after_s=0.0)
    assert got.untrusted == ()


def test_trust_is_for_every_byte_and_for_one_place(
    places: Places, write: Callable[[str], None], project: Path, tmp_path: Path
) -> None:
    """A space more, another checkout, or taken back: not trusted."""
    trusted(places, project, MONEY)
    trust = Trust(places.state)
    path = str(project / PROJECT_FILE)
    assert trust.holds(path, MONEY.encode())
    assert not trust.holds(path, MONEY.encode() + b" ")
    assert not trust.holds(str(tmp_path / "other" / PROJECT_FILE), MONEY.encode())
    ask(project, MONEY + "\n")
    assert load(places, str(project)).forward_env == ()
    trust.forget(path)
    trust.forget(path)
    assert not trust.holds(path, MONEY.encode())


def test_a_damaged_record_is_no_trust(places: Places, project: Path) -> None:
    """Whatever stands in it."""
    trusted(places, project, MONEY)
    (record,) = Path(places.state, "trusted").iterdir()
    for content in (b"", b"[]", b"\xff", b'{"sha256": 5}'):
        record.write_bytes(content)
        assert not Trust(places.state).holds(str(project / PROJECT_FILE), MONEY.encode())


@pytest.mark.parametrize(
    "text",
    [
        "hetzner.token = { command = ['sh', '-c', 'evil'] }",
        "hetzner.endpoint = 'https://evil.example/v1'",
        "hetzner.max_eur_per_hour = 100",
        "hetzner.budget_eur_per_month = 100",
        "hetzner.owner = 'somebody'",
        "hetzner.ssh_key_path = '/x'",
        "notify = ['sh']",
        "host = 'evil.example'",
        "slots = 1",
    ],
)
def test_what_no_project_may_set(places: Places, project: Path, text: str) -> None:
    """Trusted or not: an error that says whose it is."""
    trusted(places, project, text)
    with pytest.raises(ConfigError, match="is not a project's to set"):
        load(places, str(project))


def test_scopes_of_what_is_dangerous() -> None:
    """A list by hand: who adds a key thinks about it."""
    free = {name for name, key in KEYS.items() if key.scope is Scope.PROJECT}
    limits = {"program_memory_gb", "program_wall_s"}
    assert free == {"exclude", "services", "test_runner", "hetzner.wait", *limits}


def test_unexclude_of_what_is_not_built_in_warns(
    places: Places, write: Callable[[str], None]
) -> None:
    """With or without a slash; the rest holds."""
    write(
        'unexclude = ["node_modules", ".env", "taget", "gen/", "tests/cert.pem"]\n'
        'exclude = ["big/", ".git/"]'
    )
    got = load(places)
    assert got.warnings == (
        "`unexclude`: 'taget' is not built in; did you mean `target/`?",
        (
            "`unexclude`: 'gen/' is not built in: in your own file it has an effect only where a "
            "`.gitignore` ignores it"
        ),
    )
    assert "node_modules/" not in got.excludes
    assert ".env" not in got.excludes
    assert ".env.*" in got.excludes
    assert got.excludes.count(".git/") == 1
    assert got.excludes[-1] == "big/"


def test_unexclude_of_what_a_project_does_not_have_warns(places: Places, project: Path) -> None:
    """It may name what the project's `.gitignore` ignores, if that is there."""
    path = project / PROJECT_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text('unexclude = ["gen/", "*.dump", "a/*.bin", "nonsense"]')
    (project / "gen").mkdir()
    (project / "a").mkdir()
    (project / "a/x.bin").write_bytes(b"")
    assert load(places, str(project)).warnings == (
        "`unexclude`: '*.dump' is not built in, and nothing here is called so",
        "`unexclude`: 'nonsense' is not built in, and nothing here is called so",
    )


def test_options_are_checked_like_files(places: Places) -> None:
    """They come from a command line."""
    with pytest.raises(ConfigError, match=r"did you mean `hetzner\.keep_alive_s`"):
        load(places, None, {"hetzner.keepalive_s": 1})
    with pytest.raises(ConfigError, match="must be a number"):
        load(places, None, {"hetzner.keep_alive_s": "1"})


def test_a_pipe_in_place_of_a_projects_file(places: Places, project: Path) -> None:
    """Is refused at once instead of being waited for."""
    os.mkfifo(project / PROJECT_FILE)
    with pytest.raises(ConfigError, match="it is no file"):
        load(places, str(project))


def test_the_daemons_configuration_has_the_same_layers(
    places: Places, write: Callable[[str], None], project: Path
) -> None:
    """`[crate.X]` of the project is added to the user's."""
    write('[crate.app]\nkey_env = ["A"]\n[hetzner]\nvolume_gb = 30')
    trusted(places, project, 'extra_inputs = ["f"]\n[crate.app]\nkey_env = ["B"]')
    config = load_for(config_path(), os.fsencode(project))
    assert config.rule(b"app").key_env == (b"A", b"B")
    assert config.extra_inputs == (b"f",)
    assert config.hetzner == Hetzner(volume_gb=30)
    assert config.stamp != (0, 0)
