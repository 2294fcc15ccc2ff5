"""Builds over SSH: a real sshd on loopback, files compared with plain cargo's.

The embedded agent's store is the home level of the cache; here it is thrown away between builds,
so that what the third build gets comes from the server. BURST_TEST_ALL=1 adds real projects.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from builds import machine, same_bits, save_measurement, with_env, with_project
from space import Space
from sshd import Sshd
from tiers import thorough

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd.for_user() as sshd:
        yield sshd


@pytest.fixture(scope="module")
def shared(server: Sshd) -> Iterator[Space]:
    """A machine whose builds run on the server."""
    with machine(BURST_HOST=server.address) as space:
        shutil.copytree(server.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        yield space


def assert_remote(units: list[dict[str, object]], server: Sshd, where: str) -> None:
    """All of them there, by the server."""
    seen = {(unit["where"], unit["executor"]) for unit in units}
    assert seen == {(where, server.address)}, seen


@pytest.mark.parametrize("arguments", [("build",), ("clippy", "--all-targets")], ids=" ".join)
def test_every_kind_of_crate(shared: Space, server: Sshd, arguments: tuple[str, ...]) -> None:
    """The small workspace with all kinds of crates; the third build is sent back by the server."""
    space = with_project(shared, "calls", shared.folder / f"calls-{arguments[0]}")
    same = same_bits(space, *arguments, between=space.forget_store)
    assert_remote(same.cold_units, server, "remote")
    assert_remote(same.warm_units, server, "hit")


def test_incremental(shared: Space, server: Sshd) -> None:
    """Cargo's default profile, with tests."""
    space = with_project(shared, "tiny")
    same = same_bits(space, "test", "--no-run", incremental=True, between=space.forget_store)
    assert_remote(same.cold_units, server, "remote")
    assert_remote(same.warm_units, server, "hit")


@pytest.mark.projects
@pytest.mark.parametrize("name", thorough(["codegen"], ["macros", "ripgrep"]))
def test_a_real_project_and_the_bytes_it_costs(shared: Space, server: Sshd, name: str) -> None:
    """Equal files; again from an empty target/ and an empty home store: next to nothing is sent."""
    space = with_project(shared, name)
    # Projects share the packages of registries, here and there.
    space.forget_store()
    server.wait_sessions_end()
    shutil.rmtree(server.remote_cache / "burst" / "store", ignore_errors=True)
    same = same_bits(space, "build", "--offline", "--locked", between=space.forget_store)
    assert_remote(same.cold_units, server, "remote")
    assert_remote(same.warm_units, server, "hit")
    cold, warm = same.sent_bytes()
    save_measurement(
        f"ssh: {name}",
        units=len(same.cold_units),
        equal_files=same.compared_files,
        cold_sent_bytes=cold,
        warm_sent_bytes=warm,
        ratio=warm / cold,
    )
    assert cold > 1_000_000
    assert warm <= 0.01 * cold, f"{warm} of {cold} bytes"


def test_dependents_start_while_code_is_generated(shared: Space, server: Sshd) -> None:
    """Pipelining: the metadata comes home long before its rustc ends, and cargo goes on.

    One clock, ours: the dependency's rustc began after its wrapper and took `rustc_ms`, so that it
    cannot have ended before the sum of the two. The platform is there already: nothing waits.
    """
    with_project(shared, "tiny", shared.folder / "before").cargo("build").check()
    space = Space(shared.folder, shared.home, shared.folder / "pipelined", shared.env)
    space.project.mkdir()
    generic = "\n".join(
        f"pub fn f{n}(x: u64) -> String {{ let mut v: Vec<(u64, String)> = (0..x).map(|i| "
        f'(i ^ {n}, format!("{{i:?}} {{x:e}} {n}"))).collect(); v.sort(); v.dedup(); '
        f'format!("{{v:?}}") }}'
        for n in range(120)
    )
    manifest = '[package]\nname = "{}"\nedition = "2021"\n[dependencies]\n{}'
    space.write(
        {
            "Cargo.toml": '[workspace]\nmembers = ["first", "second", "third"]\nresolver = "2"\n',
            "first/Cargo.toml": manifest.format("first", ""),
            "first/src/lib.rs": generic,
            "second/Cargo.toml": manifest.format("second", 'first.path = "../first"\n'),
            "second/src/lib.rs": "pub fn g() -> String { first::f0(3) }\n",
            "third/Cargo.toml": manifest.format("third", 'second.path = "../second"\n'),
            "third/src/lib.rs": "pub fn h() -> String { second::g() }\n",
        }
    )
    with_env(space, {"CARGO_INCREMENTAL": "0"}).cargo("build", "--release").check()
    units = {unit["crate"]: unit for unit in space.units()}
    assert_remote(list(units.values()), server, "remote")
    end_ms = units["first"]["started_ms"] + units["first"]["rustc_ms"]
    save_measurement(
        "ssh: pipelining",
        first_rustc_ms=units["first"]["rustc_ms"],
        second_after_ms=units["second"]["started_ms"] - units["first"]["started_ms"],
        third_after_ms=units["third"]["started_ms"] - units["first"]["started_ms"],
    )
    for name in ("second", "third"):
        assert units[name]["started_ms"] < end_ms, units
