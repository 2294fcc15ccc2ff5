"""`burst-agent volume …`: volumes on a server, as root. Standard library only, one JSON answer.

The rules that keep data alive:

- `mkfs` runs in one place, only for a volume whose label says `new-<uuid>`, and only if its first
  MiB could be read and is blank. Unreadable, short or absent is not blank.
- A volume labelled `ready-<uuid>` is never formatted. If it does not hold that file system, or does
  not mount after one `fsck -p`, it is `bad`, and that is all.
- The link in /dev/disk/by-id is no proof: it was seen to lead to another volume's device. Where
  the device has a SCSI serial (vpd_pg80) it must be the volume's id; then the file system's UUID
  decides.

The layout of a volume: `store/` (a complete CAS store), `cargo/`, `sccache/`, `mirror/`, `target/`,
`ledger.jsonl`, and `burst-volume.json`, without which the agent takes the folder for no volume.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from burst_agent.lease import FOLDER as LEASE_FOLDER
from burst_agent.lease import Lease

MOUNTS: Final = "/mnt/burst"
MARKER: Final = "burst-volume.json"
FOLDERS: Final = ("store", "cargo", "sccache", "mirror", "target")
LEDGER: Final = "ledger.jsonl"
USER: Final = "burst"
DONE: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2

_BLANK_BYTES: Final = 1 << 20
_SUPERBLOCK_OFFSET: Final = 1024
_EXT_MAGIC: Final = 0xEF53
_SCSI_DISK: Final = re.compile(r"sd[a-z]+")
_LABEL: Final = re.compile(r"(new|ready)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_POLL_S: Final = 0.1
_PATIENCE_S: Final = 30.0
_TOOL_S: Final = 600.0
_UNMOUNT_TRIES: Final = 50
_UNMOUNT_REST_S: Final = 0.1
_MOUNT_TRIES: Final = 20
_MOUNT_REST_S: Final = 0.25
_SOUND: Final = frozenset({0, 1, 2})
"""e2fsck(8): nothing to do; corrected; corrected, and a mounted one would want a reboot."""

Answer = dict[str, object]


class Refusal(Exception):
    """`why` is one word of those that `main`'s documentation lists."""

    def __init__(self, why: str, detail: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.detail = detail


class Host:
    """Where things lie on a machine; tests put them below a folder."""

    def __init__(
        self,
        root: str = "",
        *,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.root = root
        self.sleep = sleep
        self.now_s = now_s

    def link(self, volume_id: int) -> str:
        return f"{self.root}/dev/disk/by-id/scsi-0HC_Volume_{volume_id}"

    def mount_point(self, volume_id: int) -> str:
        return f"{self.root}{MOUNTS}/{volume_id}"

    def serial(self, device: str) -> str | None:
        """The SCSI serial number; None where the kernel knows none (a loop device).

        Page 0x80: four bytes of header, then the serial in ASCII (SPC-4, 7.8.10).
        """
        path = f"{self.root}/sys/class/block/{os.path.basename(device)}/device/vpd_pg80"
        try:
            with open(path, "rb") as file:
                return file.read(256)[4:].decode("ascii", "replace").strip("\0 ")
        except FileNotFoundError:
            return None

    def device_with_serial(self, serial: str) -> str | None:
        folder = f"{self.root}/sys/class/block"
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder)):
                if self.serial(name) == serial:
                    return f"{self.root}/dev/{name}"
        return None

    def find(self, volume_id: int, timeout_s: float) -> str:
        """The volume's device, as soon as it is there and is certainly this one's.

        Refusal `absent`, or `other` if there is only a link, to some other volume.
        """
        deadline_s = self.now_s() + timeout_s
        while True:
            why = "absent"
            device = self.device_with_serial(str(volume_id))
            if device is None and os.path.exists(self.link(volume_id)):
                linked = os.path.realpath(self.link(volume_id))
                serial = self.serial(linked)
                if serial is None and not _SCSI_DISK.fullmatch(os.path.basename(linked)):
                    device = linked  # no serial there at all: the UUID must do
                else:
                    why = "other"
            if device is not None:
                return device
            if self.now_s() >= deadline_s:
                raise Refusal(why, f"waited {timeout_s:g} s for {self.link(volume_id)}")
            self.sleep(_POLL_S)

    def mounted_at(self, path: str) -> bool:
        return os.path.ismount(path)


def filesystem(device: str) -> str | None:
    """The UUID of the ext file system there; None if there is none. OSError if unreadable."""
    with open(device, "rb") as file:
        file.seek(_SUPERBLOCK_OFFSET)
        block = file.read(1024)
    if len(block) < 1024:
        raise OSError(errno.EIO, "too short for a file system")
    (magic,) = struct.unpack_from("<H", block, 0x38)
    return str(uuid.UUID(bytes=block[0x68:0x78])) if magic == _EXT_MAGIC else None


def is_blank(device: str) -> bool:
    """Whether the first MiB is there, readable and all zero. OSError if it is not to be had."""
    with open(device, "rb", buffering=0) as file:
        data = bytearray()
        while len(data) < _BLANK_BYTES:
            piece = file.read(_BLANK_BYTES - len(data))
            if not piece:
                raise OSError(errno.EIO, f"only {len(data)} bytes can be read")
            data += piece
    return not any(data)


def parse_label(label: str) -> tuple[bool, str]:
    """(whether it is new, the UUID). Refusal `label` for anything else, `bad-…` too."""
    match = _LABEL.fullmatch(label)
    if match is None:
        raise Refusal("label", label)
    return match[1] == "new", match[2]


def format_volume(host: Host, volume_id: int, label: str, timeout_s: float) -> Answer:
    """Makes the file system. Done already is done; a half-made one (killed) is not blank."""
    new, wanted = parse_label(label)
    if not new:
        raise Refusal("ready", "it holds data: never formatted")
    device = host.find(volume_id, timeout_s)
    if filesystem(device) == wanted:
        return {"formatted": True, "device": device, "already": True}
    if not is_blank(device):
        raise Refusal("not-blank", f"{device} holds something")
    made = run("mkfs.ext4", "-q", "-m", "0", "-L", "burst", "-U", wanted, device)
    if made.returncode != 0 or filesystem(device) != wanted:
        raise Refusal("mkfs", tail(made))
    return {"formatted": True, "device": device, "already": False}


def mount_volume(host: Host, volume_id: int, label: str, timeout_s: float) -> Answer:
    """Mounts it and makes what belongs on it. Never writes to one that it cannot mount."""
    _, wanted = parse_label(label)
    path = host.mount_point(volume_id)
    device = host.find(volume_id, timeout_s)
    found = filesystem(device)
    if found != wanted:
        raise Refusal("bad", f"{device} holds {found or 'no file system'}, not {wanted}")
    checked = False
    if not host.mounted_at(path):
        os.makedirs(path, mode=0o755, exist_ok=True)
        checked = _mount(host, device, path)
    elif os.stat(path).st_dev != os.stat(device).st_rdev:
        raise Refusal("other", f"{path} is another device's")
    furnish(path, volume_id, wanted)
    return {"mounted": True, "path": path, "device": device, "checked": checked, **space(path)}


def _mount(host: Host, device: str, path: str) -> bool:
    """Whether it took a check. Refusal `busy` while somebody else has the device, else `bad`.

    Who has it may be about to let go: a mount of the same device that is just being taken down in
    another namespace answers EBUSY for a moment. Only a file system that nobody else holds is
    judged, or a sound one would be given up for ever.
    """
    argv = ("mount", "-t", "ext4", "-o", "noatime,nosuid,nodev", device, path)
    checked = False
    said = ""
    for _ in range(_MOUNT_TRIES):
        mounted = run(*argv)
        if mounted.returncode == 0:
            return checked
        said = tail(mounted)
        if not checked and not in_use(device):
            found = run("e2fsck", "-p", device)
            if found.returncode in _SOUND:
                checked = True
                continue
            if not in_use(device):
                _leave(path)
                raise Refusal("bad", tail(found))
        host.sleep(_MOUNT_REST_S)
    _leave(path)
    raise Refusal("busy" if in_use(device) else "bad", said)


def in_use(device: str) -> bool:
    """Whether it is mounted, or held in another way that keeps a mount off.

    open(2): O_EXCL without O_CREAT on a block device fails with EBUSY if the system uses it.
    """
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return True
    return False


def _leave(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)


def furnish(path: str, volume_id: int, wanted: str) -> None:
    """Folders, ledger and marker: what is there stays as it is."""
    try:
        owner = pwd.getpwnam(USER)
        ids = (owner.pw_uid, owner.pw_gid)
    except KeyError:  # a machine that was not set up yet
        ids = (os.getuid(), os.getgid())
    for name in FOLDERS:
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{path}/{name}", 0o700)
        os.chown(f"{path}/{name}", *ids, follow_symlinks=False)
    fd = os.open(f"{path}/{LEDGER}", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    os.fchown(fd, *ids)
    os.close(fd)
    marker = json.dumps({"format": 1, "id": volume_id, "uuid": wanted}) + "\n"
    fd = os.open(f"{path}/.{MARKER}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    os.write(fd, marker.encode())
    os.fsync(fd)
    os.close(fd)
    os.rename(f"{path}/.{MARKER}", f"{path}/{MARKER}")


def unmount_volume(host: Host, volume_id: int, lease_folder: str) -> Answer:
    """Synced and gone from here; the device can be detached. Refusal `busy` names who holds it."""
    path = host.mount_point(volume_id)
    if os.path.isdir(lease_folder):
        lease = Lease(lease_folder)
        lease.begin_end()  # if this is the end, it cannot be taken back any more
        lease.close()
    said = ""
    for _ in range(_UNMOUNT_TRIES):
        if not host.mounted_at(path):
            with contextlib.suppress(OSError):
                os.rmdir(path)
            return {"unmounted": True}
        done = run("umount", path)
        if done.returncode != 0:
            said = tail(done)
            # The agent closes a store some seconds after its last client; a reader is quick.
            host.sleep(_UNMOUNT_REST_S)
    raise Refusal("busy", ", ".join(holders(path)) or said)


def grow_volume(host: Host, volume_id: int, timeout_s: float) -> Answer:
    """The file system takes what the volume was enlarged by; mounted or not."""
    device = host.find(volume_id, timeout_s)
    if not host.mounted_at(host.mount_point(volume_id)):
        checked = run("e2fsck", "-f", "-p", device)  # resize2fs insists
        if checked.returncode not in (0, 1):
            raise Refusal("bad", tail(checked))
    done = run("resize2fs", device)
    if done.returncode != 0:
        raise Refusal("resize", tail(done))
    path = host.mount_point(volume_id)
    return {"grown": True, **(space(path) if host.mounted_at(path) else {})}


def list_volumes(host: Host) -> Answer:
    """What is mounted."""
    found = []
    folder = f"{host.root}{MOUNTS}"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for name in names:
        path = f"{folder}/{name}"
        with contextlib.suppress(OSError, ValueError):
            if host.mounted_at(path):
                with open(f"{path}/{MARKER}", encoding="utf-8") as file:
                    found.append({**json.load(file), "path": path, **space(path)})
    return {"volumes": found}


def space(path: str) -> Answer:
    status = os.statvfs(path)
    size = status.f_frsize
    return {"size_bytes": status.f_blocks * size, "free_bytes": status.f_bavail * size}


def holders(path: str) -> list[str]:
    """Processes with a file open or a working directory below `path`: `pid name`."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root"]
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            for link in links:
                if (os.readlink(link) + "/").startswith(path + "/"):
                    with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                        found.append(f"{pid} {file.read().strip()}")
                    break
    return found


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    """A tool of the system's, without anybody to ask."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return subprocess.run(
        [shutil.which(argv[0], path=path) or argv[0], *argv[1:]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", "PATH": path},
        timeout=_TOOL_S,
        check=False,
    )


def tail(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stderr or done.stdout).strip()[-400:]
    return f"{os.path.basename(done.args[0])} ended with {done.returncode}: {said}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="burst-agent volume")
    parser.add_argument("--root", default="", help=argparse.SUPPRESS)
    parser.add_argument("--lease", default=LEASE_FOLDER, help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=_PATIENCE_S, metavar="S")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("format", "mount"):
        labelled = verbs.add_parser(verb)
        labelled.add_argument("id", type=int)
        labelled.add_argument("--label", required=True, metavar="new-UUID|ready-UUID")
    for verb in ("wait", "unmount", "grow"):
        verbs.add_parser(verb).add_argument("id", type=int)
    verbs.add_parser("list")
    return parser.parse_args(argv)


def answer(options: argparse.Namespace, host: Host) -> Answer:
    match options.verb:
        case "wait":
            device = host.find(options.id, options.timeout)
            return {"device": device, "filesystem": filesystem(device), "blank": is_blank(device)}
        case "format":
            return format_volume(host, options.id, options.label, options.timeout)
        case "mount":
            return mount_volume(host, options.id, options.label, options.timeout)
        case "unmount":
            return unmount_volume(host, options.id, options.lease)
        case "grow":
            return grow_volume(host, options.id, options.timeout)
        case _:
            return list_volumes(host)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 done; 1 refused, with `why` one of absent, other, label, ready, not-blank,
    mkfs, bad, busy, resize; 2 something failed that should not."""
    options = parse(argv)
    host = Host(options.root)
    try:
        found = answer(options, host)
        status = DONE
    except Refusal as refusal:
        found, status = {"why": refusal.why, "detail": refusal.detail}, REFUSED
    except (OSError, subprocess.SubprocessError) as error:
        found, status = {"why": "error", "detail": str(error)}, UNUSABLE
    sys.stdout.write(json.dumps(found) + "\n")
    return status
