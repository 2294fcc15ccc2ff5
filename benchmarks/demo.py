"""See it work: one real project, built twice from an empty target/ through burst-rustc.

    python benchmarks/demo.py --project ripgrep

Everything (sources, caches, configuration, daemon) is in a temporary folder and gone afterwards;
the agent is the embedded one, on this machine. Cargo's own output is shown as it comes.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from benchmarks.contenders import Burst, ContenderError, scratch_folder  # noqa: E402

from projects import Project, ProjectError, checkout, names, plain_environ  # noqa: E402

WHERE = {"remote": "ran on the agent", "hit": "came from the cache", "local": "ran at home"}
_SLOWEST = 5
_REASONS = 8


@attrs.frozen
class Unit:
    """One rustc call as `cargo burst explain --json` tells it."""

    crate: str
    where: str
    why: str
    wall_ms: float

    @classmethod
    def all_of(cls, text: str) -> "list[Unit]":
        """ContenderError if the text is not what `explain` promises."""
        try:
            units = json.loads(text)["units"]
            return [
                cls(unit["crate"], unit["where"], unit["why"], float(unit["wall_ms"]))
                for unit in units
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise ContenderError(f"`cargo burst explain --json` said {text[:200]!r}") from error


def build(project: Project, burst: Burst) -> float:
    """Seconds of a build from an empty target/, cargo talking to this terminal."""
    shutil.rmtree(project.target, ignore_errors=True)
    start = time.perf_counter()
    run = subprocess.run(
        project.cargo_argv(), cwd=project.path, env=plain_environ(burst.environ()), check=False
    )
    seconds = time.perf_counter() - start
    if run.returncode != 0:
        raise ContenderError(f"cargo build ended with {run.returncode}")
    return seconds


def where_it_ran(units: Sequence[Unit]) -> str:
    """How many calls ran where, why some ran at home, and which took longest."""
    if not units:
        return "  no rustc call was reported"
    counts = Counter(unit.where for unit in units)
    lines = [f"  {len(units)} rustc calls:"]
    lines += [
        f"    {counts[where]:4} {WHERE.get(where, where)}"
        for where in sorted(counts, key=lambda where: -counts[where])
    ]
    reasons = Counter(unit.why for unit in units if unit.where == "local")
    if reasons:
        lines.append("  at home because:")
        lines += [f"    {number:4} {why}" for why, number in reasons.most_common(_REASONS)]
    lines.append("  the slowest:")
    lines += [
        f"    {unit.crate:28} {unit.wall_ms / 1000:6.2f} s  {WHERE.get(unit.where, unit.where)}"
        for unit in sorted(units, key=lambda unit: -unit.wall_ms)[:_SLOWEST]
    ]
    return "\n".join(lines)


def programs(project: Project) -> list[Path]:
    """What the build made for people: executables right under target/debug."""
    return sorted(
        path
        for path in (project.target / "debug").iterdir()
        if path.is_file() and os.access(path, os.X_OK) and not path.suffix
    )


def show(project: Project, burst: Burst) -> None:
    """Two builds, what each did, and how they compare."""
    titles = ("First build: nothing is cached", "Second build: target/ is empty again")
    took: list[float] = []
    for title in titles:
        print(f"\n{title}\n$ RUSTC_WRAPPER=burst-rustc cargo build", flush=True)
        took.append(build(project, burst))
        units = Unit.all_of(burst.ask("explain", "--json", folder=project.path))
        print(f"\n  {took[-1]:.1f} s\n{where_it_ran(units)}", flush=True)
    for program in programs(project):
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
        first = (said.stdout or said.stderr).strip().partition("\n")[0]
        print(f"\n$ target/debug/{program.name} --version\n  {first}")
    print(
        f"\nFirst {took[0]:.1f} s, second {took[1]:.1f} s: {took[0] / took[1]:.1f} times as fast."
    )


def main() -> int:
    """Exit 1 with one line that says what is missing, if something is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", choices=names(), default="ripgrep")
    parser.add_argument("--burst", type=Path, metavar="PATH", help="burst-rustc, if not installed")
    options = parser.parse_args()
    with scratch_folder() as scratch:
        try:
            burst = Burst.find(scratch / "b", options.burst)
            if burst is None:
                raise ContenderError("burst-rustc is not installed with this Python")
            print(f"Fetching and laying out {options.project} ...", flush=True)
            project = checkout(options.project, scratch / options.project)
            burst.prepare()
            try:
                show(project, burst)
            finally:
                burst.stop()
        except (ContenderError, ProjectError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
