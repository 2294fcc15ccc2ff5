"""Bytes to an SSH agent: the first build of a project, and the second one that changes nothing.

    python benchmarks/ssh_bytes.py --project ripgrep

A real sshd on a loopback port of its own, a home of its own, the project's own lock file. Both
builds begin with an empty target/ and an empty home store, so that all that is known lies on the
agent. Counted is what `cargo burst explain` says of each unit: keys, actions, sources; the
toolchain is not counted.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from projects import checkout, names  # noqa: E402
from space import Space  # noqa: E402
from sshd import SSHD, Sshd  # noqa: E402

GOAL = 0.01


def measure(project: str) -> dict[str, Any]:
    """Two builds; seconds, bytes each way and where the units ran."""
    builds = []
    folder = Path(tempfile.mkdtemp(prefix="burst-sshd-", dir="/var/tmp"))
    try:
        with Space.open() as space, Sshd.start(folder) as sshd:
            shutil.copytree(sshd.client_home / ".ssh", space.home / ".ssh", dirs_exist_ok=True)
            space.env["BURST_HOST"] = sshd.address
            shutil.rmtree(space.project)
            checkout(project, space.project)
            for number in (1, 2):
                space.fresh_target()
                space.forget_store()
                start_s = time.perf_counter()
                space.cargo("build", "--offline", "--locked").check()
                units = space.units()
                builds.append(
                    {
                        "build": number,
                        "seconds": round(time.perf_counter() - start_s, 2),
                        "units": len(units),
                        "remote": sum(unit["where"] == "remote" for unit in units),
                        "hits": sum(unit["where"] == "hit" for unit in units),
                        "local": sum(unit["where"] == "local" for unit in units),
                        "sent_bytes": sum(unit["sent_bytes"] for unit in units),
                        "received_bytes": sum(unit["received_bytes"] for unit in units),
                    }
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratio = builds[1]["sent_bytes"] / max(1, builds[0]["sent_bytes"])
    return {"project": project, "builds": builds, "ratio": ratio, "goal": GOAL}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--project", default="ripgrep", choices=names())
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if SSHD is None:
        print("needs an sshd (Debian's openssh-server)", file=sys.stderr)
        return 1
    figures = measure(options.project)
    print(
        f"{'build':>5} {'seconds':>8} {'units':>6} {'remote':>7} {'hits':>5} {'local':>6}", end=""
    )
    print(f" {'sent':>12} {'received':>12}")
    for build in figures["builds"]:
        print(
            f"{build['build']:5} {build['seconds']:8} {build['units']:6} {build['remote']:7} "
            f"{build['hits']:5} {build['local']:6} {build['sent_bytes']:12} "
            f"{build['received_bytes']:12}"
        )
    met = "met" if figures["ratio"] <= GOAL else "MISSED"
    print(f"sent, second / first: {figures['ratio']:.2%} (goal <= {GOAL:.0%}) {met}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
