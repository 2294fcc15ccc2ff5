"""The one table of all configuration keys: form, default, and which file may set it.

The README repeats it (`tests/contract/test_documents.py`). `[hetzner]` keys are written here as
`hetzner.NAME`. Durations in seconds, sizes in gigabytes (10^9 bytes), euros without VAT.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import attrs


class Form(enum.Enum):
    """What a value looks like in TOML, and what it becomes."""

    TEXT = "a string"
    PATH = "an absolute path, or one that begins with ~"
    NUMBER = "a number that is not negative"
    POSITIVE = "a number above 0"
    COUNT = "a whole number from 0 to 4096"
    SIZE = "a whole number from 10 to 10240"
    FLAG = "true or false"
    NAMES = "a list of strings, which become bytes"
    WORDS = "a list of strings"
    WORD_OR_WORDS = "a string or a list of strings"
    EUROS = "an amount in euros above 0"
    CHOICE = "one of some words"
    CHOICES = "a list of some words"
    OWNER = "up to 63 letters, digits, `.`, `_`, `-`"
    ENDPOINT = "a URL"
    TOKEN = "a table like { file = … }"  # noqa: S105 - a description
    CRATES = "tables like [crate.NAME]"


class Scope(enum.Enum):
    """Who may set it."""

    USER = "you"
    """Only `$XDG_CONFIG_HOME/burst/config.toml` (and options of commands)."""
    TRUSTED = "trusted project"
    """A project's file, too, once the user trusts exactly what stands in it: it costs money, or
    sends out what is not part of the project."""
    PROJECT = "project"
    """A project's file, too."""


@attrs.frozen
class TokenSource:
    """At most one of the three; none of them: not configured."""

    file: str = ""
    command: tuple[str, ...] = ()
    env: bool = False

    @property
    def configured(self) -> bool:
        return bool(self.file or self.command or self.env)


@attrs.frozen
class Key:
    name: str
    form: Form
    default: Any = attrs.field(eq=False)
    scope: Scope = Scope.USER
    choices: tuple[str, ...] = ()
    adds: bool = False
    """A project's list is added to the user's; otherwise it takes its place."""


SERVICES: Final = ("postgresql", "mysql", "redis", "postgres", "mariadb")
"""The last two are other names of the first two (`burst_protocol.services.ALIASES`)."""
TEST_RUNNERS: Final = ("auto", "libtest", "nextest", "cargo")
LOCATION_FULL: Final = ("local-disk", "new-volume")
REAP: Final = ("hour-edge", "at-once")

BUILT_IN_EXCLUDES: Final = (
    "target/",
    ".git/",
    "node_modules/",
    ".direnv/",
    ".vscode/",
    ".idea/",
    ".env",
    ".env.*",
    ".envrc",
    "*.pem",
    "*.key",
    "id_rsa",
    "id_ed25519",
    ".netrc",
    ".npmrc",
    "*.swp",
    ".DS_Store",
)
"""What is not copied to a server for `cargo burst test|run|…`: outputs, histories, editors' and
secrets' usual names. `unexclude` takes some out, `exclude` adds."""

SECRET_EXCLUDES: Final = frozenset(
    {".env", ".env.*", ".envrc", "*.pem", "*.key", "id_rsa", "id_ed25519", ".netrc", ".npmrc"}
)
"""Those of them that stay at home whatever is known to read them, unless `unexclude` names them."""

_TABLE: Final = (
    Key("host", Form.TEXT, ""),
    Key("silence_s", Form.POSITIVE, 15.0),
    Key("connect_timeout_s", Form.POSITIVE, 10.0),
    Key("idle_exit_s", Form.NUMBER, 3600.0),
    Key("store_gb", Form.POSITIVE, 40.0),
    Key("slots", Form.COUNT, 0),
    Key("donate", Form.FLAG, True),
    Key("forward_env", Form.NAMES, (), Scope.TRUSTED, adds=True),
    Key("key_env", Form.NAMES, (), Scope.TRUSTED, adds=True),
    Key("extra_inputs", Form.NAMES, (), Scope.TRUSTED, adds=True),
    Key("crate", Form.CRATES, (), Scope.TRUSTED, adds=True),
    Key("pure_macros", Form.NAMES, (), Scope.TRUSTED, adds=True),
    Key("exclude", Form.WORDS, (), Scope.PROJECT, adds=True),
    Key("unexclude", Form.WORDS, (), Scope.TRUSTED, adds=True),
    Key("services", Form.CHOICES, (), Scope.PROJECT, SERVICES),
    Key("test_runner", Form.CHOICE, "auto", Scope.PROJECT, TEST_RUNNERS),
    Key("program_memory_gb", Form.NUMBER, 0.0, Scope.PROJECT),
    Key("program_wall_s", Form.NUMBER, 0.0, Scope.PROJECT),
    Key("driver_tokens", Form.NAMES, ()),
    Key("driver_ssh_agent", Form.FLAG, False),
    Key("notify", Form.WORDS, ()),
    Key("hetzner.token", Form.TOKEN, None),
    Key("hetzner.endpoint", Form.ENDPOINT, "https://api.hetzner.cloud/v1"),
    Key("hetzner.owner", Form.OWNER, ""),
    Key("hetzner.location", Form.WORD_OR_WORDS, ("fsn1", "nbg1", "hel1"), Scope.TRUSTED),
    Key("hetzner.server_type", Form.WORD_OR_WORDS, ("ccx63", "ccx53", "ccx43"), Scope.TRUSTED),
    Key("hetzner.base_image", Form.TEXT, "ubuntu-24.04", Scope.TRUSTED),
    Key("hetzner.max_eur_per_hour", Form.EUROS, None),
    Key("hetzner.budget_eur_per_month", Form.EUROS, None),
    Key("hetzner.boot_after_s", Form.NUMBER, 90.0, Scope.TRUSTED),
    Key("hetzner.boot_for_check", Form.FLAG, False, Scope.TRUSTED),
    Key("hetzner.boot_deadline_s", Form.POSITIVE, 900.0, Scope.TRUSTED),
    Key("hetzner.wait", Form.FLAG, False, Scope.PROJECT),
    Key("hetzner.on_location_full", Form.CHOICE, "local-disk", Scope.TRUSTED, LOCATION_FULL),
    Key("hetzner.keep_alive_s", Form.POSITIVE, 300.0, Scope.TRUSTED),
    Key("hetzner.reap", Form.CHOICE, "hour-edge", Scope.TRUSTED, REAP),
    Key("hetzner.hard_end_s", Form.POSITIVE, 43200.0, Scope.TRUSTED),
    Key("hetzner.orphan_s", Form.NUMBER, 120.0, Scope.TRUSTED),
    Key("hetzner.volume_gb", Form.SIZE, 100, Scope.TRUSTED),
    Key("hetzner.volume_keep_alive_s", Form.POSITIVE, 604800.0, Scope.TRUSTED),
    Key("hetzner.ssh_key_path", Form.PATH, ""),
    Key("hetzner.self_delete_token", Form.TOKEN, None),
)
KEYS: Final[Mapping[str, Key]] = {key.name: key for key in _TABLE}


def default(name: str) -> Any:
    """For the attrs classes that hold the values: the table is the only place with defaults."""
    return KEYS[name].default
