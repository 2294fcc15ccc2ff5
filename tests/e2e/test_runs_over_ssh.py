"""Programs of a session run on a server: a real sshd on loopback, real cargo, real programs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builds import machine
from burst_protocol.digest import Digest
from burst_wrapper import stubs
from space import Space
from sshd import SSHD, Sshd
from verbs_by_hand import APP, hooks, run, session_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    """By and for a user who is not root, where there is one."""
    if SSHD is None:
        pytest.skip("openssh-server is not installed")
    with (
        tempfile.TemporaryDirectory(prefix="burst-sshd-", dir="/var/tmp") as folder,
        Sshd.start(Path(folder, "sshd"), plain_user=True) as sshd,
    ):
        yield sshd


@pytest.fixture(scope="module")
def space(server: Sshd) -> Iterator[Space]:
    """A machine whose builds and programs run on the server; the toolchain is there already."""
    with machine(BURST_HOST=server.address, CARGO_INCREMENTAL="0") as opened:
        shutil.copytree(server.client_home / ".ssh", opened.home / ".ssh", dirs_exist_ok=True)
        opened.write(APP)
        opened.cargo("check").check()
        opened.fresh_target()
        yield opened


def stubs_of(space: Space) -> dict[str, Digest]:
    root = space.project / "target" / "burst"
    found = dict(stubs.find(os.fsencode(root)))
    return {os.path.relpath(os.fsdecode(path), root): digest for path, digest in found.items()}


def test_programs_stay_where_they_are_linked(space: Space) -> None:
    """All that the runner starts are stubs of what plain cargo links; the rest is real."""
    with session_of(space, "test") as session:
        assert session.info.executor == "remote"
        assert session.info.target_dir == os.fsencode(space.project / "target" / "burst")
        assert not session.info.notes
        env = {**hooks(space, session), "BURST_REQUIRE_REMOTE": "1"}
        space.plain("test", "--no-run", "--benches", "--tests", **env).check()
        progress = session.close().progress
    assert progress.units_remote > 0
    found = stubs_of(space)
    names = {Path(name).name.rpartition("-")[0] or Path(name).name for name in found}
    assert names == {"app", "files", "b"}, found
    assert "debug/app" in found
    # The same target directory gives the same bytes.
    kept = space.project / "target" / "stubbed"
    (space.project / "target" / "burst").rename(kept)
    try:
        space.plain(
            "test", "--no-run", "--benches", "--tests", "--target-dir", "target/burst"
        ).check()
        for name, digest in found.items():
            assert Digest.of_file(str(space.project / "target" / "burst" / name)) == digest, name
    finally:
        shutil.rmtree(space.project / "target" / "burst")
        kept.rename(space.project / "target" / "burst")


def test_a_stub_by_hand_says_what_it_is(space: Space) -> None:
    run(space, "build").done.check()
    app = space.project / "target" / "burst" / "debug" / "app"
    done = space.run(app, PATH=f"{Path(sys.executable).parent}:{space.env['PATH']}")
    assert done.status == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: `")
    assert "\nhint: " in done.stderr


def test_stubs_whose_program_is_gone_are_made_again(space: Space, server: Sshd) -> None:
    run(space, "build").done.check()
    before = stubs_of(space)
    space.stop()
    server.wait_sessions_end()
    blob = before["debug/app"].hash.hex()
    stored = list(server.remote_cache.rglob(blob))
    assert stored
    for path in stored:
        path.unlink()
    with session_of(space, "build") as session:
        assert "debug/app" not in stubs_of(space)
        # A daemon that has just begun does not wait for the toolchain to be there, unless it must.
        space.plain("build", **hooks(space, session), BURST_REQUIRE_REMOTE="1").check()
        assert stubs_of(space)["debug/app"] == before["debug/app"]
