"""Which folders and files a cargo on another machine needs of this one, read without any cargo.

The rules are cargo's: https://doc.rust-lang.org/cargo/reference/workspaces.html (which manifest is
the root, what its members are), specifying-dependencies.html (`path`, `[patch]`), config.html
(files up the tree, `include`, `paths`, sources in folders). What cannot be read is left to the
cargo there, which says it in its own words; only a missing manifest is said here, as cargo says it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import attrs

from burst_lifecycle.folders import ancestors, outermost, within
from burst_protocol.errors import UsageError
from burst_wrapper.cargo_files import (
    MANIFEST,
    configurations,
    dependency_paths,
    includes,
    joined,
    load,
    member_folders,
    table,
    words,
)

_TARGETS: Final = ("bin", "example", "test", "bench")
_MOST_MANIFESTS: Final = 20_000
"""A glob may reach far more than anybody means; more than any workspace known has."""


class NoManifest(UsageError):
    """could not find `Cargo.toml` in `{folder}` or any parent directory"""

    exit_code = 101
    """As cargo's own."""
    hint = "start it in a package or workspace, or name one with --manifest-path"


class NotAManifest(UsageError):
    """manifest path `{path}` does not exist"""

    exit_code = 101
    hint = "--manifest-path takes the path of a `Cargo.toml`"


@attrs.frozen
class Workspace:
    """Absolute paths, links in them not followed."""

    manifest: bytes
    """What cargo would take for the current package, or a workspace's root without one."""
    root: bytes
    """The folder of the workspace's manifest."""
    roots: tuple[bytes, ...]
    """Folders to mirror, none within another one, the workspace's own first."""
    files: tuple[bytes, ...]
    """Single files outside of these: cargo's configuration up the tree, toolchain files, manifests
    that packages outside inherit from."""
    manifests: tuple[bytes, ...]
    """All that were read, and exist."""


def read(cwd: bytes, manifest_path: bytes | None = None) -> Workspace:
    """NoManifest, NotAManifest. Blocking; reads manifests and nothing else."""
    manifest = find_manifest(cwd, manifest_path)
    reader = _Reader()
    root = reader.root_of(manifest)
    reader.folders.append(os.path.dirname(root))
    reader.follow(root)
    reader.follow(manifest)
    reader.drain()
    reader.configuration(cwd)
    reader.drain()
    roots = outermost(reader.folders)
    files = dict.fromkeys([*reader.files, *toolchain_files(cwd)])
    return Workspace(
        manifest=manifest,
        root=os.path.dirname(root),
        roots=roots,
        files=tuple(sorted(path for path in files if not any(within(path, r) for r in roots))),
        manifests=tuple(sorted(reader.seen)),
    )


def find_manifest(cwd: bytes, manifest_path: bytes | None = None) -> bytes:
    """The nearest `Cargo.toml` at `cwd` or above it. NoManifest, NotAManifest."""
    if manifest_path is not None:
        path = os.path.normpath(os.path.join(cwd, manifest_path))
        if not os.path.isfile(path):
            raise NotAManifest(path=os.fsdecode(manifest_path))
        return path
    for folder in ancestors(cwd):
        path = os.path.join(folder, MANIFEST)
        if os.path.isfile(path):
            return path
    raise NoManifest(folder=os.fsdecode(cwd))


def toolchain_files(cwd: bytes) -> tuple[bytes, ...]:
    """The file that chooses the toolchain for `cwd`, by rustup's rules; at most one.

    https://rust-lang.github.io/rustup/overrides.html: the nearest folder wins; in one folder
    `rust-toolchain` before `rust-toolchain.toml`.
    """
    for folder in ancestors(cwd):
        for name in (b"rust-toolchain", b"rust-toolchain.toml"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return (path,)
    return ()


class _Reader:
    def __init__(self) -> None:
        self.folders: list[bytes] = []
        self.files: list[bytes] = []
        self.seen: set[bytes] = set()
        self._queue: list[bytes] = []
        self._parsed: dict[bytes, dict[str, Any]] = {}

    def follow(self, manifest: bytes) -> None:
        """Look into this one, too, if there is such a file."""
        if manifest not in self.seen and len(self.seen) < _MOST_MANIFESTS:
            if os.path.isfile(manifest):
                self.seen.add(manifest)
                self._queue.append(manifest)
            elif os.path.isdir(os.path.dirname(manifest)):
                self.folders.append(os.path.dirname(manifest))  # cargo there names what lacks

    def drain(self) -> None:
        while self._queue:
            self._look_into(self._queue.pop())

    def toml(self, path: bytes) -> dict[str, Any]:
        """Empty for what is no TOML file."""
        if path not in self._parsed:
            self._parsed[path] = load(path) or {}
        return self._parsed[path]

    def root_of(self, manifest: bytes) -> bytes:
        """The manifest of the workspace it belongs to: itself, if there is no other."""
        document = self.toml(manifest)
        if "workspace" in document:
            return manifest
        folder = os.path.dirname(manifest)
        named = table(document, "package").get("workspace")
        if isinstance(named, str):
            path = os.path.join(joined(folder, named), MANIFEST)
            return path if os.path.isfile(path) else manifest
        for above in ancestors(os.path.dirname(folder)):
            path = os.path.join(above, MANIFEST)
            if os.path.isfile(path):
                workspace = self.toml(path).get("workspace")
                if isinstance(workspace, dict) and not _excluded(workspace, above, folder):
                    return path
        return manifest

    def _look_into(self, manifest: bytes) -> None:
        document = self.toml(manifest)
        folder = os.path.dirname(manifest)
        self.folders.append(folder)
        root = self.root_of(manifest)
        if root != manifest:
            # Versions, lints and dependencies can be inherited from it.
            self.files.append(root)
            self.follow_tables(self.toml(root), os.path.dirname(root))
        for member in member_folders(document, folder):
            self.follow(os.path.join(member, MANIFEST))
        self.follow_tables(document, folder)
        for path in _target_paths(document):
            outside = joined(folder, path)
            if not within(outside, folder):
                self.folders.append(os.path.dirname(outside))

    def follow_tables(self, document: dict[str, Any], folder: bytes) -> None:
        """Every `path` of a manifest's or a configuration's dependencies."""
        for path in dependency_paths(document):
            self.follow(os.path.join(joined(folder, path), MANIFEST))

    def configuration(self, cwd: bytes) -> None:
        """`.cargo/config.toml` of `cwd` and of every folder above, and what they name.

        The user's own, in cargo home, is about this machine (linkers, wrappers, where crates lie)
        and may hold secrets: it stays here.
        """
        home = os.environb.get(b"CARGO_HOME") or os.path.join(os.path.expanduser(b"~"), b".cargo")
        for path in configurations(cwd):
            if os.path.normpath(os.path.dirname(path)) != os.path.normpath(home):
                self._config_file(path, depth=0)

    def _config_file(self, path: bytes, *, depth: int) -> None:
        if path in self.files or depth > 8:
            return
        self.files.append(path)
        document = self.toml(path)
        folder = os.path.dirname(path)
        for included in includes(document):
            other = joined(folder, included)
            if os.path.isfile(other):
                self._config_file(other, depth=depth + 1)
        # Paths in a configuration are relative to the folder that holds `.cargo`.
        base = os.path.dirname(folder)
        self.follow_tables({"patch": document.get("patch")}, base)
        for word in words(document.get("paths")):
            self.follow(os.path.join(joined(base, word), MANIFEST))
        for source in table(document, "source").values():
            for key in ("directory", "local-registry"):
                named = source.get(key) if isinstance(source, dict) else None
                if isinstance(named, str):
                    where = joined(base, named)
                    if os.path.isdir(where):
                        self.folders.append(where)


def _excluded(workspace: dict[str, Any], root: bytes, folder: bytes) -> bool:
    """A member that is named stays one, even in an excluded folder."""
    if any(within(folder, joined(root, word)) for word in words(workspace.get("members"))):
        return False
    return any(within(folder, joined(root, word)) for word in words(workspace.get("exclude")))


def _target_paths(document: dict[str, Any]) -> Iterator[str]:
    """Sources that a package keeps elsewhere."""
    targets: list[object] = [
        document.get("lib"),
        {"path": table(document, "package").get("build")},
    ]
    for kind in _TARGETS:
        listed = document.get(kind)
        targets += listed if isinstance(listed, list) else []
    for target in targets:
        path = target.get("path") if isinstance(target, dict) else None
        if isinstance(path, str):
            yield path
