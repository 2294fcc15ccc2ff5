"""Which folders belong to a project besides its workspace, as its manifests say.

Path dependencies and `[patch]`es outside the workspace (and theirs), and cargo's configuration
files in the folders above it. Cargo is not asked: it need not be installed, and its answer takes
longer than all of this; who has it adds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from burst_lifecycle.folders import outermost
from burst_wrapper import cargo_files
from burst_wrapper.cargo_files import (
    MANIFEST,
    dependency_paths,
    joined,
    load,
    member_folders,
    words,
)
from burst_wrapper.mirror.repository import Stamp, stamp

_MAX_MANIFESTS: Final = 10_000


class Manifests:
    """Remembers what manifests say while they are what they were. Blocking."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Stamp, dict[str, Any] | None]] = {}

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
            manifest = self._read(os.path.join(folder, MANIFEST))
            if manifest is None:
                continue
            wanted.add(folder)
            pending += member_folders(manifest, folder)
            pending += [joined(folder, path) for path in dependency_paths(manifest)]
        return outermost(path for path in sorted(wanted) if os.path.isdir(path))

    def _configured(self, workspace_root: bytes) -> Iterator[bytes]:
        """What cargo's configuration patches or overrides (`[patch]`, `paths`): relative to the
        folder that `.cargo` is in."""
        for path in cargo_files.configurations(workspace_root):
            folder = os.path.dirname(os.path.dirname(path))
            config = self._read(path) or {}
            for named in (*dependency_paths(config), *words(config.get("paths"))):
                yield joined(folder, named)

    def _read(self, path: bytes) -> dict[str, Any] | None:
        now = stamp(path)
        known = self._known.get(path)
        if known is None or known[0] != now:
            known = self._known[path] = (now, load(path))
        return known[1]


def configurations(workspace_root: bytes) -> list[bytes]:
    """Cargo's configuration files above the workspace, if they are there.

    Its own is part of the workspace. One with a token in it is a secret, and stays.
    """
    above = os.path.dirname(os.path.normpath(workspace_root))
    found = cargo_files.configurations(above)
    return [path for path in found if not _has_token(path)]


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


def _has_token(path: bytes) -> bool:
    """Whether a registry's token stands in it (cargo's `registry.token`, `registries.*.token`,
    `secret-key`)."""
    config = load(path)
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
