"""CPU seconds of one cold `cargo build`, plain and with burst, and whose they are.

    python benchmarks/cold_cpu.py --project codegen --rounds 3

For who makes the first build cheaper: other programs on the machine hardly change CPU time, while
they spoil wall time. The last line is what both together make of the wall time of a machine that is
as fast in one build as in the other: more CPU time, by more or fewer cores at once. Needs root,
because it asks the kernel about every process that ends.
"""

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import attrs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from benchmarks.contenders import Burst, ContenderError, note, scratch_folder  # noqa: E402
from benchmarks.taskstats import Taskstats, TaskstatsError  # noqa: E402

from projects import Project, ProjectError, checkout, names, plain_environ  # noqa: E402

PARTS: Final = ("rustc, linker", "cargo, build scripts", "daemon", "agent", "wrapper", "sandbox")
_WALL: Final = "wall seconds"
_BUSY: Final = "cores busy, on average"
_CALLS: Final = "rustc calls, with probes"


@attrs.define
class Bench:
    """What the builds of one kind cost so far, by part."""

    project: Project
    kernel: Taskstats
    costs: dict[str, dict[str, list[float]]] = attrs.field(factory=dict)

    def build(self, kind: str, burst: Burst | None) -> None:
        """One build from an empty target/, everything of it accounted."""
        shutil.rmtree(self.project.target, ignore_errors=True)
        os.sync()
        self.kernel.ended()
        start = time.perf_counter()
        cargo = subprocess.Popen(
            self.project.cargo_argv("build"),
            cwd=self.project.path,
            env=plain_environ(burst.environ() if burst else {}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        said = cargo.communicate()[1]
        cost = dict.fromkeys((*PARTS, _CALLS, _WALL, _BUSY), 0.0)
        cost[_WALL] = time.perf_counter() - start
        if cargo.returncode != 0:
            raise ContenderError(f"the build failed:\n{said.decode(errors='replace')}")
        ours = {} if burst is None else _own_processes(burst.folder)
        for tgid, part in ours.items():
            cost[part] += self.kernel.of_running(tgid)
        self._add_ended(cost, {cargo.pid: "", **ours})
        total = sum(cost[part] for part in PARTS)
        cost[_BUSY] = total / cost[_WALL]
        for part, value in cost.items():
            self.costs.setdefault(kind, {}).setdefault(part, []).append(value)
        note(f"  {kind:8}{total:9.2f} s of CPU in {cost[_WALL]:.2f} s")

    def _add_ended(self, cost: dict[str, float], roots: dict[int, str]) -> None:
        """Whatever descends from one of `roots` (process, and the part it is itself)."""
        threads = self.kernel.ended()
        parents = {thread.tgid: thread.parent for thread in threads}
        leaders = {thread.tgid: thread.name for thread in threads if thread.pid == thread.tgid}
        for thread in threads:
            above, steps = thread.tgid, 0
            while above not in roots and above in parents and steps < 100:
                above, steps = parents[above], steps + 1
            if above not in roots or roots.get(thread.tgid):
                continue  # somebody else's; or a thread of one that was asked itself
            name = leaders.get(thread.tgid, thread.name)
            part = _part(name, roots[above])
            cost[part] += thread.cpu_s
            cost[_CALLS] += name == "rustc" and thread.pid == thread.tgid

    def table(self) -> str:
        """Medians; the last column is what burst adds."""
        plain, burst = (
            {part: statistics.median(values) for part, values in self.costs[kind].items()}
            for kind in ("plain", "burst")
        )
        for each in (plain, burst):
            each["all CPU seconds"] = sum(each[part] for part in PARTS)
        lines = [f"{'':28}{'plain':>9}{'burst':>9}{'more':>9}"]
        lines += [
            f"{part:28}{plain[part]:9.3f}{burst[part]:9.3f}{burst[part] - plain[part]:+9.3f}"
            for part in (*PARTS, "all CPU seconds", _WALL, _BUSY, _CALLS)
        ]
        for part in ("all CPU seconds", _WALL):
            lines.append(f"{part + ', ratio':28}{burst[part] / plain[part]:18.3f}")
        ours = sum(burst[part] for part in PARTS[2:])
        theirs = burst["all CPU seconds"] - ours
        # The same seconds of one machine: what slows it down in between does not count.
        lines.append(f"{'ours, to theirs beside it':28}{ours / theirs:18.3f}")
        even = (1 + ours / theirs) * plain[_BUSY] / burst[_BUSY]
        lines.append(f"{'wall ratio at even speed':28}{even:18.3f}")
        return "\n".join(lines)


def _part(name: str, root: str) -> str:
    """Whose a process of that name is, below which root."""
    if name in {"burst-rustc", "sh", "tr", "python", "python3"} or name.startswith("client-"):
        return root or "wrapper"
    if name.isdigit():  # executed by its descriptor
        return "sandbox"
    if root == "daemon":
        return root
    linking = {"rustc", "cc", "gcc", "collect2", "ld", "ld.bfd", "ld.gold", "ld.lld", "rust-lld"}
    if name in linking or root == "agent":
        return "rustc, linker"
    return "cargo, build scripts"


def _own_processes(folder: Path) -> dict[int, str]:
    """Daemon and agent, by what they wrote into their logs."""
    daemon = (folder / "state/burst/daemon.log").read_text()
    agent = (folder / "cache/burst/store/agent.log").read_text()
    pids = {int(pid): "daemon" for pid in re.findall(r" (\d+) INFO listening on", daemon)}
    pids |= {int(pid): "agent" for pid in re.findall(r"agent (\d+) starts", agent)}
    if sorted(pids.values()) != ["agent", "daemon"]:
        raise ContenderError(f"not one daemon and one agent: {pids}")
    return pids


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--project", choices=names(), default="codegen")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", type=Path, metavar="PATH", help="burst-rustc, if not installed")
    options = parser.parse_args()
    with scratch_folder() as scratch:
        try:
            bench = Bench(checkout(options.project, scratch / "project"), Taskstats())
            for number in range(options.rounds):
                burst = Burst.find(scratch / str(number), options.burst)
                if burst is None:
                    raise ContenderError("burst-rustc is not installed here")
                burst.prepare()
                for kind in ("plain", "burst")[:: -1 if number % 2 else 1]:
                    bench.build(kind, burst if kind == "burst" else None)
                burst.stop()
            bench.kernel.close()
        except (ContenderError, ProjectError, TaskstatsError) as error:
            note(f"error: {error}")
            return 1
    print(bench.table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
