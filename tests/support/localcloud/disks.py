"""Volumes as sparse files behind loop devices, and how they appear inside a machine."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Final

import attrs

from .host import run

GIGA: Final = 10**9
BY_ID: Final = "dev/disk/by-id"
_LOOP: Final = threading.Lock()


@attrs.define
class Disk:
    """A volume's bytes. `device` is a loop device of this computer."""

    volume: int
    file: Path
    device: str

    def remove(self) -> None:
        """A loop device that is still mounted somewhere goes when it is no more.

        Once gone its number is soon another disk's, of a cloud in another process maybe.
        """
        if backing_file(self.device) == self.file:
            run(["losetup", "--detach", self.device], check=False)
        self.file.unlink(missing_ok=True)


def backing_file(device: str) -> Path | None:
    """What that loop device shows now; None if nothing."""
    with contextlib.suppress(OSError):
        return Path(Path(f"/sys/block/{Path(device).name}/loop/backing_file").read_text().strip())
    return None


def new_disk(folder: Path, volume: int, size_gb: int, format_: str | None) -> Disk:
    """Blank, or with a file system as the API makes it."""
    file = folder / f"volume-{volume}.img"
    with open(file, "wb") as handle:
        handle.truncate(size_gb * GIGA)
    if format_ is not None:
        run([f"mkfs.{format_}", "-q", str(file)])
    with _LOOP:  # losetup's search for a free one is not atomic
        device = run(["losetup", "--find", "--show", str(file)]).strip()
    return Disk(volume, file, device)


def resize(disk: Disk, size_gb: int) -> None:
    """The device grows; the file system in it does not."""
    with open(disk.file, "r+b") as handle:
        handle.truncate(size_gb * GIGA)
    run(["losetup", "--set-capacity", disk.device])


def plug(pid: int, disk: Disk, *, link_to: Disk | None = None, link: bool = True) -> None:
    """A device node in the mount namespace of that process, and the by-id link to it (or, as a
    fault, to another's)."""
    root = Path(f"/proc/{pid}/root")
    number = os.stat(disk.device).st_rdev
    node = root / disk.device.lstrip("/")
    with contextlib.suppress(FileExistsError):
        os.mknod(node, stat.S_IFBLK | 0o660, number)
    if link:
        make_link(pid, disk, link_to or disk)


def make_link(pid: int, disk: Disk, target: Disk) -> None:
    place = Path(f"/proc/{pid}/root") / BY_ID
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"scsi-0HC_Volume_{disk.volume}"
    path.unlink(missing_ok=True)
    path.symlink_to(f"../../{Path(target.device).name}")


def is_mounted(pid: int, disk: Disk) -> bool:
    """In the mount namespace of that process."""
    number = os.stat(disk.device).st_rdev
    mark = f"{os.major(number)}:{os.minor(number)}"
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        return any(line.split()[2] == mark for line in lines)
    return False


def unplug(pid: int, disk: Disk) -> None:
    """Node and link go; who has it open keeps it until the machine ends."""
    root = Path(f"/proc/{pid}/root")
    (root / BY_ID / f"scsi-0HC_Volume_{disk.volume}").unlink(missing_ok=True)
    (root / disk.device.lstrip("/")).unlink(missing_ok=True)
