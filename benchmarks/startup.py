"""What does one wrapper call cost, as a multiple of an empty interpreter?

Every case is a whole rustc call of cargo's: a real command line and environment, a request to a
daemon (a trivial one: it answers 1 KiB of stderr and exit code 0), relay, exit. Cases run
interleaved, so that a machine that changes its speed changes it for all. Milliseconds move with
the machine; the ratios to `python -I -S -c pass` hardly do. On a busy machine a case of several
processes waits for the processor several times: look at processor time there.

    python benchmarks/startup.py [--rounds 60] [--python /usr/bin/python3 ...] [--limit 1.3]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import attrs

# The environments under test are made without our dependencies; attrs is enough here.
FOUND = {"PYTHONPATH": str(Path(attrs.__file__).parents[1])}
REPOSITORY = Path(__file__).resolve().parents[1]
BASE = "python -I -S -c pass"
CARGO_ARGUMENTS = [
    *["rustc", "--crate-name", "demo", "--edition=2021", "src/lib.rs", "--error-format=json"],
    "--json=diagnostic-rendered-ansi,artifacts,future-incompat",
    *["--crate-type", "lib", "--emit=dep-info,metadata,link", "-C", "embed-bitcode=no"],
    *["-C", "debuginfo=2", "-C", "metadata=0123456789abcdef", "--out-dir", "target/debug/deps"],
    *[f"--extern=crate{i}=target/debug/deps/libcrate{i}-0123456789abcdef.rmeta" for i in range(20)],
]


def frame(tag: bytes, payload: bytes) -> bytes:
    return tag + len(payload).to_bytes(4, "little") + payload


ANSWER = frame(b"E", b"x" * 1023 + b"\n") + frame(b"X", bytes(4))


def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(listener: socket.socket) -> None:
    """Answer one connection after the other, for ever."""
    while True:
        connection, _ = listener.accept()
        with connection:
            header = receive(connection, 8)
            receive(connection, int.from_bytes(header[4:], "little"))
            connection.sendall(ANSWER)


def run(*command: str | Path, **environ: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **environ})


def installed(python: str, wheel: Path, folder: Path) -> Path:
    """A virtual environment with burst as pip installs it; returns its bin folder."""
    run(python, "-m", "venv", "--without-pip", folder)
    interpreter = folder / "bin" / "python3"
    run(sys.executable, *PIP, "--python", interpreter, "install", "--no-deps", wheel)
    return folder / "bin"


PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


@attrs.frozen
class Case:
    """A command, and what it needs in its environment besides a unit's."""

    command: list[str]
    environ: dict[str, str] = attrs.field(factory=dict)


def cases(bin_folder: Path, folder: Path) -> dict[str, Case]:
    script = bin_folder / "burst-rustc"
    # As `uv tool` and pipx do: every script of the installation is linked into one folder.
    tool = folder / "tool"
    tool.mkdir()
    for name in ("burst-rustc", "cargo-burst"):
        (tool / name).symlink_to(bin_folder / name)
    alone = folder / "alone"
    alone.mkdir()
    (alone / "burst-rustc").symlink_to(tool / "burst-rustc")
    python = str(bin_folder / "python3")
    # A unit of a package with a build script: the script then copies its whole environment.
    generated = {"OUT_DIR": "/work/target/debug/build/demo-0123456789abcdef/out"}
    without, with_cc = str(folder / "without"), str(folder / "with")
    launchers = [launcher(python, home, path) for home, path in ((without, ""), (with_cc, None))]
    unused = str(folder / "unused")
    run(python, "-c", PUBLISH, **FOUND, XDG_CACHE_HOME=with_cc, XDG_DATA_HOME=unused)
    plain, native = {"XDG_CACHE_HOME": without}, {"XDG_CACHE_HOME": with_cc}
    arguments = CARGO_ARGUMENTS
    return {
        "/bin/true": Case(["/bin/true"]),
        BASE: Case([python, "-I", "-S", "-c", "pass"]),
        "native launcher (cargo burst enable)": Case([launchers[1], *arguments]),
        "launcher without cc": Case([launchers[0], *arguments]),
        "installed script with native client": Case([str(script), *arguments], native),
        "the same, with a build script": Case([str(script), *arguments], native | generated),
        "installed script": Case([str(script), *arguments], plain),
        "installed script, with a build script": Case([str(script), *arguments], plain | generated),
        "installed script, uv tool / pipx links": Case(
            [str(tool / "burst-rustc"), *arguments], plain
        ),
        "installed script, link of one's own": Case(
            [str(alone / "burst-rustc"), *arguments], plain
        ),
    }


LAUNCHER = "import os; from burst_wrapper.launcher import write_launcher as w; w(os.environb)"
WITHOUT_CC = "from burst_wrapper import native_build as n; n.SHIPPED = n.SHIPPED / 'none'; "
PUBLISH = """
import asyncio, os
from burst_wrapper.daemon.tools import Tools
from burst_wrapper.paths import cache_dir
assert asyncio.run(Tools(cache_dir(os.environb)).get()).client, "needs a C compiler"
"""


def launcher(python: str, home: str, path: str | None) -> str:
    """The launcher that `cargo burst enable` writes; with this PATH if it is not None."""
    environ = {"XDG_DATA_HOME": home, "XDG_CACHE_HOME": home, **FOUND}
    if path is not None:
        environ["PATH"] = path
    run(python, "-c", LAUNCHER if path is None else WITHOUT_CC + LAUNCHER, **environ)
    return f"{home}/burst/bin/burst-rustc"


@attrs.frozen
class Cost:
    """Median wall and processor milliseconds of one call, with all the processes it starts."""

    wall_ms: float
    cpu_ms: float


def measure(commands: dict[str, Case], environ: dict[str, str], rounds: int) -> dict[str, Cost]:
    """The cost of each command; one round first to warm caches."""
    null = os.open(os.devnull, os.O_WRONLY)
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, case in commands.items():
            command, whole = case.command, environ | case.environ
            begin = time.perf_counter()
            actions = [(os.POSIX_SPAWN_DUP2, null, 2)]
            pid = os.posix_spawn(command[0], command, whole, file_actions=actions)
            _, status, usage = os.wait4(pid, 0)
            wall_s = time.perf_counter() - begin
            costs[name].append(Cost(wall_s * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3))
            if status:
                raise SystemExit(f"{command}: wait status {status}")
    os.close(null)
    return {
        name: Cost(
            statistics.median(cost.wall_ms for cost in values[1:]),
            statistics.median(cost.cpu_ms for cost in values[1:]),
        )
        for name, values in costs.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="default %(default)s")
    parser.add_argument("--python", action="append", help="interpreter to test; repeatable")
    parser.add_argument("--limit", type=float, help="fail if a wall ratio is above")
    parser.add_argument("--wheel", type=Path, help="installs this one instead of building it")
    options = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="burst-", dir="/tmp") as name:
        folder = Path(name)
        wheel = options.wheel
        if wheel is None:
            run(sys.executable, *PIP, "wheel", "--no-deps", "-w", folder, REPOSITORY)
            (wheel,) = folder.glob("*.whl")
        runtime = folder / "burst"
        runtime.mkdir(mode=0o700)
        environ = {**os.environ, "XDG_RUNTIME_DIR": name, "BURST_REQUIRE_REMOTE": "1"}
        environ |= {f"CARGO_PKG_EXAMPLE_{i}": f"some value {i}" for i in range(40)}
        sys.path.insert(0, str(REPOSITORY / "wrapper"))
        from burst_wrapper.hot import socket_name  # noqa: PLC0415  (needs the path above)

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(bytes(runtime) + b"/" + socket_name())
        listener.listen()
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        for number, python in enumerate(options.python or [sys.executable]):
            place = folder / str(number)
            place.mkdir()
            commands = cases(installed(python, wheel, place / "venv"), place)
            medians = measure(commands, environ, options.rounds)
            print(f"{python}, median of {options.rounds}:")
            print(f"  {'':<42}{'wall':>10}{'ratio':>7}{'processor':>13}{'ratio':>7}")
            for case, cost in medians.items():
                ratio = cost.wall_ms / medians[BASE].wall_ms
                cpu_ratio = cost.cpu_ms / medians[BASE].cpu_ms
                wall, cpu = f"{cost.wall_ms:.2f} ms", f"{cost.cpu_ms:.2f} ms"
                print(f"  {case:<42}{wall:>10}{ratio:7.2f}{cpu:>13}{cpu_ratio:7.2f}")
                worst = max(worst, ratio)
    if options.limit and worst > options.limit:
        print(f"error: {worst:.2f} is above the limit of {options.limit}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
