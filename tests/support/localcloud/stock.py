"""The disk of a stock image: Debian trixie with systemd, cloud-init and sshd, made once.

About two minutes and 700 MB below ~/.cache/burst-tests. It stands for `ubuntu-24.04` and
`debian-13` alike. What real stock images have is in it, and the linker and sandbox of a baked one:
no way leads from a server of ours to an archive.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from trixie import cached_tree, debootstrap, run_or_unavailable

RECIPE: Final = 4
"""Raise it to have the tree made anew."""
PACKAGES: Final = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "iproute2",
    "netbase",
    "ifupdown",
    "procps",
    "sudo",
    "nftables",
    "e2fsprogs",
    "fdisk",
    "curl",
    "ca-certificates",
    "zstd",
)
MORE: Final = ("cloud-init", "bubblewrap", "gcc", "libc6-dev", "git")
"""By apt afterwards: debootstrap's resolver stumbles over cloud-init's virtual packages."""
MASKED: Final = (
    "systemd-networkd.service",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "networking.service",
    "ifupdown-pre.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "man-db.timer",
    "getty@.service",
    "console-getty.service",
    "ifupdown-wait-online.service",
    "sshd-keygen.service",
    "systemd-firstboot.service",
    "nftables.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)
"""The address and devices come from outside, host keys from cloud-init alone (as on Ubuntu); nobody
sits at a console."""


def stock_tree() -> Path:
    """Made the first time. trixie.Unavailable says why not."""
    return cached_tree(f"cloud-{RECIPE}", _make)


def _make(root: Path) -> None:
    debootstrap(root, PACKAGES)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
    install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install", *MORE]
    run_or_unavailable(["chroot", str(root), *quiet, *install])
    (root / "usr/sbin/policy-rc.d").unlink()
    for unit in MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    clean(root)
    for name in ("archives", "pkgcache.bin", "srcpkgcache.bin"):
        path = root / "var/cache/apt" / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)


DATABASES: Final = ("postgresql", "mariadb-server", "redis-server", "passt")
"""Of what the recipe adds for services and for programs' networks, without a bake."""


def databases_layer() -> Path:
    """What a disk has above the stock tree once these are installed; none of them starts by itself.
    Made the first time, in a minute; 400 MB."""
    return cached_tree(f"cloud-{RECIPE}-databases-1", _make_databases) / "upper"


def _make_databases(folder: Path) -> None:
    below, root = stock_tree(), folder / "root"
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "upper").chmod(0o755)
    options = f"lowerdir={below},upperdir={folder}/upper,workdir={folder}/work"
    run_or_unavailable(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])
    try:
        policy = root / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        inside = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
        run_or_unavailable([*inside, "apt-get", "-qq", "update"])
        install = ["apt-get", "-qq", "-y", "--no-install-recommends", "install"]
        run_or_unavailable([*inside, *install, *DATABASES])
        policy.unlink()
        units = root / "etc/systemd/system"
        for name in ("postgresql", "mariadb", "redis-server"):
            (units / f"{name}.service").symlink_to("/dev/null")
        for place in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / place, ignore_errors=True)
        clean(root)
    finally:
        subprocess.run(["umount", root], check=True)
    shutil.rmtree(folder / "work")


def clean(root: Path) -> None:
    """No identity of its own, as images have none."""
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/machine-id").write_text("")
    for part in ("etc", "var"):  # or each first boot would build every cache anew
        (root / part / ".updated").touch()
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    cloud = root / "etc/cloud/cloud.cfg.d"
    os.makedirs(cloud, exist_ok=True)
    (cloud / "90-local.cfg").write_text(
        "datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n"
        "disable_root: false\nssh_deletekeys: true\n"
    )
