"""`cargo burst` command lines: which words are ours, which are cargo's, and whose a `--` is."""

from __future__ import annotations

import shlex

import pytest

from burst_wrapper.verbs.command_line import AliasCycle, CommandLine, NeedsVerb, parse
from burst_wrapper.verbs.own_options import BadValue, NotHere

ALIASES = {
    "xtask": ["run", "--package", "xtask", "--"],
    "tt": ["t", "--workspace"],
    "quiet-test": ["test", "--", "--nocapture"],
    "tool": ["run", "serve"],
    "nt": ["nextest", "run", "--no-fail-fast"],
    "ping": ["pong"],
    "pong": ["ping"],
    "zb": ["-Z", "unstable-options", "build", "--release"],
}


def line(text: str) -> CommandLine:
    return parse(shlex.split(text), ALIASES.get)


@pytest.mark.parametrize(
    ("typed", "cargo"),
    [
        # Cargo's own meaning.
        ("clippy -- -D warnings", "clippy -- -D warnings"),
        ("test -- --nocapture", "test -- --nocapture"),
        ("bench -- --save-baseline m", "bench -- --save-baseline m"),
        ("run -- --release", "run -- --release"),
        ("run -- -p", "run -- -p"),
        ("test -- name", "test -- name"),
        ("test -- -q", "test -- -q"),
        ("test -- --color always", "test -- --color always"),
        ("test -- --skip slow", "test -- --skip slow"),
        ("test -- --test", "test -- --test"),
        ("bench -- --test", "bench -- --test"),
        ("bench -- --verbose", "bench -- --verbose"),
        ("clippy -- -F unsafe_code", "clippy -- -F unsafe_code"),
        ("rustc -- --crate-type lib", "rustc -- --crate-type lib"),
        ("rustc -- -C opt-level=3", "rustc -- -C opt-level=3"),
        ("nextest run -- --ignored", "nextest run -- --ignored"),
        ("build --", "build --"),
        ("install -- ripgrep", "install -- ripgrep"),
        ("test --lib -- --test x", "test --lib -- --test x"),
        # The same, with cargo's options behind a `--` that cargo would not understand.
        ("clippy -- --all-targets -- -D warnings", "clippy --all-targets -- -D warnings"),
        ("test -- --lib -- --nocapture", "test --lib -- --nocapture"),
        ("test -- --test integration", "test --test integration"),
        ("test -- --test=integration", "test --test=integration"),
        ("test -- -p core", "test -p core"),
        ("test -- -j4", "test -j4"),
        ("test -- --no-run", "test --no-run"),
        ("bench -- --bench parse", "bench --bench parse"),
        ("bench -- --bench parse -- --save-baseline m", "bench --bench parse -- --save-baseline m"),
        ("build -- --release", "build --release"),
        ("check -- --tests", "check --tests"),
        ("clippy -- --fix", "clippy --fix"),
        ("doc -- --no-deps", "doc --no-deps"),
        ("run -- --release -- --port 80", "run --release -- --port 80"),
        ("rustc -- --release", "rustc --release"),
        ("nextest run -- -E test(a)", "nextest run -E test(a)"),
        ("t -- --test integration", "test --test integration"),
        # Ours go, wherever they stand, and so may leave a `--` directly behind the verb.
        ("test --host me@build -- --test x", "test --test x"),
        ("test --host me@build --lib -- --nocapture", "test --lib -- --nocapture"),
        ("build -e A=1 --release -L 80", "build --release"),
        ("test name --env A=1 other", "test name other"),
        # None of ours: behind a `--`, behind the program's first word, or another program's.
        ("run -- --host 0.0.0.0", "run -- --host 0.0.0.0"),
        ("run serve --host 0.0.0.0 -e x", "run serve --host 0.0.0.0 -e x"),
        ("build -- --release --host x", "build --release --host x"),
        ("llvm-cov --host x", "llvm-cov --host x"),
        ("tree -e features", "tree -e features"),
        ("nextest self update --yes", "nextest self update --yes"),
        ("test --features --host", "test --features --host"),
        # Aliases.
        ("xtask deploy --host x", "run --package xtask -- deploy --host x"),
        ("tt --env A=1 -- --test x", "test --workspace --test x"),
        ("tt --lib -- --exact", "test --workspace --lib -- --exact"),
        ("quiet-test name", "test -- --nocapture name"),
        ("tool --host x", "run serve --host x"),
        ("nt --no-capture --host x", "nextest run --no-fail-fast --no-capture"),
        ("zb --host x", "build -Z unstable-options --release"),
        ("r", "run"),
        ("rm serde", "remove serde"),
    ],
)
def test_whose_dashes(typed: str, cargo: str) -> None:
    """Both spellings of each verb that has one."""
    assert shlex.join(line(typed).words) == shlex.join(shlex.split(cargo))


def test_options_before_the_verb() -> None:
    """Cargo's reach cargo, in order; ours are taken."""
    found = line("+nightly --config a.b=1 --host h -Z x --color never --locked -L 80:81 b --lib")
    assert found.toolchain == "+nightly"
    assert found.before == ("--config", "a.b=1", "-Z", "x", "--color", "never", "--locked")
    assert (found.verb, found.spelled, found.arguments) == ("build", "b", ("--lib",))
    assert found.own.host == "h"
    assert found.own.forwards == ((80, 81),)


def test_every_form_of_ours() -> None:
    """Attached, with `=`, apart, repeated; the last one of those that are one."""
    found = line(
        "run -eA=1 -e B --env=C= --env D=x=y -L8080:80 -L 443 --fetch=a/** --fetch b --no-fetch "
        "--keep-alive 5min --no-reap --yes --detach --driver local --host a --host=b@c:22"
    ).own
    assert found.env == ((b"A", b"1"), (b"B", None), (b"C", b""), (b"D", b"x=y"))
    assert found.forwards == ((8080, 80), (443, 443))
    assert found.fetch == ("a/**", "b")
    assert found.keep_alive_s == 300
    assert found.no_fetch
    assert found.no_reap
    assert found.yes
    assert found.detach
    assert (found.driver, found.host) == ("local", "b@c:22")


def test_names_that_are_not_text() -> None:
    """A newline, and bytes that are not UTF-8, are kept."""
    found = parse(["run", "-e", "A\n=\udcff", "--bin", "a\nb", "\udcfe"])
    assert found.own.env == ((b"A\n", b"\xff"),)
    assert found.arguments == ("--bin", "a\nb", "\udcfe")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("build --host", "--host: it needs a value: USER@HOST[:PORT]"),
        ("build --yes=1", "--yes: it takes no value"),
        ("run -L 0", "--forward: `0` is no port: say 8080, or 8080:80 for one that differs there"),
        ("run -L a:1", "`a:1` is no port"),
        ("run -e =1", "`=1` has no name"),
        ("run --driver there", "--driver: `there` is neither `local` nor `remote`"),
        ("run --keep-alive soon", "`soon` is no duration"),
        ("run --host -x", "`-x` is no host"),
        ("test --fetch ''", "an empty pattern"),
    ],
)
def test_values_that_cannot_be(typed: str, said: str) -> None:
    """Exit code 2, and what to say instead."""
    with pytest.raises(BadValue) as caught:
        line(typed)
    assert said.replace("--forward", "-L") in str(caught.value)
    assert caught.value.exit_code == 2


def test_options_of_one_verb() -> None:
    """Only `test` has doctests."""
    assert line("test --no-doctests").own.no_doctests
    with pytest.raises(NotHere):
        line("build --no-doctests")


def test_lines_without_a_verb() -> None:
    """Cargo may have an answer; a bare `--` has none."""
    assert line("--list").before == ("--list",)
    assert line("--list").verb == ""
    assert line("--list").words == ()
    for typed in ("--locked -- build", "--host h", ""):
        with pytest.raises(NeedsVerb):
            line(typed)


def test_an_alias_of_itself() -> None:
    """Cargo refuses it, too."""
    with pytest.raises(AliasCycle):
        line("ping")


def test_cargos_options_and_values() -> None:
    """Whatever way they are written."""
    found = line("--config x test -vv -p a --package=b -j4 --features f --lib name -- behind")
    assert found.values("-p", "--package") == ["a", "b"]
    assert found.values("-j", "--jobs") == ["4"]
    assert found.given("--lib")
    assert not found.given("name")
    assert [name for name, _ in found.options()].count("-v") == 2
    assert [word for name, word in found.options() if not name] == ["name"]
    assert line("test --help").wants_help
    assert not line("run -- --help").wants_help
