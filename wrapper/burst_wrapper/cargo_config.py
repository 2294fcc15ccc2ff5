"""Set and remove `build.rustc-wrapper` in a cargo configuration, and touch nothing else.

Keys and precedence: https://doc.rust-lang.org/cargo/reference/config.html
"""

from __future__ import annotations

import os
import tomllib
from copy import deepcopy
from typing import Any

from burst_protocol.errors import ConfigError
from burst_wrapper.cargo_files import config_file
from burst_wrapper.toml_edit import CannotEdit, Edit, Spot, quoted

__all__ = [
    "CannotEdit",
    "Edit",
    "NotToml",
    "NotWritable",
    "config_file",
    "parse",
    "quoted",
    "read_text",
    "set_wrapper",
    "take_back",
    "unset_wrapper",
    "wrapper_in",
]

SPOT = Spot("build", "rustc-wrapper")


class NotToml(ConfigError):
    """{path} is not valid TOML: {detail}"""

    code = "config-toml"
    hint = "cargo cannot read it either; nothing was changed"


class NotWritable(ConfigError):
    """{path}: {detail}"""

    code = "config-write"
    hint = "let this user write there; nothing was changed"


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
    parse(text, path)
    return SPOT.set(text, quoted(value), os.fsdecode(path))


def unset_wrapper(text: str, previous: str | None, path: bytes) -> Edit:
    """Remove the key, or set it back to `previous`. Raises ConfigError."""
    if previous is not None:
        return set_wrapper(text, previous, path)
    parse(text, path)
    return SPOT.unset(text, os.fsdecode(path))


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
        if SPOT.says(restored, wanted):
            return restored
    return unset_wrapper(text, previous, path).text
