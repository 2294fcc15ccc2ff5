"""What kind of thing each verb is: whether it compiles, whether it starts programs."""

from __future__ import annotations

from typing import Final

from burst_wrapper.verbs.command_line import CommandLine

EXECUTES: Final = frozenset(
    {"test", "bench", "run", "run-remote", "nextest run", "nextest bench", "hack"}
)
"""Verbs whose programs run where the session is; all others' are files here. Not `llvm-cov`'s: it
reads what its programs wrote, and the programs themselves, before it ends."""
COMPILES: Final = EXECUTES | {
    "build",
    "check",
    "clippy",
    "doc",
    "fix",
    "install",
    "llvm-cov",
    "nextest archive",
    "nextest list",
    "package",
    "publish",
    "run-local",
    "rustc",
    "rustdoc",
}
WITHOUT_PROJECT: Final = frozenset({"install"})
"""Verbs that need no manifest."""


def compiles(line: CommandLine, *, external: bool) -> bool:
    """Whether a session is worth it; what only looks at manifests is cargo alone. What another
    program does (`hack`, `udeps`), nobody knows."""
    return line.verb in COMPILES or (external and line.verb not in ("fmt", "nextest"))


def executes(line: CommandLine) -> bool:
    """Whether what is built may stay elsewhere and run there: not where files are wanted."""
    return line.verb in EXECUTES and not line.given("--no-run") and not speaks_json(line)


def speaks_json(line: CommandLine) -> bool:
    """Whether somebody reads cargo's messages: an editor, a tool."""
    formats = line.values("--message-format", "--cargo-message-format")
    return any(part.startswith("json") for value in formats for part in value.split(","))


def is_quiet(line: CommandLine) -> bool:
    return line.given("-q", "--quiet", "--cargo-quiet")


def cargos_verb(line: CommandLine) -> str:
    """What cargo is told: `run` for our two forms of it."""
    return "run" if line.verb in ("run-local", "run-remote") else line.verb
