"""burst_wrapper.config: every key, and one clear error for everything that is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from burst_lifecycle.setting_keys import KEYS
from burst_protocol.errors import ConfigError
from burst_wrapper.config import Config, Rule, config_path, load

EVERYTHING = """
host = "me@build.example:2222"
silence_s = 20
connect_timeout_s = 2.5
idle_exit_s = 0
store_gb = 100
slots = 8
donate = false
forward_env = ["MY_API_TOKEN"]
key_env = ["GREETING"]
extra_inputs = ["~/shared/schema.graphql", "../proto"]
pure_macros = ["my-derive"]
exclude = ["datasets/"]
unexclude = ["node_modules"]
services = ["postgresql", "redis"]
test_runner = "nextest"
driver_tokens = ["CARGO_REGISTRIES_MINE_TOKEN"]
driver_ssh_agent = true
program_memory_gb = 16
program_wall_s = 3600
notify = ["notify-send", "burst"]

[crate.my-app]
extra_inputs = ["templates"]
key_env = ["LOCALE"]

[crate.other]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def loaded(file: Path, text: str) -> Config:
    file.write_text(text)
    return load(bytes(file))


def test_no_file_is_the_default(file: Path) -> None:
    """Everything works without a configuration."""
    assert load(bytes(file)) == Config()
    assert loaded(file, "") == Config()
    assert Config().host == ""


def test_every_key(file: Path, home: Path) -> None:
    """With the type it has; `~` is home's, crate names may be written with hyphens."""
    schema = bytes(home / "shared" / "schema.graphql")
    assert loaded(file, EVERYTHING) == Config(
        host="me@build.example:2222",
        silence_s=20.0,
        connect_timeout_s=2.5,
        idle_exit_s=0.0,
        store_gb=100.0,
        slots=8,
        donate=False,
        forward_env=(b"MY_API_TOKEN",),
        key_env=(b"GREETING",),
        extra_inputs=(schema, b"../proto"),
        crates=((b"my_app", Rule((b"templates",), (b"LOCALE",))), (b"other", Rule())),
        pure_macros=(b"my_derive",),
        exclude=("datasets/",),
        unexclude=("node_modules",),
        services=("postgresql", "redis"),
        test_runner="nextest",
        driver_tokens=(b"CARGO_REGISTRIES_MINE_TOKEN",),
        driver_ssh_agent=True,
        program_memory_gb=16.0,
        program_wall_s=3600.0,
        notify=("notify-send", "burst"),
    )


def test_the_example_holds_every_key() -> None:
    """So that the test above is about all of them."""
    ours = {"stamp", "crates", "hetzner", "warnings", "untrusted"}
    names = {field.name for field in attrs.fields(Config)} - ours | {"crate"}
    top = {key for key in KEYS if "." not in key}
    assert top == names
    assert all(f"{key} = " in EVERYTHING or f"[{key}." in EVERYTHING for key in top)


def test_rules_of_a_crate_are_added_to_everybodys(file: Path) -> None:
    """The global lists hold for every crate."""
    config = loaded(file, EVERYTHING)
    assert config.rule(b"my_app").key_env == (b"GREETING", b"LOCALE")
    assert config.rule(b"my_app").extra_inputs[1:] == (b"../proto", b"templates")
    assert config.rule(b"unheard_of") == Rule(config.extra_inputs, config.key_env)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hots = 'x'", "unknown key `hots`; did you mean `host`?"),
        ("extra_input = []", "unknown key `extra_input`; did you mean `extra_inputs`?"),
        ("zzz = 1", "unknown key `zzz`"),
        ("[crate.app]\nkey_envs = []", "unknown key `crate.app.key_envs`; did you mean `key_env`?"),
        ("[crates.app]\nkey_env = []", "unknown key `crates`; did you mean `crate`?"),
        ("host = 5", "`host` must be a string"),
        ("silence_s = '15'", "`silence_s` must be a number"),
        ("silence_s = true", "`silence_s` must be a number"),
        ("silence_s = -1", "`silence_s` must be a number that is not negative"),
        ("silence_s = nan", "`silence_s` must be a number"),
        ("idle_exit_s = inf", "`idle_exit_s` must be a number"),
        ("silence_s = 0", "`silence_s` must be more than 0"),
        ("connect_timeout_s = 0.0", "`connect_timeout_s` must be more than 0"),
        ("store_gb = 0", "`store_gb` must be more than 0"),
        ("slots = 1.5", "`slots` must be a whole number"),
        ("slots = nan", "`slots` must be a whole number"),
        ("slots = -1", "`slots` must be a whole number"),
        ("slots = true", "`slots` must be a whole number"),
        ("slots = 100000", "`slots` must be a whole number from 0 to 4096"),
        ("donate = 'yes'", "`donate` must be true or false"),
        ("donate = 1", "`donate` must be true or false"),
        ("key_env = 'HOME'", "`key_env` must be a list of strings"),
        ("key_env = ['A', 1]", "`key_env` must be a list of strings"),
        ('extra_inputs = ["a\\u0000b"]', "`extra_inputs` holds what is no name"),
        ("forward_env = ['']", "`forward_env` holds what is no name"),
        ("crate = 5", "`crate` must be tables like `[crate.NAME]`"),
        ("crate = { app = 1 }", "`crate.app` must be a table"),
        ("[[crate]]\nname = 'x'", "`crate` must be tables like `[crate.NAME]`"),
        ("[crate.app]\nextra_inputs = 'x'", "`extra_inputs` must be a list of strings"),
        ("services = ['oracle']", "`services` knows `postgresql`, `mysql`, `redis`"),
        ("test_runner = 'none'", "`test_runner` knows `auto`, `libtest`, `nextest`, `cargo`"),
        ("max_eur_per_hour = 1", "did you mean `hetzner.max_eur_per_hour`?"),
        ("hetzner = true", "`hetzner` must be a table: `[hetzner]`"),
        ("host = ", "is not TOML"),
        ("host = 'a'\nhost = 'b'", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said(file: Path, text: str, complaint: str) -> None:
    """File and key are named: a misspelt key must not silently mean wrong artifacts."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, text)
    assert str(caught.value).startswith(f"{file}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"host = '\xff'", b"\0"])
def test_bytes_that_are_no_text(file: Path, content: bytes) -> None:
    """A configuration error like any other."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="is not TOML"):
        load(bytes(file))


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    """Cannot be read, and says so."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load(bytes(tmp_path))


def test_a_change_of_the_file_is_noticed_but_is_no_other_configuration(file: Path) -> None:
    """The stamp tells when to load again; equality is that of the settings."""
    one = loaded(file, "slots = 1")
    two = loaded(file, "slots = 1 # the same")
    assert one == two
    assert one.stamp != two.stamp


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({b"XDG_CONFIG_HOME": b"/c", b"HOME": b"/h"}, b"/c/burst/config.toml"),
        ({b"XDG_CONFIG_HOME": b"", b"HOME": b"/h"}, b"/h/.config/burst/config.toml"),
        ({b"XDG_CONFIG_HOME": b"relative", b"HOME": b"/h"}, b"/h/.config/burst/config.toml"),
        ({b"HOME": b"/h\xff"}, b"/h\xff/.config/burst/config.toml"),
    ],
)
def test_where_it_lies(env: dict[bytes, bytes], expected: bytes) -> None:
    """As the XDG specification has it: what is not absolute does not count."""
    assert config_path(env) == expected


def test_where_it_lies_by_default(home: Path) -> None:
    """In the environment of the process."""
    assert config_path() == os.fsencode(home / ".config" / "burst" / "config.toml")


@pytest.mark.parametrize("value", [attrs.evolve(Config(), host="x"), Config()])
def test_a_configuration_is_a_value(value: Any) -> None:
    """Handed to threads and compared; never changed."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        value.host = "y"
