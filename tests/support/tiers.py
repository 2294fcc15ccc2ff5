"""Which tests run: `make test` leaves out cases that `make test-all` has (BURST_TEST_ALL=1)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TypeVar

T = TypeVar("T")

# Read when tests are collected: while they run, all of BURST_* is hidden.
EVERYTHING: Final = os.environ.get("BURST_TEST_ALL", "0") not in {"", "0"}


def thorough(usual: Sequence[T], more: Sequence[T]) -> list[T]:
    """Cases of a test: the usual ones, and with EVERYTHING those that take long as well."""
    return list(dict.fromkeys([*usual, *more] if EVERYTHING else usual))
