"""`--driver remote` with `[hetzner]` configured: cargo runs on a server that is booted for it."""

from __future__ import annotations

import pytest

from builds import machine
from faults import MANIFEST
from localcloud import LocalCloud
from server_builds import admin, configure, ready_servers

pytest_plugins = ("cloud_fixtures",)


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_cargo_on_a_server_of_its_own(real_cloud: LocalCloud) -> None:
    """It has no Rust: home's is shown there. Nothing is linked, since it has no linker either."""
    cloud = real_cloud
    with machine(CARGO_TERM_COLOR="never") as space:
        space.write({"Cargo.toml": MANIFEST.format(name="app"), "src/lib.rs": "fn  f( ) { }\n"})
        configure(space, cloud, boot_after_s=1_000_000)
        done = space.burst("check", "--driver", "remote").check()
        (server,) = ready_servers(cloud)
        assert "Checking app" in done.stderr
        assert "Finished" in done.stderr
        assert f"cargo ran on {server}" in done.stderr
        assert (space.project / "Cargo.lock").exists()
        assert space.units() == []
        space.burst("--driver", "remote", "fmt").check()
        assert (space.project / "src/lib.rs").read_text() == "fn f() {}\n"
        assert ready_servers(cloud) == [server]
        space.stop()
        admin(space, "down", "--yes", "--everything").check()
