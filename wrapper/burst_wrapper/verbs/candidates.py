"""What may stand at the end of a command line of `cargo burst`: for the completions of shells.

From the same tables as the command line itself is read by. Names of packages and targets are
cargo's; nothing here fails, there only is less to offer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from burst_protocol.errors import BurstError
from burst_wrapper.verbs import cargo_options
from burst_wrapper.verbs.cargo import Cargo, NoProject, project
from burst_wrapper.verbs.cargo_options import name_of, takes_next
from burst_wrapper.verbs.cargo_settings import CargoSettings
from burst_wrapper.verbs.command_line import parse
from burst_wrapper.verbs.help_text import CARGOS
from burst_wrapper.verbs.own_option_table import OPTIONS

Candidate = tuple[str, str]
"""A word, and what it means."""
FILES: Final = (":files", "")
"""Files of that folder, which the shell knows best."""

_OF_OWN: Final[Mapping[str, tuple[str, ...]]] = {
    "enable": ("hetzner", "--project", "--no-launcher", "--force", "--trust", "--help"),
    "disable": ("hetzner", "--project", "--trust", "--help"),
    "explain": ("--json", "--build", "--help"),
    "doctor": ("--json", "--help"),
    "stop": ("--help",),
    "completion": ("bash", "zsh", "fish", "--help"),
    "toolchain": ("list", "install", "--help"),
}
_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    "--driver": ("local", "remote"),
    "--color": ("auto", "always", "never"),
    "--message-format": ("human", "short", "json"),
    "--profile": ("dev", "release", "test", "bench"),
    "--cargo-profile": ("dev", "release", "test", "bench"),
}
_PATHS: Final = frozenset(
    {
        *("--manifest-path", "--target-dir", "--path", "--root", "--config", "--artifact-dir"),
        *("--config-file", "--archive-file", "-C", "--fetch"),
    }
)
_TARGET_KINDS: Final = {
    "--bin": "bin",
    "--example": "example",
    "--test": "test",
    "--bench": "bench",
}
_PACKAGES: Final = frozenset({"-p", "--package", "--exclude"})


def candidates(
    words: Sequence[str], own: Mapping[str, str], admin: Mapping[str, str]
) -> list[Candidate]:
    """For the last of these words, which stand behind `cargo burst`; it may be begun or empty."""
    *before, current = words or [""]
    found = _all(before, current, own, admin)
    return [one for one in found if one is FILES or one[0].startswith(current)]


def _all(
    before: Sequence[str], current: str, own: Mapping[str, str], admin: Mapping[str, str]
) -> Iterable[Candidate]:
    at = _verb_at(before)
    if at is None:
        return _first(before, current, own, admin)
    verb = before[at]
    if verb in own:
        return [(word, "") for word in _OF_OWN.get(verb, ())]
    if verb in admin:
        return _of_admin(before[at:])
    return _of_cargo(before, current)


def _verb_at(words: Sequence[str]) -> int | None:
    """Where the verb stands; None if it does not yet."""
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith(("-", "+")):
            return at
        form = cargo_options.BEFORE_THE_VERB.get(name_of(word), _form_of_ours(word))
        at += 2 if takes_next(form, word, "x") else 1
    return None


def _form_of_ours(word: str) -> str:
    return next((one.form for one in OPTIONS if name_of(word) in one.names), "")


def _first(
    before: Sequence[str], current: str, own: Mapping[str, str], admin: Mapping[str, str]
) -> Iterator[Candidate]:
    """Verbs, and what may stand before one."""
    if before and (values := _values(before[-1], "", "")) is not None:
        yield from values
        return
    if current.startswith("-"):
        yield from _ours("")
        yield from ((name, "") for name in cargo_options.BEFORE_THE_VERB)
        yield from (("--help", ""), ("--version", ""))
        return
    yield from CARGOS.items()
    yield from own.items()
    yield from admin.items()
    names = (name for name in cargo_options.verbs() if name not in CARGOS)
    yield from dict.fromkeys((name.partition(" ")[0], "") for name in names)
    settings = CargoSettings.read(os.getcwdb(), os.environb)
    yield from ((name, f"alias: {text}") for name, text in settings.aliases().items())


def _of_cargo(before: Sequence[str], current: str) -> Iterable[Candidate]:
    settings = CargoSettings.read(os.getcwdb(), os.environb)
    try:
        line = parse(before, settings.alias)
    except BurstError:
        line = None  # an option of ours that waits for its value
    if line is None or not before[-1].startswith("-"):
        values = None
    else:
        values = _values(before[-1], line.verb, cargo_options.of(line.verb).get(before[-1], ""))
    if line is None:
        return _values(before[-1], "", "") or []
    if values is not None:
        return values
    if line.behind is not None:
        return [(name, "") for name in cargo_options.behind(line.verb)]
    if not current.startswith("-"):
        return [*_inner_verbs(line.verb), FILES]
    names = [(name, "") for name in cargo_options.of(line.verb)]
    return [*_ours(line.verb, {name for name, _ in names}), *names]


def _inner_verbs(verb: str) -> Iterator[Candidate]:
    """`run` behind `nextest`."""
    for known in cargo_options.verbs():
        if known.startswith(f"{verb} "):
            yield known.removeprefix(f"{verb} ").partition(" ")[0], ""


def _ours(verb: str, taken: Iterable[str] = ()) -> Iterator[Candidate]:
    for one in OPTIONS:
        if not one.verbs or verb in one.verbs:
            yield from ((name, one.help) for name in one.names if name not in taken)


def _values(option: str, verb: str, form: str) -> Iterable[Candidate] | None:
    """What may follow this option; None if it takes no value."""
    if option in _VALUES:
        return [(word, "") for word in _VALUES[option]]
    if option in _PATHS:
        return [FILES]
    if option in _PACKAGES and form:
        return _names(verb, "")
    if option in _TARGET_KINDS and form:
        return _names(verb, _TARGET_KINDS[option])
    return [] if (form or _form_of_ours(option)) == cargo_options.VALUE else None


def _names(verb: str, kind: str) -> Iterator[Candidate]:
    """Of packages, or of one kind of targets."""
    try:
        found = project(Cargo.find(os.environb), parse([verb, "--offline"]))
    except BurstError:
        return
    if isinstance(found, NoProject):
        return
    for package in found.packages:
        if not kind:
            yield package.name, ""
        for target in package.targets:
            if kind and target.kind == kind:
                yield target.name, f"of {package.name}"


def _of_admin(words: Sequence[str]) -> Iterator[Candidate]:
    """As `burst-admin completion` has them."""
    from burst_lifecycle.admin.completion import tree  # noqa: PLC0415 - only where it is asked for
    from burst_lifecycle.admin.parser import make_parser  # noqa: PLC0415 - as above

    path: tuple[str, ...] = ()
    known = {verb.path: verb for verb in tree(make_parser())}
    for word in words:
        if (*path, word) in known:
            path = (*path, word)
    verb = known[path]
    yield from verb.verbs
    yield from ((name, option.words) for option in verb.options for name in option.names)
