"""`cargo burst test` of suites that need a database: on this machine, and on a host over a real
sshd, with none at home."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builds import machine
from database_suites import project, project_of_three
from networks import needs
from space import CARGO_BURST, Done, Space, write_files
from sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", params=["at home", "over ssh"])
def space(request: pytest.FixtureRequest) -> Iterator[Space]:
    needs("postgres")
    if request.param == "at home":
        with Space.open(CARGO_INCREMENTAL="0") as opened:
            yield opened
        return
    with (
        Sshd.for_user() as server,
        machine(BURST_HOST=server.address, CARGO_INCREMENTAL="0") as opened,
    ):
        shutil.copytree(server.client_home / ".ssh", opened.home / ".ssh", dirs_exist_ok=True)
        yield opened


def suites_at_once(space: Space, projects: Mapping[str, Mapping[str, str]]) -> list[Done]:
    """Of projects beside each other, by their names."""
    folders = [space.project.parent / name for name in projects]
    for folder in folders:
        write_files(folder, projects[folder.name])

    def suite(folder: Path) -> Done:
        return space.burst("test", "--cargo-test", cwd=folder, BURST_REQUIRE_REMOTE="1")

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(suite, folders))


def test_two_suites_at_once_that_create_the_same_table(space: Space) -> None:
    """Each finds a database of its own at the documented address."""
    for done in suites_at_once(space, {name: project(name) for name in ("one", "two")}):
        assert "test creates_its_table ... ok" in done.check().stdout, done.stderr


@pytest.mark.thorough
def test_all_three_at_once_in_two_projects(space: Space) -> None:
    """MySQL and Redis beside PostgreSQL, each project's its own."""
    needs("mariadbd", "redis-server")
    for done in suites_at_once(space, {name: project_of_three(name) for name in ("five", "six")}):
        out = done.check().stdout
        for test in ("creates_its_table", "mysql_has_a_table", "redis_has_a_key"):
            assert f"test {test} ... ok" in out, out + done.stderr


def test_by_a_variable_that_is_forwarded(space: Space) -> None:
    """Of a home whose database is on its own loopback: elsewhere it is ours, at home it is that."""
    space.write(project("three", services=""))
    url = "postgres://me:secret@localhost/app"
    command = ("test", "--cargo-test", "--env", "DATABASE_URL")
    done = space.burst(*command, BURST_REQUIRE_REMOTE="1", DATABASE_URL=url)
    if space.env.get("BURST_HOST"):
        assert "test creates_its_table ... ok" in done.check().stdout, done.stderr
    else:
        assert f'left: "{url}"' in done.stdout


@pytest.mark.root
def test_what_is_not_installed() -> None:
    """A suite that cannot have its database fails, and says what to install."""
    script = (
        "for p in /usr/sbin/mariadbd /usr/sbin/mysqld; do"
        " [ ! -e $p ] || mount --bind /dev/null $p; done\n"
        '"$0" burst test --cargo-test; status=$?; "$0" burst stop; exit $status'
    )
    with Space.open(CARGO_INCREMENTAL="0") as opened:
        opened.write(project("four", services='services = ["mysql"]\n'))
        done = opened.run("unshare", "--mount", "sh", "-c", script, CARGO_BURST)
    assert done.status == 125, done.stderr  # cargo hands on what its test program ended with
    lines = done.stderr.splitlines()
    (error,) = {line for line in lines if line.startswith("error: ") and "mysql" in line}
    assert error == (
        "error: service mysql: MySQL or MariaDB is not installed there "
        "(Debian package mariadb-server)"
    )
    hint = lines[lines.index(error) + 1]
    assert hint.startswith("hint: install it on the machine that runs the program")
