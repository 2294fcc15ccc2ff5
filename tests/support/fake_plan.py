"""Plans of rustc calls on a platform that is made up: for what does not run anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from burst_protocol.action import KIND_DIRECTORY, Input
from burst_protocol.digest import Digest
from burst_wrapper.argv import RustcCall, parse
from burst_wrapper.callers import Caller
from burst_wrapper.closures import Closures
from burst_wrapper.config import Config
from burst_wrapper.daemon.plan import Plan, make_plan
from burst_wrapper.daemon.platform import Platform, Sources
from burst_wrapper.index import Index
from burst_wrapper.pathwalk import CapturedEntry
from burst_wrapper.platform_capture import SystemTree
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import Toolchain, TreeSource

SYSROOT = b"/toolchain"


def platform(key: bytes = b"p" * 32) -> Platform:
    """A toolchain and one system library, of which only the names matter."""
    toolchain = Toolchain(
        rustc=SYSROOT + b"/bin/rustc",
        sysroot=SYSROOT,
        clippy_driver=SYSROOT + b"/bin/clippy-driver",
        version=b"rustc 1.95.0",
        host=b"x86_64-unknown-linux-gnu",
        entries=(TreeSource(SYSROOT + b"/lib", "dir", b""),),
    )
    library = Input(SYSROOT + b"/lib", KIND_DIRECTORY, Digest.of(b"lib"), local=SYSROOT + b"/lib")
    return Platform(
        key=key,
        toolchain=toolchain,
        inputs=(library, Input(b"/", KIND_DIRECTORY, Digest.of(b"system"))),
        quiet=(SYSROOT + b"/lib", b"/usr/lib/made-up"),
        programs=(),
        library_folders=(),
        sources=Sources(),
        system=SystemTree((CapturedEntry(b"/usr/lib/made-up/libc.so.6", "file"),)),
    )


@attrs.define
class Home:
    """A project, a registry and a target directory, and plans of calls among them."""

    folder: Path
    index: Index
    stats: StatCache
    closures: Closures

    @property
    def package(self) -> Path:
        return self.folder / "project" / "app"

    @property
    def target(self) -> Path:
        return self.folder / "project" / "target"

    @property
    def out_dir(self) -> Path:
        return self.target / "debug" / "deps"

    @property
    def cargo_home(self) -> Path:
        return self.folder / "cargo"

    def write(self, *names: str) -> None:
        """Files of the package that hold their own names."""
        for name in names:
            path = self.package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)

    def registry(self, name: str, *files: str) -> Path:
        """A package that cannot change."""
        package = self.cargo_home / "registry" / "src" / "index" / name
        for file in files:
            path = package / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name}/{file}")
        return package

    def call(self, *arguments: str | Path, driver: str = "rustc", kind: str = "lib") -> RustcCall:
        words = [driver, *(["rustc"] if "clippy" in driver else [])]
        words += ["--crate-name", "app", "--edition=2021", "src/lib.rs", "--crate-type", kind]
        words += ["--emit=dep-info,metadata,link", "--out-dir", str(self.out_dir)]
        words += ["-C", "metadata=0123", "-C", "extra-filename=-0123"]
        argv = tuple(os.fsencode(word) for word in (*words, *arguments))
        return parse(argv, lambda _: b"")

    def plan(
        self,
        *arguments: str | Path,
        driver: str = "rustc",
        kind: str = "lib",
        env: dict[bytes, bytes] | None = None,
        cargo_env: dict[bytes, bytes] | None = None,
        config: Config | None = None,
        package: Path | None = None,
        target: Path | None = None,
        key: bytes = b"p" * 32,
        input_files: tuple[bytes, ...] = (),
    ) -> Plan:
        call = self.call(*arguments, driver=driver, kind=kind)
        if target is not None:
            moved = self.out_dir.relative_to(self.target)
            replaced = [
                argument.replace(bytes(self.out_dir), bytes(target / moved))
                for argument in call.args
            ]
            call = parse((driver.encode(), *replaced), lambda _: b"")
        own = {
            b"CARGO_MANIFEST_DIR": bytes(package or self.package),
            b"CARGO_HOME": bytes(self.cargo_home),
            b"CARGO_PKG_NAME": b"app",
        }
        cwd = bytes(self.folder / "project")
        return make_plan(
            call,
            cwd=cwd,
            umask=0o022,
            env={**(cargo_env or {}), **own, **(env or {})},
            caller=Caller(1, 1, cargo_env or {}, b"cargo"),
            platform=platform(key),
            externs=self.closures.resolve(call, cwd, links=call.links),
            config=config or Config(),
            stats=self.stats,
            target_dir=bytes(target or self.target),
            input_files=input_files,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Home]:
    """With a package of one file and an empty target directory."""
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    stats = StatCache(index)
    folder = tmp_path / "machine"
    made = Home(folder, index, stats, Closures(index, stats))
    made.out_dir.mkdir(parents=True)
    made.cargo_home.mkdir()
    made.write("src/lib.rs", "Cargo.toml")
    yield made
    index.close()
