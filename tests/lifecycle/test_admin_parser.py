"""The command line: complete help at once, errors in our form, completions for three shells."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from burst_lifecycle.admin import completion, main, text
from burst_lifecycle.admin.parser import VERBS, make_parser

ALL = list(completion.tree(make_parser()))


@pytest.mark.parametrize("verb", ALL, ids=lambda verb: " ".join(verb.path) or "burst-admin")
def test_help_is_complete(verb: completion.Verb, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb and every option says what it does."""
    assert main.main([*verb.path, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in verb.options:
        assert option.words, option.names
        assert option.names[-1] in shown
    for name, words in verb.verbs:
        assert words
        assert name in shown


def test_help_does_not_wait_for_libraries() -> None:
    """What costs start-up time is not loaded for it."""
    program = (
        "import sys; from burst_lifecycle.admin.main import main; main(sys.argv[1:]);"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    for words in ([], ["--help"], ["--version"], ["down", "--help"], ["volume", "rm", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
        )
        heavy = {"attrs", "attr", "asyncio", "hcloud", "asyncssh", "requests", "decimal", "json"}
        assert heavy.isdisjoint(done.stderr.split()), words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["destroy"], "destroy"),
        (["down", "--nope"], "--nope"),
        (["extend", "--by", "soon"], "`soon` is no duration"),
        (["audit", "--rate", "ccx63=cheap"], "`ccx63=cheap` is no rate"),
        (["audit", "--since", "yesterday"], "`yesterday` is no time"),
        (["audit", "--json", "--html", "x"], "not allowed"),
        (["image"], "ACTION"),
        (["volume", "rm"], "ID|NAME"),
        (["down", "--with-vol"], "--with-vol"),
    ],
)
def test_wrong_usage(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An error and a hint, nothing on stdout, 2."""
    assert main.main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert says in shown.err
    assert "\nhint: see `burst-admin" in shown.err


def test_every_verb_has_its_module() -> None:
    """With a `run`."""
    from importlib import import_module

    for name in VERBS:
        assert callable(import_module(f"burst_lifecycle.admin.{name}").run)


@pytest.mark.parametrize(
    ("word", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15min", 900),
        ("15m", 900),
        ("4h", 14400),
        ("1.5h", 5400),
        ("2d", 172800),
    ],
)
def test_durations(word: str, seconds: float) -> None:
    assert text.parse_duration(word) == seconds


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (90061, "1 d 1 h"),
        (86460, "1 d"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert text.duration(seconds) == words


# -- completions ---------------------------------------------------------------------------------


def leaves(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from leaves(one)
        else:
            yield from action.option_strings


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_know_every_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    for option in set(leaves(make_parser())):
        name = option.lstrip("-") if shell == "fish" else option
        assert name in shown


def bash_completes(*words: str) -> list[str]:
    """What bash offers for the last word."""
    script = completion.bash(ALL) + (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _burst_admin; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script, "bash", "burst-admin", *words],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash() -> None:
    assert bash_completes("st") == ["status"]
    assert bash_completes("volume", "") == ["-h", "--help", "list", "adopt", "rm"]
    assert bash_completes("down", "--with") == ["--with-volumes"]
    assert bash_completes("volume", "rm", "4711", "--y") == ["--yes"]
    assert bash_completes("reap", "--install", "s") == ["systemd"]
    assert "fish" in bash_completes("completion", "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_shell_itself_reads_it(shell: str) -> None:
    """Where that shell is installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    made = {"zsh": completion.zsh, "fish": completion.fish}[shell](ALL)
    done = subprocess.run(
        [shell, "-n", "/dev/stdin"], input=made, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
