"""Cargo's words where what it builds stays elsewhere: the user's folders are not built into."""

from __future__ import annotations

import shlex

import pytest

from burst_wrapper.verbs.stage import with_target_dir

SAID = """--config 'build.build-dir="/t/burst"'"""


@pytest.mark.parametrize(
    ("typed", "programs", "becomes"),
    [
        ("test --target-dir x -p a", 0, "test -p a"),
        ("test --target-dir=x -- --target-dir=y", 0, "test -- --target-dir=y"),
        ("run word --target-dir x -- y", 5, "run word --target-dir x -- y"),
        ("run --target-dir z word --config x", 3, "run word --config x"),
        ("--config a=1 test", 0, "--config a=1 test"),
        ("--config file.toml test", 0, f"--config file.toml {SAID} test"),
        ("--config build.build-dir=1 test", 0, f"--config build.build-dir=1 {SAID} test"),
        ("test --config=build.build-dir=1 x", 0, f"test --config=build.build-dir=1 {SAID} x"),
        ("test --config", 0, f"test --config {SAID}"),
    ],
)
def test_folders_in_cargos_words(typed: str, programs: int, becomes: str) -> None:
    """Options before and behind the verb, but none of a program's own words."""
    assert with_target_dir(shlex.split(typed), b"/t/burst", programs) == shlex.split(becomes)
