"""Patterns of `.gitignore` (gitignore(5)), through `pathspec`.

The library turns one pattern into one regular expression; which file's patterns count, in which
order, and that nothing below an ignored folder is looked at, is git's and stands here: the last
pattern that matches decides, those of the deeper file before those above it.

Names are text with surrogates for what is not UTF-8, as git compares bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import attrs
from pathspec.patterns.gitignore.base import GitIgnorePatternError
from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

Match = Callable[[str], object]

_FOLDER: Final = "(?P<ps_d>/)"
_OR_BELOW: Final = f"(?:{_FOLDER}|$)"
_ALL_BELOW: Final = re.compile(r"[^/*]/\*\*/ *$")


@attrs.frozen
class _Pattern:
    match: Match
    ignores: bool
    """False: it begins with `!`."""


@attrs.frozen(eq=False)
class Patterns:
    """One list of patterns. Equal by identity only."""

    _any: tuple[_Pattern, ...] = ()
    _may: Match | None = None
    """Whether any of all matches: most names meet none."""
    _may_folder: Match | None = None
    _folder: tuple[tuple[_Pattern, bool], ...] = ()
    """All, with those for folders only, which are marked."""

    @classmethod
    def of(cls, lines: Iterable[str]) -> Patterns:
        """Lines that are no pattern match nothing, as with git."""
        plain: list[_Pattern] = []
        every: list[tuple[_Pattern, bool]] = []
        sources: list[str] = []
        folder_sources: list[str] = []
        for line in lines:
            only_folders = line.rstrip(" ").endswith("/")
            if _ALL_BELOW.search(line):
                # Folders below it, not itself; the library's expression matches that, too.
                line = line.rstrip(" ") + "*/"  # noqa: PLW2901
            try:
                source, ignores = GitIgnoreSpecPattern.pattern_to_regex(line)
            except GitIgnorePatternError:
                continue
            if source is None or ignores is None:
                continue
            # The path itself: what lies below an ignored folder is never asked for. And `$` would
            # match before a newline at a name's end.
            if source == _FOLDER:
                source = ".+" + _FOLDER  # `*/`
            source = source.replace(_OR_BELOW, r"\Z").replace(_FOLDER, r"/\Z")
            pattern = _Pattern(re.compile(source, re.DOTALL).match, ignores)
            every.append((pattern, only_folders))
            if only_folders:
                folder_sources.append(source)
            else:
                plain.append(pattern)
                sources.append(source)
        return cls(
            tuple(reversed(plain)),
            _joined(sources),
            _joined(folder_sources),
            tuple(reversed(every)),
        )

    @classmethod
    def parse(cls, data: bytes) -> Patterns:
        """A file's content."""
        text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        return cls.of(line.removesuffix("\r") for line in text.split("\n"))

    def __bool__(self) -> bool:
        return bool(self._folder)

    def verdict(self, name: str, *, folder: bool) -> bool | None:
        """Whether this path (relative to where the patterns stand) is ignored; None: not said."""
        hit = self._may is not None and self._may(name) is not None
        if not folder:
            if hit:
                for pattern in self._any:
                    if pattern.match(name) is not None:
                        return pattern.ignores
            return None
        marked = name + "/"
        if hit or (self._may_folder is not None and self._may_folder(marked) is not None):
            for pattern, only_folders in self._folder:
                if pattern.match(marked if only_folders else name) is not None:
                    return pattern.ignores
        return None


def _joined(sources: list[str]) -> Match | None:
    if not sources:
        return None
    return re.compile("|".join(f"(?:{source})" for source in sources), re.DOTALL).match


NONE: Final = Patterns()


@attrs.frozen(eq=False)
class Level:
    """Patterns, and the folder (absolute, with a slash at its end) that their names begin at."""

    base: str
    patterns: Patterns
    origin: str
    """The file that they stand in."""


def ignored_by(levels: tuple[Level, ...], path: str, *, folder: bool) -> Level | None:
    """The level that says this (absolute) path is ignored; the last one comes first."""
    for level in reversed(levels):
        verdict = level.patterns.verdict(path[len(level.base) :], folder=folder)
        if verdict is not None:
            return level if verdict else None
    return None
