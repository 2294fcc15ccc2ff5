"""The options of cargo's and nextest's verbs, as the installed ones say in their `--help`.

python tests/support/cargo_help.py     writes `verbs/cargo_option_table.py`; a test compares
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from burst_wrapper.verbs import cargo_option_table, cargo_options

OUTPUT = Path(cargo_option_table.__file__)

# `  -p, --package [<SPEC>]  Package …`; `      --timings[=<FMTS>]`; `-j, --test-threads <N>`.
_LINE = re.compile(
    r"^\s{1,8}(?P<names>--?[A-Za-z][\w-]*(?:(?:, | / )--?[A-Za-z][\w-]*)*)"
    r"(?P<dots>\.\.\.)?(?P<value>\[=<[^>]+>\]| \[<?[A-Za-z-]+>?\]| ?<[^>]+>| \[[A-Z]+\])?"
)
_ALIAS = re.compile(r"\[alias(?:es)?: ((?:--?[\w-]+(?:, )?)+)\]")
_LIST_LINE = re.compile(r"^    (\S+)")
# Not cargo's own, or only a name for another one.
_LEFT_OUT = frozenset({"miri", "nextest", "fmt", "git-checkout", "b", "c", "d", "r", "t", "rm"})
# `cargo clippy` takes what `cargo check` takes, and after `--fix` what `cargo fix` takes; what it
# lists for rustc stands behind its `--`.
_CLIPPY = frozenset({"--no-deps", "--fix", "--explain", "-h", "--help", "-V", "--version"})
_FIX = ("--allow-dirty", "--allow-staged", "--allow-no-vcs", "--broken-code", "--edition")


def options(help_text: str) -> dict[str, str]:
    """Name of each option to its form: "" for a switch, "=" and "=?" as in the table."""
    found: dict[str, str] = {}
    last: str | None = None
    for line in help_text.splitlines():
        if alias := _ALIAS.search(line):
            for name in alias[1].split(", "):
                found[name] = found.get(last or "", "")
        match = _LINE.match(line)
        if match is None:
            continue
        value = match["value"] or ""
        form = "" if not value or value.startswith("[=") else "=?" if "[" in value else "="
        for name in re.split(r", | / ", match["names"]):
            found[name] = form
            last = name
    return found


def installed_verbs() -> list[str]:
    """What `cargo --list` says is there, less what is not cargo's own."""
    said = _said("cargo", "--list")
    names = [match[1] for line in said.splitlines() if (match := _LIST_LINE.match(line))]
    return [name for name in names if name not in _LEFT_OUT]


def installed() -> dict[str, dict[str, str]]:
    """All verbs of cargo and of nextest that are installed here, with their options."""
    table = {verb: options(_said("cargo", verb, "-h")) for verb in installed_verbs()}
    clippy = {name: form for name, form in table["clippy"].items() if name in _CLIPPY}
    fix = {name: form for name, form in table["fix"].items() if name in _FIX}
    table["clippy"] = {**table["check"], **fix, **clippy, "--explain": "="}
    for path in nextest_verbs():
        table[" ".join(("nextest", *path))] = options(_said("cargo", "nextest", *path, "--help"))
    return {verb: names for verb, names in table.items() if names}


def nextest_verbs() -> Iterator[tuple[str, ...]]:
    """Nothing if it is not installed."""
    yield from _below(())


def _below(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    said = _said("cargo", "nextest", *path, "--help")
    if path and said:
        yield path
    _, found, rest = said.partition("\nCommands:\n")
    if not found:
        return
    for line in rest.partition("\n\n")[0].splitlines():
        match = re.match(r"  ([a-z-]+)", line)
        if match and match[1] != "help":
            yield from _below((*path, match[1]))


def _said(*argv: str) -> str:
    environ = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "CARGO_TERM_COLOR": "never"}
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def source(table: dict[str, dict[str, str]]) -> str:
    """The module's text with this table in it."""
    head, begin, rest = OUTPUT.read_text().partition("# <table>\n")
    _, end, tail = rest.partition("# </table>\n")
    lines = ["TABLE: Final[Mapping[str, str]] = {\n"]
    for verb in sorted(table):
        words = [
            name + form for name, form in sorted(table[verb].items()) if name not in _EVERYWHERE
        ]
        lines.append(f'    "{verb}": (\n')
        lines += [f"        {line!r}\n".replace("'", '"') for line in _wrapped(words)]
        lines.append("    ),\n")
    lines.append("}\n")
    return head + begin + "".join(lines) + end + tail


_EVERYWHERE = frozenset({"-h", "--help"})


def _wrapped(words: Iterable[str]) -> Iterator[str]:
    line = ""
    for word in words:
        if len(line) + len(word) > 84:
            yield line
            line = ""
        line += word + " "
    yield line.rstrip()


def main() -> int:
    known = {verb: dict(forms) for verb, forms in cargo_options.forms().items()}
    for verb, names in installed().items():
        known.setdefault(verb, {}).update(names)
    OUTPUT.write_text(source(known))
    return 0


if __name__ == "__main__":
    sys.exit(main())
