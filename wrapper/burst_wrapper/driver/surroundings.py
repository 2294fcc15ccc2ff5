"""What a cargo on another machine finds in its environment: pure.

Nothing of the user's is exported but what cargo itself is configured by, in the user's own shell,
and what is named (`--env`, `forward_env`, `driver_tokens`). Places are that machine's: cargo home
and sccache's files lie on its volume, shared by all projects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Final

from burst_wrapper.driver.toolchains import Machine, cargo_homes

_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_CARGOS: Final = re.compile(
    rb"CARGO_(?:PROFILE_|TERM_|NET_|HTTP_|UNSTABLE_|FUTURE_INCOMPAT|RESOLVER_|INCREMENTAL$|LOG$"
    rb"|ENCODED_RUST(?:DOC)?FLAGS$|ALIAS_|BUILD_(?:JOBS|TARGET|RUST(?:DOC)?FLAGS|INCREMENTAL"
    rb"|DEP_INFO_BASEDIR|WARNINGS)$|TARGET_[A-Z0-9_]+_(?:RUSTFLAGS|LINKER)$|CACHE_)"
)
"""https://doc.rust-lang.org/cargo/reference/environment-variables.html: what says how to build, and
not where things are or who may fetch them."""
_OTHERS: Final = re.compile(
    rb"RUSTFLAGS$|RUSTDOCFLAGS$|RUST_(?:BACKTRACE|LIB_BACKTRACE|MIN_STACK|TEST_\w+|LOG)$|NO_COLOR$"
    rb"|CLICOLOR(?:_FORCE)?$|TERM$|COLORTERM$|LANG$|LC_\w+$|NEXTEST_\w+$|SOURCE_DATE_EPOCH$"
    rb"|RUSTC_BOOTSTRAP$"
)
PREFIX: Final = b"BURST_DRIVE_"
ONLINE: Final = b"BURST_ONLINE"
"""For the runner of a session that drives: `1`, in the machine's own network."""
TOOLCHAIN: Final = b"BURST_TOOLCHAIN"
"""Likewise: a sysroot of this machine that is shown there."""


def kept(store_root: bytes, name: str) -> str:
    """A folder that every project's cargo there shares."""
    return f"{os.fsdecode(store_root)}/driver/{name}"


def of_user(environ: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What of the user's own environment a cargo is configured by."""
    return {
        name: value
        for name, value in environ.items()
        if (_CARGOS.match(name) or _OTHERS.match(name)) and not name.endswith(b"_TOKEN")
    }


def of_cargo(
    *,
    environ: Mapping[bytes, bytes],
    named: Iterable[tuple[bytes, bytes]],
    machine: Machine,
    toolchain: str,
    store_root: bytes,
    target_dir: bytes,
    session: str,
) -> dict[bytes, bytes]:
    """The whole environment, without our prefix. `toolchain`: its folder there."""
    places = [f"{toolchain}/bin", *(f"{home}/bin" for home in cargo_homes(machine))]
    cargo_home = kept(store_root, "cargo")
    places += [f"{cargo_home}/bin", _SYSTEM_PATH]
    found = of_user(environ)
    found |= dict(named)
    found |= {
        b"PATH": os.fsencode(":".join(places)),
        b"CARGO_HOME": os.fsencode(cargo_home),
        b"CARGO_TARGET_DIR": target_dir,
        # A project's own configuration may name a wrapper of home's: burst's launcher, say.
        b"RUSTC_WRAPPER": os.fsencode(machine.sccache),
    }
    if machine.sccache:
        found |= {
            b"SCCACHE_DIR": os.fsencode(kept(store_root, "sccache")),
            # Its server compiles: one of another project would do so among that one's files.
            b"SCCACHE_SERVER_UDS": f"/tmp/sccache-{session}.sock".encode(),  # noqa: S108 - private
        }
    return found


def of_rustup(
    machine: Machine, store_root: bytes, environ: Mapping[bytes, bytes]
) -> dict[bytes, bytes]:
    """For rustup there: it installs into our folder, whoever owns that machine's own."""
    places = [os.path.dirname(machine.rustup), _SYSTEM_PATH]
    return {
        **of_user(environ),
        b"PATH": os.fsencode(":".join(places)),
        b"RUSTUP_HOME": os.fsencode(kept(store_root, "rustup")),
        b"CARGO_HOME": os.fsencode(kept(store_root, "cargo")),
    }


def for_runner(variables: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """As the runner is given them."""
    return {PREFIX + name: value for name, value in variables.items()}
