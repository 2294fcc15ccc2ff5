"""Sets and removes one key of a TOML file, touching nothing else.

An edit is a change of text, never a rewrite of the parsed file: comments, order and formatting
stay. Since TOML has many ways to say the same, each way to edit is only a proposal: the result is
parsed and must differ from the old file in exactly that key. If no proposal passes, the user is
told which line to write. So no edit can lose or change anything else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, Final

from attrs import frozen

from burst_protocol.errors import ConfigError

_STRING: Final = r'(?:"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
_ARRAY: Final = rf"\[(?:[^\[\]\"'#]|{_STRING}|#[^\n]*)*\]"
_TABLE: Final = rf"\{{(?:[^{{}}\"'\n]|{_STRING})*\}}"
_VALUE: Final = rf"(?:{_STRING}|{_ARRAY}|{_TABLE}|[\w+.:-]+)"


class CannotEdit(ConfigError):
    """{path}: cannot set `{key}` without changing something else"""

    code = "config-edit"
    hint = "write that line by hand"


@frozen
class Edit:
    """A file's new text, and how to take the edit back: `added` becomes `removed` again."""

    text: str
    added: str
    removed: str


@frozen
class Spot:
    """One key of one table, both plain words."""

    table: str
    key: str

    def in_(self, parsed: dict[str, Any]) -> Any:
        """Its value; None if it is not there."""
        table = parsed.get(self.table)
        return table.get(self.key) if isinstance(table, dict) else None

    def set(self, text: str, literal: str, path: str) -> Edit:
        """Set it to a TOML value. CannotEdit; TOMLDecodeError if the text is none."""
        wanted = deepcopy(tomllib.loads(text))
        value = tomllib.loads(f"x = {literal}\n")["x"]
        table = wanted.setdefault(self.table, {})
        if not isinstance(table, dict):
            raise CannotEdit(path=path, key=f"{self.table}.{self.key}")
        table[self.key] = value
        return self._first_right(self._ways_to_set(text, literal), wanted, path)

    def unset(self, text: str, path: str) -> Edit:
        """Remove it; an empty table may stay. CannotEdit; TOMLDecodeError if the text is none."""
        wanted = self.without(tomllib.loads(text))
        return self._first_right(self._ways_to_unset(text), wanted, path)

    def without(self, parsed: dict[str, Any]) -> dict[str, Any]:
        """The same, less this key."""
        wanted = deepcopy(parsed)
        table = wanted.get(self.table)
        if isinstance(table, dict):
            table.pop(self.key, None)
        return wanted

    def says(self, text: str, wanted: dict[str, Any]) -> bool:
        """Whether the text means that; an empty table says the same as none."""
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            return False
        return self._without_empty(found) == self._without_empty(wanted)

    def _without_empty(self, parsed: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in parsed.items() if key != self.table or value != {}}

    def _first_right(self, ways: Iterator[Edit], wanted: dict[str, Any], path: str) -> Edit:
        for edit in ways:
            if self.says(edit.text, wanted):
                return edit
        raise CannotEdit(path=path, key=f"{self.table}.{self.key}")

    @property
    def _assignment(self) -> re.Pattern[str]:
        return re.compile(rf"(?P<key>\b{re.escape(self.key)}[\"']?[ \t]*=[ \t]*){_VALUE}")

    def _ways_to_set(self, text: str, literal: str) -> Iterator[Edit]:
        end = "\r\n" if "\r\n" in text else "\n"
        key, table = self.key, re.escape(self.table)
        for match in self._assignment.finditer(text):
            yield replaced(text, match.start(), match.end(), match["key"] + literal)
        header = rf"^[ \t]*\[[ \t]*[\"']?{table}[\"']?[ \t]*\][^\n]*(?:\n|\Z)"
        for match in re.finditer(header, text, re.MULTILINE):
            gap = "" if match[0].endswith("\n") else end
            yield replaced(text, match.end(), match.end(), f"{gap}{key} = {literal}{end}")
        gap = "" if not text else end if text.endswith("\n") else end * 2
        yield replaced(
            text, len(text), len(text), f"{gap}[{self.table}]{end}{key} = {literal}{end}"
        )
        inline = rf"^([ \t]*[\"']?{table}[\"']?[ \t]*=[ \t]*\{{)([ \t]*)"
        for match in re.finditer(inline, text, re.MULTILINE):
            comma = "" if text[match.end()] == "}" else ","
            new = f"{match[1]} {key} = {literal}{comma}{match[2] or ' '}"
            yield replaced(text, match.start(), match.end(), new)
        yield replaced(text, 0, 0, f"{self.table}.{key} = {literal}{end}")

    def _ways_to_unset(self, text: str) -> Iterator[Edit]:
        yield Edit(text, "", "")
        key = re.escape(self.key)
        line = rf"^[ \t]*[\w. \t\"']*\b{key}[\"']?[ \t]*=[ \t]*{_VALUE}[^\n]*\n?"
        for match in re.finditer(line, text, re.MULTILINE):
            yield replaced(text, match.start(), match.end(), "")
        for match in self._assignment.finditer(text):
            start, end = match.span()
            for pattern in (r"[ \t]*,[ \t]*", r"[ \t]*"):
                tail = re.compile(pattern).match(text, end)
                if tail:
                    yield replaced(text, start, tail.end(), "")
            head = re.compile(r",[ \t]*\Z").search(text, 0, start)
            if head:
                yield replaced(text, head.start(), end, "")


def quoted(value: str) -> str:
    """A TOML string: literal where that is possible, since it needs no escapes."""
    if not set(value) & {'"', "\\"} and value.isprintable():
        return f'"{value}"'
    if "'" not in value and value.isprintable():
        return f"'{value}'"
    return (
        '"' + "".join(c if c.isalnum() or c in "/._-" else f"\\U{ord(c):08x}" for c in value) + '"'
    )


def replaced(text: str, start: int, end: int, new: str) -> Edit:
    return Edit(text[:start] + new + text[end:], added=new, removed=text[start:end])


def difference(before: str, after: str) -> Edit:
    """Two texts as one edit of whole lines."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    start = before.rfind("\n", 0, start) + 1
    end = 0
    rest = min(len(before), len(after)) - start
    while end < rest and before[-1 - end] == after[-1 - end]:
        end += 1
    # As far as whole lines are equal.
    tail = after[len(after) - end :]
    end = len(tail) - (tail.find("\n") + 1) if "\n" in tail else 0
    return Edit(after, after[start : len(after) - end], before[start : len(before) - end])
