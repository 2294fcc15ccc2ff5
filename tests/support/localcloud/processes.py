"""Servers that are one sshd process each, in a folder of their own: no root, no systemd.

Each has a loopback address of its own (127.83.N.M). As root it listens on port 22 there; without
root, or if 22 is taken, on another. `Processes.ports` is a JSON file that says where:
`{"127.83.0.1": {"port": 40123, "user": "me"}}`, rewritten at each change; a client under test gets
its path in BURST_TEST_SSH_PORTS. Who logs in is the account that runs the tests.

User data is not executed but followed as far as files go: `ssh_keys`, `ssh_authorized_keys`,
`write_files` (below the machine's `root` folder); `bootcmd` and `runcmd` are written down in
`root/var/lib/cloud/commands.json`. In a session HOME is `root/root`, BURST_TEST_ROOT is `root`, and
`poweroff` and `systemctl poweroff` turn the server off. A volume is a blank sparse file; its by-id
link lies below `root`. A snapshot is a copy of `root`.
"""

from __future__ import annotations

import base64
import contextlib
import getpass
import gzip
import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import attrs
import yaml

from sshd import Sshd, keygen

from .disks import GIGA
from .host import Run, sweep
from .machines import Spec
from .metadata import decoded

Json = dict[str, Any]
_SHIM: Final = """#!/bin/sh
case "$(basename "$0") $1" in
  "systemctl poweroff"|"poweroff "*|"shutdown "*) echo off >"$BURST_TEST_ROOT/../power" ;;
  *) echo "$0: this server has no systemd" >&2; exit 1 ;;
esac
"""


class _Daemon(Sshd):
    """An sshd on an address of its own, with the host key it was given."""

    def __init__(self, folder: Path, address: str) -> None:
        super().__init__(folder)
        self._address = address
        self.remote_home = folder / "root" / "root"

    @property
    def host_key(self) -> Path:
        return self.folder / "host_key"

    def know(self, *ports: int) -> None:
        """Who logs in knows the key from elsewhere."""

    def _configuration(self) -> str:
        text = super()._configuration()
        return text.replace("ListenAddress 127.0.0.1", f"ListenAddress {self._address}")


@attrs.frozen
class Image:
    """A copy of a machine's `root`."""

    folder: Path


@attrs.frozen
class Blank:
    """A volume's bytes."""

    volume: int
    file: Path


class ProcessMachine:
    """One server. `root` is its folder, `port` where its sshd listens, 0 while it is off."""

    def __init__(self, owner: Processes, spec: Spec, went_off: Callable[[], None]) -> None:
        self.spec = spec
        self.folder = owner.run.folder / f"server-{spec.id}"
        self.root = self.folder / "root"
        self.user_data = decoded(spec.user_data or "")
        self.commands: list[Any] = []
        """What user data would have executed."""
        self._owner = owner
        self._went_off = went_off
        self._guard = threading.RLock()
        self._plugged: dict[int, Blank] = {}
        self._daemon: _Daemon | None = None
        self._power: threading.Thread | None = None
        self._booted = False

    @property
    def port(self) -> int:
        return self._daemon.port if self._daemon is not None else 0

    def power_on(self) -> None:
        with self._guard:
            if self._daemon is not None or "never_boots" in self.spec.quirks:
                return
            if not self._booted:
                self._first_boot()
            for disk in self._plugged.values():
                self._show(disk)
            self._listen_power()
            daemon = _Daemon(self.folder, self.spec.ipv4 or "127.83.255.254")
            bin_ = self.folder / "bin"
            daemon.environment = {
                "BURST_TEST_ROOT": str(self.root),
                "PATH": f"{bin_}:{os.environ['PATH']}",
            }
            if "no_ssh" not in self.spec.quirks:
                daemon.port = 22 if self._can_use_22() else 0
                daemon.restart()
            self._daemon = daemon
        self._owner.publish()

    def power_off(self) -> None:
        with self._guard:
            daemon, self._daemon = self._daemon, None
            if daemon is not None:
                daemon.stop()
            power, self._power = self._power, None
        # Without the guard: that thread may be about to take it.
        if power is not None and power is not threading.current_thread():
            self._write_power("end")
            power.join()
        self._owner.publish()

    def shutdown(self) -> None:
        if "ignores_shutdown" not in self.spec.quirks:
            self.switch_off()

    def switch_off(self) -> None:
        if self._daemon is not None:
            self._write_power("off")

    def reset(self) -> None:
        self.power_off()
        self.power_on()

    def plug(self, volume: int, disk: object) -> None:
        assert isinstance(disk, Blank)
        self._plugged[volume] = disk
        if self._booted:
            self._show(disk)

    def unplug(self, volume: int) -> None:
        if self._plugged.pop(volume, None) is not None:
            self._link(volume).unlink(missing_ok=True)

    def filter(self, rules: list[Json] | None) -> None:
        """Nothing filters on loopback without root."""

    def freeze(self) -> tuple[object, float]:
        target = self._owner.run.folder / f"image-{self.spec.id}-{len(os.listdir(self.folder))}"
        shutil.copytree(self.root, target, symlinks=True, dirs_exist_ok=True)
        return Image(target), 0.0

    def destroy(self) -> None:
        self.power_off()
        shutil.rmtree(self.folder, ignore_errors=True)

    # the first boot

    def _first_boot(self) -> None:
        self._booted = True
        self.folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.spec.layer, Image):
            shutil.copytree(self.spec.layer.folder, self.root, symlinks=True, dirs_exist_ok=True)
        (self.root / "root").mkdir(parents=True, exist_ok=True)
        (self.folder / "client" / ".ssh").mkdir(parents=True)
        os.mkfifo(self.folder / "power")
        shims = self.folder / "bin"
        shims.mkdir()
        for name in ("systemctl", "poweroff", "shutdown"):
            (shims / name).write_text(_SHIM)
            (shims / name).chmod(0o755)
        config = parse_user_data(self.user_data)
        self._keys(config)
        for entry in config.get("write_files", []):
            self._write_file(entry)
        self.commands = [*config.get("bootcmd", []), *config.get("runcmd", [])]
        notes = self.root / "var" / "lib" / "cloud"
        notes.mkdir(parents=True, exist_ok=True)
        (notes / "commands.json").write_text(json.dumps(self.commands))
        (notes / "user-data").write_bytes(self.user_data)
        (notes / "instance-id").write_text(str(self.spec.id))

    def _keys(self, config: Json) -> None:
        host = config.get("ssh_keys", {}).get("ed25519_private")
        path = self.folder / "host_key"
        if host is None or "wrong_host_key" in self.spec.quirks:
            keygen(path)
        else:
            path.write_text(host if host.endswith("\n") else host + "\n")
            public = config["ssh_keys"].get("ed25519_public", "")
            path.with_suffix(".pub").write_text(public + "\n")
        path.chmod(0o600)
        authorized = [*self.spec.ssh_keys, *config.get("ssh_authorized_keys", [])]
        (self.folder / "authorized_keys").write_text("".join(f"{key}\n" for key in authorized))

    def _write_file(self, entry: Json) -> None:
        path = self.root / str(entry["path"]).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = str(entry.get("content", "")).encode()
        encoding = str(entry.get("encoding", "text/plain"))
        if encoding in {"b64", "base64"} or "b64" in encoding or "base64" in encoding:
            data = base64.b64decode(data)
        if encoding.startswith("gz"):
            data = gzip.decompress(data)
        with open(path, "ab" if entry.get("append") else "wb") as handle:
            handle.write(data)
        if "permissions" in entry:
            path.chmod(int(str(entry["permissions"]), 8))

    # power and devices

    def _listen_power(self) -> None:
        # Open for writing too, so that it never ends by itself.
        handle = os.open(self.folder / "power", os.O_RDWR)
        self._power = threading.Thread(target=self._follow_power, args=(handle,), daemon=True)
        self._power.start()

    def _follow_power(self, handle: int) -> None:
        try:
            word = os.read(handle, 100).split()[0]
        finally:
            os.close(handle)
        if word == b"off":
            with self._guard:
                if self._power is not threading.current_thread():
                    return
            self.power_off()
            self._went_off()

    def _write_power(self, word: str) -> None:
        with contextlib.suppress(OSError):
            handle = os.open(self.folder / "power", os.O_WRONLY | os.O_NONBLOCK)
            os.write(handle, f"{word}\n".encode())
            os.close(handle)

    def _can_use_22(self) -> bool:
        if os.getuid() != 0:
            return False
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.spec.ipv4 or "127.83.255.254", 22))
            except OSError:
                return False
        return True

    def _link(self, volume: int) -> Path:
        return self.root / "dev" / "disk" / "by-id" / f"scsi-0HC_Volume_{volume}"

    def _show(self, disk: Blank) -> None:
        link = self._link(disk.volume)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(disk.file)


class Processes:
    """The backend. `ports` is the file described above."""

    compressed_gb = 1.0

    def __init__(self) -> None:
        sweep()
        self.run = Run()
        self.ports = self.run.folder / "ports.json"
        self.machines: list[ProcessMachine] = []
        self.incidents: list[str] = []
        self._guard = threading.Lock()
        self.publish()

    def publish(self) -> None:
        with self._guard:
            user = getpass.getuser()
            found = {
                machine.spec.ipv4: {"port": machine.port, "user": user}
                for machine in self.machines
                if machine.port and machine.spec.ipv4
            }
            fresh = self.ports.with_suffix(".new")
            fresh.write_text(json.dumps(found))
            fresh.replace(self.ports)

    def addresses(self) -> Iterator[str]:
        """Of this run only, as far as its id tells: several may run at once."""
        third = int(self.run.id[:2], 16)
        return (f"127.83.{third}.{number}" for number in range(1, 255))

    def machine(self, spec: Spec, went_off: Callable[[], None]) -> ProcessMachine:
        made = ProcessMachine(self, spec, went_off)
        self.machines.append(made)
        return made

    def new_disk(self, volume: int, size_gb: int, format_: str | None) -> object:
        del format_  # who cannot mount it does not see it
        file = self.run.folder / f"volume-{volume}.img"
        with open(file, "wb") as handle:
            handle.truncate(size_gb * GIGA)
        return Blank(volume, file)

    def resize_disk(self, disk: object, size_gb: int) -> None:
        with open(cast("Blank", disk).file, "r+b") as handle:
            handle.truncate(size_gb * GIGA)

    def remove_disk(self, disk: object) -> None:
        if isinstance(disk, Blank):
            disk.file.unlink(missing_ok=True)

    def remove_layer(self, layer: object) -> None:
        if isinstance(layer, Image):
            shutil.rmtree(layer.folder, ignore_errors=True)

    def close(self) -> None:
        for machine in self.machines:
            machine.destroy()
        self.run.close()


def parse_user_data(data: bytes) -> Json:
    """Of `#cloud-config`, packed or not; of anything else nothing."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if not data.startswith(b"#cloud-config"):
        return {}
    found = yaml.safe_load(data)
    return found if isinstance(found, dict) else {}
