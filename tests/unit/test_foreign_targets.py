"""Targets whose programs the other machine cannot run, by what rustc itself says of them."""

from __future__ import annotations

import os

import pytest

from burst_wrapper.verbs.cargo import Cargo
from burst_wrapper.verbs.hooks import foreign_target


@pytest.mark.parametrize(
    ("names", "foreign"),
    [
        (["x86_64-unknown-linux-gnu"], ""),
        (["x86_64-unknown-linux-musl", "x86_64-unknown-linux-gnu"], ""),
        (["i686-unknown-linux-gnu", "x86_64-unknown-linux-gnu"], ""),
        (["aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"], "aarch64-unknown-linux-gnu"),
        (["x86_64-pc-windows-gnu", "x86_64-unknown-linux-gnu"], "x86_64-pc-windows-gnu"),
        (["x86_64-linux-android", "x86_64-unknown-linux-gnu"], "x86_64-linux-android"),
        (["wasm32-unknown-unknown", "x86_64-unknown-linux-gnu"], "wasm32-unknown-unknown"),
        # A file of the user's, or nonsense: cargo judges it.
        (["my-board", "x86_64-unknown-linux-gnu"], ""),
    ],
)
def test_what_no_machine_like_this_one_runs(names: list[str], foreign: str) -> None:
    cargo = Cargo.find(dict(os.environb))
    if not cargo.host().startswith("x86_64-"):
        pytest.skip("the table is of an x86_64 home")
    assert foreign_target(cargo, names) == foreign
