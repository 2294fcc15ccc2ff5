"""Values of the configuration: checked by their form, and what is said of wrong ones.

Messages name file and key and never show the value: it may be a secret in the wrong place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, Final

import attrs

from burst_lifecycle.setting_keys import KEYS, Form, Key, TokenSource
from burst_protocol.errors import ConfigError

_WORD: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_OWNER: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@attrs.frozen
class Rule:
    """What a crate or macro is known to read beyond what can be observed."""

    extra_inputs: tuple[bytes, ...] = ()
    key_env: tuple[bytes, ...] = ()


def convert(path: str, key: Key, value: Any) -> Any:
    """What it becomes. ConfigError."""
    name = key.name
    match key.form:
        case Form.TEXT:
            return _text(path, name, value)
        case Form.PATH:
            text = _text(path, name, value)
            return _path(path, name, text) if text else text
        case Form.NUMBER | Form.POSITIVE:
            return _number(path, name, value, positive=key.form is Form.POSITIVE)
        case Form.COUNT:
            return _whole(path, name, value, 0, 4096)
        case Form.SIZE:
            return _whole(path, name, value, 10, 10240)
        case Form.FLAG:
            if not isinstance(value, bool):
                raise wrong(path, f"`{name}` must be true or false")
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
                raise wrong(
                    path, f"`{name}` must be a name or a list of names like `{key.default[0]}`"
                )
            return tuple(dict.fromkeys(words))
        case Form.EUROS:
            from decimal import Decimal  # noqa: PLC0415 - few configurations name an amount

            return Decimal(str(_number(path, name, value, positive=True)))
        case Form.CHOICE:
            return _choice(path, key, _text(path, name, value))
        case Form.CHOICES:
            return tuple(_choice(path, key, word) for word in _words(path, name, value))
        case Form.OWNER:
            text = _text(path, name, value)
            if text and not _OWNER.fullmatch(text):
                raise wrong(path, f"`{name}` must be {Form.OWNER.value}")
            return text
        case Form.ENDPOINT:
            from burst_lifecycle.token import check_endpoint  # noqa: PLC0415 - rarely needed

            try:
                return check_endpoint(_text(path, name, value))
            except ValueError as error:
                raise wrong(path, f"`{name}` {error}") from error
        case Form.TOKEN:
            return _token(path, name, value)
        case Form.CRATES:
            return _crates(path, value)
        case _:  # pragma: no cover - every form stands above
            raise AssertionError(key.form)


def _token(path: str, name: str, value: Any) -> TokenSource:
    how = f'`{name}` must be {{ file = "…" }}, {{ command = ["…"] }} or {{ env = true }}'
    if isinstance(value, str):
        raise wrong(path, f"{how}: a token does not belong into the configuration itself")
    if not isinstance(value, dict) or len(value) != 1:
        raise wrong(path, how)
    ((inner, raw),) = value.items()
    if inner == "file":
        return TokenSource(file=_path(path, f"{name}.file", _text(path, f"{name}.file", raw)))
    if inner == "command":
        argv = _words(path, f"{name}.command", raw)
        if not argv:
            raise wrong(path, f"`{name}.command` is empty")
        return TokenSource(command=argv)
    if inner == "env":
        if not isinstance(raw, bool):
            raise wrong(path, f"`{name}.env` must be true or false")
        return TokenSource(env=raw)
    raise wrong(path, unknown(f"{name}.{inner}", ("file", "command", "env")))


def _crates(path: str, value: Any) -> tuple[tuple[bytes, Rule], ...]:
    if not isinstance(value, dict):
        raise wrong(path, "`crate` must be tables like `[crate.NAME]`")
    rules = []
    for name, table in value.items():
        if not isinstance(table, dict):
            raise wrong(path, f"`crate.{name}` must be a table")
        for key in table:
            if key not in {"extra_inputs", "key_env"}:
                raise wrong(path, unknown(f"crate.{name}.{key}", ("extra_inputs", "key_env")))
        inputs, variables = (
            convert(path, KEYS[key], table.get(key, [])) for key in ("extra_inputs", "key_env")
        )
        rules.append((name.replace("-", "_").encode(), Rule(inputs, variables)))
    return tuple(rules)


def _words(path: str, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(path, f"`{key}` must be a list of strings")
    if not all(item and "\0" not in item for item in value):
        raise wrong(path, f"`{key}` holds what is no name")
    return tuple(value)


def _text(path: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(path, f"`{key}` must be a string")
    return value


def _path(path: str, key: str, text: str) -> str:
    """A relative path would mean something else in the daemon, whose folder is nobody's."""
    if "\0" in text or not text.startswith(("/", "~")):
        raise wrong(path, f"`{key}` must be {Form.PATH.value}")
    return text


def _number(path: str, key: str, value: Any, *, positive: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise wrong(path, f"`{key}` must be a number that is not negative")
    if value == 0 and positive:
        raise wrong(path, f"`{key}` must be more than 0")
    return float(value)


def _whole(path: str, key: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise wrong(path, f"`{key}` must be a whole number from {least} to {most}")
    return value


def _choice(path: str, key: Key, word: str) -> str:
    if word not in key.choices:
        shown = ", ".join(f"`{choice}`" for choice in key.choices)
        raise wrong(path, f"`{key.name}` knows {shown}")
    return word


def unknown(key: str, known: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """With what was probably meant; by the last part of the name."""
    import difflib  # noqa: PLC0415 - milliseconds that only a typo pays

    for candidates in (known, elsewhere):
        by_end = {name.rsplit(".", 1)[-1]: name for name in candidates}
        close = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_end, 1)
        if close:
            meant = by_end[close[0]]
            return f"unknown key `{key}`; did you mean `{meant}`?"
    return f"unknown key `{key}`"


def wrong(path: str, detail: str) -> ConfigError:
    return ConfigError(detail, path=path)
