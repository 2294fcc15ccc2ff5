"""The options that every verb has besides cargo's: read from words, checked, and as a value.

A name that a verb has itself is the verb's: `tree -e`, `nextest self update --yes`. Before the verb
all of these are ours, with every verb there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from burst_protocol.errors import UsageError
from burst_wrapper.verbs.cargo_options import SWITCH, name_of
from burst_wrapper.verbs.own_option_table import OPTIONS, Option

DRIVERS: Final = ("local", "remote")


_BY_NAME: Final[Mapping[str, Option]] = {
    name: option for option in OPTIONS for name in option.names
}


class BadValue(UsageError):
    """{option}: {detail}"""

    hint = "see `cargo burst --help`"


class NotHere(UsageError):
    """{detail}"""

    hint = "it belongs to `cargo burst test`"


@attrs.frozen(kw_only=True)
class OwnOptions:
    """As given on one command line."""

    host: str = ""
    env: tuple[tuple[bytes, bytes | None], ...] = ()
    """Name, and value; None: this process's own."""
    forwards: tuple[tuple[int, int], ...] = ()
    """Port here, port there."""
    fetch: tuple[str, ...] = ()
    no_fetch: bool = False
    fetch_all: bool = False
    keep_alive_s: int = -1
    """-1: as configured."""
    no_reap: bool = False
    detach: bool = False
    driver: str = ""
    """`local`, `remote`; empty: what this machine can."""
    yes: bool = False
    sync_dry_run: bool = False
    no_doctests: bool = False
    cargo_test: bool = False


def find(word: str) -> Option | None:
    """Our option in a word (`--env=A=1`, `-eA`, `-L8080:80`), if it is one."""
    return _BY_NAME.get(name_of(word))


def names() -> tuple[str, ...]:
    return tuple(_BY_NAME)


def near(word: str) -> str:
    """One of ours that was probably meant by an option that nobody knows; empty if none."""
    from difflib import get_close_matches  # noqa: PLC0415  (12 ms that only a typo pays)

    close = get_close_matches(name_of(word), _BY_NAME, n=1, cutoff=0.75)
    return close[0] if close else ""


class Collector:
    """Takes our options out of a line of words, one after the other."""

    def __init__(self) -> None:
        self._given: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}

    def take(self, option: Option, word: str, rest: Sequence[str]) -> int:
        """How many words of `rest` belong to it: 0 or 1. UsageError without a value."""
        name = name_of(word)
        attached = word[len(name) :]
        if name.startswith("--"):
            has_value, value = attached.startswith("="), attached[1:]
        else:
            has_value, value = bool(attached), attached.removeprefix("=")
        if option.form == SWITCH:
            if has_value:
                raise BadValue("it takes no value", option=name)
            self._add(option, name, "")
            return 0
        if has_value:
            self._add(option, name, value)
            return 0
        if not rest:
            raise BadValue(f"it needs a value: {option.metavar}", option=name)
        self._add(option, name, rest[0])
        return 1

    def _add(self, option: Option, name: str, value: str) -> None:
        self._given.setdefault(option.field, []).append(value)
        self._names[option.field] = name

    def options(self, verb: str) -> OwnOptions:
        """All that was taken. UsageError for a value that cannot be, or not with this verb."""
        found: dict[str, object] = {}
        for option in OPTIONS:
            values = self._given.get(option.field)
            if values is None:
                continue
            name = self._names[option.field]
            if option.verbs and verb not in option.verbs:
                raise NotHere(f"`cargo burst {verb}` has no {name}")
            try:
                found[option.field] = _value(option, values)
            except ValueError as error:
                raise BadValue(str(error), option=name) from None
        return OwnOptions(**found)  # type: ignore[arg-type]


def _value(option: Option, values: Sequence[str]) -> object:
    """ValueError."""
    if option.form == SWITCH:
        return True
    if option.field == "env":
        return tuple(_variable(value) for value in values)
    if option.field == "forwards":
        return tuple(forward(value) for value in values)
    if option.field == "fetch":
        if not all(values):
            raise ValueError("an empty pattern")
        return tuple(values)
    value = values[-1]
    if option.field == "keep_alive_s":
        return _seconds(value)
    if option.field == "driver" and value not in DRIVERS:
        raise ValueError(f"`{value}` is neither `local` nor `remote`")
    if option.field == "host" and (not value or value.startswith("-") or len(value.split()) != 1):
        raise ValueError(f"`{value}` is no host: say user@host or user@host:port")
    return value


def _variable(text: str) -> tuple[bytes, bytes | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError(f"`{text}` has no name: say NAME or NAME=VALUE")
    return _bytes(name), _bytes(value) if equals else None


def forward(text: str) -> tuple[int, int]:
    """Port here and port there, from `8080` or `8080:80`. ValueError."""
    here, colon, there = text.rpartition(":")
    ports = [_port(part, text) for part in ((here, there) if colon else (there, there))]
    return ports[0], ports[1]


def _port(text: str, whole: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 0 < number < 65536:
        raise ValueError(f"`{whole}` is no port: say 8080, or 8080:80 for one that differs there")
    return number


def _seconds(text: str) -> int:
    from burst_lifecycle.admin.text import parse_duration  # noqa: PLC0415 - only if one is given

    return round(parse_duration(text))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
