"""Set and remove `build.rustc-wrapper` in a cargo configuration, touching nothing else.

An edit is a change of text, never a rewrite of the parsed file: comments, order and formatting
stay. Since TOML has many ways to say the same, each way to edit is only a proposal: the result is
parsed and must differ from the old file in exactly that key. If no proposal passes, the user is
told which line to write. So no edit can lose or change anything else.

Keys and precedence: https://doc.rust-lang.org/cargo/reference/config.html
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from attrs import frozen

from burst_protocol.errors import ConfigError

STRING = r'("(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
VALUE = re.compile(rf"(?P<key>\brustc-wrapper[\"']?[ \t]*=[ \t]*){STRING}")
LINE = re.compile(
    rf"^[ \t]*[\w. \t\"']*\brustc-wrapper[\"']?[ \t]*=[ \t]*{STRING}[^\n]*\n?", re.MULTILINE
)
HEADER = re.compile(r"^[ \t]*\[[ \t]*[\"']?build[\"']?[ \t]*\][^\n]*(?:\n|\Z)", re.MULTILINE)
INLINE = re.compile(r"^([ \t]*[\"']?build[\"']?[ \t]*=[ \t]*\{)([ \t]*)", re.MULTILINE)


class CannotEdit(ConfigError):
    """{path}: cannot set `build.rustc-wrapper` without changing something else"""

    code = "config-edit"
    hint = "edit it by hand: under [build], rustc-wrapper names the wrapper"


class NotToml(ConfigError):
    """{path} is not valid TOML: {detail}"""

    code = "config-toml"
    hint = "cargo cannot read it either; nothing was changed"


class NotWritable(ConfigError):
    """{path}: {detail}"""

    code = "config-write"
    hint = "let this user write there; nothing was changed"


@frozen
class Edit:
    """A file's new text, and how to take the edit back: `added` becomes `removed` again."""

    text: str
    added: str
    removed: str


def config_file(folder: bytes) -> bytes:
    """The file cargo reads in a `.cargo` folder or cargo home: `config` wins if it exists."""
    legacy = os.path.join(folder, b"config")
    return legacy if os.path.exists(legacy) else legacy + b".toml"


def read_text(path: bytes) -> str | None:
    """A configuration file's text with its line ends as they are; None if there is none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise NotToml(str(error), path=os.fsdecode(path)) from None
    except OSError as error:
        raise ConfigError(error.strerror or str(error), path=os.fsdecode(path)) from None


def parse(text: str, path: bytes) -> dict[str, Any]:
    """The parsed file. Raises NotToml."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise NotToml(str(error), path=os.fsdecode(path)) from None


def wrapper_in(text: str, path: bytes) -> str | None:
    """The value of `build.rustc-wrapper`, if it is there. Raises ConfigError."""
    build = parse(text, path).get("build", {})
    value = build.get("rustc-wrapper") if isinstance(build, dict) else None
    if value is None and isinstance(build, dict):
        return None
    if not isinstance(value, str):
        raise ConfigError("`build.rustc-wrapper` is not a string", path=os.fsdecode(path))
    return value


def set_wrapper(text: str, value: str, path: bytes) -> Edit:
    """Set the key to `value`. Raises ConfigError."""
    wanted = deepcopy(parse(text, path))
    wanted.setdefault("build", {})["rustc-wrapper"] = value
    return _first_right(_ways_to_set(text, quoted(value)), wanted, path)


def unset_wrapper(text: str, previous: str | None, path: bytes) -> Edit:
    """Remove the key, or set it back to `previous`. Raises ConfigError."""
    if previous is not None:
        return set_wrapper(text, previous, path)
    wanted = deepcopy(parse(text, path))
    wanted.get("build", {}).pop("rustc-wrapper", None)
    return _first_right(_ways_to_unset(text), wanted, path)


def take_back(text: str, edit: Edit, previous: str | None, path: bytes) -> str:
    """The text before `edit`, byte for byte if nobody changed those lines since."""
    wanted = deepcopy(parse(text, path))
    build = wanted.setdefault("build", {})
    if previous is None:
        build.pop("rustc-wrapper", None)
    else:
        build["rustc-wrapper"] = previous
    if edit.added and text.count(edit.added) == 1:
        restored = text.replace(edit.added, edit.removed)
        if _equal(restored, wanted):
            return restored
    return unset_wrapper(text, previous, path).text


def quoted(value: str) -> str:
    """A TOML string: literal where that is possible, since it needs no escapes."""
    if not set(value) & {'"', "\\"} and value.isprintable():
        return f'"{value}"'
    if "'" not in value and value.isprintable():
        return f"'{value}'"
    return (
        '"' + "".join(c if c.isalnum() or c in "/._-" else f"\\U{ord(c):08x}" for c in value) + '"'
    )


def _first_right(ways: Iterator[Edit], wanted: dict[str, Any], path: bytes) -> Edit:
    for edit in ways:
        if _equal(edit.text, wanted):
            return edit
    raise CannotEdit(path=os.fsdecode(path))


def _equal(text: str, wanted: dict[str, Any]) -> bool:
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    # An empty [build] says the same as none.
    return _without_empty_build(found) == _without_empty_build(wanted)


def _without_empty_build(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "build" or value != {}}


def _ways_to_set(text: str, value: str) -> Iterator[Edit]:
    end = "\r\n" if "\r\n" in text else "\n"
    for match in VALUE.finditer(text):
        yield _replaced(text, match.start(), match.end(), match["key"] + value)
    for match in HEADER.finditer(text):
        gap = "" if match[0].endswith("\n") else end
        yield _replaced(text, match.end(), match.end(), f"{gap}rustc-wrapper = {value}{end}")
    gap = "" if not text else end if text.endswith("\n") else end * 2
    table = f"{gap}[build]{end}rustc-wrapper = {value}{end}"
    yield _replaced(text, len(text), len(text), table)
    for match in INLINE.finditer(text):
        comma = "" if text[match.end()] == "}" else ","
        new = f"{match[1]} rustc-wrapper = {value}{comma}{match[2] or ' '}"
        yield _replaced(text, match.start(), match.end(), new)
    yield _replaced(text, 0, 0, f"build.rustc-wrapper = {value}{end}")


def _ways_to_unset(text: str) -> Iterator[Edit]:
    yield Edit(text, "", "")
    for match in LINE.finditer(text):
        yield _replaced(text, match.start(), match.end(), "")
    for match in VALUE.finditer(text):
        start, end = match.span()
        for pattern in (r"[ \t]*,[ \t]*", r"[ \t]*"):
            tail = re.compile(pattern).match(text, end)
            if tail:
                yield _replaced(text, start, tail.end(), "")
        head = re.compile(r",[ \t]*\Z").search(text, 0, start)
        if head:
            yield _replaced(text, head.start(), end, "")


def _replaced(text: str, start: int, end: int, new: str) -> Edit:
    return Edit(text[:start] + new + text[end:], added=new, removed=text[start:end])
