"""From a command line to what does it: cargo with our hooks, cargo alone, or cargo on another
machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final

from burst_protocol.errors import BurstError, UsageError
from burst_wrapper.verbs import cargo_options, own_options
from burst_wrapper.verbs.cargo import Cargo, NoCargo
from burst_wrapper.verbs.cargo_settings import CargoSettings
from burst_wrapper.verbs.command_line import OWN_CARGO_VERBS, CommandLine, parse

_DRIVER: Final = "burst_wrapper.driver.drive"
"""Has `run(line: CommandLine) -> int`: cargo itself on another machine."""
_EXIT_USAGE: Final = 1
"""cargo's, for an argument that it does not know."""


class UnknownVerb(UsageError):
    """no such command: `cargo burst {verb}`"""

    def __init__(self, verb: str, known: Sequence[str]) -> None:
        super().__init__(verb=verb)
        from difflib import get_close_matches  # noqa: PLC0415  (12 ms that only a typo pays)

        near = get_close_matches(verb, known, n=1)
        hint = f"did you mean `cargo burst {near[0]}`?" if near else "see `cargo burst --help`"
        self.hint = hint  # type: ignore[misc]  # per verb


class Misplaced(UsageError):
    """`cargo burst {verb}` takes its options behind its name"""

    def __init__(self, verb: str) -> None:
        super().__init__(verb=verb)
        self.hint = f"see `cargo burst {verb} --help`"  # type: ignore[misc]  # per verb


def run(words: Sequence[str], own_verbs: Sequence[str] = ()) -> int:
    """The exit code; -N to die of signal N. BurstError."""
    environ = dict(os.environb)
    settings = CargoSettings.read(os.getcwdb(), environ, list(_configured(words)))
    line = parse(words, settings.alias)
    if line.verb in own_verbs:
        raise Misplaced(line.verb)
    if line.wants_help:
        from burst_wrapper.verbs import help_text  # noqa: PLC0415 - only where it is asked for

        if help_text.has(line.verb):
            print(help_text.of(line.verb), end="")  # noqa: T201 - what was asked for
            return 0
    if line.own.driver == "remote":
        return _remote_driver(line)
    try:
        cargo = Cargo.find(environ, line.toolchain)
    except NoCargo:
        if line.own.driver == "local" or not _could_drive(line, environ):
            raise
        return _remote_driver(line)
    return _local(line, cargo, settings, own_verbs)


def _local(
    line: CommandLine, cargo: Cargo, settings: CargoSettings, own_verbs: Sequence[str]
) -> int:
    external = False
    if not (cargo_options.is_known(line.verb) or line.verb in OWN_CARGO_VERBS or not line.verb):
        if not cargo.has_command(line.verb.split(" ")[0]):
            names, _ = cargo.commands()
            if line.verb not in names:
                known = [*own_verbs, *OWN_CARGO_VERBS, *names, *settings.aliases()]
                raise UnknownVerb(line.spelled, known)
        external = True
    if line.verb.startswith("nextest") and not cargo.has_command("nextest"):
        raise NoNextest
    from burst_wrapper.verbs.job import Job  # noqa: PLC0415 - not for an error
    from burst_wrapper.verbs.perform import perform  # noqa: PLC0415 - as above

    code = perform(Job(line, cargo, settings, external=external))
    if code == _EXIT_USAGE:
        _suggest(line)
    return code


class NoNextest(UsageError):
    """cargo-nextest is not installed"""

    exit_code = 101
    code = "no-nextest"
    hint = "`cargo install --locked cargo-nextest`; `cargo burst test` works without it"


def _suggest(line: CommandLine) -> None:
    """Cargo has refused an option; perhaps one of ours was meant."""
    from burst_wrapper.verbs.summary import Voice  # noqa: PLC0415 - rare

    forms = cargo_options.of(line.verb)
    for name, _ in line.options():
        near = own_options.near(name) if name.startswith("--") and name not in forms else ""
        if near:
            Voice(os.environb).hint(f"did you mean `{near}`? It is an option of burst")


def _configured(words: Sequence[str]) -> Iterator[str]:
    """The values of `--config` on a command line that is not taken apart yet."""
    for at, word in enumerate(words):
        if word == "--":
            return
        if word == "--config":
            yield from words[at + 1 : at + 2]
        elif word.startswith("--config="):
            yield word.partition("=")[2]


def _remote_driver(line: CommandLine) -> int:
    try:
        module = import_module(_DRIVER)
    except ModuleNotFoundError as error:
        if error.name is None or not _DRIVER.startswith(error.name):
            raise
        raise UsageError("`--driver remote` is not part of this version") from None
    code: int = module.run(line)
    return code


def _could_drive(line: CommandLine, environ: Mapping[bytes, bytes]) -> bool:
    """Whether another machine is known at all that could run cargo."""
    if line.own.host or environ.get(b"BURST_HOST"):
        return True
    from burst_wrapper import config  # noqa: PLC0415 - rare

    try:
        found = config.load(config.config_path(dict(environ)))
    except BurstError:
        return False
    return bool(found.host or found.hetzner)
