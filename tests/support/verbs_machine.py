"""A machine with nothing configured, and a workspace with something for every verb.

`pytest_plugins = ("verbs_machine",)`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from space import Space
from verb_files import FILES


@pytest.fixture(scope="module")
def desk() -> Iterator[Space]:
    """With cargo-nextest, if this machine has it."""
    with Space.open(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        space.plain("generate-lockfile", "--offline").check()
        yield space
