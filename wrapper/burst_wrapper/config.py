"""The user's configuration: `$XDG_CONFIG_HOME/burst/config.toml`, every key optional.

One table of keys with type and default; the README repeats it. Unknown keys are errors with a
suggestion: a misspelt `extra_inputs` must not silently mean wrong artifacts.
"""

from __future__ import annotations

import os
from typing import Any, Final

import attrs

from burst_protocol.errors import ConfigError
from burst_wrapper.paths import config_dir


@attrs.frozen
class Rule:
    """What a crate or macro is known to read beyond what can be observed."""

    extra_inputs: tuple[bytes, ...] = ()
    key_env: tuple[bytes, ...] = ()


@attrs.frozen
class Config:
    """Settings with their defaults; durations in seconds, sizes in gigabytes (10^9 bytes)."""

    host: str = ""
    silence_s: float = 15.0
    connect_timeout_s: float = 10.0
    idle_exit_s: float = 3600.0
    store_gb: float = 40.0
    slots: int = 0
    donate: bool = True
    forward_env: tuple[bytes, ...] = ()
    key_env: tuple[bytes, ...] = ()
    extra_inputs: tuple[bytes, ...] = ()
    crates: tuple[tuple[bytes, Rule], ...] = ()
    pure_macros: tuple[bytes, ...] = ()
    stamp: tuple[int, int] = attrs.field(default=(0, 0), eq=False)

    @property
    def store_bytes(self) -> int:
        return int(self.store_gb * 1e9)

    def rule(self, crate: bytes) -> Rule:
        """What holds for this crate: the global lists and its own `[crate.NAME]`."""
        own = dict(self.crates).get(crate, Rule())
        return Rule(self.extra_inputs + own.extra_inputs, self.key_env + own.key_env)


_TEXT: Final = ("host",)
_NUMBERS: Final = ("silence_s", "connect_timeout_s", "idle_exit_s", "store_gb")
_LISTS: Final = ("forward_env", "key_env", "extra_inputs", "pure_macros")
_POSITIVE: Final = ("silence_s", "connect_timeout_s", "store_gb")
_KEYS: Final = (*_TEXT, *_NUMBERS, "slots", "donate", *_LISTS, "crate")


def config_path(environ: dict[bytes, bytes] | None = None) -> bytes:
    return config_dir(os.environb if environ is None else environ) + b"/config.toml"


def load(path: bytes) -> Config:
    """ConfigError names file and key; a missing file is the default configuration."""
    try:
        with open(path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = file.read()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from error
    import tomllib  # noqa: PLC0415 - 6 ms of the start of a daemon, which mostly has no such file

    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f"is not TOML: {error}") from error
    return _from_table(path, table, (stat.st_mtime_ns, stat.st_size))


def _from_table(path: bytes, table: dict[str, Any], stamp: tuple[int, int]) -> Config:
    values: dict[str, Any] = {"stamp": stamp}
    for key, value in table.items():
        if key not in _KEYS:
            raise _wrong(path, _unknown(key, _KEYS))
        if key in _TEXT:
            values[key] = _text(path, key, value)
        elif key in _NUMBERS:
            values[key] = _number(path, key, value)
        elif key == "slots":
            values[key] = _count(path, key, value)
        elif key == "donate":
            if not isinstance(value, bool):
                raise _wrong(path, "`donate` must be true or false")
            values[key] = value
        elif key == "crate":
            values["crates"] = _crates(path, value)
        else:
            values[key] = _names(path, key, value)
    values["pure_macros"] = tuple(
        name.replace(b"-", b"_") for name in values.get("pure_macros", ())
    )
    return Config(**values)


def _crates(path: bytes, value: Any) -> tuple[tuple[bytes, Rule], ...]:
    if not isinstance(value, dict):
        raise _wrong(path, "`crate` must be tables like `[crate.NAME]`")
    rules = []
    for name, table in value.items():
        if not isinstance(table, dict):
            raise _wrong(path, f"`crate.{name}` must be a table")
        for key in table:
            if key not in ("extra_inputs", "key_env"):
                raise _wrong(path, _unknown(f"crate.{name}.{key}", ("extra_inputs", "key_env")))
        rules.append(
            (
                name.replace("-", "_").encode(),
                Rule(
                    _names(path, "extra_inputs", table.get("extra_inputs", [])),
                    _names(path, "key_env", table.get("key_env", [])),
                ),
            )
        )
    return tuple(rules)


def _names(path: bytes, key: str, value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _wrong(path, f"`{key}` must be a list of strings")
    if not all(item and "\0" not in item for item in value):
        raise _wrong(path, f"`{key}` holds what is no name")
    return tuple(os.fsencode(os.path.expanduser(item)) for item in value)


def _text(path: bytes, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(path, f"`{key}` must be a string")
    return value


def _number(path: bytes, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise _wrong(path, f"`{key}` must be a number that is not negative")
    if value == 0 and key in _POSITIVE:
        raise _wrong(path, f"`{key}` must be more than 0")
    return float(value)


def _count(path: bytes, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 4096:
        raise _wrong(path, f"`{key}` must be a whole number from 0 to 4096")
    return value


def _unknown(key: str, known: tuple[str, ...]) -> str:
    import difflib  # noqa: PLC0415 - only for those who misspelt something

    close = difflib.get_close_matches(key.rsplit(".", 1)[-1], known, 1)
    return f"unknown key `{key}`" + (f"; did you mean `{close[0]}`?" if close else "")


def _wrong(path: bytes, detail: str) -> ConfigError:
    return ConfigError(detail, path=os.fsdecode(path))
