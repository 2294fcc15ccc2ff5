"""Which folders belong to a project besides its workspace, as its manifests say.

Path dependencies and `[patch]`es outside the workspace (and theirs), and cargo's configuration
files in the folders above it. Cargo is not asked: it need not be installed, and its answer takes
longer than all of this; who has it adds it.
"""

from __future__ import annotations

import glob
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from burst_wrapper.mirror.repository import Stamp, stamp

_TABLES: Final = ("dependencies", "dev-dependencies", "build-dependencies")
_TABLES_OLD: Final = ("dev_dependencies", "build_dependencies")
_MAX_MANIFESTS: Final = 10_000
_MAGIC: Final = re.compile(rb"[*?[]")


@attrs.frozen
class _Manifest:
    stamp: Stamp
    members: tuple[bytes, ...] = ()
    """Patterns, relative to its folder."""
    paths: tuple[bytes, ...] = ()
    """Folders it depends on, relative to its own."""
    there: bool = False


class Manifests:
    """Remembers what manifests say while they are what they were. Blocking."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Manifest] = {}

    def roots(self, workspace_root: bytes, more: Iterable[bytes]) -> tuple[bytes, ...]:
        """Absolute folders, none inside another; the workspace's is in one of them.

        What cannot be read or understood is left to cargo, which says so better.
        """
        wanted = {os.path.normpath(workspace_root), *map(os.path.normpath, more)}
        seen: set[bytes] = set()
        pending = [*wanted, *self._configured(os.path.normpath(workspace_root))]
        while pending and len(seen) < _MAX_MANIFESTS:
            folder = pending.pop()
            if folder in seen:
                continue
            seen.add(folder)
            manifest = self._manifest(folder)
            if not manifest.there:
                continue
            wanted.add(folder)
            for pattern in manifest.members:
                if _MAGIC.search(pattern):
                    found = glob.iglob(os.path.join(glob.escape(folder), pattern))
                    pending += map(os.path.normpath, found)
                else:
                    pending.append(os.path.normpath(os.path.join(folder, pattern)))
            pending += [os.path.normpath(os.path.join(folder, path)) for path in manifest.paths]
        return outermost(path for path in wanted if os.path.isdir(path))

    def _configured(self, workspace_root: bytes) -> Iterator[bytes]:
        """What cargo's configuration patches or overrides (`[patch]`, `paths`): relative to the
        folder that `.cargo` is in."""
        for config in _configurations(workspace_root):
            folder = os.path.dirname(os.path.dirname(config))
            for path in self._read(config).paths:
                yield os.path.normpath(os.path.join(folder, path))

    def _manifest(self, folder: bytes) -> _Manifest:
        return self._read(os.path.join(folder, b"Cargo.toml"))

    def _read(self, path: bytes) -> _Manifest:
        now = stamp(path)
        known = self._known.get(path)
        if known is None or known.stamp != now:
            content = _load(path)
            if content is None:
                known = _Manifest(now)
            else:
                known = _Manifest(now, tuple(_members(content)), tuple(_paths(content)), there=True)
            self._known[path] = known
        return known


def outermost(paths: Iterable[bytes]) -> tuple[bytes, ...]:
    """Without those that lie in another one."""
    kept: list[bytes] = []
    for path in sorted(set(paths)):
        if not kept or not path.startswith(kept[-1].rstrip(b"/") + b"/"):
            kept.append(path)
    return tuple(kept)


def configurations(workspace_root: bytes) -> list[bytes]:
    """Cargo's configuration files above the workspace, if they are there.

    Its own is part of the workspace. One with a token in it is a secret, and stays.
    """
    above = os.path.dirname(os.path.normpath(workspace_root))
    return [path for path in _configurations(above) if not _has_token(path)]


def _configurations(folder: bytes) -> Iterator[bytes]:
    """Of this folder and those above it, the nearest first; cargo takes one of two names."""
    while True:
        for name in (b".cargo/config.toml", b".cargo/config"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path
                break
        parent = os.path.dirname(folder)
        if parent == folder:
            return
        folder = parent


def readable(
    paths: Iterable[bytes],
    workspace_root: bytes,
    target_dir: bytes,
    environ: Mapping[bytes, bytes],
) -> Iterator[bytes]:
    """Of files that units read, those that could belong to a project: beside its workspace, or in
    the user's home, but no toolchain's and no registry's.

    The folder of such a file is shown to programs in place of what lies there on their machine, so
    it must be no folder of the system.
    """
    home = environ.get(b"HOME", b"/nonexistent").rstrip(b"/")
    beside = os.path.dirname(os.path.normpath(workspace_root)).rstrip(b"/")
    kept_out = [
        environ.get(b"CARGO_HOME") or os.path.join(home, b".cargo"),
        environ.get(b"RUSTUP_HOME") or os.path.join(home, b".rustup"),
        target_dir,
    ]
    inside = tuple(folder + b"/" for folder in (home, beside) if folder)
    outside = tuple(folder.rstrip(b"/") + b"/" for folder in kept_out if folder)
    for path in paths:
        if path.startswith(inside) and not path.startswith(outside):
            yield path


def _load(path: bytes) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError):
        return None


def _members(manifest: dict[str, Any]) -> Iterator[bytes]:
    members = _table(manifest, "workspace").get("members")
    for member in members if isinstance(members, list) else ():
        if isinstance(member, str):
            yield os.fsencode(member)


def _paths(manifest: dict[str, Any]) -> Iterator[bytes]:
    """What its dependencies and patches say after `path`."""
    tables = [manifest, _table(manifest, "workspace")]
    tables += [target for target in _table(manifest, "target").values() if isinstance(target, dict)]
    for table in tables:
        for name in (*_TABLES, *_TABLES_OLD, "replace"):
            yield from _paths_in(_table(table, name))
    for patched in _table(manifest, "patch").values():
        if isinstance(patched, dict):
            yield from _paths_in(patched)
    overrides = manifest.get("paths")  # of a configuration file
    for path in overrides if isinstance(overrides, list) else ():
        if isinstance(path, str):
            yield os.fsencode(path)


def _paths_in(dependencies: dict[str, Any]) -> Iterator[bytes]:
    for dependency in dependencies.values():
        if isinstance(dependency, dict) and isinstance(dependency.get("path"), str):
            yield os.fsencode(dependency["path"])


def _table(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _has_token(path: bytes) -> bool:
    """Whether a registry's token stands in it (cargo's `registry.token`, `registries.*.token`,
    `secret-key`)."""
    config = _load(path)
    if config is None:
        return True  # not understood: not sent
    pending: list[dict[str, Any]] = [config]
    while pending:
        table = pending.pop()
        for name, value in table.items():
            if name in {"token", "secret-key"}:
                return True
            if isinstance(value, dict):
                pending.append(value)
    return False
