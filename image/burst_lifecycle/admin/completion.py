"""`burst-admin completion`: made from the parser, so it knows every option there is. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.parser import make_parser

QUIET = True
"""Shells read its output at every start: nothing but what bills and is out of reach."""
_PROGRAM = "burst-admin"


class Option(NamedTuple):
    names: tuple[str, ...]
    words: str
    takes: bool
    choices: tuple[str, ...]
    is_file: bool


class Verb(NamedTuple):
    """`path` is (), ("down",), ("volume", "rm")."""

    path: tuple[str, ...]
    words: str
    options: tuple[Option, ...]
    verbs: tuple[tuple[str, str], ...]
    """What may follow: name and help."""
    choices: tuple[str, ...]
    """Of its argument."""


def run(options: argparse.Namespace, desk: Desk) -> int:
    """Prints the file for that shell."""
    make = {"bash": bash, "zsh": zsh, "fish": fish}[options.shell]
    desk.out(make(list(tree(make_parser()))).rstrip("\n"))
    return 0


def tree(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = (), words: str = ""
) -> Iterator[Verb]:
    """Every verb with what it takes, outer ones first."""
    options: list[Option] = []
    choices: tuple[str, ...] = ()
    inner: list[tuple[str, str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            inner = [(name, helps.get(name, ""), one) for name, one in action.choices.items()]
        elif action.option_strings:
            options.append(
                Option(
                    tuple(action.option_strings),
                    (action.help or "").split("(")[0].strip(),
                    action.nargs != 0,
                    tuple(map(str, action.choices or ())),
                    action.metavar in {"FILE", "DIR"},
                )
            )
        elif action.choices:
            choices = tuple(map(str, action.choices))
    verbs = tuple((name, text) for name, text, _ in inner)
    yield Verb(path, words, tuple(options), verbs, choices)
    for name, text, one in inner:
        yield from tree(one, (*path, name), text)


def bash(verbs: Sequence[Verb]) -> str:
    """Words of the verb that the line is in; files where an option takes one."""
    cases = []
    for verb in verbs:
        words = [name for option in verb.options for name in option.names]
        words += [name for name, _ in verb.verbs] + list(verb.choices)
        cases.append(f"    '{' '.join(verb.path)}') words='{' '.join(words)}' ;;")
    known = " ".join(f"'{' '.join(verb.path)}'" for verb in verbs if verb.path)
    values = [
        f"    '{' '.join(verb.path)} {name}') words='{' '.join(option.choices)}'; value=1 ;;"
        for verb in verbs
        for option in verb.options
        if option.takes and option.choices
        for name in option.names
    ]
    files = [
        f"    '{' '.join(verb.path)} {name}') files=1 ;;"
        for verb in verbs
        for option in verb.options
        if option.is_file
        for name in option.names
    ]
    return "\n".join(
        [
            f"# bash completion for {_PROGRAM}; made by `{_PROGRAM} completion bash`",
            f"_{_PROGRAM.replace('-', '_')}() {{",
            '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}"',
            "  local path='' words='' files='' value='' number candidate",
            "  for ((number = 1; number < COMP_CWORD; number++)); do",
            '    candidate="${path:+$path }${COMP_WORDS[number]}"',
            f"    for known in {known}; do",
            '      [[ "$candidate" == "$known" ]] && path="$candidate"',
            "    done",
            "  done",
            '  case "$path" in',
            *cases,
            "  esac",
            '  case "$path $before" in',
            *values,
            *files,
            "  esac",
            '  if [[ -n "$files" ]]; then',
            '    COMPREPLY=($(compgen -f -- "$current"))',
            "  else",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "  fi",
            "}",
            f"complete -o filenames -F _{_PROGRAM.replace('-', '_')} {_PROGRAM}",
            "",
        ]
    )


def zsh(verbs: Sequence[Verb]) -> str:
    """One function per verb, with `_arguments`."""
    parts = [f"#compdef {_PROGRAM}", f"# made by `{_PROGRAM} completion zsh`", ""]
    for verb in verbs:
        specs = [spec for option in verb.options for spec in _zsh_specs(option)]
        if verb.verbs:
            specs += ["'1: :->verb'", "'*:: :->rest'"]
        elif verb.choices:
            specs.append(f"'1:what:({' '.join(verb.choices)})'")
        name = _zsh_name(verb.path)
        parts += [f"{name}() {{", "  local context state state_descr line", "  typeset -A opt_args"]
        parts.append("  _arguments -C \\\n    " + " \\\n    ".join(specs))
        if verb.verbs:
            names = " ".join(_single(f"{inner}:{text}") for inner, text in verb.verbs)
            parts += [
                "  case $state in",
                f"    verb) local -a verbs=({names}); _describe verb verbs ;;",
                "    rest)",
                "      case $line[1] in",
            ]
            parts += [
                f"        {inner}) {_zsh_name((*verb.path, inner))} ;;" for inner, _ in verb.verbs
            ]
            parts += ["      esac ;;", "  esac"]
        parts += ["}", ""]
    parts += [f'{_zsh_name(())} "$@"', ""]
    return "\n".join(parts)


def _zsh_name(path: Sequence[str]) -> str:
    return "_".join(["_" + _PROGRAM.replace("-", "_"), *path])


def _zsh_specs(option: Option) -> list[str]:
    words = option.words.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = ""
    if option.takes:
        what = "_files" if option.is_file else f"({' '.join(option.choices)})"
        value = f":value:{what if option.is_file or option.choices else ''}"
    return [_single(f"{name}[{words}]{value}") for name in option.names]


def _single(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def fish(verbs: Sequence[Verb]) -> str:
    """`complete` lines, each under the condition that the line is in that verb."""
    lines = [f"# made by `{_PROGRAM} completion fish`", f"complete -c {_PROGRAM} -f"]
    for verb in verbs:
        test = _fish_condition(verb)
        for name, text in verb.verbs:
            lines.append(f"complete -c {_PROGRAM} -n '{test}' -a {name} -d {_single(text)}")
        if verb.choices:
            lines.append(f"complete -c {_PROGRAM} -n '{test}' -a '{' '.join(verb.choices)}'")
        for option in verb.options:
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            )
            takes = ""
            if option.takes:
                takes = " -r" + (" -F" if option.is_file else "")
                takes += f" -a '{' '.join(option.choices)}'" if option.choices else ""
            words = _single(option.words)
            lines.append(f"complete -c {_PROGRAM} -n '{test}' {names}{takes} -d {words}")
    return "\n".join([*lines, ""])


def _fish_condition(verb: Verb) -> str:
    if not verb.path:
        return "__fish_use_subcommand"
    seen = [f"__fish_seen_subcommand_from {name}" for name in verb.path]
    if verb.verbs:
        inner = " ".join(name for name, _ in verb.verbs)
        seen.append(f"not __fish_seen_subcommand_from {inner}")
    return "; and ".join(seen)
