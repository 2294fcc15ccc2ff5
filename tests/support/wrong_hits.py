"""Plain cargo and cargo through burst, at one path, state after state: never a different result.

A wrong hit needs a history: something was built, then the world changed in a way that a key might
not hold. `Twin` keeps one history for each of the two, by swapping their target folders at the
project's path, and compares after every change, from the kept target folders and from empty ones.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from compare import compare_targets, report
from space import BURST_RUSTC, Done, Space

APP = '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n'
_SCRATCH = re.compile(r"/rustc[0-9A-Za-z]{6}/")
"""rustc's temporary folders in the command lines of failed links."""
_TIMES = re.compile(r" in \d+(\.\d+)?m?s| \d+(\.\d+)?s$")


def workspace(*members: str) -> str:
    """A virtual manifest."""
    return f'[workspace]\nresolver = "2"\nmembers = {list(members)}\n'.replace("'", '"')


def package(name: str, *dependencies: str, **more: str) -> str:
    """A manifest; `dependencies` are paths of siblings or whole lines, `more` are sections."""
    lines = ["[package]", f'name = "{name}"', 'version = "0.1.0"', 'edition = "2021"']
    lines += [f"{key} = {value}" for key, value in more.items() if "\n" not in value]
    lines += ["", "[dependencies]"]
    lines += [
        line if "=" in line else f'{line} = {{ path = "../{line}" }}' for line in dependencies
    ]
    lines += [value for value in more.values() if "\n" in value]
    return "\n".join(lines) + "\n"


@attrs.frozen
class Result:
    """What one cargo command and then the program it built came to."""

    status: int
    stdout: str
    stderr: str
    ran: Done | None

    def __str__(self) -> str:
        ran = "not built" if self.ran is None else f"{self.ran.stdout}{self.ran.stderr}"
        return f"status {self.status}\n{self.stdout}{self.stderr}program: {ran}"


@attrs.define
class Twin:
    """`agree` after every change, with a project that makes `program` in its target folder."""

    space: Space
    program: str = "debug/app"
    target: str = "target"
    """Relative to the project, as cargo is told."""
    incremental: bool = False
    """Whether the environment says so: some bytes are random then."""
    _said: str = attrs.field(default="", init=False)

    @property
    def project(self) -> Path:
        return self.space.project

    @property
    def _shelf(self) -> Path:
        """Beside the project: neither cargo nor a scan of the project finds it there."""
        return self.project.with_name(self.project.name + ".targets")

    # -- changing the world --------------------------------------------------------------------

    def write(self, files: Mapping[str, str | None]) -> Twin:
        """Files of the project; None removes one (or a whole folder)."""
        for name, text in files.items():
            path = self.project / name
            if text is None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return self

    # -- looking -------------------------------------------------------------------------------

    def agree(
        self, says: str | None, *arguments: str, complains: str = "", **env: str
    ) -> dict[str, str]:
        """Four builds: kept and from empty, plain and burst. Returns where burst's last one ran.

        `says` is what the program prints when it was built from empty; None: the build fails.
        """
        argv = arguments or ("build",)
        stale = self._build("plain", argv, env, keep=True)
        ours = self._build("burst", argv, env, keep=True)
        self._same("with the target folder kept", stale, ours, ("plain", "burst"))
        fresh = self._build("plain-empty", argv, env, keep=False)
        ours = self._build("burst-empty", argv, env, keep=False)
        self._same("from an empty target folder", fresh, ours, ("plain-empty", "burst-empty"))
        if says is None:
            assert ours.status != 0, f"this should fail\n{ours}"
        else:
            assert ours.status == 0, str(ours)
            if ours.ran is not None:
                assert ours.ran.stdout.strip() == says, str(ours)
        assert complains in ours.stderr, str(ours)
        self._said = ours.stderr
        return self.space.where()

    def complained(self, text: str) -> bool:
        """Whether the last build from empty said that."""
        return text in self._said

    def _build(
        self, name: str, argv: tuple[str, ...], env: Mapping[str, str], *, keep: bool
    ) -> Result:
        target, shelved = self.project / self.target, self._shelf / name
        self._shelf.mkdir(exist_ok=True)
        if not keep:
            shutil.rmtree(shelved, ignore_errors=True)
        if shelved.exists():
            shelved.rename(target)
        if self.target != "target":
            env = {"CARGO_TARGET_DIR": self.target, **env}
        run = self.space.plain if name.startswith("plain") else self.space.cargo
        try:
            done = run(argv[0], "-q", "-j1", "--offline", *argv[1:], **env)
            program = target / self.program
            ran = self.space.run(program) if done.status == 0 and program.exists() else None
        finally:
            if target.exists():
                target.rename(shelved)
        return Result(done.status, done.stdout, self._neutral(done.stderr), ran)

    def _neutral(self, stderr: str) -> str:
        """Without what cargo says of time, and of the wrapper when a compile failed."""
        text = _SCRATCH.sub("/rustc…/", stderr.replace(f"{BURST_RUSTC} ", ""))
        return "\n".join(_TIMES.sub("", line) for line in text.splitlines())

    def _same(self, how: str, plain: Result, burst: Result, names: tuple[str, str]) -> None:
        told = f"{how}:\n--- plain\n{plain}\n--- burst\n{burst}\n"
        if plain != burst:
            pytest.fail(told + self.space.burst("explain").stdout + self.space.log(), pytrace=False)
        if plain.status == 0:
            one, other = (self._shelf / name for name in names)
            differences = compare_targets(one, other, incremental=self.incremental)
            assert not differences, told + report(differences)

    def reasons(self) -> dict[str, str]:
        """Crate to reason code and text, of the units of the last build that ran at home."""
        units = self.space.units()
        local = (unit for unit in units if unit["where"] == "local")
        return {unit["crate"]: f"{unit['reason']}: {unit['why']}" for unit in local}


# What macros do, without a crate to parse tokens: one string literal in, one out.
MACROS = """
use proc_macro::TokenStream;
use std::{env, fs, path::PathBuf};
fn text(input: TokenStream) -> String { input.to_string().trim_matches('"').to_string() }
fn literal(text: impl AsRef<str>) -> TokenStream { format!("{:?}", text.as_ref()).parse().unwrap() }
fn place(input: TokenStream) -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap()).join(text(input))
}
"""


def macro_crate(name: str, body: str) -> dict[str, str]:
    """A proc macro package; in `body`, `text`, `literal` and `place` are at hand."""
    return {
        f"{name}/Cargo.toml": package(name) + "[lib]\nproc-macro = true\n",
        f"{name}/src/lib.rs": MACROS + body,
    }


@contextmanager
def machines() -> Iterator[Space]:
    """One daemon and one store for all tests of a module: the more history, the better."""
    with Space.open(CARGO_INCREMENTAL="0") as space:
        yield space


@contextmanager
def twins(machine: Space, test: str) -> Iterator[Twin]:
    """A new project on that machine, in a folder of its own: equal sources of two tests are two."""
    name = re.sub(r"\W+", "-", test.removeprefix("test_"))[-24:].strip("-")
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=machine.folder))
    yield Twin(attrs.evolve(machine, project=folder))
    for path in (folder, folder.with_name(folder.name + ".targets")):
        shutil.rmtree(path, ignore_errors=True)


def stamp(path: Path) -> tuple[int, int]:
    """Times of a file, for `os.utime(path, ns=…)`."""
    status = os.stat(path)
    return status.st_atime_ns, status.st_mtime_ns
