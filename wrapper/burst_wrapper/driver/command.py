"""A cargo command line on its way to the machine that drives: what to add, and what will come back.

Cargo judges its own options. Looked at are only those few that say where files will be: options
behind a bare `--` are not cargo's. https://doc.rust-lang.org/cargo/commands/cargo-build.html
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

_BUILDS: Final = ("build", "b", "rustc")
_TESTS: Final = ("test", "t", "bench")
_DOCS: Final = ("doc", "d", "rustdoc")
_VALUED_BEFORE: Final = ("--color", "--config", "-Z", "-C")
_NO_MESSAGES: Final = ("--build-plan", "--unit-graph", "--help", "-h", "--version", "-V")
_OUR_FORMAT: Final = "json-render-diagnostics"
_SHORT_FORMAT: Final = "json-render-diagnostics,json-diagnostic-short"


class Fetch(enum.Enum):
    """How it becomes known which files the user wants."""

    NOTHING = "nothing"
    """They run there, or nothing is made that a person opens."""
    MESSAGES = "messages"
    """Cargo's JSON messages come on stdout; ours, or asked for by the user."""
    ASK_AGAIN = "ask again"
    """Messages would change what the user sees: the same command is asked again, quietly, when all
    of it is fresh."""
    DOCUMENTS = "documents"
    INSTALLED = "installed"


@attrs.frozen
class Command:
    """What follows `cargo` there, and what is to be fetched when it has succeeded."""

    arguments: tuple[str, ...]
    verb: str
    """Empty: there is none."""
    toolchain: str
    """`+toolchain`, without the `+`."""
    fetch: Fetch
    ours: bool = False
    """The messages were our wish: the user sees none of them."""
    again: tuple[str, ...] = ()
    """With ASK_AGAIN, the quiet question."""
    manifest_path: str | None = None
    folder: str | None = None
    """`-C`: cargo goes there first."""
    profiles: tuple[str, ...] = ("debug",)
    """Folders below the target directory that hold this command's results."""


def plan(arguments: Sequence[str]) -> Command:
    """`arguments` is what follows `cargo burst`, without options of our own."""
    words = list(arguments)
    toolchain = words.pop(0)[1:] if words and words[0].startswith("+") else ""
    before, verb, rest = _split(words)
    own, behind = _until_dashes(rest)
    command = Command(
        arguments=tuple(words),
        verb=verb,
        toolchain=toolchain,
        fetch=Fetch.NOTHING,
        manifest_path=option(own, "--manifest-path"),
        folder=option(before, "-C"),
        profiles=_profiles(verb, own),
    )
    if any(word in _NO_MESSAGES for word in own):
        return command
    formats = list(options(own, "--message-format"))
    if verb in _DOCS:
        return attrs.evolve(command, fetch=Fetch.DOCUMENTS)
    if verb == "install":
        return attrs.evolve(command, fetch=Fetch.INSTALLED)
    if verb not in _BUILDS and not (verb in _TESTS and "--no-run" in own):
        return command
    if any("json" in each for each in formats):
        return attrs.evolve(command, fetch=Fetch.MESSAGES)
    plain, short = _without_formats(own), "short" in formats
    asked = (*before, verb, "--message-format", _SHORT_FORMAT if short else _OUR_FORMAT)
    if verb in _TESTS:
        # `Executable …` lines are printed only where no messages are: both, one after the other.
        again = (*before, verb, "--quiet", *asked[-2:], *_without(plain, _LOUD), *behind)
        return attrs.evolve(command, fetch=Fetch.ASK_AGAIN, again=again)
    return attrs.evolve(
        command, arguments=(*asked, *plain, *behind), fetch=Fetch.MESSAGES, ours=True
    )


_LOUD: Final = ("-v", "-vv", "-vvv", "--verbose", "-q", "--quiet")


def option(words: Sequence[str], name: str) -> str | None:
    """The last value of an option, given as `--name value` or `--name=value`."""
    value = None
    for value in options(words, name):  # noqa: B007 - the last one is wanted
        pass
    return value


def options(words: Sequence[str], name: str) -> Iterator[str]:
    """All values of an option, in order; of a short one (`-p`) the spelling `-pvalue`, too."""
    expected = False
    for word in words:
        if expected:
            expected = False
            yield word
        elif word == name:
            expected = True
        elif word.startswith(name + "="):
            yield word[len(name) + 1 :]
        elif not name.startswith("--") and word.startswith(name) and len(word) > len(name):
            yield word[len(name) :]


def _split(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Options before the verb, the verb, and what follows it."""
    index = 0
    while index < len(words) and words[index].startswith("-"):
        if words[index] == "--":
            break
        index += 2 if words[index] in _VALUED_BEFORE else 1
    index = min(index, len(words))
    if index == len(words) or words[index] == "--":
        return list(words[:index]), "", list(words[index:])
    return list(words[:index]), words[index], list(words[index + 1 :])


def _until_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    if "--" in words:
        index = words.index("--")
        return list(words[:index]), list(words[index:])
    return list(words), []


def _profiles(verb: str, own: Sequence[str]) -> tuple[str, ...]:
    """Where cargo puts results, below the target directory: `[<triple>/]<profile's folder>`."""
    profile = option(own, "--profile")
    if profile is None:
        release = {"--release", "-r"} & set(own) or verb in {"bench", "install"}
        profile = "release" if release and "--debug" not in own else "dev"
    folder = {"dev": "debug", "test": "debug", "bench": "release"}.get(profile, profile)
    triples = list(options(own, "--target"))
    return tuple(f"{triple}/{folder}" for triple in triples) or (folder,)


def _without_formats(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == "--message-format":
            skip = True
        elif not word.startswith("--message-format="):
            kept.append(word)
    return kept


def _without(words: Sequence[str], unwanted: Sequence[str]) -> list[str]:
    return [word for word in words if word not in unwanted]
