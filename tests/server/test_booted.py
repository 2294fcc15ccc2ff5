"""A machine that boots with our user data: the dead man's end of it, and the agent as a service."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

import burst_lifecycle.server as files
from agent_client import native_tools, shell
from agent_service import ServiceClient
from booted import PATIENCE_S, Booted, booted, user_data
from burst_lifecycle.remote import remote_bundle
from burst_protocol import messages as m
from burst_protocol.action import KIND_EXECUTABLE, Input
from burst_protocol.digest import Digest
from burst_protocol.session import Role, Session
from burst_protocol.version import BUILD

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(400)]

FAST = (
    "/etc/systemd/system/burst-deadman.timer.d/fast.conf",
    "[Timer]\nOnUnitInactiveSec=1\nAccuracySec=100ms\n",
)


def arming(**times: int) -> list[str]:
    return list(files.arming(files.DeadmanTimes(**times)))


def test_a_server_that_nobody_comes_to_powers_itself_off(tmp_path: Path) -> None:
    """Armed by bootcmd, by nothing else; on a machine without any agent."""
    data = user_data(bootcmd=[arming(first_client_s=5)])
    with booted(tmp_path / "machine", data, [FAST]) as machine:
        armed = float(machine.wait_for("/run/burst/armed").read_text())
        machine.wait_off()
        assert uptime_s() - armed >= 5


def test_a_heartbeat_keeps_it_and_the_hard_end_does_not(tmp_path: Path) -> None:
    """The heartbeat is fresh all the time."""
    data = user_data(bootcmd=[arming(first_client_s=5, hard_end_s=12)])
    with booted(tmp_path / "machine", data, [FAST]) as machine:
        armed = float(machine.wait_for("/run/burst/armed").read_text())
        (machine.root / "run/burst/heartbeat").touch()
        machine.wait_off()
        assert uptime_s() - armed >= 12


def uptime_s() -> float:
    """Of this computer, which is what a container sees, too."""
    return float(Path("/proc/uptime").read_text().split()[0])


def install_agent(upper: Path, cache: Path) -> None:
    """As a bake does: home's own bundle, and the name `current`."""
    bundle = remote_bundle.build(str(cache))
    place = upper / "opt/burst/agent" / bundle.identity
    place.mkdir(parents=True)
    with tarfile.open(os.fsdecode(bundle.path)) as archive:
        archive.extractall(place, filter="data")
    (place.parent / "current").symlink_to(bundle.identity)


async def compile_something(machine: Booted, base: Path) -> None:
    """As a client: a sandbox of our own helper inside, and the outcome of a script in it."""
    tools = native_tools(base)
    path = str(machine.root / "run/burst/agent.sock")
    reader, writer = await asyncio.open_unix_connection(path)
    process = await asyncio.create_subprocess_exec("true")  # the real one is not our child
    await process.wait()
    session = Session(Role.CLIENT, BUILD, os.getpid())
    client = ServiceClient(base, process, session, reader, writer)
    writer.write(session.hello())
    client._pump = asyncio.create_task(client._read())
    try:
        ready = await client.use_tools(tools.sandbox, tools.observer)
        assert ready.launcher == "namespaces", ready.reason
        inputs = []
        for file, content in interpreter():
            await client.put(content)
            inputs.append(Input(file.encode(), KIND_EXECUTABLE, Digest.of(content)))
        action = shell("echo hello >&2; exit 3")
        outcome = await client.execute(
            client.request(
                type(action)(action.argv, action.env, action.cwd, action.out_dir, tuple(inputs))
            )
        )
        end = outcome.end
        assert isinstance(end, m.Exited), end
        assert (end.code, outcome.stderr) == (3, [b"hello\n"])
    finally:
        await client.close()


def interpreter() -> list[tuple[str, bytes]]:
    linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    paths = {word for word in linked.split() if word.startswith("/")} | {"/bin/sh"}
    return [(path, Path(path).read_bytes()) for path in sorted(paths)]


def test_a_server_is_set_up_by_its_user_data(tmp_path: Path) -> None:
    """User, units and rule; the agent serves and compiles; a drain; and off in an orderly way."""
    folder = tmp_path / "machine"
    (folder / "upper").mkdir(parents=True)
    install_agent(folder / "upper", tmp_path / "cache")
    data = user_data(
        ssh_authorized_keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGJ1cnN0 somebody"],
        disable_root=False,
        bootcmd=[arming()],
        write_files=[
            {"path": path, "permissions": mode, "content": text}
            for path, (mode, text) in files.setup_files().items()
        ],
        runcmd=[list(files.SETUP_COMMAND)],
    )
    with booted(folder, data) as machine:
        machine.wait_for("/run/burst/agent.sock")
        asyncio.run(asyncio.wait_for(compile_something(machine, tmp_path), PATIENCE_S))
        become = ("setpriv", "--reuid=burst", "--regid=burst", "--init-groups")
        for who in ((), become):
            status = json.loads(machine.run(*who, "burst-agent", "lease", "status"))
            assert (status["state"], status["running"], status["clients"]) == ("ready", 0, 0)
            assert 43_000 < status["hard_end_in_s"] <= 43_200
        assert machine.run("sh", f"{files.FOLDER}/setup.sh") == "burst-setup ok\n"
        assert "AAAAC3NzaC1lZDI1NTE5AAAAIGJ1cnN0" in machine.run(
            *become, "cat", "/home/burst/.ssh/authorized_keys"
        )
        metadata_is_roots(machine, become)
        assert json.loads(machine.run("burst-agent", "lease", "drain"))["granted"]
        assert "no process" not in machine.run("systemctl", "status", "burst-agent", check=False)
        machine.run("systemctl", "--no-block", "poweroff")
        machine.wait_off()


def metadata_is_roots(machine: Booted, become: tuple[str, ...]) -> None:
    """A service on that address answers root and nobody else."""
    machine.run("ip", "addr", "add", "169.254.169.254/32", "dev", "lo")
    machine.run(
        *("systemd-run", "--quiet", "--unit=metadata", "--property=IPAddressAllow=any"),
        *("python3", "-m", "http.server", "--bind", "169.254.169.254", "80"),
    )
    ask = ("curl", "-sS", "-m", "3", "--retry", "20", "--retry-connrefused", "--retry-delay", "1")
    assert machine.run(*ask, "http://169.254.169.254/")
    assert (
        machine.run(*become, "curl", "-sS", "-m", "2", "http://169.254.169.254/", check=False) == ""
    )
