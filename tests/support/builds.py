"""One cargo command with and without burst, and all in which the two builds must be one.

`same_bits` builds plain, through burst, and through burst again from an empty target/ (from the
store), all at one path, and compares every file below target/, what cargo printed, and whether
each of the two is Fresh for the other. `same_failure` does it for commands that fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from compare import compare_targets, report
from projects import CARGO_HOME, checkout
from space import BURST_RUSTC, Done, Space, without_waiting

_MEASUREMENTS = os.environ.get("BURST_TEST_MEASUREMENTS")
WRAPPED = {"RUSTC_WRAPPER": str(BURST_RUSTC)}

Runner = Callable[..., Done]
"""`run_under`, or something like it."""

_COUNTS = re.compile(r"(?<= generated )\d+ warnings?( \(.*\))?$")
_SECONDS = re.compile(r" in (\d+m )?\d+(\.\d+)?s$", re.MULTILINE)
# For one cargo command on a machine with more to do; nothing is asserted about time.
_PATIENCE_S = 1800
_TEMPORARY = re.compile(r"/rustc\w{6}/")
_WORK = re.compile(r"^\s+(Compiling|Checking|Dirty|Running|Building|Documenting)\b", re.MULTILINE)


@attrs.frozen
class Same:
    """What `same_bits` saw; the builds by name, the units of those through burst."""

    plain: Done
    cold: Done
    warm: Done
    cold_units: list[dict[str, Any]]
    warm_units: list[dict[str, Any]]
    compared_files: int

    def sent_bytes(self) -> tuple[int, int]:
        """Cold and warm, over all units."""
        cold, warm = (sum(u["sent_bytes"] for u in us) for us in (self.cold_units, self.warm_units))
        return cold, warm


@contextmanager
def machine(**env: str) -> Iterator[Space]:
    """A developer's machine with the packages that this one has. `Space.open` explains the rest."""
    with Space.open(CARGO_HOME=CARGO_HOME, **env) as space:
        yield space


def at(space: Space, path: Path) -> Space:
    """The same machine and daemon, another project folder (made)."""
    path.mkdir(parents=True, exist_ok=True)
    return attrs.evolve(space, project=path)


def with_project(space: Space, name: str, path: Path | None = None) -> Space:
    """The same machine with a project from tests/projects."""
    other = at(space, path or space.folder / name)
    checkout(name, other.project)
    return other


def with_env(space: Space, env: Mapping[str, str]) -> Space:
    """The same machine with more variables."""
    return attrs.evolve(space, env={**space.env, **env})


def same_bits(
    space: Space,
    *arguments: str,
    incremental: bool = False,
    local: Mapping[str, str] | None = None,
    folders: Sequence[Path] = (),
    run: Runner | None = None,
    plain: Mapping[str, str] | None = None,
    burst: Mapping[str, str] | None = None,
    between: Callable[[], object] = lambda: None,
    fresh: bool = True,
    exact: bool = False,
    env: Mapping[str, str] | None = None,
) -> Same:
    """Build three times and compare; AssertionError with the differences and burst's log.

    `local`: crates that the policy keeps at home, with the reason's code; no other may be.
    `folders`: what to compare instead of target/. `run`: how a command is started.
    `env`: variables of all builds, `plain` and `burst` of one side only. `between`: before the
    third build, say to forget the home store. `exact`: output in the same order too, for builds
    without parallel units.
    """
    run = run or run_under
    folders = folders or (space.project / "target",)
    both = {"CARGO_INCREMENTAL": str(int(incremental)), **(env or {})}
    first = {**both, **(plain or {})}
    second = {"BURST_REQUIRE_REMOTE": "1", **both, **(WRAPPED if burst is None else burst)}
    argv = ("cargo", *arguments)
    first_space, second_space = with_env(space, first), with_env(space, second)

    _empty(folders)
    plainly = run(first_space, *argv).check()
    _set_aside(folders, "plain")
    seen = _journals(space)
    cold = _checked(space, run(second_space, *argv))
    assert _journals(space) - seen, "cargo did not go through burst\n" + space.log()
    cold_units = space.units()
    assert_where(space, cold_units, local or {})
    files = _assert_equal(space, folders, "cold", incremental=incremental)
    _assert_output(plainly, cold, exact=exact)

    _empty(folders)
    between()
    warm = _checked(space, run(second_space, *argv))
    warm_units = space.units()
    assert_where(space, warm_units, local or {}, only_hits=True)
    _assert_equal(space, folders, "from the store", incremental=incremental)
    _assert_output(plainly, warm, exact=exact)
    if fresh:
        verbose = ("cargo", arguments[0], "-v", *arguments[1:])
        assert_fresh(_checked(space, run(second_space, *verbose)))
        assert_fresh(run(first_space, *verbose))
        _empty(folders)
        _set_back(folders, "plain")
        assert_fresh(_checked(space, run(second_space, *verbose)))
    return Same(plainly, cold, warm, cold_units, warm_units, files)


def same_failure(
    space: Space,
    *arguments: str,
    exact: bool = True,
    env: Mapping[str, str] | None = None,
) -> Done:
    """A command that fails: status and output equal, twice. Returns what plain cargo said."""
    target = space.project / "target"
    space = with_env(space, {"CARGO_INCREMENTAL": "0", **(env or {})})
    _empty([target])
    said = space.plain(*arguments)
    assert said.status != 0, f"plain cargo did not fail\n{said.stderr}"
    for _ in range(2):
        _empty([target])
        ours = space.cargo(*arguments)
        assert ours.status == said.status, f"{ours.status}\n{ours.stderr}\n{space.log()}"
        _assert_output(said, ours, exact=exact)
        wrong = [unit for unit in space.units() if unit["where"] in ("failed", "cancelled")]
        assert not wrong, f"{wrong}\n{space.log()}"
    return said


def assert_where(
    space: Space,
    units: list[dict[str, Any]],
    local: Mapping[str, str],
    *,
    only_hits: bool = False,
) -> None:
    """Every unit remote or from a store, but for those that the policy keeps at home."""
    assert units, "no unit is recorded\n" + space.log()
    wrong = []
    for unit in units:
        expected = ("hit",) if only_hits else ("remote", "hit")
        if unit["crate"] in local:
            if unit["where"] == "local" and unit["reason"] == local[unit["crate"]]:
                continue
        elif unit["where"] in expected:
            continue
        fields = ("crate", "kind", "where", "executor", "reason", "why")
        wrong.append(" ".join(str(unit[name]) for name in fields))
    assert not wrong, "\n".join(wrong) + "\n" + space.log()


def assert_fresh(build: Done) -> None:
    """Cargo had nothing to do. The command must have been verbose."""
    build.check()
    work = _WORK.findall(build.stderr)
    assert not work, f"not fresh: {build.stderr[-4000:]}"
    assert " Fresh " in build.stderr, build.stderr


def normal(text: str) -> str:
    """Cargo's output without durations, waiting, and the names of rustc's temporary folders."""
    text = _TEMPORARY.sub("/rustcXXXXXX/", text)
    return without_waiting(_SECONDS.sub(" in a moment", text))


def run_under(space: Space, *argv: str | Path, umask: str = "") -> Done:
    """A command in the project's folder."""
    if umask:
        argv = ("sh", "-c", f'umask {umask}; exec "$@"', "sh", *argv)
    return space.run(*argv, timeout_s=_PATIENCE_S)


def save_measurement(name: str, **values: object) -> None:
    """One line of numbers for people, where BURST_TEST_MEASUREMENTS names a file."""
    if _MEASUREMENTS:
        line = json.dumps({"what": name, "time_s": int(time.time()), **values})
        with open(_MEASUREMENTS, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _checked(space: Space, done: Done) -> Done:
    assert done.status == 0, f"status {done.status}\n{done.stdout}\n{done.stderr}\n{space.log()}"
    return done


def _journals(space: Space) -> set[str]:
    folder = space.state / "builds"
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _assert_equal(space: Space, folders: Sequence[Path], which: str, *, incremental: bool) -> int:
    files = 0
    for folder in folders:
        aside = _aside(folder, "plain")
        differences = compare_targets(aside, folder, incremental=incremental)
        assert not differences, f"{which}, {folder}:\n{report(differences)}\n{space.log()}"
        for _, below, names in os.walk(aside):
            below[:] = [name for name in below if name not in (".fingerprint", "incremental")]
            files += len(names)
    return files


def _assert_output(plain: Done, burst: Done, *, exact: bool) -> None:
    for one, other in ((plain.stdout, burst.stdout), (plain.stderr, burst.stderr)):
        lines = [normal(text).splitlines() for text in (one, other)]
        if not exact:
            # Of two units with one warning, the second to come says "1 duplicate".
            lines = [sorted(_COUNTS.sub("", line) for line in text) for text in lines]
        assert lines[0] == lines[1], f"plain:\n{one}\nburst:\n{other}"


def _aside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}.{name}")


def _empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _set_aside(folders: Sequence[Path], name: str) -> None:
    for folder in folders:
        shutil.rmtree(_aside(folder, name), ignore_errors=True)
        folder.rename(_aside(folder, name))


def _set_back(folders: Sequence[Path], name: str) -> None:
    for folder in folders:
        _aside(folder, name).rename(folder)
