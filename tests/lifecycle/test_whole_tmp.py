import json, sys, time
from pathlib import Path
import pytest
from builds import at, machine, with_project
from localcloud import LocalCloud
from projects import checkout

pytest_plugins = ("cloud_fixtures",)
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

def configure(space, cloud, **more):
    token = space.home / "token"
    token.write_text(cloud.token); token.chmod(0o600)
    folder = space.home / ".config/burst"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "[hetzner]", f'token = {{file = "{token}"}}', f'endpoint = "{cloud.endpoint}"',
        'base_image = "debian-13"', 'server_type = ["ccx13"]', 'location = ["fsn1"]',
        "max_eur_per_hour = 1", "volume_gb = 10",
    ] + [f"{k} = {v}" for k, v in more.items()]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")

def test_whole(real_cloud: LocalCloud) -> None:
    with machine() as space:
        space = with_project(space, "codegen")
        configure(space, real_cloud, boot_after_s=0, reap='"at-once"', keep_alive_s=5)
        real_cloud.expect(volumes=["*"]) if False else None
        t=time.time()
        done = space.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0")
        print(done.status, done.stderr[-500:], time.time()-t)
        for u in space.units(): print(u["crate"], u["where"], u["executor"], u["reason"], u["why"][:150])
        try:
            real_cloud.wait_for(lambda: any("burst-ready" in s.labels for s in real_cloud.world.servers.values()) if hasattr(real_cloud.world,'servers') else False, "ready")
        except BaseException as e:
            print("wait", e)
        print(space.log()[-6000:])
        for c in real_cloud.calls(): print(c.operation, c.status)
        space.fresh_target(); space.forget_store()
        t=time.time()
        done = space.cargo("build", "--offline", BURST_REQUIRE_REMOTE="0")
        print(done.status, done.stderr[-500:], time.time()-t)
        for u in space.units(): print(u["crate"], u["where"], u["executor"], u["reason"], u["why"][:150])
        print(space.log()[-6000:])
