"""Where cargo's files lie, and which other folders and files they name.

The rules are cargo's: https://doc.rust-lang.org/cargo/reference/workspaces.html,
specifying-dependencies.html (`path`, `[patch]`), config.html. Nothing here fails: what cannot be
read or understood names nothing, and cargo says so better.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from burst_lifecycle.folders import ancestors

MANIFEST: Final = b"Cargo.toml"
_DEPENDENCIES: Final = (
    "dependencies",
    "dev-dependencies",
    "build-dependencies",
    "dev_dependencies",
    "build_dependencies",
)


def config_file(folder: bytes) -> bytes:
    """The file cargo reads in a `.cargo` folder or cargo home: `config` wins if it exists."""
    legacy = os.path.join(folder, b"config")
    return legacy if os.path.exists(legacy) else legacy + b".toml"


def configurations(folder: bytes) -> Iterator[bytes]:
    """The configuration files of this folder and of those above it, the nearest first."""
    for above in ancestors(folder):
        path = config_file(os.path.join(above, b".cargo"))
        if os.path.isfile(path):
            yield path


def load(path: bytes) -> dict[str, Any] | None:
    """None for what is no TOML file."""
    try:
        with open(path, "rb") as file:
            import tomllib  # noqa: PLC0415 - 3 ms, and many projects have no such file

            return tomllib.load(file)
    except (OSError, ValueError):
        return None


def table(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Empty where nothing or something else stands."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def words(value: object) -> list[str]:
    """Of a list, what is text."""
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def includes(config: Mapping[str, Any]) -> list[str]:
    """`include`, which is a path, a list of paths, or of tables with a `path`."""
    value = config.get("include")
    entries = value if isinstance(value, list) else [value]
    paths = [entry.get("path") if isinstance(entry, dict) else entry for entry in entries]
    return [path for path in paths if isinstance(path, str)]


def dependency_paths(document: Mapping[str, Any]) -> Iterator[str]:
    """Every `path` of a manifest's, or a configuration's, dependencies and patches."""
    holders = [document, table(document, "workspace")]
    holders += [one for one in table(document, "target").values() if isinstance(one, dict)]
    tables = [table(holder, name) for holder in holders for name in _DEPENDENCIES]
    tables += [one for one in table(document, "patch").values() if isinstance(one, dict)]
    tables.append(table(document, "replace"))
    for dependencies in tables:
        for dependency in dependencies.values():
            path = dependency.get("path") if isinstance(dependency, dict) else None
            if isinstance(path, str):
                yield path


def joined(folder: bytes, path: str) -> bytes:
    """Absolute and normalised, as a file in `folder` means it."""
    return os.path.normpath(os.path.join(folder, os.fsencode(path)))


def member_folders(manifest: Mapping[str, Any], folder: bytes) -> Iterator[bytes]:
    """What a workspace's `members` and `default-members` name and `exclude` does not."""
    workspace = table(manifest, "workspace")
    excluded = {joined(folder, word) for word in words(workspace.get("exclude"))}
    for key in ("members", "default-members"):
        for pattern in words(workspace.get(key)):
            yield from (found for found in _expand(folder, pattern) if found not in excluded)


def _expand(folder: bytes, pattern: str) -> list[bytes]:
    """Folders that a member's pattern names; cargo's `*` takes hidden ones, too."""
    if not glob.has_magic(pattern):
        return [joined(folder, pattern)]
    inside = os.path.join(glob.escape(folder), os.fsencode(pattern))
    found = glob.iglob(os.path.normpath(inside), recursive=True, include_hidden=True)
    return [each for each in found if os.path.isfile(os.path.join(each, MANIFEST))]
