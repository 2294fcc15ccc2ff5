"""`RUSTC_WRAPPER=burst-rustc cargo build` with `hetzner` configured: real cargo, real servers.

The servers are containers of the local cloud: cloud-init, systemd, sshd, volumes, the agent as a
service. The cloud is Hetzner's API on loopback, asked by the real `hcloud`.
"""

from __future__ import annotations

from decimal import Decimal

import pytest

from builds import at, machine, with_env, with_project
from burst_lifecycle.project import find
from compare import compare_targets, report
from localcloud import LocalCloud, Volume
from server_builds import admin, admin_json, configure, ready_servers, settle

pytest_plugins = ("cloud_fixtures",)

_PLAIN = {"CARGO_INCREMENTAL": "0"}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_comes_works_goes_and_comes_back_warm(real_cloud: LocalCloud) -> None:
    """Home compiles while it boots; the build moves over; it is reaped; the next one is warm."""
    cloud = real_cloud
    with machine(**_PLAIN) as bare:
        space = with_project(bare, "codegen")
        target = space.project / "target"
        space.plain("build", "--offline").check()
        target.rename(space.project / "target.plain")
        configure(space, cloud, boot_after_s=0, keep_alive_s=1)

        # While the server boots nobody waits: everything is compiled at home.
        at_home = with_env(space, {"BURST_REQUIRE_REMOTE": "0"})
        at_home.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0").check()
        assert {unit["reason"] for unit in space.units()} <= {"not-yet", "executed", "hit"}
        cloud.wait_for(lambda: len(ready_servers(cloud)) == 1, "the server is ready")
        (first,) = ready_servers(cloud)

        # Now it compiles, and what it makes is what rustc makes here.
        space.fresh_target()
        space.forget_store()
        space.cargo("build", "--offline").check()
        units = space.units()
        assert {unit["executor"] for unit in units} == {first}, units
        differences = compare_targets(space.project / "target.plain", target, incremental=False)
        assert not differences, report(differences) + space.log()

        status = admin_json(space, "status")
        assert first in str(status)

        # The paid hour ends; nobody needs it; what it knows stays on the volume.
        cloud.clock.advance(3000)
        admin(space, "reap").check()
        assert ready_servers(cloud) == []
        volumes = cloud.client().volumes.get_all()
        assert [volume.server for volume in volumes] == [None]
        assert (volumes[0].labels or {})["burst-fs"].startswith("ready-")

        # The next build boots again, waits for it as it must, and finds everything there.
        space.fresh_target()
        space.forget_store()
        space.cargo("build", "--offline").check()
        (second,) = ready_servers(cloud)
        assert second != first
        units = space.units()
        assert {(unit["where"], unit["executor"]) for unit in units} == {("hit", second)}, units
        differences = compare_targets(space.project / "target.plain", target, incremental=False)
        assert not differences, report(differences) + space.log()

        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_home_compiled_meanwhile_is_offered(real_cloud: LocalCloud) -> None:
    """The server has it before anybody asks: the next checkout with an empty home is all hits."""
    cloud = real_cloud
    with machine(**_PLAIN) as bare:
        space = with_project(bare, "tiny")
        configure(space, cloud, boot_after_s=0)
        space.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0").check()
        at_home = {unit["crate"] for unit in space.units() if unit["where"] == "local"}
        assert at_home
        cloud.wait_for(lambda: ready_servers(cloud), "the server is ready")
        (server,) = ready_servers(cloud)
        # The build is over by now: no unit makes the daemon reach for it.
        log = space.state / "daemon.log"
        cloud.wait_for(lambda: "has been offered" in log.read_text(), "the offers were made")

        space.fresh_target()
        space.forget_store()
        space.cargo("build", "--offline").check()
        found = {(unit["where"], unit["executor"]) for unit in space.units()}
        assert found == {("hit", server)}, space.units()
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_project_uses_the_server_that_is_there(real_cloud: LocalCloud) -> None:
    """Its volume is brought there without a boot of its own; what only checks makes none."""
    cloud = real_cloud
    with machine(**_PLAIN) as space:
        cargo_toml = '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n'
        files = {"Cargo.toml": cargo_toml, "src/main.rs": "fn main() {}\n"}
        space.write(files)
        configure(space, cloud, boot_after_s=1_000_000)
        admin(space, "up").check()
        (server,) = ready_servers(cloud)

        checks = at(space, space.folder / "checks")
        checks.write(files)
        checks.cargo("check", "--offline").check()
        assert {unit["executor"] for unit in checks.units()} == {server}
        builds = at(space, space.folder / "builds")
        builds.write(files)
        builds.cargo("build", "--offline").check()
        assert {unit["executor"] for unit in builds.units()} == {server}
        cloud.wait_for(lambda: len(cloud.all(Volume)) == 2, "the second project has a volume")
        log = space.state / "daemon.log"
        cloud.wait_for(lambda: log.read_text().count("is used (") == 3, "units go to it")

        projects = {one.labels["burst-project"] for one in cloud.all(Volume)}
        assert projects == {find(str(one.project)).key for one in (space, builds)}
        builds.fresh_target()
        builds.cargo("build", "--offline", "--release").check()
        cloud.wait_for(lambda: "has been offered" in log.read_text(), "its volume has it all")
        space.stop()

        # What this machine knew is lost: of its builds the volume still tells.
        records = space.state / "cloud" / "ledger.jsonl"
        kept = records.read_bytes()
        records.unlink()
        audit = admin_json(space, "audit")
        assert audit["sessions"]["count"] >= 1, audit
        assert {one["verb"] for one in audit["verbs"]} == {"build"}, audit
        records.write_bytes(kept)

        status = admin_json(space, "status")
        assert [one["name"] for one in status["resources"] if one["kind"] == "server"] == [server]

        # What was compiled before the volume came is on it, too: not gone with the server's disk.
        admin(space, "down", "--yes").check()
        builds.fresh_target()
        builds.forget_store()
        builds.cargo("build", "--offline").check()
        (again,) = ready_servers(cloud)
        units = builds.units()
        assert {(unit["where"], unit["executor"]) for unit in units} == {("hit", again)}, units
        builds.stop()
        admin(space, "down", "--yes", "--everything").check()
        settle(space, cloud)


@pytest.mark.slow
def test_a_day_of_checks_costs_nothing(paper_cloud: LocalCloud) -> None:
    """An editor on every save: metadata only, and no threshold of seconds is low enough."""
    cloud = paper_cloud
    with machine() as space:
        configure(space, cloud, boot_after_s=0)
        space.write(
            {
                "Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n',
                "src/main.rs": "fn main() {}\n",
            }
        )
        for save in range(12):
            space.write({"src/main.rs": f'fn main() {{ println!("{save}"); }}\n'})
            space.cargo("check", "--offline", BURST_REQUIRE_REMOTE="0").check()
            cloud.clock.advance(3600)
        assert {unit["where"] for unit in space.units()} <= {"local", "remote", "hit"}
    assert "POST /servers" not in cloud.journal.operations()
    assert cloud.bill().cents == Decimal("0.00")
