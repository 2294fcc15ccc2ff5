"""A real bake: the recipe on a real Debian 13 in the local cloud, and a server from its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import attrs
import pytest

from bake_mirror import mirror
from burst_lifecycle import labels, recipe
from localcloud import Image, LocalCloud, Server
from trixie import Unavailable

pytest_plugins = ("cloud_fixtures",)
pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(900)]

CONFIG = """\
[hetzner]
token = {{ file = "{token}" }}
endpoint = "{endpoint}"
max_eur_per_hour = 0.5
server_type = ["ccx13"]
location = "fsn1"
base_image = "debian-13"
"""


@attrs.frozen
class Admin:
    """`burst-admin` as a person starts it."""

    cloud: LocalCloud

    @classmethod
    def configured(cls, cloud: LocalCloud, home: Path) -> Admin:
        token = home / "token"
        token.write_text(cloud.token)
        token.chmod(0o600)
        config = Path(os.environ["XDG_CONFIG_HOME"], "burst", "config.toml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(CONFIG.format(token=token, endpoint=cloud.endpoint))
        return cls(cloud)

    def _argv(self, words: Sequence[str]) -> list[str]:
        return [str(Path(sys.executable).with_name("burst-admin")), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self._argv(words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return done

    def killed(self, *words: str, at: str) -> str:
        """By SIGKILL, as soon as it says that on stderr. What it said."""
        process = subprocess.Popen(
            self._argv(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        assert process.stderr is not None
        said = []
        with process.stderr:
            for line in process.stderr:
                said.append(line)
                if at in line:
                    break
        process.kill()
        assert process.wait() == -signal.SIGKILL, "".join(said)[-5000:]
        return "".join(said)


@pytest.fixture
def admin(real_cloud: LocalCloud, home: Path) -> Admin:
    real_cloud.quota().dedicated_cores = 50
    return Admin.configured(real_cloud, home)


def test_a_server_boots_from_a_baked_image(admin: Admin) -> None:
    """And has all that the recipe names, nothing of the machine it was baked on, and builds."""
    try:
        sources = mirror()
    except Unavailable as error:
        pytest.skip(str(error))
    # Home dies in the middle of it; the next one carries on, on the same server.
    admin.killed("image", "build", "--mirror", str(sources), at="== 30-databases")
    (server,) = admin.cloud.all(Server)
    built = admin.run("image", "build", "--mirror", str(sources))
    assert "is current" in built.stdout
    assert "== 20-packages: done before" in built.stderr
    assert f"server {server.name} goes: its image is made" in built.stderr
    for words in ("bubblewrap works", "burst-bake ok", "works"):
        assert words in built.stderr
    logs = sorted(Path(os.environ["XDG_STATE_HOME"], "burst/cloud/bakes").iterdir())
    assert ["burst-bake ok" in log.read_text() for log in logs] == [False, True]
    assert not admin.cloud.all(Server)
    (image,) = admin.cloud.all(Image)
    fingerprint = recipe.packaged().fingerprint
    assert image.labels[labels.RECIPE] == fingerprint
    assert image.labels[labels.STAGE] == "current"

    (listed,) = json.loads(admin.run("image", "list", "--json").stdout)["images"]
    assert listed["recipe"] == fingerprint
    assert listed["state"] == "current"
    shown = admin.run("image", "list")
    assert "from a stock image in" in shown.stderr

    admin.run("up")
    (server,) = admin.cloud.all(Server)
    assert server.image is not None
    assert server.image.id == image.id
    machine = admin.cloud.machine(server.name)

    def inside(command: str) -> str:
        done = machine.run(["sh", "-c", command])
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout).strip()

    marker = json.loads(inside("cat /etc/burst/image.json"))
    assert marker["recipe"] == fingerprint
    assert inside("cat /opt/burst/agent/current/COMMAND")
    # Databases: there, with their account, and off.
    for unit in ("postgresql", "mariadb", "redis-server"):
        assert machine.run(["systemctl", "is-enabled", unit]).stdout.strip() == "disabled"
        assert machine.run(["systemctl", "is-active", unit]).stdout.strip() == "inactive"
    where = dict(line.split() for line in inside("cat /etc/burst/services").splitlines())
    assert set(where) == {"postgresql", "mysql", "redis"}
    inside("pg_ctlcluster --skip-systemctl-redirect $(pg_lsclusters -h | cut -d' ' -f1) main start")
    assert inside(f"psql -tAc 'select 40 + 2' {where['postgresql']}") == "42"
    # Nothing of the machine that it was baked on.
    assert inside("ls /var/tmp | grep -c burst-bake || true") == "0"
    keys = inside("cat /etc/ssh/ssh_host_*_key.pub").splitlines()
    assert [key.split()[0] for key in keys] == ["ssh-ed25519"]
    assert len(inside("cat /etc/machine-id")) == 32
    # It compiles and links.
    inside(
        "cd /tmp && cargo new --quiet --vcs none hello && cd hello && "
        "RUSTFLAGS='-Clinker=clang -Clink-arg=-fuse-ld=mold' cargo build --quiet --offline"
    )
    assert inside("/tmp/hello/target/debug/hello") == "Hello, world!"
    assert (
        inside("cd /tmp/hello && cargo nextest list --offline 2>&1 | tail -n 1 || true") is not None
    )
    admin.run("down", "--everything", "--yes", "--force")
    # To the cent what the cloud itself reckons, the image from its birth on.
    bill = admin.cloud.bill()
    audit = json.loads(admin.run("audit", "--json").stdout)
    assert audit["total"]["exact"]
    assert Decimal(audit["total"]["eur"]).quantize(Decimal("0.01")) == bill.cents
    assert [item.kind for item in bill.items].count("server") == 3
