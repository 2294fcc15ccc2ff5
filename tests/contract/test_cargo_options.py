"""The tables of options, against the cargo and the nextest that are installed here."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import cargo_help
from burst_wrapper.verbs import cargo_options, own_options

SHARED = {"tree": {"-e"}, "nextest self update": {"--yes"}}
"""There the verb's meaning holds; ours stands before the verb."""


@pytest.fixture(scope="module")
def installed() -> dict[str, dict[str, str]]:
    if shutil.which("cargo-nextest") is None:
        pytest.skip("needs cargo-nextest")
    return cargo_help.installed()


def test_every_option_is_known_with_its_form(installed: dict[str, dict[str, str]]) -> None:
    """`python tests/support/cargo_help.py` adds what is missing."""
    assert {"build", "check", "clippy", "doc", "test", "bench", "run", "install", "clean"} <= set(
        installed
    )
    assert {"nextest run", "nextest list", "nextest archive"} <= set(installed)
    for verb, forms in installed.items():
        known = cargo_options.of(verb)
        assert {name: known.get(name) for name in forms} == forms, verb


def test_none_of_ours_is_an_option_of_a_verb(installed: dict[str, dict[str, str]]) -> None:
    """But for two, of verbs that neither compile nor run anything of the project."""
    ours = set(own_options.names())
    for verb, forms in installed.items():
        both = ours & set(forms)
        assert both == SHARED.get(verb, set()), verb
        assert not ours & set(cargo_options.BEFORE_THE_VERB)


def test_what_stands_behind_the_dashes_of_test(tmp_path: object) -> None:
    """libtest says it itself."""
    source = "#[test] fn works() {}"
    program = f"{tmp_path}/libtest"
    command = ["rustc", "--test", "--crate-name", "a", "-o", program, "-"]
    subprocess.run(command, input=source, text=True, check=True)
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    listed = set(cargo_help.options(said)) - {"--test", "--bench"}
    assert {"--test-threads", "--skip", "--exact", "-q"} <= listed
    assert listed <= set(cargo_options.behind("test"))
    for name in ("--nocapture", "--test-threads", "--skip"):
        assert name not in cargo_options.of("test")
