"""Suites that need databases, on a server of the local cloud whose image has them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builds import machine
from database_suites import project_of_three
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers
from space import Done, write_files

pytest_plugins = ("cloud_fixtures",)

_WHERE = """
#[test]
fn there() {
    println!("on {}", std::fs::read_to_string("/etc/hostname").unwrap());
}
"""


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_two_suites_at_once_with_all_three(database_cloud: LocalCloud) -> None:
    """Both on one server, each creating the tables and keys of the same name; found again by the
    next run, and gone from its ports when the last program has ended."""
    cloud = database_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        configure(space, cloud, boot_after_s=1_000_000)
        folders = []
        for name in ("one", "two"):
            folder = space.folder / name
            write_files(folder, project_of_three(name) | {"tests/there.rs": _WHERE})
            folders.append(folder)

        def suite(folder: Path) -> Done:
            words = ("test", "--cargo-test", "--", "--nocapture")
            return space.burst(*words, cwd=folder, BURST_REQUIRE_REMOTE="0")

        def passed(done: Done, server: str) -> None:
            out = done.check().stdout
            for test in ("creates_its_table", "mysql_has_a_table", "redis_has_a_key"):
                assert f"test {test} ... ok" in out, out + done.stderr + space.log()
            assert f"on {server}\n" in out, out + done.stderr

        first = suite(folders[0])
        (server,) = ready_servers(cloud)
        passed(first, server)
        with ThreadPoolExecutor(2) as pool:
            for done in pool.map(suite, folders):
                passed(done, server)
        assert ready_servers(cloud) == [server]
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
