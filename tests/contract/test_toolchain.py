"""Resolution against the rustc, rustup and toolchains of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING

import attrs
import pytest

from burst_protocol.errors import ToolchainProblem
from burst_wrapper.processes import Completed, run_program
from burst_wrapper.toolchain import (
    Toolchain,
    ToolchainCache,
    TreeSource,
    driver_libraries,
    is_proxy,
    resolve,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("rustc") is None, reason="needs rustc")

ENV = {
    name: value
    for name, value in os.environb.items()
    if name not in (b"RUSTUP_TOOLCHAIN", b"LD_LIBRARY_PATH", b"RUSTC")
}


def rustup_toolchains() -> list[bytes]:
    """Names as in `rustup toolchain list`; none without rustup."""
    if shutil.which("rustup") is None:
        return []
    done = run_program((b"rustup", b"toolchain", b"list"), b"/", ENV)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]


needs_rustup = pytest.mark.skipif(not rustup_toolchains(), reason="needs rustup")


def nightly() -> bytes:
    for name in rustup_toolchains():
        if name.startswith(b"nightly"):
            return name
    pytest.skip("needs a nightly toolchain")


@attrs.define
class Counting:
    """Runs programs and keeps what was run."""

    started: list[bytes] = attrs.field(factory=list)

    def __call__(self, argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Completed:
        self.started.append(argv[0])
        return run_program(argv, cwd, env)


@pytest.fixture(scope="module")
def default() -> Toolchain:
    return resolve(b"rustc", b"/", ENV)


@pytest.fixture(scope="module")
def scratch() -> Iterator[bytes]:
    """On the same disk as most home folders, so that toolchains can be hard-linked."""
    folder = os.path.realpath(tempfile.mkdtemp(prefix=b"burst-test-", dir=b"/var/tmp"))
    yield folder
    shutil.rmtree(folder)


def link_tree(source: bytes, place: bytes) -> None:
    """A copy that shares the bytes."""

    def link(old: str, new: str) -> None:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)

    shutil.copytree(os.fsdecode(source), os.fsdecode(place), symlinks=True, copy_function=link)


@pytest.fixture(scope="module")
def custom(default: Toolchain, scratch: bytes) -> bytes:
    """A self-built toolchain as `x.py` leaves it: std's sources are a link into the checkout."""
    sysroot = os.path.join(scratch, b"checkout/build/host/stage1")
    os.makedirs(os.path.join(sysroot, b"bin"))
    link_tree(os.path.join(default.sysroot, b"lib"), os.path.join(sysroot, b"lib"))
    shutil.copy2(default.rustc, os.path.join(sysroot, b"bin/rustc"))
    checkout = os.path.join(scratch, b"checkout")
    os.makedirs(os.path.join(checkout, b"library/std/src"))
    with open(os.path.join(checkout, b"library/std/src/lib.rs"), "wb"):
        pass
    shutil.rmtree(os.path.join(sysroot, b"lib/rustlib/src"), ignore_errors=True)
    os.makedirs(os.path.join(sysroot, b"lib/rustlib/src"))
    os.symlink(b"../../../../../..", os.path.join(sysroot, b"lib/rustlib/src/rust"))
    return sysroot


# --- what is resolved --------------------------------------------------------------------------


def test_a_toolchain_is_complete_and_free_of_what_compiles_do_not_read(default: Toolchain) -> None:
    """bin/rustc, the driver and LLVM, the host's folder; no documentation, no installer records."""
    paths = {entry.path for entry in default.entries}
    assert default.rustc in paths
    assert os.path.exists(default.rustc)
    assert default.version.startswith(b"rustc ")
    assert set(driver_libraries(default.sysroot)) <= paths
    assert os.path.join(default.sysroot, b"lib/rustlib", default.host) in paths
    for entry in default.entries:
        assert os.path.lexists(entry.path)
        assert b"/share/" not in entry.path
        assert not entry.path.endswith((b"multirust-channel-manifest.toml", b"/rustlib/etc"))
    assert [e.path for e in default.entries] == sorted(paths)


@needs_rustup
def test_proxy_and_real_rustc_give_the_same_toolchain(default: Toolchain) -> None:
    """However it is called: the proxy's name, the real path, or clippy-driver."""
    assert resolve(default.rustc, b"/", ENV) == default
    if default.clippy_driver is not None:
        assert resolve(default.clippy_driver, b"/", ENV) == default
        assert resolve(b"clippy-driver", b"/", ENV) == default
    assert is_proxy(os.fsencode(shutil.which("rustc") or ""))
    assert not is_proxy(default.rustc)


@needs_rustup
def test_nightly_is_resolved_for_its_variable_and_its_file(
    default: Toolchain, tmp_path: Path
) -> None:
    """RUSTUP_TOOLCHAIN, or rust-toolchain.toml in a folder above, as rustup decides."""
    name = nightly()
    by_variable = resolve(b"rustc", b"/", {**ENV, b"RUSTUP_TOOLCHAIN": b"nightly"})
    assert b"-nightly" in by_variable.version
    assert by_variable.sysroot != default.sysroot
    assert os.path.basename(by_variable.sysroot) == name
    (tmp_path / "rust-toolchain.toml").write_bytes(b'[toolchain]\nchannel = "nightly"\n')
    (tmp_path / "deep/er").mkdir(parents=True)
    assert resolve(b"rustc", os.fsencode(tmp_path / "deep/er"), ENV) == by_variable


@needs_rustup
def test_a_linked_toolchain_keeps_both_spellings(default: Toolchain, scratch: bytes) -> None:
    """`toolchains/mine` is a link: the caller's path and rustc's own must both exist."""
    home = os.path.join(scratch, b"rustup")
    os.makedirs(os.path.join(home, b"toolchains"))
    os.symlink(default.sysroot, os.path.join(home, b"toolchains/mine"))
    env = {**ENV, b"RUSTUP_HOME": home, b"RUSTUP_TOOLCHAIN": b"mine"}
    link = TreeSource(os.path.join(home, b"toolchains/mine"), "symlink")
    for argv0 in (b"rustc", os.path.join(home, b"toolchains/mine/bin/rustc")):
        linked = resolve(argv0, b"/", env)
        assert linked.rustc == default.rustc
        assert set(linked.entries) == {*default.entries, link}
    spelled = {**ENV, b"LD_LIBRARY_PATH": b"/nowhere:" + home + b"/toolchains/mine/lib"}
    assert link in resolve(default.rustc, b"/", spelled).entries


def test_a_self_built_toolchain_brings_its_sources_but_not_its_checkout(
    custom: bytes, scratch: bytes
) -> None:
    """The link `lib/rustlib/src/rust` leads to a whole checkout; only `library/` is read."""
    built = resolve(custom + b"/bin/rustc", b"/", ENV)
    assert built.sysroot == custom
    kinds = {entry.path: entry.kind for entry in built.entries}
    assert kinds[custom + b"/lib/rustlib/src/rust"] == "symlink"
    assert kinds[scratch + b"/checkout/library"] == "dir"
    assert scratch + b"/checkout" not in kinds


def test_a_distributions_rustc_does_not_bring_the_distribution(
    default: Toolchain, scratch: bytes
) -> None:
    """Sysroot /usr: of a shared lib folder only what belongs to rustc."""
    usr = os.path.join(scratch, b"usr")
    os.makedirs(usr + b"/bin")
    link_tree(default.sysroot + b"/lib", usr + b"/lib")
    shutil.copy2(default.rustc, usr + b"/bin/rustc-1.99")
    os.symlink(b"rustc-1.99", usr + b"/bin/rustc")
    os.makedirs(usr + b"/lib/python3")
    for number in range(40):
        with open(usr + b"/lib/libforeign%d.so" % number, "wb"):
            pass
    packaged = resolve(usr + b"/bin/rustc", b"/", ENV)
    names = [entry.path.removeprefix(usr) for entry in packaged.entries]
    assert b"/bin/rustc" in names
    assert b"/bin/rustc-1.99" in names
    assert packaged.rustc == usr + b"/bin/rustc-1.99"
    assert b"/lib/rustlib/" + default.host in names
    assert any(name.startswith(b"/lib/librustc_driver") for name in names)
    assert not any(b"foreign" in name or b"python" in name for name in names)
    # What it loads from the shared folder comes with the runtime, as every system library.
    assert not any(b"libLLVM" in name for name in names)


def test_other_targets_come_only_when_asked_for(custom: bytes) -> None:
    """`rustup target add` must not make every stored result a miss."""
    target = custom + b"/lib/rustlib/wasm32-wasip1"
    os.makedirs(target + b"/lib")
    try:
        built = resolve(custom + b"/bin/rustc", b"/", ENV)
        assert target not in {entry.path for entry in built.sources()}
        assert target in {entry.path for entry in built.sources(b"wasm32-wasip1")}
    finally:
        shutil.rmtree(target)


# --- what is refused ---------------------------------------------------------------------------


def test_what_is_no_compiler_is_a_problem(default: Toolchain, tmp_path: Path) -> None:
    """Scripts (they may add arguments), rustdoc, other programs, nothing at all."""
    script = tmp_path / "rustc"
    script.write_text(f'#!/bin/sh\nexec {os.fsdecode(default.rustc)} "$@"\n')
    script.chmod(0o755)
    rustdoc = os.path.join(os.path.dirname(default.rustc), b"rustdoc")
    for argv0 in (os.fsencode(script), rustdoc, b"true", b"no-such-rustc", b"/"):
        with pytest.raises(ToolchainProblem):
            resolve(argv0, b"/", ENV)


@needs_rustup
def test_a_toolchain_that_is_not_installed_is_a_problem_not_a_download() -> None:
    """Asking has no effects; the message is rustup's."""
    with pytest.raises(ToolchainProblem, match="does not answer"):
        resolve(b"rustc", b"/", {**ENV, b"RUSTUP_TOOLCHAIN": b"1.2.3"})


def test_relative_names_are_the_callers(default: Toolchain) -> None:
    """`../bin/rustc` means the caller's folder, not the daemon's."""
    folder = os.path.join(default.sysroot, b"lib")
    assert resolve(b"../bin/rustc", folder, ENV).rustc == default.rustc
    with pytest.raises(ToolchainProblem):
        resolve(b"../bin/rustc", b"/usr/lib/nowhere", ENV)


# --- the memory --------------------------------------------------------------------------------


def test_a_repeat_starts_nothing(default: Toolchain) -> None:
    """One question per toolchain and caller, not per unit."""
    run = Counting()
    cache = ToolchainCache(run)
    for _ in range(3):
        assert cache.resolve(b"rustc", b"/", ENV) == default
    assert len(run.started) == 2


@needs_rustup
def test_a_new_toolchain_file_is_noticed(default: Toolchain, tmp_path: Path) -> None:
    """The proxy's answer depends on files of the working directory that may not exist yet."""
    nightly()
    cache = ToolchainCache()
    cwd = os.fsencode(tmp_path)
    assert cache.resolve(b"rustc", cwd, ENV) == default
    (tmp_path / "rust-toolchain").write_bytes(b"nightly\n")
    assert b"-nightly" in cache.resolve(b"rustc", cwd, ENV).version
    (tmp_path / "rust-toolchain").unlink()
    assert cache.resolve(b"rustc", cwd, ENV) == default


def test_a_replaced_compiler_is_noticed(custom: bytes) -> None:
    """A rebuilt rustc has the same path; the old answer must not be used."""
    run = Counting()
    cache = ToolchainCache(run)
    rustc = custom + b"/bin/rustc"
    first = cache.resolve(rustc, b"/", ENV)
    shutil.copy2(rustc, rustc + b".new")
    os.replace(rustc + b".new", rustc)
    assert cache.resolve(rustc, b"/", ENV) == first
    assert len(run.started) == 4
    with open(custom + b"/lib/librustc_added.so", "wb"):
        pass
    assert custom + b"/lib/librustc_added.so" in {
        entry.path for entry in cache.resolve(rustc, b"/", ENV).entries
    }


@pytest.mark.slow
def test_clippy_driver_is_usable_where_the_toolchain_has_it(
    default: Toolchain, tmp_path: Path
) -> None:
    """The path given is the real program, started without rustup."""
    if default.clippy_driver is None:
        pytest.skip("no clippy")
    done = subprocess.run(
        [default.clippy_driver, "--version"], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stdout.startswith(b"clippy ")
