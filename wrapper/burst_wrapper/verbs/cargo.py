"""The cargo of this machine: which program, how it is asked, and what it says about a project."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from burst_lifecycle.folders import ancestors
from burst_protocol.errors import EnvironmentProblem
from burst_wrapper.cargo_files import MANIFEST
from burst_wrapper.paths import cargo_home
from burst_wrapper.processes import Completed, find_program, run_program
from burst_wrapper.rustup import is_rustups
from burst_wrapper.verbs.command_line import CommandLine

_HANDED_TO_METADATA: Final = (
    "--manifest-path",
    "--config",
    "-Z",
    "--locked",
    "--offline",
    "--frozen",
)
_EXTERNAL: Final = frozenset({"clippy", "fmt", "miri"})


class NoCargo(EnvironmentProblem):
    """there is no cargo on this machine's PATH"""

    exit_code = 127
    code = "no-cargo"
    hint = "install Rust, or let cargo run on a host: `--driver remote --host user@host`"


class NoRustup(EnvironmentProblem):
    """`{toolchain}` needs rustup, and {program} is not rustup's"""

    code = "no-rustup"
    hint = "call the cargo of that toolchain by its path, or install rustup"


@attrs.frozen
class Cargo:
    """One program with the toolchain that was asked for."""

    program: bytes
    environ: Mapping[bytes, bytes] = attrs.field(repr=False)
    """What it is started with: this process's own, without what cargo set for us as its
    subcommand."""
    toolchain: str = ""
    cwd: bytes = attrs.field(factory=os.getcwdb)

    @classmethod
    def find(cls, environ: Mapping[bytes, bytes], toolchain: str = "") -> Cargo:
        """NoCargo, NoRustup."""
        environ = dict(environ)
        cwd = os.getcwdb()
        called_by = environ.pop(b"CARGO", b"")
        if toolchain:
            environ.pop(b"RUSTUP_TOOLCHAIN", None)
            found = find_program(b"cargo", cwd, environ)
            if found is None:
                raise NoCargo
            if not is_rustups(found):
                raise NoRustup(toolchain=toolchain, program=os.fsdecode(found))
            return cls(found, environ, toolchain, cwd)
        found = called_by if called_by and os.access(called_by, os.X_OK) else None
        found = found or find_program(b"cargo", cwd, environ)
        found = found or find_program(cargo_home(environ) + b"/bin/cargo", cwd, environ)
        if found is None:
            raise NoCargo
        return cls(found, environ, toolchain, cwd)

    def argv(self, words: Sequence[str]) -> list[bytes]:
        """The command line for cargo's words."""
        first = [self.toolchain] if self.toolchain else []
        return [self.program, *(os.fsencode(word) for word in (*first, *words))]

    def ask(self, *words: str) -> Completed:
        """Quick questions: up to 60 s."""
        return run_program(self.argv(words), self.cwd, self.environ)

    def commands(self) -> tuple[list[str], dict[str, str]]:
        """All that `cargo --list` knows, and of these the aliases with their words."""
        names: list[str] = []
        aliases: dict[str, str] = {}
        for line in self.ask("--list").stdout.decode("utf-8", "surrogateescape").splitlines():
            if line.startswith("    "):
                name, _, text = line.strip().partition(" ")
                names.append(name)
                text = text.strip()
                if text.startswith("alias: "):
                    aliases[name] = text.removeprefix("alias: ")
        return names, aliases

    def has_command(self, name: str) -> bool:
        """Whether `cargo NAME` is a program here; where cargo itself looks."""
        program = os.fsencode(f"cargo-{name}")
        home = find_program(cargo_home(self.environ) + b"/bin/" + program, self.cwd, self.environ)
        return home is not None or find_program(program, self.cwd, self.environ) is not None

    def host(self) -> str:
        """The target triple of programs built without `--target`; empty if cargo does not say."""
        for line in self.ask("-vV").stdout.decode("utf-8", "replace").splitlines():
            if line.startswith("host: "):
                return line.removeprefix("host: ").strip()
        return ""


def for_external(line: CommandLine) -> CommandLine:
    """Cargo drops its own options before a subcommand that is another program: `cargo --locked
    clippy` checks nothing. Behind its name they count."""
    if not line.before or not (line.verb in _EXTERNAL or line.verb.startswith("nextest ")):
        return line
    return attrs.evolve(line, before=(), arguments=(*line.before, *line.arguments))


# -- what it says about a project ------------------------------------------------------------------


@attrs.frozen
class Target:
    """Something that a package builds."""

    name: str
    kinds: tuple[str, ...]
    test: bool
    doctest: bool

    @property
    def kind(self) -> str:
        """As in a manifest: `lib`, `bin`, `test`, `bench`, `example`, `custom-build`."""
        return kind_of(self.kinds)


def kind_of(kinds: Sequence[str]) -> str:
    """What cargo calls `rlib`, `cdylib` and the like is a `lib` in a manifest."""
    first = kinds[0] if kinds else ""
    return first if first in _KINDS else "lib"


_KINDS: Final = frozenset({"bin", "test", "bench", "example", "custom-build"})


@attrs.frozen
class Package:
    id: str
    name: str
    manifest: str
    targets: tuple[Target, ...]


@attrs.frozen
class Project:
    """A workspace. Paths are absolute."""

    root: str
    target_dir: str
    packages: tuple[Package, ...]
    defaults: tuple[str, ...]
    """Ids of the packages that are meant where nothing else is said: in a member's folder that
    one, else what cargo calls the default members."""


@attrs.frozen
class NoProject:
    """Why there is none, in cargo's own words, and its exit code."""

    said: bytes
    status: int


def project(cargo: Cargo, line: CommandLine) -> Project | NoProject:
    """The workspace that a command line is about, from wherever in it."""
    words = ["metadata", "--no-deps", "--format-version=1", "--quiet"]
    for name, value in line.options():
        if name in _HANDED_TO_METADATA:
            words += [name] if value is None else [name, value]
    answer = cargo.ask(*words)
    if answer.status:
        return NoProject(answer.stderr, answer.status)
    try:
        document = json.loads(answer.stdout)
        found = _project(document)
    except (ValueError, KeyError, TypeError) as error:
        return NoProject(f"error: cargo's metadata cannot be read: {error}\n".encode(), 101)
    member = _member(found, cargo.cwd, line)
    if member is not None:
        found = attrs.evolve(found, defaults=(member.id,))
    given = line.values("--target-dir")
    if given:
        found = attrs.evolve(found, target_dir=os.path.join(os.fsdecode(cargo.cwd), given[-1]))
    return found


def _member(found: Project, cwd: bytes, line: CommandLine) -> Package | None:
    """Whose manifest this command line is about; None for a workspace without a package."""
    given = line.values("--manifest-path")
    folder = os.path.realpath(cwd)
    if given:
        wanted = os.path.realpath(os.path.join(folder, os.fsencode(given[-1])))
    else:
        manifests = (os.path.join(above, MANIFEST) for above in ancestors(folder))
        found_one = next(filter(os.path.exists, manifests), None)
        if found_one is None:
            return None
        wanted = found_one
    members = (
        one for one in found.packages if os.path.realpath(os.fsencode(one.manifest)) == wanted
    )
    package = next(members, None)
    # In the root itself, `default-members` may name others.
    is_root = os.path.dirname(wanted) == os.path.realpath(os.fsencode(found.root))
    return None if is_root else package


def _project(document: Any) -> Project:
    packages = tuple(
        Package(
            package["id"],
            package["name"],
            package["manifest_path"],
            tuple(
                Target(
                    target["name"],
                    tuple(target["kind"]),
                    bool(target.get("test")),
                    bool(target.get("doctest")),
                )
                for target in package["targets"]
            ),
        )
        for package in document["packages"]
    )
    members = document["workspace_members"]
    return Project(
        document["workspace_root"],
        document["target_directory"],
        packages,
        tuple(document.get("workspace_default_members") or members),
    )
