"""`cfg(…)` as it stands before a `[target.'cfg(…)']` of cargo's configuration. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_TOKEN: Final = re.compile(r'\s*("[^"]*"|[A-Za-z_][A-Za-z0-9_-]*|[(),=])')


def holds(expression: str, facts: Sequence[str]) -> bool:
    """Whether it is true of a target. `facts`: lines of `rustc --print cfg`, as `unix` and
    `target_os="linux"`. What is no expression is false."""
    tokens = _TOKEN.findall(expression)
    if "".join(tokens) != re.sub(r'\s+(?=(?:[^"]*"[^"]*")*[^"]*$)', "", expression):
        return False
    try:
        value, rest = _one(tokens, frozenset(facts))
    except (IndexError, ValueError):
        return False
    return value and not rest


def _one(tokens: list[str], facts: frozenset[str]) -> tuple[bool, list[str]]:
    """Of the first expression, and the tokens behind it. ValueError, IndexError."""
    name, *rest = tokens
    if rest[:1] == ["("]:
        values: list[bool] = []
        rest = rest[1:]
        while rest[0] != ")":
            value, rest = _one(rest, facts)
            values.append(value)
            if rest[0] == ",":
                rest = rest[1:]
            elif rest[0] != ")":
                raise ValueError(rest[0])
        return _joined(name, values), rest[1:]
    if not name[0].isalpha() and name[0] != "_":
        raise ValueError(name)
    if rest[:1] == ["="]:
        return f"{name}={rest[1]}" in facts, rest[2:]
    return (name == "true" or name in facts), rest


def _joined(name: str, values: list[bool]) -> bool:
    if name == "all":
        return all(values)
    if name == "any":
        return any(values)
    if name == "not" and len(values) == 1:
        return not values[0]
    raise ValueError(name)
