"""The CI recipe of the README: several jobs at once, each with an empty home, over one ssh host.

Every job is a machine of its own: home, daemon, checkout. Over SSH each has an agent process of its
own, too, and only the store on the host is common to them: equal actions in flight must run once
all the same. What ran is counted from the jobs' own records.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from faults import MANIFEST, Running
from space import CARGO_BURST, Space
from sshd import Sshd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

JOBS: Final = 5
PLACES: Final = 3
"""Checkouts beside each other: two would do, and each has a daemon of its own."""
CRATES: Final = ("base", "text", "tables", "clock", "core")
LIBRARY: Final = (
    "use std::collections::BTreeMap;\n"
    "pub fn {name}(words: &[&str]) -> BTreeMap<String, usize> {{\n"
    "    let mut map = BTreeMap::new();\n"
    "    for word in words {{ *map.entry(word.to_lowercase()).or_default() += 1; }}\n"
    "    map\n}}\n"
)
MAIN: Final = 'fn main() {{ println!("{{}}", {calls}); }}\n'


@pytest.fixture(scope="module")
def server() -> Iterator[Sshd]:
    with Sshd.for_user() as sshd:
        # As on a host that has been used before: the toolchain is there.
        with job(sshd) as space:
            space.write({"Cargo.toml": MANIFEST.format(name="first"), "src/lib.rs": ""})
            space.cargo("build").check()
        yield sshd


@contextmanager
def job(server: Sshd) -> Iterator[Space]:
    """A machine that has never built anything."""
    with Space.open(BURST_HOST=server.address, CARGO_INCREMENTAL="0") as space:
        shutil.copytree(server.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
        yield space


def registry(folder: Path) -> Path:
    """Packages where cargo keeps those of registries: each needs the one before it."""
    sources = folder / "cargo" / "registry" / "src" / "index-0123456789abcdef"
    before = ""
    for name in CRATES:
        package = sources / f"{name}-0.1.0"
        (package / "src").mkdir(parents=True)
        needs = f'[dependencies]\n{before}.path = "../{before}-0.1.0"\n' if before else ""
        (package / "Cargo.toml").write_text(MANIFEST.format(name=name) + needs)
        (package / "src" / "lib.rs").write_text(LIBRARY.format(name=name))
        before = name
    return sources


def checkout(space: Space, sources: Path) -> None:
    needs = "".join(f'{name}.path = "{sources}/{name}-0.1.0"\n' for name in CRATES)
    calls = " + ".join(f'{name}::{name}(&["a"]).len()' for name in CRATES)
    space.project.mkdir(exist_ok=True)
    space.write(
        {
            "Cargo.toml": '[workspace]\nmembers = ["app", "own"]\nresolver = "2"\n',
            "app/Cargo.toml": MANIFEST.format(name="app")
            + f'[dependencies]\nown.path = "../own"\n{needs}',
            "app/src/main.rs": MAIN.format(calls=calls + ' + own::own(&["b"]).len()'),
            "own/Cargo.toml": MANIFEST.format(name="own"),
            "own/src/lib.rs": LIBRARY.format(name="own"),
        }
    )


def executed(spaces: list[Space]) -> Counter[str]:
    """How often each crate was really compiled, over all jobs."""
    counter: Counter[str] = Counter()
    for space in spaces:
        units = space.units()
        assert len(units) == len(CRATES) + 2, units
        for unit in units:
            assert unit["where"] in {"remote", "hit"}, unit
            counter[unit["crate"]] += unit["reason"] == "executed"
    return counter


def test_checkouts_in_several_places(server: Sshd) -> None:
    """What is the same wherever it is checked out is compiled once: packages of registries."""
    with (
        tempfile.TemporaryDirectory(prefix="burst-ci-", dir="/var/tmp") as folder,
        ExitStack() as s,
    ):
        sources = registry(Path(folder))
        spaces = []
        for _ in range(PLACES):
            space = s.enter_context(job(server))
            space.env["CARGO_HOME"] = str(Path(folder, "cargo"))
            checkout(space, sources)
            spaces.append(space)
        runs = [s.enter_context(Running.start(space, BURST_REQUIRE_REMOTE="1")) for space in spaces]
        for run in runs:
            run.finish().check()
        counted = executed(spaces)
        assert {name: counted[name] for name in CRATES} == dict.fromkeys(CRATES, 1)
        said = {space.run("target/debug/app").check().stdout for space in spaces}
        assert said == {"6\n"}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="binds folders")
def test_runners_with_equal_paths(server: Sshd) -> None:
    """As CI's machines are: the checkout lies at one path on all of them. Then everything is
    compiled once, the workspace's own crates and the program, too."""
    with (
        tempfile.TemporaryDirectory(prefix="burst-ci-", dir="/var/tmp") as folder,
        ExitStack() as s,
    ):
        sources = registry(Path(folder))
        place = Path(folder, "runner")
        place.mkdir()
        spaces = []
        for _ in range(JOBS):
            space = s.enter_context(job(server))
            # What follows on the stack ends before the machine's folder goes.
            inside = Inside(s.enter_context(bound(space.folder, place)))
            space.env["CARGO_HOME"] = str(Path(folder, "cargo"))
            checkout(space, sources)
            there = attrs.evolve(space, env={**space.env, **at(place)})
            s.callback(there.run, *inside.argv, CARGO_BURST, "stop", cwd="/")
            spaces.append((space, there, inside))
        runs = [
            s.enter_context(
                Running.start(
                    there,
                    "build",
                    prefix=(*inside.argv, "env", f"--chdir={place}/p"),
                    cwd=Path("/"),
                    BURST_REQUIRE_REMOTE="1",
                )
            )
            for _, there, inside in spaces
        ]
        for run in runs:
            run.finish().check()
        counted = executed([space for space, _, _ in spaces])
        assert counted == dict.fromkeys((*CRATES, "own", "app"), 1)
        programs = {(space.project / "target/debug/app").read_bytes() for space, _, _ in spaces}
        assert len(programs) == 1


def at(place: Path) -> dict[str, str]:
    return {"HOME": str(place / "home"), "XDG_RUNTIME_DIR": str(place / "run")}


@attrs.frozen
class Inside:
    """A mount namespace, by a process that holds it."""

    pid: int

    @property
    def argv(self) -> tuple[str, ...]:
        return ("nsenter", f"--mount=/proc/{self.pid}/ns/mnt")


@contextmanager
def bound(source: Path, place: Path) -> Iterator[int]:
    """A process in whose mount namespace `place` is `source`."""
    script = 'mount --bind "$0" "$1" && echo ready && exec sleep infinity'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, str(source), str(place)],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
