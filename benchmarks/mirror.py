"""The workspace mirror against rsync: unchanged, one file changed, and the first time.

    python benchmarks/mirror.py
    python benchmarks/mirror.py --files 20000 --rounds 9 --json result.json

A git repository of so many source files in a folder of its own. `local`: an agent in another
process over a socket pair, against `rsync -a --delete` from folder to folder. `sshd`: both over a
real sshd on a loopback port, as a user would: `rsync -az --delete` logs in each time, the daemon
keeps its connection. In each round both do the same, one after the other, and the next round begins
with the other one. Rows are medians of wall time; bytes are what went both ways.

Exit status 1 if a goal is missed: unchanged at most half of rsync's time in one round trip, and
one changed file sends that file only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from burst_wrapper.config import Config  # noqa: E402
from burst_wrapper.daemon.executor import Executor  # noqa: E402
from burst_wrapper.daemon.remote import Remotes  # noqa: E402
from burst_wrapper.daemon.tools import Tools  # noqa: E402
from burst_wrapper.index import Index  # noqa: E402
from burst_wrapper.mirror.mirror import Mirror  # noqa: E402
from burst_wrapper.mirror.snapshot import Project  # noqa: E402
from burst_wrapper.statcache import StatCache  # noqa: E402
from mirror_home import remote_agent  # noqa: E402
from sshd import SSHD, Sshd  # noqa: E402

GOAL = 0.5
PER_FOLDER = 20
SETTLED_S = 2.1
LINE = b"pub fn number_%d() -> u64 { %d }\n"


@attrs.frozen
class Sample:
    seconds: float
    sent_bytes: int
    round_trips: int = 0
    files: int = 0


@attrs.define
class Row:
    where: str
    what: str
    ours: list[Sample] = attrs.field(factory=list)
    theirs: list[Sample] = attrs.field(factory=list)

    def ratio(self) -> float:
        return _median(self.ours) / _median(self.theirs)


def _median(samples: list[Sample]) -> float:
    return statistics.median(sample.seconds for sample in samples)


def make_workspace(top: Path, files: int) -> None:
    """Packages of ten folders of twenty files, a .gitignore, a commit."""
    for number in range(files // PER_FOLDER):
        folder = top / f"crates/c{number // 10:03}/src/m{number % 10}"
        folder.mkdir(parents=True)
        for file in range(PER_FOLDER):
            content = b"".join(LINE % (line, number * file) for line in range(60))
            (folder / f"f{file:02}.rs").write_bytes(content)
    for crate in (top / "crates").iterdir():
        (crate / "Cargo.toml").write_text(f'[package]\nname = "{crate.name}"\n')
    (top / "Cargo.toml").write_text('[workspace]\nmembers = ["crates/*"]\n')
    (top / ".gitignore").write_text("/target/\n*.log\n*.tmp\n.DS_Store\n")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "all")):
        named = ("-c", "user.name=b", "-c", "user.email=b@b")
        subprocess.run(["git", *named, *words], cwd=top, check=True)


def rsync(source: Path, target: str, *options: str) -> Sample:
    start_s = time.perf_counter()
    done = subprocess.run(
        ["rsync", "-a", "--delete", "--exclude=/target/", "--exclude=.git/", "--stats", *options,
         f"{source}/", target],
        check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    seconds = time.perf_counter() - start_s
    found = dict(re.findall(r"Total bytes (sent|received): ([\d,.]+)", done.stdout))
    return Sample(seconds, sum(int(re.sub(r"\D", "", value)) for value in found.values()))


async def burst(mirror: Mirror, executor: Executor, project: Project) -> Sample:
    before = executor.link.sent_bytes + executor.link.received_bytes
    start_s = time.perf_counter()
    synced = await mirror.sync(executor, project)
    seconds = time.perf_counter() - start_s
    both = executor.link.sent_bytes + executor.link.received_bytes - before
    return Sample(seconds, both, synced.round_trips, synced.files)


@attrs.frozen
class Ways:
    """How both do it, to a mirror and to a folder of their own."""

    where: str
    top: Path
    ours: Callable[[Mirror], Awaitable[Sample]]
    theirs: Callable[[], Sample]
    stats: StatCache

    async def once(self, row: Row, mirror: Mirror, turn: int) -> None:
        """Both, one after the other."""
        if turn % 2:
            row.ours.append(await self.ours(mirror))
        row.theirs.append(self.theirs())
        if not turn % 2:
            row.ours.append(await self.ours(mirror))

    async def compare(self, rounds: int) -> list[Row]:
        names = ("first time", "unchanged", "unchanged, new daemon", "one file changed")
        rows = [Row(self.where, name) for name in names]
        first, unchanged, anew, one = rows
        mirror = Mirror("bench", self.stats)
        await asyncio.sleep(SETTLED_S)  # as a user's files: not written this very moment
        await self.once(first, mirror, 0)
        for turn in range(rounds):
            await self.once(unchanged, mirror, turn)
        for turn in range(rounds):
            mirror = Mirror("bench", self.stats)
            await self.once(anew, mirror, turn)
        victim = self.top / "crates/c003/src/m4/f07.rs"
        for turn in range(rounds):
            with victim.open("ab") as file:
                file.write(LINE % (1000 + turn, turn))
            await self.once(one, mirror, turn)
        return rows


async def over_ssh(base: Path, top: Path, rounds: int) -> list[Row]:
    with Sshd.start(base / "sshd") as sshd:
        os.environ["HOME"] = str(sshd.client_home)
        user, _, rest = sshd.address.partition("@")
        host, _, port = rest.rpartition(":")
        ssh = (
            f"ssh -p {port} -o UserKnownHostsFile={sshd.known_hosts} -o BatchMode=yes"
            f" -i {sshd.client_home}/.ssh/id_ed25519"
        )
        cache = os.fsencode(base / "cache")
        os.makedirs(cache)
        remotes = Remotes(cache, Tools(cache))
        executor = await remotes.connected(sshd.address, Config(), None)
        index = Index(os.fsencode(base / "ssh.db"))
        try:
            ways = Ways(
                "sshd",
                top,
                lambda mirror: burst(mirror, executor, project_of(top)),
                lambda: rsync(top, f"{user}@{host}:{base}/rsync-ssh", "-z", "-e", ssh),
                StatCache(index),
            )
            return await ways.compare(rounds)
        finally:
            await remotes.close()
            index.close()


def project_of(top: Path) -> Project:
    path = os.fsencode(top)
    return Project(path, path + b"/target", environ=dict(os.environb))


async def local(base: Path, top: Path, rounds: int) -> list[Row]:
    index = Index(os.fsencode(base / "local.db"))
    async with remote_agent(base / "agent", base / "spool") as executor:
        ways = Ways(
            "local",
            top,
            lambda mirror: burst(mirror, executor, project_of(top)),
            lambda: rsync(top, f"{base}/rsync-local"),
            StatCache(index),
        )
        rows = await ways.compare(rounds)
    index.close()
    return rows


def show(rows: list[Row], files: int) -> str:
    lines = [
        f"{files} files; wall ms, medians; ratio = burst / rsync",
        " ".join(
            (
                f"{'':29}",
                f"{'burst':>9} {'rsync':>9} {'ratio':>6} {'range':>13}",
                f"{'burst bytes':>12} {'rsync bytes':>12} {'trips':>5} {'files':>6}",
            )
        ),
    ]
    for row in rows:
        last = row.ours[-1]
        each = [a.seconds / b.seconds for a, b in zip(row.ours, row.theirs, strict=True)]
        lines.append(
            f"{row.where:6} {row.what:22} {_median(row.ours) * 1e3:9.1f} "
            f"{_median(row.theirs) * 1e3:9.1f} {row.ratio():6.2f} "
            f"{min(each):6.2f}-{max(each):<6.2f} {last.sent_bytes:12} "
            f"{row.theirs[-1].sent_bytes:12} {last.round_trips:5} {last.files:6}"
        )
    return "\n".join(lines)


def missed(rows: list[Row]) -> list[str]:
    found = []
    for row in rows:
        if row.what == "unchanged":
            if row.ratio() > GOAL:
                found.append(f"{row.where}: unchanged is {row.ratio():.2f} of rsync, not {GOAL}")
            found += [f"{row.where}: {s}" for s in row.ours if s.round_trips != 1]
        if row.what == "one file changed":
            found += [f"{row.where}: {s}" for s in row.ours if (s.files, s.round_trips) != (1, 1)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("rsync") is None:
        print("error: rsync is not installed\nhint: apt-get install rsync", file=sys.stderr)
        return 1
    base = Path(tempfile.mkdtemp(prefix="burst-mirror-", dir="/var/tmp"))
    rows: list[Row] = []
    try:
        top = base / "home/ws"
        top.mkdir(parents=True)
        make_workspace(top, options.files)
        rows += asyncio.run(local(base, top, options.rounds))
        if SSHD is None:
            print("no sshd here: only local rows", file=sys.stderr)
        else:
            rows += asyncio.run(over_ssh(base, top, options.rounds))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(show(rows, options.files))
    if options.json is not None:
        options.json.write_text(json.dumps([attrs.asdict(row) for row in rows], indent=1))
    wrong = missed(rows)
    print("\n".join(wrong) or "all goals met")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
