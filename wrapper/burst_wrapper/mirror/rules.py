"""Which of a root's names go to the agent, and for what reason others do not."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from typing import Final

import attrs

from burst_lifecycle.setting_keys import BUILT_IN_EXCLUDES, SECRET_EXCLUDES
from burst_wrapper.mirror.ignore import Level, Patterns, ignored_by

_TARGET: Final = "target/"
_GIT: Final = ".git"
_TAG: Final = b"CACHEDIR.TAG"


class Why(enum.Enum):
    """A name stays at home."""

    SECRET = "looks like a secret"  # noqa: S105 - a description
    BUILT_IN = "never sent"
    OUTPUT = "cargo's output"
    IGNORED = "ignored by git"
    EXCLUDED = "`exclude`"
    ODD = "no file, folder or link"


@attrs.frozen
class Wishes:
    """What the configuration says, for all roots."""

    secrets: Patterns
    built_in: Patterns
    exclude: Patterns
    unexclude: Patterns
    named: frozenset[str]
    """Folders that `unexclude` goes through by name, relative to the root."""
    keep_targets: bool
    """`target/` is not excluded."""

    @classmethod
    def of(cls, exclude: Iterable[str] = (), unexclude: Iterable[str] = ()) -> Wishes:
        exclude, unexclude = tuple(exclude), tuple(unexclude)
        kept = {entry.rstrip("/") for entry in unexclude}
        rest = [entry for entry in BUILT_IN_EXCLUDES if entry.rstrip("/") not in kept]
        named: set[str] = set()
        for entry in unexclude:
            parts = entry.strip("/").split("/")
            named.update("/".join(parts[:count]) for count in range(1, len(parts)))
        return cls(
            secrets=Patterns.of(entry for entry in rest if entry in SECRET_EXCLUDES),
            built_in=Patterns.of(
                # A worktree's is a file.
                _GIT if entry == _GIT + "/" else entry
                for entry in rest
                if entry not in SECRET_EXCLUDES and entry != _TARGET
            ),
            exclude=Patterns.of(exclude),
            unexclude=Patterns.of(unexclude),
            named=frozenset(named),
            keep_targets=_TARGET not in rest,
        )


@attrs.frozen
class Verdict:
    """None: it goes. `inside`: it stays, but something below it may be wanted by name."""

    why: Why | None = None
    inside: bool = False
    origin: str = ""
    """The file whose pattern it was."""


_GOES: Final = Verdict()


@attrs.frozen
class Rules:
    """Of one root."""

    root: bytes
    wishes: Wishes
    forced: frozenset[bytes] = frozenset()
    """Files that go though they are ignored: tracked, or read by a unit. Never secrets."""
    forced_above: frozenset[bytes] = frozenset()
    """The folders above them."""
    outputs: frozenset[bytes] = frozenset()
    """Target directories."""

    @classmethod
    def of(
        cls,
        root: bytes,
        wishes: Wishes,
        forced: frozenset[bytes] = frozenset(),
        outputs: frozenset[bytes] = frozenset(),
    ) -> Rules:
        above: set[bytes] = set()
        for path in forced:
            folder = os.path.dirname(path)
            while len(folder) > len(root) and folder not in above:
                above.add(folder)
                folder = os.path.dirname(folder)
        return cls(root, wishes, forced, frozenset(above), outputs)

    def verdict(
        self, path: bytes, levels: tuple[Level, ...], *, folder: bool, only_named: bool
    ) -> Verdict:
        """`only_named`: in a folder that stays, where only what is wanted by name goes."""
        wishes = self.wishes
        name = os.fsdecode(path[len(self.root) :].lstrip(b"/"))
        if wishes.unexclude and wishes.unexclude.verdict(name, folder=folder):
            return _GOES
        if wishes.secrets.verdict(name, folder=folder):
            # Worth a word only if it would have gone otherwise.
            level = ignored_by(levels, os.fsdecode(path), folder=folder) if levels else None
            why = Why.SECRET if level is None and not only_named else Why.IGNORED
            return Verdict(why, origin="" if level is None else level.origin)
        inside = folder and (path in self.forced_above or name in wishes.named)
        if path in self.forced:
            return _GOES
        if only_named:
            return Verdict(Why.IGNORED, inside)
        if folder and self._is_output(path):
            return Verdict(Why.OUTPUT, inside)
        if wishes.built_in.verdict(name, folder=folder):
            return Verdict(Why.BUILT_IN, inside)
        if wishes.exclude and wishes.exclude.verdict(name, folder=folder):
            return Verdict(Why.EXCLUDED, inside)
        if levels:
            level = ignored_by(levels, os.fsdecode(path), folder=folder)
            if level is not None:
                return Verdict(Why.IGNORED, inside, level.origin)
        return _GOES

    def _is_output(self, path: bytes) -> bool:
        """A folder that a cache made and says so, as cargo's target directories do; a source folder
        that is merely called `target` is none."""
        if path in self.outputs:
            return True
        return not self.wishes.keep_targets and os.path.exists(path + b"/" + _TAG)
