"""Servers that are real: systemd-nspawn containers with systemd, cloud-init and sshd.

A server's disk is an overlay over the stock tree (or over a snapshot's layers); it keeps its upper
layer while off. Each has a network namespace with one link to this computer, and no way further.
`systemctl poweroff` inside turns the server `off`. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import attrs

from sshd import descendants
from trixie import Unavailable

from . import disks
from .disks import Disk
from .filters import ruleset
from .host import Run, free_net, listen_in, neighbour, run, sweep
from .machines import Spec
from .metadata import ADDRESS, MetadataService, decoded
from .stock import databases_layer, stock_tree

Json = dict[str, Any]
BOOT_PATIENCE_S: Final = 30.0
LINK_LATE_S: Final = 3.0
_QUIRK_KEY: Final = "etc/ssh/quirk_host_key"


@attrs.frozen
class Layer:
    """A frozen disk: the layers below it, topmost first, itself included."""

    folders: tuple[Path, ...]


class Container:
    """One machine. `run` executes something inside, `root` is its file system."""

    def __init__(
        self, owner: Containers, spec: Spec, went_off: Callable[[], None], number: int
    ) -> None:
        self.spec = spec
        self.folder = owner.run.folder / f"server-{spec.id}"
        self.console = self.folder / "console"
        self._owner = owner
        self._went_off = went_off
        self._name = owner.run.name(number)
        self._plugged: dict[int, Disk] = {}
        self._guard = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: threading.Thread | None = None
        self._metadata: MetadataService | None = None
        self._expected_end = False
        self._made = False
        self._rules: list[Json] | None = None
        layer = cast("Layer | None", spec.layer)
        self._below = owner.stock_folders if layer is None else layer.folders

    # power

    @property
    def powered(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def power_on(self) -> None:
        with self._guard:
            if self.powered:
                return
            self._make()
            self._seed()
            if "never_boots" in self.spec.quirks:
                return
            self._start()
            for disk in self._plugged.values():
                self._show(disk)

    def power_off(self) -> None:
        """Kills its first process, and thereby all."""
        with self._guard:
            self._expected_end = True
            process, pid = self._process, self._init()
            if process is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or process.pid, signal.SIGKILL)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._join()

    def shutdown(self) -> None:
        """nspawn passes it on as a request for a clean power-off."""
        if self.powered and "ignores_shutdown" not in self.spec.quirks:
            assert self._process is not None
            self._process.terminate()

    def reset(self) -> None:
        self.power_off()
        self.power_on()

    # volumes

    def plug(self, volume: int, disk: object) -> None:
        with self._guard:
            assert isinstance(disk, Disk)
            self._plugged[volume] = disk
            if self.powered:
                self._show(disk)

    def unplug(self, volume: int) -> None:
        with self._guard:
            disk = self._plugged.pop(volume, None)
            pid = self._init()
            if disk is not None and pid is not None:
                if disks.is_mounted(pid, disk):
                    words = f"volume {volume} was torn from {self.spec.name} while mounted"
                    self._owner.incidents.append(words)
                with contextlib.suppress(OSError):
                    disks.unplug(pid, disk)

    def _show(self, disk: Disk) -> None:
        pid, quirks = self._init(), self.spec.quirks
        if pid is None:
            return
        if "volume_link_elsewhere" in quirks:
            others = [other for other in self._plugged.values() if other is not disk]
            disks.plug(pid, disk, link_to=others[0] if others else self._owner.decoy(pid))
        elif "volume_link_late" in quirks:
            disks.plug(pid, disk, link=False)
            timer = threading.Timer(LINK_LATE_S, self._late_link, args=(pid, disk))
            timer.daemon = True
            timer.start()
        else:
            disks.plug(pid, disk)

    def _late_link(self, pid: int, disk: Disk) -> None:
        with self._guard, contextlib.suppress(OSError):
            if self._plugged.get(disk.volume) is disk:
                disks.make_link(pid, disk, disk)

    # its firewall

    def filter(self, rules: list[Json] | None) -> None:
        """In its own namespace, where its root could lift them: a test that wants that may."""
        with self._guard:
            self._rules = rules
            if self._made:
                self._filter()

    def _filter(self) -> None:
        inside = ["ip", "netns", "exec", self._name, "chroot", str(self._owner.stock)]
        subprocess.run(
            [*inside, "nft", "-f", "-"],
            input=ruleset(self._rules),
            capture_output=True,
            text=True,
            check=True,
        )

    # its disk

    def freeze(self) -> tuple[object, float]:
        """Its upper layer; of a running machine a copy, as it happens to be at that moment."""
        with self._guard:
            self._make()
            target = self._owner.run.folder / f"layer-{time.monotonic_ns()}"
            if self.powered:
                run(["cp", "--archive", "--sparse=always", self.folder / "upper", target])
            else:
                # It goes on with a fresh one above what is frozen now.
                run(["umount", self.folder / "root"])
                (self.folder / "upper").rename(target)
                layer = Layer((target, *self._below))
                self._below = layer.folders
                self._mount()
                return layer, _billed_gb(target)
            return Layer((target, *self._below)), _billed_gb(target)

    def destroy(self) -> None:
        self.power_off()
        with self._guard:
            if not self._made:
                return
            self._made = False
            if self._metadata is not None:
                self._metadata.close()
            run(["umount", "--lazy", self.folder / "root"], check=False)
            run(["ip", "netns", "del", self._name], check=False)
            # It goes with its namespace, but not at once.
            run(["ip", "link", "del", self._name], check=False)
            shutil.rmtree(self.folder, ignore_errors=True)

    # looking inside

    def switch_off(self) -> None:
        """As the dead man does: `systemctl poweroff` inside."""
        self.run(["systemctl", "poweroff"])

    @property
    def root(self) -> Path:
        """Its files; while it runs as it sees them itself."""
        pid = self._init()
        return self.folder / "root" if pid is None else Path(f"/proc/{pid}/root")

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """As root inside."""
        pid = self._init()
        if pid is None:
            raise RuntimeError("the machine is off")
        enter = ["nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*enter, "--root", "--wd=/", "env", "-i", "HOME=/root", path, *argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    # how it is made

    def _make(self) -> None:
        if self._made:
            return
        self._made = True
        self._mount()
        run(["ip", "netns", "add", self._name])
        inside = ["ip", "-n", self._name]
        run([*inside, "link", "set", "lo", "up"])
        run([*inside, "addr", "add", f"{ADDRESS}/32", "dev", "lo"])
        self._metadata = MetadataService(listen_in(self._name, ADDRESS, 80), self.spec)
        if self.spec.ipv4 is not None:
            ours = neighbour(self.spec.ipv4)
            peer = ["peer", "name", "eth0", "netns", self._name]
            run(["ip", "link", "add", self._name, "type", "veth", *peer])
            run(["ip", "addr", "add", f"{ours}/30", "dev", self._name])
            run(["ip", "link", "set", self._name, "up"])
            run([*inside, "addr", "add", f"{self.spec.ipv4}/30", "dev", "eth0"])
            run([*inside, "link", "set", "eth0", "up"])
        if self._rules is not None:
            self._filter()

    def _mount(self) -> None:
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # The overlay's root gets the upper folder's mode.
        (self.folder / "upper").chmod(0o755)
        below = ":".join(str(folder) for folder in self._below)
        options = f"lowerdir={below},upperdir={self.folder}/upper,workdir={self.folder}/work"
        run(["mount", "-t", "overlay", "overlay", "-o", options, self.folder / "root"])

    def _seed(self) -> None:
        """What cloud-init finds, at every boot as from a metadata service."""
        root = self.folder / "root"
        seed = root / "var/lib/cloud/seed/nocloud"
        seed.mkdir(parents=True, exist_ok=True)
        meta = {
            "instance-id": str(self.spec.id),
            "local-hostname": self.spec.name,
            "public-keys": list(self.spec.ssh_keys),
        }
        (seed / "meta-data").write_text(json.dumps(meta))
        data = decoded(self.spec.user_data or "#cloud-config\n{}\n")
        (seed / "user-data").write_bytes(data)
        (seed / "user-data").chmod(0o600)
        units = root / "etc/systemd/system"
        if "no_ssh" in self.spec.quirks:
            for unit in ("ssh.service", "ssh.socket", "sshd.service"):
                (units / unit).unlink(missing_ok=True)
                (units / unit).symlink_to("/dev/null")
        key = root / _QUIRK_KEY
        if "wrong_host_key" in self.spec.quirks and not key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
            config = root / "etc/ssh/sshd_config.d/00-quirk.conf"
            config.write_text(f"HostKey /{_QUIRK_KEY}\n")

    def _start(self) -> None:
        self._expected_end = False
        command = [
            "systemd-nspawn",
            "--quiet",
            "--register=no",
            "--keep-unit",
            "--boot",
            "--console=pipe",
            "--capability=CAP_NET_ADMIN",
            "--resolv-conf=off",
            "--timezone=off",
            f"--network-namespace-path=/run/netns/{self._name}",
            f"--directory={self.folder / 'root'}",
            f"--machine=bc{self._owner.run.id}-{self.spec.id}",
            f"--hostname={self.spec.name.partition('.')[0]}",
        ]
        with open(self.console, "ab") as console:
            self._process = process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + BOOT_PATIENCE_S
        while not self._has_devices():
            if process.poll() is not None or time.monotonic() > end:
                text = self.console.read_text(errors="replace")[-500:]
                raise RuntimeError(f"the container does not start: {text}")
            time.sleep(0.01)
        self._watch = threading.Thread(target=self._follow, args=(process,), daemon=True)
        self._watch.start()

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if not self._expected_end:
            self._went_off()

    def _join(self) -> None:
        watch = self._watch
        if watch is not None and watch is not threading.current_thread():
            watch.join()

    def _has_devices(self) -> bool:
        pid = self._init()
        return pid is not None and Path(f"/proc/{pid}/root/dev/null").exists()

    def _init(self) -> int | None:
        """Its first process, as we see it, once it is systemd."""
        if self._process is None or self._process.poll() is not None:
            return None
        for pid in descendants(self._process.pid):
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if numbers[-1] == "1" and name in {"systemd", "init"}:
                    return pid
        return None


class Containers:
    """The backend. Sweeps leftovers of dead runs first; trixie.Unavailable says what is missing."""

    compressed_gb = 1.5

    def __init__(self, *, databases: bool = False) -> None:
        """`databases`: every stock image has the databases of a baked one."""
        for tool in ("systemd-nspawn", "ip", "losetup", "mkfs.ext4", "nsenter", "ssh-keygen"):
            if shutil.which(tool) is None:
                raise Unavailable(f"{tool} is not installed")
        self.stock = stock_tree()
        self.stock_folders = (*((databases_layer(),) if databases else ()), self.stock)
        sweep()
        self.run = Run()
        self.machines: list[Container] = []
        self.incidents: list[str] = []
        self._disks: list[Disk] = []
        self._decoy: Disk | None = None
        self._numbers = 0
        self._guard = threading.Lock()
        self._net = free_net()

    def addresses(self) -> Iterator[str]:
        """63 of them, each the second of a /30."""
        return (f"{self._net}.{4 * number + 2}" for number in range(63))

    def machine(self, spec: Spec, went_off: Callable[[], None]) -> Container:
        with self._guard:
            self._numbers += 1
            made = Container(self, spec, went_off, self._numbers)
            self.machines.append(made)
        return made

    def new_disk(self, volume: int, size_gb: int, format_: str | None) -> object:
        disk = disks.new_disk(self.run.folder, volume, size_gb, format_)
        self._disks.append(disk)
        return disk

    def decoy(self, pid: int) -> Disk:
        """A stranger's volume, at which a link may point."""
        with self._guard:
            if self._decoy is None:
                self._decoy = disks.new_disk(self.run.folder, 1, 10, "ext4")
        disks.plug(pid, self._decoy, link=False)
        return self._decoy

    def resize_disk(self, disk: object, size_gb: int) -> None:
        assert isinstance(disk, Disk)
        disks.resize(disk, size_gb)

    def remove_disk(self, disk: object) -> None:
        if isinstance(disk, Disk):
            disk.remove()

    def remove_layer(self, layer: object) -> None:
        """Its files stay until the end: servers may be made of it."""

    def close(self) -> None:
        ends = [threading.Thread(target=machine.destroy) for machine in self.machines]
        for end in ends:
            end.start()
        for end in ends:
            end.join()
        for disk in (*self._disks, *([self._decoy] if self._decoy else [])):
            disk.remove()
        self.run.close()


def _billed_gb(layer: Path) -> float:
    """Hetzner bills what is left after compression; a stock system is about 0.8 GB then."""
    kilobytes = int(run(["du", "--summarize", "--block-size=1K", layer]).split()[0])
    return 0.8 + 0.4 * kilobytes / 10**6
