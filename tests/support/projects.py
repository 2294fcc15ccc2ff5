"""Real Rust projects, pinned by lock file, laid out in a folder of the test's own.

`tests/projects/<name>/` holds either the project itself (manifests, sources, `Cargo.lock`) or, with
a `layout.toml`, how to lay it out from published packages. Cargo alone talks to the network: the
first checkout on a machine fetches into the user's CARGO_HOME, every later one and every build is
offline. Two checkouts hold the same bytes with the same modes and mtimes.
"""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import attrs

PROJECTS = Path(__file__).resolve().parents[1] / "projects"
# The machine's, also when a fixture has given the test another one: packages are fetched once.
CARGO_HOME = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")

# What cargo itself stamps on every packaged file: older than any build, so nothing looks changed.
_MTIME_S = 1_153_704_088
_NOT_SOURCES = ("target", ".cargo-ok", ".cargo_vcs_info.json", "Cargo.toml.orig")
# A caller's own wrapper, flags or target folder would make a "plain" build something else.
_BUILD_VARIABLES = ("RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER")
_BUILD_PREFIXES = (
    "CARGO_BUILD_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_ENCODED_",
    "CARGO_TERM_",
)
_CARGO_OF_A_CALLER = ("CARGO_INCREMENTAL", "CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS")


class ProjectError(Exception):
    """A project cannot be laid out: unknown, or cargo could not fetch its packages."""


@attrs.frozen
class Project:
    """A checked-out project. `path` holds the workspace's Cargo.toml and is nobody else's."""

    name: str
    path: Path

    @property
    def target(self) -> Path:
        """Where cargo puts everything."""
        return self.path / "target"

    def cargo_argv(self, verb: str = "build", *arguments: str) -> list[str]:
        """A cargo command that neither asks the network nor moves a pin."""
        return ["cargo", verb, "--offline", "--locked", *arguments]


def names() -> list[str]:
    """All projects that `checkout` knows, sorted."""
    return sorted(entry.name for entry in PROJECTS.iterdir() if (entry / "Cargo.lock").is_file())


def checkout(name: str, destination: Path) -> Project:
    """Lay out a project in `destination` (made, must be empty) and have cargo fetch what it needs.

    Raises ProjectError for an unknown name or if cargo cannot fetch.
    """
    recipe = PROJECTS / name
    if name not in names():
        raise ProjectError(f"no project `{name}`; there are: {', '.join(names())}")
    destination.mkdir(parents=True, exist_ok=True)
    if any(destination.iterdir()):
        raise ProjectError(f"{destination} is not empty")
    layout = recipe / "layout.toml"
    if layout.is_file():
        _lay_out(recipe, destination, tomllib.loads(layout.read_text())["packages"])
    else:
        _copy(recipe, destination)
    _fetch(destination)
    return Project(name=name, path=destination)


def published(name: str, crate: str) -> str:
    """The version of a crate that this project pins, fetched into CARGO_HOME.

    Raises ProjectError if cargo cannot fetch.
    """
    folder = PROJECTS / name
    _fetch(folder)
    lock = tomllib.loads((folder / "Cargo.lock").read_text())
    (version,) = {p["version"] for p in lock["package"] if p["name"] == crate}
    return str(version)


def plain_environ(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what would change a build, the machine's CARGO_HOME, and
    `extra`."""
    left_out = {*_BUILD_VARIABLES, *_CARGO_OF_A_CALLER}
    environ = {
        key: value
        for key, value in os.environ.items()
        if key not in left_out and not key.startswith(_BUILD_PREFIXES)
    }
    return {**environ, "CARGO_HOME": CARGO_HOME, **(extra or {})}


def _lay_out(recipe: Path, destination: Path, packages: Mapping[str, str]) -> None:
    """Copy published packages to where the workspace wants them, with their authors' manifests."""
    sources = recipe / "sources"
    _fetch(sources)
    lock = tomllib.loads((sources / "Cargo.lock").read_text())
    versions = {package["name"]: package["version"] for package in lock["package"]}
    registry = _registry_sources(sources)
    for folder, package in sorted(packages.items()):
        source = registry / f"{package}-{versions[package]}"
        _copy(source, destination / folder)
        shutil.copyfile(source / "Cargo.toml.orig", destination / folder / "Cargo.toml")
        (destination / folder / "Cargo.lock").unlink(missing_ok=True)
    shutil.copyfile(recipe / "Cargo.lock", destination / "Cargo.lock")
    _age(destination)


def _copy(source: Path, destination: Path) -> None:
    def not_sources(folder: str, _names: list[str]) -> tuple[str, ...]:
        return _NOT_SOURCES if Path(folder) == source else ()

    shutil.copytree(source, destination, ignore=not_sources, dirs_exist_ok=True)
    _age(destination)


def _age(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            # A registry or a read-only checkout may hold files nobody may write; tests edit theirs.
            path.chmod(path.stat().st_mode & 0o111 | 0o644)
            os.utime(path, (_MTIME_S, _MTIME_S))


def _fetch(folder: Path) -> None:
    """Offline first: on a machine that has everything, nothing asks the network."""
    said = ""
    for more in (["--offline"], []):
        command = ["cargo", "fetch", "--quiet", "--locked", *more]
        run = subprocess.run(
            command, cwd=folder, env=plain_environ(), capture_output=True, text=True, check=False
        )
        if run.returncode == 0:
            return
        said = run.stderr
    raise ProjectError(f"cargo cannot fetch what {folder} needs:\n{said}")


def _registry_sources(folder: Path) -> Path:
    """The folder where cargo unpacked the packages of this lock file.

    Asked for through any library among them: cargo's metadata leaves out packages without one.
    """
    command = ["cargo", "metadata", "--quiet", "--offline", "--locked", "--format-version=1"]
    run = subprocess.run(
        command, cwd=folder, env=plain_environ(), capture_output=True, text=True, check=True
    )
    for package in json.loads(run.stdout)["packages"]:
        if package["source"] is not None:
            return Path(package["manifest_path"]).parents[1]
    raise ProjectError(f"{folder} depends on no published package")
