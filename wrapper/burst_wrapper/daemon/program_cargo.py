"""A cargo for tests that start one themselves, as trybuild does: home's own, in a place of its own.

With it goes what it needs to resolve offline: of the packages in Cargo.lock what cargo keeps of a
registry (index, archive, sources). Nothing else of home's cargo folder is shown, its credentials
least of all.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import ToolchainProblem
from burst_protocol.tree import TreeBuilder
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.driver.home_toolchain import PARTS
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import shares_its_folder
from burst_wrapper.treescan import TooLarge, TreeScanner

STARTERS: Final = frozenset(
    {b"trybuild", b"ui_test", b"compiletest_rs", b"macrotest", b"escargot", b"cargo_metadata"}
)
"""Packages that start cargo for whoever uses them."""
PLACE: Final = b"/run/burst-cargo"
_SYSTEM_PATH: Final = b"/usr/local/bin:/usr/bin:/bin"


@attrs.frozen
class Package:
    """As Cargo.lock names it."""

    name: bytes
    version: bytes
    registry: bool


@attrs.frozen
class ProgramCargo:
    """What a program is shown, and is told of it."""

    tree: Digest
    sources: Sources
    environ: tuple[tuple[bytes, bytes], ...]


def packages(workspace_root: bytes) -> tuple[Package, ...]:
    """Blocking; none without a readable Cargo.lock."""
    try:
        with open(os.path.join(workspace_root, b"Cargo.lock"), "rb") as file:
            listed = tomllib.load(file).get("package", [])
        return tuple(
            Package(
                os.fsencode(one["name"]),
                os.fsencode(one["version"]),
                one.get("source", "").startswith(("registry+", "sparse+")),
            )
            for one in listed
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


def sysroot(environ: Mapping[bytes, bytes]) -> bytes:
    """Of the cargo that starts a program here, which says so in CARGO; empty: none that has a
    folder to itself."""
    cargo = environ.get(b"CARGO", b"")
    folder = os.path.dirname(os.path.dirname(cargo))
    whole = os.path.isdir(os.path.join(folder, b"lib/rustlib"))
    return folder if cargo.startswith(b"/") and whole and not shares_its_folder(folder) else b""


def bring(
    wanted: Iterable[Package], cargo_home: bytes, toolchain: bytes, stats: StatCache
) -> ProgramCargo:
    """ToolchainProblem. Blocking: the first time it hashes a toolchain."""
    builder, sources, scanner = TreeBuilder(), Sources(), TreeScanner(stats)

    def folder(path: bytes, inside: bytes) -> None:
        tree = scanner.whole(path)
        builder.subtree(inside, tree.digest)
        sources.add(tree)

    try:
        for part in PARTS:
            folder(os.path.join(toolchain, part), b"toolchain/" + part)
        for name in _kept(wanted, cargo_home):
            path = os.path.join(cargo_home, name)
            if os.path.isdir(path):
                folder(path, b"home/" + name)
            elif (state := stats.digest(path)) is not None:
                builder.file(b"home/" + name, state.digest, executable=False)
                sources.files[state.digest] = path
    except (OSError, TooLarge) as error:
        raise ToolchainProblem(f"cargo cannot be sent for tests that start it: {error}") from error
    builder.directory(b"home")
    place = PLACE + b"/toolchain/bin"
    environ = {
        b"CARGO": place + b"/cargo",
        b"CARGO_HOME": PLACE + b"/home",
        b"CARGO_NET_OFFLINE": b"true",
        b"PATH": place + b":" + _SYSTEM_PATH,
        # A project's own configuration may name ours.
        b"RUSTC_WRAPPER": b"",
    }
    return ProgramCargo(builder.build(sources.blobs), sources, tuple(environ.items()))


def _kept(wanted: Iterable[Package], cargo_home: bytes) -> Iterator[bytes]:
    """What cargo keeps of them, relative to its home: only what is there."""
    registries: dict[bytes, list[bytes]] = {}
    for kind in (b"index", b"cache", b"src"):
        try:
            registries[kind] = os.listdir(os.path.join(cargo_home, b"registry", kind))
        except OSError:
            registries[kind] = []
    names = [b"registry/index/%b/config.json" % one for one in registries[b"index"]]
    for package in wanted:
        if not package.registry:
            continue
        full = package.name + b"-" + package.version
        cached = index_path(package.name)
        names += [b"registry/index/%b/.cache/%b" % (one, cached) for one in registries[b"index"]]
        names += [b"registry/cache/%b/%b.crate" % (one, full) for one in registries[b"cache"]]
        names += [b"registry/src/%b/%b" % (one, full) for one in registries[b"src"]]
    for name in dict.fromkeys(names):
        if os.path.exists(os.path.join(cargo_home, name)):
            yield name


def index_path(name: bytes) -> bytes:
    """https://doc.rust-lang.org/cargo/reference/registry-index.html#index-files"""
    low = name.lower()
    if len(low) < 3:
        return b"%d/%b" % (len(low), low)
    if len(low) == 3:
        return b"3/%b/%b" % (low[:1], low)
    return b"%b/%b/%b" % (low[:2], low[2:4], low)
