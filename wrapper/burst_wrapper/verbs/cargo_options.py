"""Which options cargo's verbs have, and which stand behind their `--`.

Burst has to know them for three things only: which word is the value of an option, which option is
the verb's own and not ours, and whether a `--` is cargo's. What is not in here goes to cargo all
the same, which judges it.

In all tables `--x=` takes a value, `--x=?` may take one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

from burst_wrapper.verbs.cargo_option_table import TABLE

Forms = Mapping[str, str]
"""Options by name, each with one of these."""
SWITCH: Final = ""
VALUE: Final = "="
MAY_HAVE_VALUE: Final = "=?"

BEFORE_THE_VERB: Final[Mapping[str, str]] = {
    "--config": VALUE,
    "-Z": VALUE,
    "--color": VALUE,
    "-C": VALUE,
    "--explain": VALUE,
    "-v": SWITCH,
    "--verbose": SWITCH,
    "-q": SWITCH,
    "--quiet": SWITCH,
    "--locked": SWITCH,
    "--offline": SWITCH,
    "--frozen": SWITCH,
    "--list": SWITCH,
}
"""Cargo's own, before the verb (`cargo --help`)."""

SHORT_FORMS: Final[Mapping[str, str]] = {
    "b": "build",
    "c": "check",
    "d": "doc",
    "r": "run",
    "t": "test",
    "rm": "remove",
}

_LIBTEST: Final = (
    "--include-ignored --ignored --force-run-in-process --exclude-should-panic --list -h --help "
    "--fail-fast "
    "--logfile= --no-capture --nocapture --test-threads= --skip= -q --quiet --exact --color= "
    "--format= --show-output -Z= --report-time --ensure-time --shuffle --shuffle-seed="
)
"""`<test program> --help`, less `--test` and `--bench`: cargo itself passes them, and who writes
`test -- --test integration` means cargo's."""
_CRITERION: Final = (
    "-c= --color= -v --verbose -n --noplot -s= --save-baseline= --discard-baseline -b= "
    "--baseline= --baseline-lenient= --load-baseline= --list --format= --ignored --exact "
    "--nocapture --show-output --profile-time= --sample-size= --warm-up-time= "
    "--measurement-time= --nresamples= --noise-threshold= --confidence-level= "
    "--significance-level= --quick --quiet --plotting-backend= --output-format= --test -h "
    "--help -V --version"
)
"""`<bench program of criterion> --help`."""
_LINTS: Final = (
    "-W= --warn= -A= --allow= -D= --deny= -F= --forbid= --force-warn= --cap-lints= -Z= -C= "
    "--codegen= --cfg= --check-cfg= --edition= -h --help -V --version"
)
_RUSTC: Final = _LINTS + (
    " -l= -L= -O -g -o= -v --verbose --crate-type= --crate-name= --emit= --print= --out-dir= "
    "--explain= --test --target= --extern= --sysroot= --error-format= --json= --color= "
    "--diagnostic-width= --remap-path-prefix= --remap-path-scope="
)
_RUSTDOC: Final = _RUSTC + (
    " -w= --output= --output-format= --document-private-items --document-hidden-items "
    "--static-root= --html-in-header= --html-before-content= --html-after-content= "
    "--markdown-css= --markdown-no-toc --markdown-before-content= --markdown-after-content= "
    "--markdown-playground-url= --playground-url= --extend-css= --theme= --default-theme= "
    "--check-theme= --resource-suffix= --crate-version= --index-page= --enable-index-page "
    "--disable-minification --show-coverage --generate-redirect-map --no-run --test-args= "
    "--test-run-directory= --show-type-layout -p= --passes="
)
_BEHIND: Final = {
    "test": _LIBTEST,
    "bench": f"{_LIBTEST} {_CRITERION}",
    "clippy": _LINTS,
    "rustc": _RUSTC,
    "rustdoc": _RUSTDOC,
    "nextest run": _LIBTEST,
    "nextest list": _LIBTEST,
    "nextest bench": _LIBTEST,
}

_TRAILING: Final = frozenset({"run", "run-local", "run-remote", "rustc", "rustdoc"})
"""Their first word that is no option ends the options: all behind it is the program's."""


def forms() -> Mapping[str, Mapping[str, str]]:
    """Every verb's options, each with its form."""
    return {verb: of(verb) for verb in TABLE}


@cache
def of(verb: str) -> Mapping[str, str]:
    """The options of a verb (`test`, `nextest run`), each with its form; empty if unknown."""
    words = TABLE.get("run" if verb in ("run-local", "run-remote") else verb)
    return {} if words is None else {"-h": SWITCH, "--help": SWITCH, **_parsed(words)}


@cache
def behind(verb: str) -> Mapping[str, str]:
    """The options of what stands behind a verb's `--`."""
    return _parsed(_BEHIND.get(verb, ""))


def is_known(verb: str) -> bool:
    """Whether this is one of cargo's verbs whose options are known."""
    return verb in TABLE


def ends_at_first_word(verb: str) -> bool:
    """Whether a word that is no option ends the options of this verb."""
    return verb in _TRAILING


def verbs() -> tuple[str, ...]:
    """All of cargo's and nextest's that are known."""
    return tuple(TABLE)


def name_of(word: str) -> str:
    """The option in a word: `--jobs` of `--jobs=4`, `-j` of `-j4`; empty if it is none."""
    if word.startswith("--") and len(word) > 2:
        return word.partition("=")[0]
    return word[:2] if word.startswith("-") and len(word) > 1 else ""


def takes_next(form: str | None, word: str, following: str | None) -> bool:
    """Whether the word behind this one is the value of the option in it."""
    if not form or following is None:
        return False
    attached = "=" in word if word.startswith("--") else len(word) > 2
    if attached:
        return False
    return form == VALUE or not following.startswith("-")


def _parsed(words: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words.split():
        name, equals, optional = word.partition("=")
        found[name] = equals + optional
    return found
