"""The configuration: the user's file, a project's file, options of a command, in this order.

`$XDG_CONFIG_HOME/burst/config.toml` and `<workspace>/.config/burst.toml`; every key optional, all
of them in `setting_keys`. Unknown keys are errors with a suggestion: a misspelt `max_eur_per_hour`
must not silently mean nothing. The wrapper's `Config` is made from the same layers.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, TypeVar

import attrs

from burst_lifecycle.places import Places
from burst_lifecycle.setting_keys import (
    BUILT_IN_EXCLUDES,
    KEYS,
    Form,
    Key,
    Scope,
    TokenSource,
    default,
)
from burst_lifecycle.trust import Trust
from burst_protocol.errors import ConfigError

PROJECT_FILE: Final = os.path.join(".config", "burst.toml")
_SECTIONS: Final = tuple({name.partition(".")[0] for name in KEYS if "." in name})
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_OWNER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@attrs.frozen
class Rule:
    """What a crate or macro is known to read beyond what can be observed."""

    extra_inputs: tuple[bytes, ...] = ()
    key_env: tuple[bytes, ...] = ()


@attrs.frozen(kw_only=True)
class Hetzner:
    """`[hetzner]`. That the table is there at all makes servers possible; a token does not."""

    token: TokenSource = TokenSource()
    endpoint: str = default("hetzner.endpoint")
    owner: str = default("hetzner.owner")
    location: tuple[str, ...] = default("hetzner.location")
    server_type: tuple[str, ...] = default("hetzner.server_type")
    base_image: str = default("hetzner.base_image")
    max_eur_per_hour: Decimal | None = default("hetzner.max_eur_per_hour")
    """None: nothing was agreed to, so nothing is created."""
    budget_eur_per_month: Decimal | None = default("hetzner.budget_eur_per_month")
    boot_after_s: float = default("hetzner.boot_after_s")
    boot_for_check: bool = default("hetzner.boot_for_check")
    boot_deadline_s: float = default("hetzner.boot_deadline_s")
    wait: bool = default("hetzner.wait")
    on_location_full: str = default("hetzner.on_location_full")
    keep_alive_s: float = default("hetzner.keep_alive_s")
    reap: str = default("hetzner.reap")
    hard_end_s: float = default("hetzner.hard_end_s")
    orphan_s: float = default("hetzner.orphan_s")
    volume_gb: int = default("hetzner.volume_gb")
    volume_keep_alive_s: float = default("hetzner.volume_keep_alive_s")
    ssh_key_path: str = default("hetzner.ssh_key_path")
    """Empty: `Places.ssh_key`."""
    self_delete_token: TokenSource = TokenSource()


@attrs.frozen(kw_only=True)
class Settings:
    """What the lifecycle and the verbs that run on servers need. Equality is that of settings."""

    forward_env: tuple[bytes, ...] = default("forward_env")
    exclude: tuple[str, ...] = default("exclude")
    unexclude: tuple[str, ...] = default("unexclude")
    services: tuple[str, ...] = default("services")
    test_runner: str = default("test_runner")
    notify: tuple[str, ...] = default("notify")
    hetzner: Hetzner | None = None
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Sentences for people: what stands in a file and has no effect."""
    untrusted: tuple[str, ...] = attrs.field(default=(), eq=False)
    """Keys of the project's file that are left out until the user trusts it."""

    @property
    def excludes(self) -> tuple[str, ...]:
        """The patterns that hold: built in, less `unexclude`, and `exclude`."""
        kept = {entry.rstrip("/") for entry in self.unexclude}
        built_in = (entry for entry in BUILT_IN_EXCLUDES if entry.rstrip("/") not in kept)
        return tuple(dict.fromkeys((*built_in, *self.exclude)))


@attrs.frozen
class Layer:
    """One source's values, checked and converted. Keys as in `setting_keys`."""

    values: Mapping[str, Any] = attrs.field(factory=dict)
    sections: frozenset[str] = frozenset()
    """Tables that are there, even if empty."""
    warnings: tuple[str, ...] = ()
    untrusted: tuple[str, ...] = ()
    stamp: tuple[int, int] = (0, 0)
    """Modification time (ns) and size of the file; zeros if there is none."""
    content: bytes = attrs.field(default=b"", repr=False)


def load(
    places: Places,
    workspace_root: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Settings:
    """All layers. `options` maps key names to values as TOML would have them.

    ConfigError names file and key. Keys of a project's file that nobody has trusted are left out
    and named in `untrusted`.
    """
    return build(Settings, layers(places, workspace_root, options))


def layers(
    places: Places,
    workspace_root: str | None = None,
    options: Mapping[str, object] | None = None,
) -> tuple[Layer, ...]:
    """User, project, options: the later ones are stronger."""
    found = [read_user(places.config_file)]
    if workspace_root is not None:
        found.append(read_project(workspace_root, Trust(places.state)))
    if options:
        found.append(from_options(options))
    return tuple(found)


def read_user(path: str) -> Layer:
    """The user's own file; a missing one is empty. ConfigError."""
    return _read(path, project=False)


def read_project(workspace_root: str, trust: Trust) -> Layer:
    """A project's file; a missing one is empty. ConfigError, too, for what is only the user's."""
    path = os.path.join(workspace_root, PROJECT_FILE)
    layer = _read(path, project=True)
    asked = tuple(name for name in layer.values if KEYS[name].scope is Scope.TRUSTED)
    if not asked or trust.holds(path, layer.content):
        return layer
    kept = {name: value for name, value in layer.values.items() if name not in asked}
    return attrs.evolve(layer, values=kept, untrusted=asked)


def from_options(options: Mapping[str, object]) -> Layer:
    """ConfigError, as for a file."""
    for name in options:
        if name not in KEYS:
            raise _wrong("option", _unknown(name, KEYS))
    values = {name: _convert("option", KEYS[name], value) for name, value in options.items()}
    return Layer(values)


def merge(found: Iterable[Layer]) -> dict[str, Any]:
    """Later layers win; lists that add up do so, without repetition."""
    values: dict[str, Any] = {}
    for layer in found:
        for name, value in layer.values.items():
            if KEYS[name].adds and name in values:
                values[name] = tuple(dict.fromkeys((*values[name], *value)))
            else:
                values[name] = value
    return values


_S = TypeVar("_S", bound=Settings)


def build(cls: type[_S], found: tuple[Layer, ...], **more: Any) -> _S:
    """A class of settings from its layers. Its fields are named as keys (`crate`: `crates`)."""
    values = merge(found)
    warnings = [warning for layer in found for warning in layer.warnings]
    hetzner = None
    if found and "hetzner" in found[0].sections:
        prefix = "hetzner."
        own = {name: value for name, value in values.items() if name.startswith(prefix)}
        hetzner = Hetzner(**{name.removeprefix(prefix): value for name, value in own.items()})
    elif any("hetzner" in layer.sections for layer in found[1:]):
        warnings.append(
            "the project's [hetzner] has no effect: your own configuration has no such table"
        )
    names = {field.name for field in attrs.fields(cls)}
    kept = {name: value for name, value in values.items() if name in names}
    if "crates" in names and "crate" in values:
        kept["crates"] = values["crate"]
    return cls(
        **kept,
        hetzner=hetzner,
        warnings=tuple(warnings),
        untrusted=tuple(name for layer in found for name in layer.untrusted),
        **more,
    )


# -- one file --------------------------------------------------------------------------------------


def _read(path: str, *, project: bool) -> Layer:
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return Layer()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f"is not TOML: {error}") from error
    values: dict[str, Any] = {}
    for name, raw in _flat(path, table):
        key = KEYS[name]
        if project and key.scope is Scope.USER:
            raise _wrong(path, f"`{name}` is not a project's to set, only yours: {_USER_FILE}")
        values[name] = _convert(path, key, raw)
    return Layer(
        values,
        frozenset(name for name in table if name in _SECTIONS),
        tuple(_strange_unexcludes(values.get("unexclude", ()))),
        stamp=(stat.st_mtime_ns, stat.st_size),
        content=data,
    )


_USER_FILE: Final = "`~/.config/burst/config.toml`"


def _flat(path: str, table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Names as in `setting_keys`, with what stands there."""
    top = [name for name in KEYS if "." not in name]
    for name, value in table.items():
        if name in _SECTIONS:
            if not isinstance(value, dict):
                raise _wrong(path, f"`{name}` must be a table: `[{name}]`")
            for inner, raw in value.items():
                full = f"{name}.{inner}"
                if full not in KEYS:
                    raise _wrong(path, _unknown(full, _of_section(name), elsewhere=top))
                yield full, raw
        elif name in top:
            yield name, value
        else:
            raise _wrong(path, _unknown(name, (*top, *_SECTIONS), elsewhere=_all_inner()))


def _of_section(section: str) -> list[str]:
    return [name for name in KEYS if name.startswith(f"{section}.")]


def _all_inner() -> list[str]:
    return [name for name in KEYS if "." in name]


def _strange_unexcludes(entries: Iterable[str]) -> Iterable[str]:
    known = {entry.rstrip("/") for entry in BUILT_IN_EXCLUDES}
    for entry in entries:
        if entry.rstrip("/") not in known:
            yield f"`unexclude`: {entry!r} is not excluded anyway"


# -- values ---------------------------------------------------------------------------------------


def _convert(path: str, key: Key, value: Any) -> Any:
    """What it becomes. Messages name the key and never show the value: it may be a secret."""
    name = key.name
    match key.form:
        case Form.TEXT:
            return _text(path, name, value)
        case Form.NUMBER | Form.POSITIVE:
            return _number(path, name, value, positive=key.form is Form.POSITIVE)
        case Form.COUNT:
            return _whole(path, name, value, 0, 4096)
        case Form.SIZE:
            return _whole(path, name, value, 10, 10240)
        case Form.FLAG:
            if not isinstance(value, bool):
                raise _wrong(path, f"`{name}` must be true or false")
            return value
        case Form.NAMES:
            names = tuple(
                os.fsencode(os.path.expanduser(word)) for word in _words(path, name, value)
            )
            if name == "pure_macros":
                return tuple(word.replace(b"-", b"_") for word in names)
            return names
        case Form.WORDS:
            return _words(path, name, value)
        case Form.WORD_OR_WORDS:
            words = (value,) if isinstance(value, str) else _words(path, name, value)
            if not words or not all(_WORD.fullmatch(word) for word in words):
                raise _wrong(
                    path, f"`{name}` must be a name or a list of names like `{key.default[0]}`"
                )
            return tuple(dict.fromkeys(words))
        case Form.EUROS:
            return Decimal(str(_number(path, name, value, positive=True)))
        case Form.CHOICE:
            return _choice(path, key, _text(path, name, value))
        case Form.CHOICES:
            return tuple(_choice(path, key, word) for word in _words(path, name, value))
        case Form.OWNER:
            text = _text(path, name, value)
            if text and not _OWNER.fullmatch(text):
                raise _wrong(path, f"`{name}` must be {Form.OWNER.value}")
            return text
        case Form.ENDPOINT:
            from burst_lifecycle.token import check_endpoint  # noqa: PLC0415 - rarely needed

            try:
                return check_endpoint(_text(path, name, value))
            except ValueError as error:
                raise _wrong(path, f"`{name}` {error}") from error
        case Form.TOKEN:
            return _token(path, name, value)
        case Form.CRATES:
            return _crates(path, value)
        case _:  # pragma: no cover - every form stands above
            raise AssertionError(key.form)


def _token(path: str, name: str, value: Any) -> TokenSource:
    how = f'`{name}` must be {{ file = "…" }}, {{ command = ["…"] }} or {{ env = true }}'
    if isinstance(value, str):
        raise _wrong(path, f"{how}: a token does not belong into the configuration itself")
    if not isinstance(value, dict) or len(value) != 1:
        raise _wrong(path, how)
    ((inner, raw),) = value.items()
    if inner == "file":
        text = _text(path, f"{name}.file", raw)
        if not text or "\0" in text:
            raise _wrong(path, f"`{name}.file` names no file")
        return TokenSource(file=text)
    if inner == "command":
        argv = _words(path, f"{name}.command", raw)
        if not argv:
            raise _wrong(path, f"`{name}.command` is empty")
        return TokenSource(command=argv)
    if inner == "env":
        if not isinstance(raw, bool):
            raise _wrong(path, f"`{name}.env` must be true or false")
        return TokenSource(env=raw)
    raise _wrong(path, _unknown(f"{name}.{inner}", ("file", "command", "env")))


def _crates(path: str, value: Any) -> tuple[tuple[bytes, Rule], ...]:
    if not isinstance(value, dict):
        raise _wrong(path, "`crate` must be tables like `[crate.NAME]`")
    rules = []
    for name, table in value.items():
        if not isinstance(table, dict):
            raise _wrong(path, f"`crate.{name}` must be a table")
        for key in table:
            if key not in {"extra_inputs", "key_env"}:
                raise _wrong(path, _unknown(f"crate.{name}.{key}", ("extra_inputs", "key_env")))
        inputs, variables = (
            _convert(path, KEYS[key], table.get(key, [])) for key in ("extra_inputs", "key_env")
        )
        rules.append((name.replace("-", "_").encode(), Rule(inputs, variables)))
    return tuple(rules)


def _words(path: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise _wrong(path, f"`{key}` must be a list of strings")
    if not all(item and "\0" not in item for item in value):
        raise _wrong(path, f"`{key}` holds what is no name")
    return tuple(value)


def _text(path: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(path, f"`{key}` must be a string")
    return value


def _number(path: str, key: str, value: Any, *, positive: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise _wrong(path, f"`{key}` must be a number that is not negative")
    if value == 0 and positive:
        raise _wrong(path, f"`{key}` must be more than 0")
    return float(value)


def _whole(path: str, key: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _wrong(path, f"`{key}` must be a whole number from {least} to {most}")
    return value


def _choice(path: str, key: Key, word: str) -> str:
    if word not in key.choices:
        shown = ", ".join(f"`{choice}`" for choice in key.choices)
        raise _wrong(path, f"`{key.name}` knows {shown}")
    return word


def _unknown(key: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """With what was probably meant; by the last part of the name."""
    for candidates in (known, elsewhere):
        by_end = {name.rsplit(".", 1)[-1]: name for name in candidates}
        close = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_end, 1)
        if close:
            meant = by_end[close[0]]
            return f"unknown key `{key}`; did you mean `{meant}`?"
    return f"unknown key `{key}`"


def _wrong(path: str, detail: str) -> ConfigError:
    return ConfigError(detail, path=path)
