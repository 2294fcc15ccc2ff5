"""What does `cargo burst build` cost where nothing is to be done, beside `cargo build`?

Fresh projects of one crate, the daemon running: what is left is the front end. Processor time of
the command and its children (getrusage), the least of all rounds; cases run interleaved, with us
and without in projects of their own: cargo asks a changed wrapper for rustc's version again. Goal:
`--help` within 60 ms, a verb within 250 ms of what cargo needs itself.

    python benchmarks/verbs.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CARGO_BURST = str(Path(sys.executable).parent / "cargo-burst")
CASES = {
    "cargo build": ["cargo", "build", "-q"],
    "cargo burst build": [CARGO_BURST, "burst", "build", "-q"],
    "cargo burst test --no-run": [CARGO_BURST, "burst", "test", "--no-run", "-q"],
    "cargo test --no-run": ["cargo", "test", "--no-run", "-q"],
    "cargo burst --help": [CARGO_BURST, "burst", "--help"],
    "python -c pass": [sys.executable, "-c", "pass"],
}


def cpu_ms(argv: list[str], env: dict[str, str], folder: Path) -> float:
    """Of one run."""
    program = shutil.which(argv[0], path=env["PATH"])
    assert program is not None, argv
    read = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    os.chdir(folder)
    pid = os.posix_spawn(program, argv, env, file_actions=read)
    _, status, usage = os.wait4(pid, 0)
    assert status == 0, argv
    return 1000 * (usage.ru_utime + usage.ru_stime)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="burst-verbs-", dir="/var/tmp") as name:
        base = Path(name)
        projects = {"cargo": base / "plain", CARGO_BURST: base / "burst"}
        (base / "run").mkdir(mode=0o700)
        env = {**os.environ, "HOME": str(base), "XDG_RUNTIME_DIR": str(base / "run")}
        home = Path.home()
        env.setdefault("CARGO_HOME", str(home / ".cargo"))
        env.setdefault("RUSTUP_HOME", str(home / ".rustup"))
        for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
            env.pop(variable, None)
        for project in projects.values():
            subprocess.run(["cargo", "new", "-q", "--vcs", "none", project], env=env, check=True)
        try:
            for argv in CASES.values():
                cpu_ms(argv, env, projects.get(argv[0], base))
            least = dict.fromkeys(CASES, float("inf"))
            for _ in range(rounds):
                for case, argv in CASES.items():
                    least[case] = min(least[case], cpu_ms(argv, env, projects.get(argv[0], base)))
        finally:
            os.chdir("/")
            subprocess.run([CARGO_BURST, "stop"], env=env, capture_output=True, check=False)
    for case, value in least.items():
        print(f"{case:28} {value:7.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
