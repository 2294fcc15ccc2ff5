"""Servers that are one sshd process: keys, user data, power, volumes, snapshots; without root."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
from pathlib import Path

import pytest
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.servers import BoundServer

from localcloud import LocalCloud
from localcloud.processes import Processes, ProcessMachine
from sshd import keygen

pytest_plugins = ("cloud_fixtures",)
pytestmark = pytest.mark.slow


def create(cloud: LocalCloud, key: str, data: str, image: Image | None = None) -> BoundServer:
    client = cloud.client()
    registered = client.ssh_keys.get_by_name("me") or client.ssh_keys.create("me", key)
    made = client.servers.create(
        "one" if image is None else "two",
        ServerType(name="ccx13"),
        image or Image(name="debian-13"),
        location=Location(name="fsn1"),
        ssh_keys=[registered],
        user_data=data,
    )
    for action in (made.action, *made.next_actions):
        action.wait_until_finished()
    return made.server


def ssh(server: BoundServer, folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """As the product does it: port and user from the file in BURST_TEST_SSH_PORTS."""
    assert server.public_net is not None
    assert server.public_net.ipv4 is not None
    address = server.public_net.ipv4.ip
    entry = json.loads(Path(os.environ["BURST_TEST_SSH_PORTS"]).read_text()).get(address)
    if entry is None:
        return subprocess.CompletedProcess([], 255, "", "off")
    host_key = (folder / "host.pub").read_text()
    names = (address, f"[{address}]:{entry['port']}")
    known = folder / "known_hosts"
    known.write_text("".join(f"{name} {host_key}" for name in names))
    options = ["StrictHostKeyChecking=yes", f"UserKnownHostsFile={known}", "BatchMode=yes"]
    flags = [word for option in options for word in ("-o", option)]
    where = ["-p", str(entry["port"]), "-i", str(folder / "id"), f"{entry['user']}@{address}"]
    return subprocess.run(
        ["ssh", *flags, *where, command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def user_data(folder: Path) -> str:
    """Packed, as one does to stay below 32 KiB."""
    config = {
        "ssh_keys": {
            "ed25519_private": (folder / "host").read_text(),
            "ed25519_public": (folder / "host.pub").read_text().strip(),
        },
        "write_files": [{"path": "/etc/hello", "content": "hello\n", "permissions": "0640"}],
        "runcmd": [["systemctl", "start", "x"]],
    }
    text = "#cloud-config\n" + json.dumps(config)
    return base64.b64encode(gzip.compress(text.encode())).decode()


def test_the_life_of_a_server(cloud: LocalCloud, tmp_path: Path) -> None:
    key = keygen(tmp_path / "id")
    keygen(tmp_path / "host")
    server = create(cloud, key, user_data(tmp_path))
    machine = cloud.machine("one")
    assert isinstance(machine, ProcessMachine)
    assert ssh(server, tmp_path, "cat $BURST_TEST_ROOT/etc/hello; pwd").returncode == 0
    shown = ssh(server, tmp_path, "cat $BURST_TEST_ROOT/etc/hello; echo $HOME").stdout
    assert shown == f"hello\n{machine.root}/root\n"
    assert machine.commands == [["systemctl", "start", "x"]]

    client = cloud.client()
    volume = client.volumes.create(10, "v", server=server)
    for action in (volume.action, *volume.next_actions):
        action.wait_until_finished()
    path = f"$BURST_TEST_ROOT{volume.volume.linux_device}"
    assert ssh(server, tmp_path, f"stat -Lc %s {path}").stdout == "10000000000\n"

    ssh(server, tmp_path, "echo kept >~/file; systemctl poweroff")
    cloud.wait_for(lambda: cloud.server("one").status == "off", "off")
    assert ssh(server, tmp_path, "true").returncode == 255
    server.power_on().wait_until_finished()
    assert ssh(server, tmp_path, "cat ~/file").stdout == "kept\n"
    made = server.create_image("baked")
    made.action.wait_until_finished()
    server.shutdown().wait_until_finished()
    cloud.wait_for(lambda: cloud.server("one").status == "off", "off")
    server.delete().wait_until_finished()
    volume.volume.delete()

    assert made.image.id is not None
    second = create(cloud, key, user_data(tmp_path), Image(id=made.image.id))
    assert ssh(second, tmp_path, "cat ~/file").stdout == "kept\n"
    second.delete().wait_until_finished()
    made.image.delete()
    client.ssh_keys.get_all()[0].delete()


def test_a_wrong_host_key_and_no_ssh(cloud: LocalCloud, tmp_path: Path) -> None:
    key = keygen(tmp_path / "id")
    keygen(tmp_path / "host")
    cloud.next_server("wrong_host_key")
    server = create(cloud, key, user_data(tmp_path))
    assert "Host key verification failed" in ssh(server, tmp_path, "true").stderr
    server.delete().wait_until_finished()
    cloud.next_server("no_ssh", "ignores_shutdown")
    server = create(cloud, key, user_data(tmp_path))
    assert ssh(server, tmp_path, "true").returncode == 255
    server.shutdown().wait_until_finished()
    assert cloud.server("one").status == "running"
    server.delete().wait_until_finished()
    cloud.expect(ssh_keys=["me"])


def test_a_process_that_is_left_is_told_and_ended() -> None:
    """Of a session that outlives its server, say."""
    backend = Processes()
    mark = {**os.environ, "BURST_TEST_ROOT": f"{backend.run.folder}/server-1/root"}
    command = ["sh", "-c", "echo here; read x"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=mark, stdin=pipe, stdout=pipe) as left:
        assert left.stdout is not None
        assert left.stdout.readline() == b"here\n"
        with pytest.raises(RuntimeError, match=f"process {left.pid}"):
            backend.close()
        assert left.wait(20) == -9
    assert not backend.run.folder.exists()


def test_a_server_that_goes_off_before_anybody_looks_is_off(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    client = cloud.client()
    kind, image, place = ServerType(name="ccx13"), Image(name="debian-13"), Location(name="fsn1")
    made = client.servers.create("one", kind, image, location=place).server
    server = cloud.server("one")
    cloud.clock.scale = 0
    cloud.clock.advance(0.15)
    cloud.settle()  # it is made, and starts
    wait = cloud.faults.closing.wait
    while not server.machine.port:
        wait(0.01)
    server.machine.switch_off()
    while not server.switched_off:
        wait(0.01)
    cloud.clock.advance(1)
    cloud.wait_idle()
    assert cloud.server("one").status == "off"
    made.delete()
