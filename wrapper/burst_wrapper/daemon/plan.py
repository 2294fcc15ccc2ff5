"""One rustc call, planned: everything known before a source file is read, and its weak key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import attrs

from burst_protocol.digest import KeyHasher
from burst_wrapper import environ
from burst_wrapper.argv import RustcCall
from burst_wrapper.callers import Caller
from burst_wrapper.closures import Externs
from burst_wrapper.config import Config
from burst_wrapper.daemon.platform import Platform
from burst_wrapper.macro_libraries import libraries
from burst_wrapper.statcache import StatCache

KEY_VERSION: Final = b"2"
TARGET: Final = b"\0target\0"


@attrs.define
class Plan:
    """A unit to be run: the call, its surroundings, its weak key."""

    call: RustcCall
    cwd: bytes
    umask: int
    env: Mapping[bytes, bytes]
    caller: Caller | None
    platform: Platform
    externs: Externs
    declared: tuple[tuple[bytes, bytes], ...]
    """Variables that are sent and keyed in any case."""
    out_dir: bytes
    target_dir: bytes
    package_dir: bytes
    immutable: bool
    """The package's sources cannot change: below cargo's registry or git checkouts."""
    shareable: bool
    """Nothing but the target directory tells this unit from the same one elsewhere."""
    extra_files: tuple[bytes, ...]
    macro_libraries: tuple[bytes, ...]
    """What ld.so loads with the macros of this unit, besides toolchain and system."""
    unknown_macros: bool
    """Loads macros that the configuration does not name as ones that read nothing."""
    forward: frozenset[bytes]
    manifest: tuple[tuple[bytes, bytes], ...]
    weak_key: bytes
    stderr_key: bytes
    alone: bool = False
    """Known to use what lies in its target directory: another one's run is no use to it."""

    @property
    def crate(self) -> bytes:
        return self.call.crate_name or b"?"

    @property
    def outputs_key(self) -> tuple[bytes, bytes]:
        """Who owns these output paths: out-dir, and cargo's name for the unit."""
        return (self.out_dir, self.call.stem + b" " + b",".join(self.call.crate_types))

    def neutral(self, value: bytes) -> bytes:
        if not self.shareable or self.alone:
            return value
        return value.replace(self.target_dir, TARGET)

    def speaks_of_target(self, name: bytes) -> bool:
        """Whether this variable of the unit tells one target directory from another.

        `LD_LIBRARY_PATH` does, but what is found through it is in the key by itself.
        """
        if not self.shareable or name == b"LD_LIBRARY_PATH":
            return False
        return self.target_dir in self.env.get(name, b"")


def make_plan(
    call: RustcCall,
    *,
    cwd: bytes,
    umask: int,
    env: Mapping[bytes, bytes],
    caller: Caller | None,
    platform: Platform,
    externs: Externs,
    config: Config,
    stats: StatCache,
    target_dir: bytes,
    input_files: tuple[bytes, ...],
) -> Plan:
    """Pure but for the stats of the few files that the configuration or argv name."""
    out_dir = os.path.join(cwd, call.out_dir or b"")
    root = os.path.join(cwd, call.input or b"")
    package_dir = env.get(b"CARGO_MANIFEST_DIR") or os.path.dirname(root)
    cargo_home = env.get(b"CARGO_HOME") or os.path.join(env.get(b"HOME", b"/"), b".cargo")
    immutable = package_dir.startswith(
        (cargo_home + b"/registry/src/", cargo_home + b"/git/checkouts/")
    )
    shareable = (
        immutable
        and call.incremental is None
        and not any(search.kind == b"native" for search in call.search_paths)
        and externs.known
    )
    rule = config.rule(call.crate_name or b"")
    forward = frozenset(config.forward_env) | frozenset(config.key_env) | frozenset(rule.key_env)
    declared = environ.select(
        env,
        None if caller is None else caller.environ,
        forward=forward,
        links=call.links,
    )
    extra = tuple(
        dict.fromkeys(
            [os.path.join(cwd, path) for path in input_files]
            + [os.path.normpath(os.path.join(package_dir, path)) for path in rule.extra_inputs]
        )
    )

    def neutral(value: bytes) -> bytes:
        return value.replace(target_dir, TARGET) if shareable else value

    manifest: list[tuple[bytes, bytes]] = [
        (b"version", KEY_VERSION),
        (b"platform", platform.key),
        (b"driver", b"clippy" if call.is_clippy else b"rustc"),
        (b"cwd", neutral(cwd)),
        (b"argfile", b"yes" if call.used_argfile else b"no"),
    ]
    manifest += [(b"arg", neutral(arg)) for arg in call.key_args]
    for name, value in declared:
        if name == b"PATH" and not externs.macros:
            value = platform.effective_path(value)  # noqa: PLW2901 - what it means here
        manifest.append((b"env " + name, neutral(value)))
    for label, files in ((b"extern ", externs.files), (b"macro ", externs.macros)):
        manifest += [(label + os.path.basename(f.path), f.digest.hash) for f in files]
    macro_libraries = libraries(externs.macros, env, platform)
    for path in macro_libraries:
        state = stats.digest(path)
        digest = b"absent" if state is None else state.digest.hash
        manifest.append((b"macro library " + neutral(path), digest))
    for path in extra:
        state = stats.digest(path)
        manifest.append((b"file " + path, b"absent" if state is None else state.digest.hash))
    hasher = KeyHasher(b"burst weak 1")
    hasher.add(*[field for pair in manifest for field in pair])
    return Plan(
        call=call,
        cwd=cwd,
        umask=umask,
        env=env,
        caller=caller,
        platform=platform,
        externs=externs,
        declared=declared,
        out_dir=out_dir,
        target_dir=target_dir,
        package_dir=package_dir,
        immutable=immutable,
        shareable=shareable,
        extra_files=extra,
        macro_libraries=macro_libraries,
        unknown_macros=not _names(externs).issubset(config.pure_macros),
        forward=forward,
        manifest=tuple(manifest),
        weak_key=hasher.key(),
        stderr_key=b"\0".join(call.stderr_args),
    )


def _names(externs: Externs) -> set[bytes]:
    """Crate names of the macros: `libserde_derive-0123.so` is `serde_derive`."""
    files = (os.path.basename(macro.path).removeprefix(b"lib") for macro in externs.macros)
    return {file.rpartition(b".")[0].rpartition(b"-")[0] or file for file in files}
