"""Which variables a program on another machine sees: cargo's, what the user named, a few more.

Nothing of the user's environment is exported by itself: it is full of this machine's paths and of
secrets. What cargo or nextest set for the program is told from it by comparison with the
environment that `cargo burst` had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_ALWAYS: Final = frozenset(
    {
        *(b"CARGO_MANIFEST_DIR", b"CARGO_MANIFEST_PATH", b"CARGO_PRIMARY_PACKAGE", b"OUT_DIR"),
        *(b"CARGO_CRATE_NAME", b"CARGO_BIN_NAME", b"CARGO_TARGET_TMPDIR"),
        *(b"RUST_BACKTRACE", b"RUST_LIB_BACKTRACE", b"RUST_MIN_STACK", b"NO_COLOR"),
    }
)
"""Set by cargo though the caller may have had the same, or arguments of the test harness itself."""
_ALWAYS_PREFIXES: Final = (
    *(b"CARGO_PKG_", b"CARGO_BIN_EXE_", b"CARGO_MANIFEST_LINKS", b"NEXTEST"),
    *(b"RUST_TEST_", b"CLICOLOR"),
)
_AT_A_TERMINAL: Final = (b"TERM", b"COLORTERM")
_NEVER: Final = frozenset(
    {
        *(b"CARGO", b"CARGO_HOME", b"RUSTUP_HOME", b"RUSTUP_TOOLCHAIN", b"CARGO_MAKEFLAGS"),
        *(b"MAKEFLAGS", b"MFLAGS", b"MAKELEVEL", b"RUSTC", b"RUSTDOC", b"RUSTC_WRAPPER"),
        *(b"RUSTC_WORKSPACE_WRAPPER", b"CARGO_BUILD_RUSTC_WRAPPER", b"RUST_RECURSION_COUNT"),
        *(b"HOME", b"PATH", b"PWD", b"OLDPWD", b"SHLVL", b"_", b"TMPDIR", b"LD_PRELOAD"),
        *(b"USER", b"LOGNAME", b"SHELL", b"CARGO_TARGET_DIR", b"CARGO_BUILD_BUILD_DIR"),
    }
)
"""They speak of this machine's processes and files, and the other one has its own."""
_NEVER_PREFIXES: Final = (b"BURST_", b"HCLOUD_", b"SSH_", b"CARGO_TARGET_", b"CARGO_REGISTR")
TARGET_DIR: Final = b"CARGO_TARGET_DIR"
INSTA_ROOT: Final = b"INSTA_WORKSPACE_ROOT"


def program_environ(
    program: Mapping[bytes, bytes],
    before: Mapping[bytes, bytes],
    named: Iterable[tuple[bytes, bytes]],
    *,
    terminal: bool,
    target_dir: bytes,
    workspace_root: bytes,
) -> tuple[tuple[bytes, bytes], ...]:
    """`program`: what it was started with here; `before`: what `cargo burst` had; `named`: by
    `--env` and `forward_env`, which is stronger than all of it.

    `CARGO_TARGET_DIR` is the plain target directory: criterion, which would ask cargo for it, puts
    its reports where they are at home. insta asks cargo for the workspace, to which the paths of
    test sources are relative, unless `INSTA_WORKSPACE_ROOT` says it (`get_cargo_workspace` in its
    src/env.rs): it would not find the snapshots of a workspace's member.
    """
    seen = {TARGET_DIR: target_dir, INSTA_ROOT: before.get(INSTA_ROOT, workspace_root)}
    for name, value in program.items():
        if name in _ALWAYS or name.startswith(_ALWAYS_PREFIXES):
            seen[name] = value
        elif name in _NEVER or name.startswith(_NEVER_PREFIXES):
            continue
        elif before.get(name) != value or (terminal and name in _AT_A_TERMINAL):
            seen[name] = value
    seen.update(named)
    return tuple(sorted(seen.items()))


DRIVE_PREFIX: Final = b"BURST_DRIVE_"


def drive_environ(program: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Of a cargo that runs elsewhere: exactly what its runner was given for it."""
    prefix = DRIVE_PREFIX
    return tuple(
        sorted(
            (name[len(prefix) :], value)
            for name, value in program.items()
            if name.startswith(prefix) and name != prefix
        )
    )
