"""Which cargo is started on another machine, and in what environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from burst_wrapper.driver import surroundings
from burst_wrapper.driver.errors import CannotProbe, NoToolchainThere
from burst_wrapper.driver.kept_names import pattern
from burst_wrapper.driver.missing import named_folders
from burst_wrapper.driver.toolchains import PROBE, Machine, Wanted, find, wanted

HOME = "/home/me/.rustup/toolchains"
MACHINE = Machine(
    machine="x86_64",
    home="/home/me",
    toolchains=(
        f"{HOME}/1.80-x86_64-unknown-linux-gnu",
        f"{HOME}/1.80.1-x86_64-unknown-linux-gnu",
        f"{HOME}/nightly-2026-01-01-x86_64-unknown-linux-gnu",
        f"{HOME}/stable-x86_64-unknown-linux-gnu",
        f"{HOME}/mine",
    ),
    plain=("/usr",),
    default="stable-x86_64-unknown-linux-gnu",
    rustup="/home/me/.cargo/bin/rustup",
)


@pytest.mark.parametrize(
    ("channel", "found"),
    [
        ("1.80", "1.80-x86_64-unknown-linux-gnu"),
        ("1.80.1", "1.80.1-x86_64-unknown-linux-gnu"),
        ("nightly-2026-01-01", "nightly-2026-01-01-x86_64-unknown-linux-gnu"),
        ("nightly", None),
        ("stable", "stable-x86_64-unknown-linux-gnu"),
        ("stable-x86_64-unknown-linux-gnu", "stable-x86_64-unknown-linux-gnu"),
        ("mine", "mine"),
        ("mi", None),
        ("1.8", None),
        ("", "stable-x86_64-unknown-linux-gnu"),
    ],
)
def test_by_its_name(channel: str, found: str | None) -> None:
    """As rustup names its folders; a prefix of a name is not that name."""
    assert find(MACHINE, Wanted(channel)) == (found and f"{HOME}/{found}")


def test_without_a_default() -> None:
    assert find(Machine(machine="x86_64", plain=("/usr",)), Wanted()) == "/usr"
    assert find(Machine(machine="x86_64", rustup="/r"), Wanted()) is None
    with pytest.raises(NoToolchainThere):
        find(Machine(machine="x86_64"), Wanted())


def test_who_says_which(tmp_path: Path) -> None:
    """`+x`, then RUSTUP_TOOLCHAIN, then the file: one line, or TOML under either name."""
    legacy, table = tmp_path / "rust-toolchain", tmp_path / "rust-toolchain.toml"
    legacy.write_text("1.79\n")
    table.write_text(
        '[toolchain]\nchannel = "1.81"\ncomponents = ["rustfmt"]\ntargets = ["wasm32-wasip1"]\n'
    )
    files = [bytes(legacy)]
    environ = {b"RUSTUP_TOOLCHAIN": b"beta"}
    assert wanted("nightly", environ, files) == Wanted("nightly", "+nightly")
    assert wanted("", environ, files) == Wanted("beta", "RUSTUP_TOOLCHAIN")
    assert wanted("", {}, files) == Wanted("1.79", str(legacy))
    assert wanted("", {}, [bytes(table)]) == Wanted(
        "1.81", str(table), ("rustfmt",), ("wasm32-wasip1",)
    )
    assert wanted("", {}, []) == Wanted()
    legacy.write_text(table.read_text())
    assert wanted("", {}, files).channel == "1.81"
    for text in ("[toolchain]\npath = '/x'\n", "[toolchain", "toolchain = 3\n", "two words\n"):
        table.write_text(text)
        assert wanted("", {}, [bytes(table)]) == Wanted()


def test_what_a_machine_says(tmp_path: Path) -> None:
    """By the real shell script, over folders as rustup lays them out."""
    ours, account = tmp_path / "ours", tmp_path / "home"
    for cargo in (
        ours / "toolchains/1.80-x86_64-unknown-linux-gnu/bin/cargo",
        account / ".rustup/toolchains/with space/bin/cargo",
        account / ".cargo/bin/rustup",
        account / ".cargo/bin/sccache",
    ):
        cargo.parent.mkdir(parents=True, exist_ok=True)
        cargo.write_text("#!/bin/sh\n")
        cargo.chmod(0o755)
    (account / ".rustup/settings.toml").write_text('version = "12"\ndefault_toolchain = "with"\n')
    said = subprocess.run(
        ["/bin/sh", "-c", PROBE, "sh", str(ours)],
        env={"HOME": str(account), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    machine = Machine.parse(said.stdout, "there")
    assert said.stderr == b""
    assert machine.machine == os.uname().machine
    assert machine.toolchains[:2] == (
        str(ours / "toolchains/1.80-x86_64-unknown-linux-gnu"),
        str(account / ".rustup/toolchains/with space"),
    )
    assert machine.default == "with"
    assert machine.rustup == str(account / ".cargo/bin/rustup")
    assert machine.sccache == str(account / ".cargo/bin/sccache")
    with pytest.raises(CannotProbe):
        Machine.parse(b"", "there")


def test_what_of_the_users_environment_goes_there() -> None:
    goes = {
        b"CARGO_PROFILE_DEV_DEBUG": b"0",
        b"CARGO_TERM_COLOR": b"always",
        b"CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS": b"-C x",
        b"RUSTFLAGS": b"-g",
        b"TERM": b"xterm",
    }
    stays = {
        b"CARGO_HOME": b"/c",
        b"CARGO_TARGET_DIR": b"/t",
        b"CARGO_BUILD_TARGET_DIR": b"/t",
        b"CARGO_BUILD_RUSTC_WRAPPER": b"w",
        b"CARGO_REGISTRY_TOKEN": b"s",
        b"CARGO_REGISTRIES_X_TOKEN": b"s",
        b"CARGO_NET_SOME_TOKEN": b"s",
        b"CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER": b"r",
        b"RUSTC_WRAPPER": b"w",
        b"HOME": b"/h",
        b"PATH": b"/p",
        b"AWS_SECRET": b"s",
        b"SSH_AUTH_SOCK": b"/a",
        b"BURST_HOST": b"h",
    }
    assert surroundings.of_user({**goes, **stays}) == goes
    found = surroundings.of_cargo(
        environ={**goes, **stays},
        named=[(b"CARGO_REGISTRIES_X_TOKEN", b"named")],
        machine=MACHINE,
        toolchain="/opt/rust/toolchain",
        store_root=b"/store",
        target_dir=b"/p/target",
        session="1",
    )
    assert found[b"PATH"].startswith(b"/opt/rust/toolchain/bin:/home/me/.cargo/bin:")
    assert found[b"CARGO_HOME"] == b"/store/driver/cargo"
    assert found[b"CARGO_TARGET_DIR"] == b"/p/target"
    assert found[b"RUSTC_WRAPPER"] == b""
    assert b"SCCACHE_DIR" not in found
    assert found[b"CARGO_REGISTRIES_X_TOKEN"] == b"named"
    assert b"AWS_SECRET" not in found


def test_what_cargo_says_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/Cargo.toml").write_text("")
    said = (
        f"error: failed to load manifest for dependency `far`\n\nCaused by:\n"
        f"  failed to read `{tmp_path}/far/Cargo.toml`\n  `{tmp_path}/none/Cargo.toml`\n"
    )
    assert named_folders(said.encode()) == [bytes(tmp_path / "far")]


@pytest.mark.parametrize("name", [b"debug/app", b"debug/a[1]*?", b"d/ #x!\\y"])
def test_names_as_patterns(name: bytes) -> None:
    """Each names itself, and nothing else."""
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines([pattern(name)])
    assert spec.match_file(os.fsdecode(name))
    assert not spec.match_file("debug/a1xx")
    assert not spec.match_file("x/" + os.fsdecode(name))
