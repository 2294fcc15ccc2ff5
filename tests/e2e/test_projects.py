"""Real projects from crates-io, through the embedded agent: every file equal to plain cargo's.

Each case builds plain, through burst with an empty store, and from the store, all at one path, and
compares files and output (see `builds.same_bits`). By default each project is built once, in the
profile that shows most; BURST_TEST_ALL=1 adds the others: every project in debug, release, check
and clippy, with incremental compilation and without, with tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from builds import machine, same_bits, save_measurement, with_project
from space import Space
from tiers import thorough

pytestmark = [pytest.mark.slow, pytest.mark.projects, pytest.mark.timeout(3600)]

NAMES = ("codegen", "macros", "native", "ripgrep", "tool")
DEFAULT = [
    ("macros", "clippy incremental"),
    ("native", "build -p flate2 -p zstd"),  # SQLite alone would take as long again, three times
    ("ripgrep", "build --workspace"),
    ("codegen", "build"),
]
ALL = [
    *((name, f"build{more}") for name in NAMES for more in ("", " --release", " incremental")),
    # Not `--all-targets`: ripgrep's benches need a nightly rustc.
    *((name, f"build --tests{more}") for name in NAMES for more in ("", " incremental")),
    *((name, f"clippy{more}") for name in NAMES for more in ("", " --release", " incremental")),
    *((name, "check --tests") for name in NAMES),
    *(("ripgrep", f"{verb} --workspace") for verb in ("build", "clippy", "test --no-run")),
    ("ripgrep", "build --workspace --release"),
    ("ripgrep", "clippy --workspace --tests incremental"),
]


@pytest.fixture(scope="module")
def shared() -> Iterator[Space]:
    with machine() as space:
        yield space


@pytest.fixture(scope="module")
def projects(shared: Space) -> dict[str, Space]:
    """Projects by name; laid out when first asked for."""
    return {}


@pytest.mark.parametrize(("name", "command"), thorough(DEFAULT, ALL))
def test_projects(shared: Space, projects: dict[str, Space], name: str, command: str) -> None:
    """Same files, same words, Fresh for each other; the third build is all hits."""
    if name not in projects:
        projects[name] = with_project(shared, name)
    space = projects[name]
    arguments = command.split()
    incremental = arguments[-1] == "incremental"
    if incremental:
        arguments.pop()
    same = same_bits(space, *arguments, "--locked", "--offline", incremental=incremental)
    save_measurement(
        f"{name}: {command}", units=len(same.cold_units), equal_files=same.compared_files
    )
