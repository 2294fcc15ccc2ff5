"""`[hetzner]` in the user's configuration: what `cargo burst enable hetzner` writes, and undoes.

Comments, order, and every other key stay as they are. What was changed is remembered beside the
ledger, so that `disable` can bring back the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from burst_lifecycle.atomic_file import write_atomically
from burst_lifecycle.places import Places
from burst_lifecycle.setting_keys import KEYS
from burst_lifecycle.setting_values import convert
from burst_lifecycle.settings import Hetzner
from burst_protocol.errors import ConfigError
from burst_wrapper.cargo_config import NotToml, NotWritable, read_text
from burst_wrapper.toml_edit import Spot, difference

TABLE: Final = "hetzner"
LIMIT: Final = "max_eur_per_hour"
"""The consent itself: without it nothing is created."""


@attrs.frozen
class Record:
    """How to take it back: `added` becomes `removed` again. `keys` are those that were set."""

    added: str
    removed: str
    keys: tuple[str, ...]
    created_file: bool


@attrs.frozen
class ConsentFile:
    """Of one user. Every method raises ConfigError and then has changed nothing."""

    places: Places

    @property
    def path(self) -> str:
        return self.places.config_file

    def read(self) -> str:
        """Its text; empty if there is none."""
        try:
            return read_text(os.fsencode(self.path)) or ""
        except NotToml as error:  # whose words are about cargo
            raise ConfigError(f"is not TOML: {error.detail}", path=self.path) from None

    @property
    def configured(self) -> bool:
        return TABLE in self._parsed(self.read())

    @property
    def allowed(self) -> bool:
        """Whether a limit was agreed."""
        return Spot(TABLE, LIMIT).in_(self._parsed(self.read())) is not None

    def set(self, entries: Mapping[str, str], current: Hetzner | None) -> bool:
        """Those keys, as TOML values; False if all of them were so already. What the file says in
        other words (`location = "fsn1"`) is left."""
        before = self.read()
        after = before
        known = self._parsed(before).get(TABLE, {})
        # Each new one comes first in its table.
        for key, literal in reversed(tuple(entries.items())):
            if key in known and current is not None and _same(current, key, literal):
                continue
            after = Spot(TABLE, key).set(after, literal, self.path).text
        if after == before:
            return False
        # The record first: killed in between, `disable` finds nothing to undo and says so.
        self._remember(self._record_of(before, after, tuple(entries)))
        self._write(after)
        return True

    def withdraw(self) -> bool:
        """Takes the limit away and leaves the rest, so that what exists can be seen and deleted.
        False if there was none."""
        before = self.read()
        if Spot(TABLE, LIMIT).in_(self._parsed(before)) is None:
            return False
        after = Spot(TABLE, LIMIT).unset(before, self.path).text
        if self._record() is not None:
            self._remember(self._record_of(before, after, ()))
        self._write(after)
        return True

    def take_back(self) -> bool:
        """As it was before `set`, byte for byte if nobody changed those lines since; else without
        the keys that `set` wrote. False if there was nothing to do."""
        before = self.read()
        parsed = self._parsed(before)
        record = self._record()
        if TABLE not in parsed:
            self._remember(None)
            return False
        restored = self._restored(before, parsed, record)
        if record is not None and record.created_file and not restored.strip():
            with _naming(self.path):
                os.unlink(self.path)
        else:
            self._write(restored)
        self._remember(None)
        return restored != before

    def _restored(self, text: str, parsed: dict[str, Any], record: Record | None) -> str:
        if record is not None and record.added and text.count(record.added) == 1:
            undone = text.replace(record.added, record.removed)
            if _others(_loaded(undone)) == _others(parsed) and LIMIT not in _own(undone):
                return undone
        keys = (*(() if record is None else record.keys), LIMIT)
        for key in dict.fromkeys(keys):
            if key in _own(text):
                text = Spot(TABLE, key).unset(text, self.path).text
        return _without_empty_table(text)

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"is not TOML: {error}", path=self.path) from None

    def _write(self, text: str) -> None:
        with _naming(self.path):
            write_atomically(os.fsencode(self.path), text.encode())

    # What was changed

    @property
    def _record_path(self) -> str:
        return os.path.join(self.places.cloud, "consent.json")

    def _record_of(self, before: str, after: str, keys: tuple[str, ...]) -> Record:
        """From what was there before burst wrote anything, also if this is the second time."""
        old = self._record()
        if old is None:
            edit = difference(before, after)
            return Record(edit.added, edit.removed, keys, not os.path.lexists(self.path))
        origin = before
        if old.added and before.count(old.added) == 1:
            origin = before.replace(old.added, old.removed)
        edit = difference(origin, after)
        known = tuple(dict.fromkeys((*old.keys, *keys)))
        return Record(edit.added, edit.removed, known, old.created_file)

    def _record(self) -> Record | None:
        try:
            with open(self._record_path, "rb") as file:
                raw = json.load(file)
            return Record(
                str(raw["added"]),
                str(raw["removed"]),
                tuple(str(key) for key in raw["keys"]),
                bool(raw["created_file"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None  # then only the keys are taken out

    def _remember(self, record: Record | None) -> None:
        path = self._record_path
        with _naming(path):
            if record is not None:
                text = json.dumps(attrs.asdict(record)).encode()
                write_atomically(os.fsencode(path), text, mode=0o600)
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _same(current: Hetzner, key: str, literal: str) -> bool:
    """Whether the configuration says that already, in whatever form."""
    value = tomllib.loads(f"x = {literal}")["x"]
    known: object = getattr(current, key)
    return bool(known == convert("", KEYS[f"{TABLE}.{key}"], value))


def _loaded(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {TABLE: {LIMIT: 0}}  # equals nothing that is wanted


def _own(text: str) -> dict[str, Any]:
    found = _loaded(text).get(TABLE, {})
    return found if isinstance(found, dict) else {}


def _others(parsed: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in parsed.items() if key != TABLE}


def _without_empty_table(text: str) -> str:
    """That the table is there at all makes servers possible."""
    if _loaded(text).get(TABLE) != {}:
        return text
    wanted = _others(_loaded(text))
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if TABLE in line:
            shorter = "".join((*lines[:number], *lines[number + 1 :]))
            if _loaded(shorter) == wanted:
                return shorter
    return text


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = os.fsdecode(error.filename or path)
        raise NotWritable(error.strerror or str(error), path=name) from None
