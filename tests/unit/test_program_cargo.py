"""burst_wrapper.daemon.program_cargo: what a cargo elsewhere is shown of home's."""

from __future__ import annotations

import os
from pathlib import Path

from burst_protocol.tree import Directory
from burst_wrapper.daemon.program_cargo import bring, index_path, packages, sysroot
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache

LOCK = """
[[package]]
name = "mine"
version = "0.1.0"

[[package]]
name = "serde"
version = "1.0.1"
source = "registry+https://example.org/index"
"""


def test_index_paths() -> None:
    assert index_path(b"a") == b"1/a"
    assert index_path(b"cc") == b"2/cc"
    assert index_path(b"syn") == b"3/s/syn"
    assert index_path(b"Inflector") == b"in/fl/inflector"


def test_packages(tmp_path: Path) -> None:
    assert packages(bytes(tmp_path)) == ()
    (tmp_path / "Cargo.lock").write_text("[[package]]\nname = 1\n")
    assert packages(bytes(tmp_path)) == ()
    (tmp_path / "Cargo.lock").write_text(LOCK)
    found = [(one.name, one.registry) for one in packages(bytes(tmp_path))]
    assert found == [(b"mine", False), (b"serde", True)]


def test_a_toolchain_with_a_folder_to_itself(tmp_path: Path) -> None:
    (tmp_path / "lib/rustlib").mkdir(parents=True)
    assert sysroot({b"CARGO": bytes(tmp_path / "bin/cargo")}) == bytes(tmp_path)
    for other in (b"", b"cargo", b"/usr/bin/cargo", bytes(tmp_path / "other/bin/cargo")):
        assert sysroot({b"CARGO": other}) == b""


def test_what_is_shown(tmp_path: Path) -> None:
    """Of the packages in the lock file, and of nothing else: no credentials."""
    home, rust = tmp_path / "cargo", tmp_path / "rust"
    for name in (
        "credentials.toml",
        "config.toml",
        "registry/index/one/config.json",
        "registry/index/one/.cache/se/rd/serde",
        "registry/index/one/.cache/ra/nd/rand",
        "registry/cache/one/serde-1.0.1.crate",
        "registry/cache/one/serde-1.0.2.crate",
        "registry/src/one/serde-1.0.1/Cargo.toml",
        "registry/src/one/rand-1.0.0/Cargo.toml",
    ):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    for name in ("bin/cargo", "lib/x.so"):
        (rust / name).parent.mkdir(parents=True)
        (rust / name).write_text(name)
    (tmp_path / "Cargo.lock").write_text(LOCK)
    stats = StatCache(Index(bytes(tmp_path / "index.db")))
    found = bring(packages(bytes(tmp_path)), bytes(home), bytes(rust), stats)
    blobs = found.sources.blobs

    def names(digest: object, below: bytes = b"") -> set[bytes]:
        folder = Directory.decode(blobs[digest])  # type: ignore[index]
        seen = {below + file.name for file in folder.files}
        for one in folder.directories:
            seen |= names(one.digest, below + one.name + b"/")
        return seen

    assert names(found.tree) == {
        b"toolchain/bin/cargo",
        b"toolchain/lib/x.so",
        b"home/registry/index/one/config.json",
        b"home/registry/index/one/.cache/se/rd/serde",
        b"home/registry/cache/one/serde-1.0.1.crate",
        b"home/registry/src/one/serde-1.0.1/Cargo.toml",
    }
    assert {os.path.basename(path) for path in found.sources.files.values()} >= {b"cargo"}
