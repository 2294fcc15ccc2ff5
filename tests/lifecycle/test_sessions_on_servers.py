"""`cargo burst test` with `hetzner` configured: a verb asks for a server, its programs run there.

The servers are containers of the local cloud; see `test_builds_on_servers`.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from builds import machine
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers, settle
from verbs_by_hand import APP, run

pytest_plugins = ("cloud_fixtures",)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_verb_boots_a_server_and_runs_there(real_cloud: LocalCloud) -> None:
    """However little there is to compile, which is done here while it boots. The first hour is the
    first run's, the second run is free, and the server stays as long as `--keep-alive` said."""
    cloud = real_cloud
    with machine(CARGO_INCREMENTAL="0") as space:
        space.write(APP)
        configure(space, cloud, keep_alive_s=300)
        first = run(space, "test", keep_alive_s=1200)
        (server,) = ready_servers(cloud)
        assert first.session.info.executor == "remote"
        assert first.session.info.name == "a server that boots"
        assert first.summary.progress.local > 0
        assert first.done.check().stdout.count("test result: ok. ") == 4
        assert first.summary.programs == 3
        assert Decimal(first.summary.cost_eur) > 0

        second = run(space, "run", "-q", "--", "exit", "3")
        assert second.done.status == 3
        assert second.session.info.name == server
        assert Decimal(second.summary.cost_eur) == 0

        done = space.burst("test", "--no-doctests").check()
        assert f"programs run on {server}" in done.stderr
        assert space.burst("run-remote", "-q", "exit", "5").status == 5

        # Nobody deletes it for idleness that was agreed to.
        cloud.clock.advance(900)
        admin(space, "reap").check()
        assert ready_servers(cloud) == [server]
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        assert ready_servers(cloud) == []
        settle(space, cloud)


@pytest.mark.slow
def test_where_none_can_be_had_programs_run_here(paper_cloud: LocalCloud) -> None:
    """Not agreed to: it is said, and cargo is as it is at home."""
    with machine(CARGO_INCREMENTAL="0") as space:
        space.write(APP)
        configure(space, paper_cloud, max_eur_per_hour=0.0001)
        verb = run(space, "test")
        assert verb.done.check().stdout.count("test result: ok. ") == 4
        assert verb.summary.programs == 0
        assert "programs run on this machine" in verb.summary.notes[0]
        assert "POST /servers" not in paper_cloud.journal.operations()
