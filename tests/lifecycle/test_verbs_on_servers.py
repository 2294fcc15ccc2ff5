"""`cargo burst VERB` with `[hetzner]` configured: the verb asks for a server, and runs on it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from builds import machine
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers, settle
from verb_files import FILES

pytest_plugins = ("cloud_fixtures",)

NEEDS_NEXTEST = pytest.mark.skipif(
    shutil.which("cargo-nextest") is None, reason="needs cargo-nextest"
)


def is_elf(path: Path) -> bool:
    return path.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
@NEEDS_NEXTEST
def test_every_verb_on_a_server_of_its_own(real_cloud: LocalCloud) -> None:
    """It boots because a verb asks, however small the build; programs run there; files that
    somebody wants are real; when it is gone plain cargo goes on as if nothing had been."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        space.env["BURST_REQUIRE_REMOTE"] = "0"

        # Nothing of this is worth a boot, and none of it runs a program.
        for verb in (["check"], ["clippy"], ["doc", "--no-deps"], ["build"]):
            space.burst(*verb).check()
        assert ready_servers(cloud) == []
        target = space.project / "target"
        assert is_elf(target / "debug/tool")
        assert (target / "doc").is_dir()

        ended = space.burst("run", "-q", "--", "exit")
        assert ended.status == 3, ended.stderr + space.log()
        (server,) = ready_servers(cloud)
        assert space.burst("run", "-q", "--", "signal").status == -signal.SIGTERM
        assert space.burst("run-remote", "-q", "variable").check().stdout == "None\n"

        tested = space.burst("test", "--workspace").check()
        assert "2 tests run: 2 passed" in tested.stderr, tested.stderr
        assert "Doc-tests core_of_it" in tested.stderr
        assert "programs run on " in tested.stderr
        assert space.burst("test", "-e", "FAIL=1").status == 101
        benched = space.burst("bench", "-p", "tool", "--bench", "speed").check()
        assert benched.stdout == 'measured ["--bench"]\n'
        assert (target / "burst/debug").is_dir()

        root = space.home / "installed"
        space.burst("install", "--path", "tool", "--root", str(root), "--offline").check()
        (installed,) = (root / "bin").iterdir()
        assert is_elf(installed)
        assert ready_servers(cloud) == [server]

        # What a hook of somebody else's takes away: the server.
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        assert ready_servers(cloud) == []
        plain = space.plain("test").check()
        assert plain.stdout.count("test result: ok") == 3
        space.burst("clean").check()
        assert not (target / "burst").exists()
        settle(space, cloud)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_cargo_does_not_wait_for_a_server_that_boots(real_cloud: LocalCloud) -> None:
    """What is to be compiled is compiled at home meanwhile; only the program waits, and runs there:
    it finds its machine's name, not ours."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        said = 'print!("{}", std::fs::read_to_string("/etc/hostname").unwrap())'
        space.write({"tool/src/bin/where.rs": f"fn main() {{ {said} }}\n"})
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        done = space.burst("run", "--bin", "where", BURST_REQUIRE_REMOTE="0").check()
        (server,) = ready_servers(cloud)
        assert done.stdout.strip() == server
        # On a slow machine the last units may find it there.
        assert "not-yet" in {unit["reason"] for unit in space.units()}, space.units()
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_server_to_be_had(real_cloud: LocalCloud) -> None:
    """The program runs here, and is said to."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0", CARGO_TERM_COLOR="never") as space:
        space.write(FILES)
        space.plain("generate-lockfile", "--offline").check()
        configure(space, cloud, boot_after_s=1_000_000)
        cloud.set_capacity("ccx13", "fsn1", 0)
        done = space.burst("run", "--", "exit", BURST_REQUIRE_REMOTE="0")
        assert done.status == 3, done.stderr + space.log()
        assert "programs run on this machine" in done.stderr, done.stderr
        assert space.burst("run-remote", "--", "exit").status not in {0, 3}
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)
