"""Labels and label selectors, by the rules of the API reference ("Labels", "Label Selector")."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from .errors import ApiError, invalid_input

Labels = Mapping[str, str]
Selector = Callable[[Labels], bool]

NAME: Final = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")
_DNS: Final = re.compile(
    r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
)
_RESERVED: Final = "hetzner.cloud/"
_SET: Final = re.compile(r"(?P<key>\S+)\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)")


def check_labels(value: Any) -> dict[str, str]:
    """A copy. ApiError `invalid_input` names the first key at fault."""
    if not isinstance(value, dict):
        raise invalid_input("labels", "must be an object")
    for key, entry in value.items():
        if not valid_key(key) or key.startswith(_RESERVED):
            raise invalid_input("labels", f"key {key!r} is not allowed")
        if not isinstance(entry, str) or not (entry == "" or NAME.fullmatch(entry)):
            raise invalid_input("labels", f"value of {key!r} is not allowed")
    return dict(value)


def valid_key(key: str) -> bool:
    """A name of at most 63 characters, after an optional DNS subdomain of at most 253 and `/`."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _DNS.fullmatch(prefix)):
        return False
    return NAME.fullmatch(name) is not None


def parse_selector(text: str) -> Selector:
    """ApiError `invalid_input` if it is not of the grammar."""
    tests = [_requirement(part.strip()) for part in _split(text)]
    return lambda labels: all(test(labels) for test in tests)


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    parts, depth = [""], 0
    for char in text:
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _requirement(part: str) -> Selector:
    if found := _SET.fullmatch(part):
        key = _key(found["key"])
        values = {_value(value.strip()) for value in found["values"].split(",")}
        if found["word"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    for operator in ("!=", "==", "="):
        if operator in part:
            left, _, right = part.partition(operator)
            key, value = _key(left.strip()), _value(right.strip())
            if operator == "!=":
                return lambda labels: labels.get(key) != value
            return lambda labels: labels.get(key) == value
    if part.startswith("!"):
        key = _key(part[1:].strip())
        return lambda labels: key not in labels
    key = _key(part)
    return lambda labels: key in labels


def _key(key: str) -> str:
    if not valid_key(key):
        raise _bad_selector()
    return key


def _value(value: str) -> str:
    if value and not NAME.fullmatch(value):
        raise _bad_selector()
    return value


def _bad_selector() -> ApiError:
    return invalid_input("label_selector", "is not a valid label selector")
