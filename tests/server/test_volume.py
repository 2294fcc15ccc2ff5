"""Volumes: what is certainly blank and new is formatted, nothing else ever is."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burst_agent.host import volume
from burst_agent.host.volume import Host, Refusal
from burst_agent.lease import Lease
from burst_agent.stores import mounted

ID = 4711
UUID = "3b1f7c1e-8f4e-4f0a-9d1e-0123456789ab"
SIZE = 64 << 20


class Clock:
    """Passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.at: dict[int, Any] = {}

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        act = self.at.pop(round(self.now_s * 10), None)
        if act is not None:
            act()

    def now(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def host(tmp_path: Path, clock: Clock) -> Host:
    for folder in ("dev/disk/by-id", "sys/class/block"):
        (tmp_path / folder).mkdir(parents=True)
    return Host(str(tmp_path), sleep=clock.sleep, now_s=clock.now)


def disk(host: Host, name: str, *, serial: int | None = None) -> str:
    """A device as the kernel shows it; a regular file."""
    path = f"{host.root}/dev/{name}"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    if serial is not None:
        folder = Path(host.root, "sys/class/block", name, "device")
        folder.mkdir(parents=True)
        (folder / "vpd_pg80").write_bytes(b"\0\x80\0\x04" + str(serial).encode())
    return path


def link(host: Host, device: str) -> None:
    os.symlink(device, host.link(ID))


def why(refused: pytest.ExceptionInfo[Refusal]) -> str:
    return refused.value.why


# Which device


def test_a_device_is_waited_for(host: Host, clock: Clock) -> None:
    """It comes seconds after the attach action ended."""
    clock.at[30] = lambda: link(host, disk(host, "loop7"))
    assert host.find(ID, 10) == f"{host.root}/dev/loop7"
    assert 2.9 < clock.now_s < 3.2


def test_a_device_that_never_comes(host: Host) -> None:
    """An answer, not a wait."""
    with pytest.raises(Refusal) as refused:
        host.find(ID, 1)
    assert why(refused) == "absent"


def test_the_serial_counts_and_not_the_link(host: Host) -> None:
    """The link was seen to lead to another volume's device."""
    link(host, disk(host, "sdb", serial=ID + 1))
    with pytest.raises(Refusal) as refused:
        host.find(ID, 1)
    assert why(refused) == "other"
    right = disk(host, "sdc", serial=ID)
    assert host.find(ID, 1) == right


def test_a_scsi_disk_without_a_serial_is_nobodys(host: Host) -> None:
    """Fail closed: on the real thing every volume has one."""
    link(host, disk(host, "sdb"))
    with pytest.raises(Refusal) as refused:
        host.find(ID, 1)
    assert why(refused) == "other"


# What may be formatted


@pytest.mark.parametrize("offset", [0, 1024, (1 << 20) - 1])
def test_one_byte_is_not_blank(host: Host, offset: int) -> None:
    """Anywhere in the first MiB."""
    link(host, disk(host, "loop7"))
    with open(f"{host.root}/dev/loop7", "r+b") as file:
        file.seek(offset)
        file.write(b"x")
    with pytest.raises(Refusal) as refused:
        volume.format_volume(host, ID, f"new-{UUID}", 1)
    assert why(refused) == "not-blank"


def test_a_device_that_cannot_be_read_is_not_blank(host: Host) -> None:
    """Too short is what a device looks like that is not quite there yet."""
    path = disk(host, "loop7")
    os.truncate(path, 1 << 19)
    link(host, path)
    with pytest.raises(OSError, match="only 524288 bytes"):
        volume.is_blank(path)
    with pytest.raises(OSError, match="only 524288 bytes"):
        volume.format_volume(host, ID, f"new-{UUID}", 1)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (f"ready-{UUID}", "ready"),
        (f"bad-{UUID}", "label"),
        (UUID, "label"),
        ("new-", "label"),
        (f"new-{UUID}x", "label"),
        ("", "label"),
    ],
)
def test_only_a_new_volume_is_formatted(host: Host, label: str, reason: str) -> None:
    """However blank it reads."""
    path = disk(host, "loop7")
    link(host, path)
    with pytest.raises(Refusal) as refused:
        volume.format_volume(host, ID, label, 1)
    assert why(refused) == reason
    assert volume.is_blank(path)


def test_formatting_makes_the_uuid_that_was_asked_for(host: Host) -> None:
    """And asked again it is done already: the answer was lost, say."""
    path = disk(host, "loop7")
    link(host, path)
    assert volume.filesystem(path) is None
    made = volume.format_volume(host, ID, f"new-{UUID}", 1)
    assert made == {"formatted": True, "device": path, "already": False}
    assert volume.filesystem(path) == UUID
    again = volume.format_volume(host, ID, f"new-{UUID}", 1)
    assert again == {"formatted": True, "device": path, "already": True}


def test_another_volumes_file_system_is_bad(host: Host) -> None:
    """It is not mounted, and certainly not made anew."""
    path = disk(host, "loop7")
    link(host, path)
    volume.format_volume(host, ID, f"new-{uuid.uuid4()}", 1)
    before = Path(path).read_bytes()[: 1 << 20]
    with pytest.raises(Refusal) as refused:
        volume.mount_volume(host, ID, f"ready-{UUID}", 1)
    assert why(refused) == "bad"
    assert Path(path).read_bytes()[: 1 << 20] == before


# The real thing


@contextlib.contextmanager
def loop(path: Path) -> Iterator[str]:
    found = subprocess.run(
        ["losetup", "--find", "--show", str(path)], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(f"losetup: {found.stderr}")
    device = found.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def attached(host: Host, tmp_path: Path) -> Iterator[str]:
    """A volume of 64 MiB on a loop device, by its link."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(SIZE)
    with loop(image) as device:
        link(host, device)
        yield device
        subprocess.run(["umount", "-l", host.mount_point(ID)], capture_output=True, check=False)


def command(host: Host, *argv: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    lease = f"{host.root}/run"
    options = ["--root", host.root, "--lease", lease, "--timeout", "1"]
    code = volume.main([*options, *argv])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.root
@pytest.mark.slow
def test_the_life_of_a_volume(
    host: Host, attached: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Format, mount, fill, unmount; on the next server everything is there."""
    where = Path(host.mount_point(ID))
    new, ready = f"--label=new-{UUID}", f"--label=ready-{UUID}"
    code, refused = command(host, "mount", str(ID), new, capsys=capsys)
    assert (code, refused["why"]) == (1, "bad")
    assert command(host, "format", str(ID), new, capsys=capsys)[0] == 0
    code, answer = command(host, "mount", str(ID), new, capsys=capsys)
    assert code == 0
    assert (answer["mounted"], answer["path"], answer["checked"]) == (True, str(where), False)
    assert {*volume.FOLDERS, volume.LEDGER, volume.MARKER} < set(os.listdir(where))
    options = subprocess.run(
        ["findmnt", "-no", "OPTIONS", where], capture_output=True, text=True, check=True
    ).stdout
    assert "noatime" in options
    assert mounted(os.fsencode(where.parent)) == [os.fsencode(where / "store")]
    (where / "store" / "blob").write_text("precious")
    assert command(host, "mount", str(ID), ready, capsys=capsys)[0] == 0
    _, listed = command(host, "list", capsys=capsys)
    assert [(one["id"], one["uuid"]) for one in listed["volumes"]] == [(ID, UUID)]
    assert command(host, "unmount", str(ID), capsys=capsys) == (0, {"unmounted": True})
    assert command(host, "unmount", str(ID), capsys=capsys) == (0, {"unmounted": True})
    assert not where.exists()
    assert mounted(os.fsencode(where.parent)) == []
    code, refused = command(host, "format", str(ID), ready, capsys=capsys)
    assert (code, refused["why"]) == (1, "ready")
    assert command(host, "mount", str(ID), ready, capsys=capsys)[0] == 0
    assert (where / "store" / "blob").read_text() == "precious"


@pytest.mark.root
@pytest.mark.slow
def test_a_damaged_ready_volume_is_checked_once_and_else_bad(
    host: Host, attached: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never formatted. A wrong checksum that `fsck -p` can mend, and one that it cannot."""
    new, ready = f"--label=new-{UUID}", f"--label=ready-{UUID}"
    command(host, "format", str(ID), new, capsys=capsys)
    with open(attached, "r+b") as file:
        file.seek(1024 + 0x3FC)  # the superblock's checksum
        file.write(b"\xde\xad\xbe\xef")
    code, answer = command(host, "mount", str(ID), ready, capsys=capsys)
    assert code in {0, 1}
    if code == 0:
        assert answer["checked"] is True
        command(host, "unmount", str(ID), capsys=capsys)
    else:
        assert answer["why"] == "bad"
    with open(attached, "r+b") as file:
        file.seek(1024 + 0x18)  # the block size: nonsense
        file.write(b"\xff\xff\xff\x7f")
        file.seek(4096)
        file.write(b"\xff" * 8192)
    code, answer = command(host, "mount", str(ID), ready, capsys=capsys)
    assert (code, answer["why"]) == (1, "bad")
    assert volume.filesystem(attached) == UUID
    assert not os.path.exists(host.mount_point(ID))


@pytest.mark.root
@pytest.mark.slow
def test_a_device_that_somebody_still_has_is_not_bad(
    host: Host, attached: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server before is just going: `bad` would give up a sound store for ever."""
    label = f"new-{UUID}"
    command(host, "format", str(ID), f"--label={label}", capsys=capsys)
    held = os.open(attached, os.O_RDONLY | os.O_EXCL)
    rests = []

    def rest(duration_s: float) -> None:
        rests.append(duration_s)
        if len(rests) == 3:
            os.close(held)

    patient = Host(host.root, sleep=rest)
    assert volume.mount_volume(patient, ID, label, 1)["mounted"] is True
    assert len(rests) == 3
    volume.unmount_volume(host, ID, "/nowhere")
    held = os.open(attached, os.O_RDONLY | os.O_EXCL)
    try:
        with pytest.raises(Refusal) as refused:
            volume.mount_volume(Host(host.root, sleep=lambda _: None), ID, label, 1)
    finally:
        os.close(held)
    assert why(refused) == "busy"
    assert volume.mount_volume(host, ID, label, 1)["mounted"] is True


@pytest.mark.root
@pytest.mark.slow
def test_who_holds_a_volume_is_named(
    host: Host, attached: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Instead of a lazy unmount that would leave it open behind our back."""
    new = f"--label=new-{UUID}"
    command(host, "format", str(ID), new, capsys=capsys)
    command(host, "mount", str(ID), new, capsys=capsys)
    with subprocess.Popen(["cat"], cwd=host.mount_point(ID), stdin=subprocess.PIPE) as holder:
        with pytest.raises(Refusal) as refused:
            volume.unmount_volume(host, ID, "/nowhere")
        assert why(refused) == "busy"
        assert refused.value.detail == f"{holder.pid} cat"
    assert volume.unmount_volume(host, ID, "/nowhere") == {"unmounted": True}


@pytest.mark.root
@pytest.mark.slow
def test_a_volume_grows(
    host: Host, attached: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API enlarges the device, not what is on it.

    Unmounted here: the kernel lets only the machine's own root do it online.
    """
    new = f"--label=new-{UUID}"
    command(host, "format", str(ID), new, capsys=capsys)
    _, before = command(host, "mount", str(ID), new, capsys=capsys)
    os.truncate(tmp_path / "image", 2 * SIZE)
    subprocess.run(["losetup", "--set-capacity", attached], check=True)
    command(host, "unmount", str(ID), capsys=capsys)
    assert command(host, "grow", str(ID), capsys=capsys) == (0, {"grown": True})
    _, after = command(host, "mount", str(ID), new, capsys=capsys)
    assert after["size_bytes"] > 1.8 * before["size_bytes"]


def test_unmounting_at_the_end_is_where_a_drain_becomes_final(host: Host, tmp_path: Path) -> None:
    """Without a drain it is just a volume that leaves."""
    run = tmp_path / "run"
    run.mkdir()
    lease = Lease(str(run))
    assert volume.unmount_volume(host, ID, str(run)) == {"unmounted": True}
    lease.drain(0, "test")
    assert lease.cancel_drain()["cancelled"]
    lease.drain(0, "test")
    volume.unmount_volume(host, ID, str(run))
    assert lease.cancel_drain() == {"cancelled": False, "why": "ending"}
