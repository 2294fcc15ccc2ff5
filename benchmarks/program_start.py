"""What does a program's start cost in its place, against the same program as it is?

    python benchmarks/program_start.py

Starts /bin/true again and again at a real agent over the real protocol, as nextest does with tests:
at home as it is, and as on another machine, in a place of its own without and with the project's
network. Goal: less than 10 ms of CPU time each, the agent's and the program's together.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "support"))

from agent_client import AgentClient, native_tools  # noqa: E402
from mirror_client import sync  # noqa: E402
from mirrors import X  # noqa: E402
from program_client import run, start  # noqa: E402

TOP = b"/home/developer/project"
TEST = TOP + b"/target/burst/debug/deps/suite-0123456789abcdef"
TRUE = Path("/bin/true").read_bytes()
ROUNDS = 100


def cpu_ms(pid: int) -> int:
    """The agent's and its children's, in steps of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) * 1000 // os.sysconf("SC_CLK_TCK")


async def measure(folder: Path, *, local: bool, shares_network: bool) -> tuple[float, float]:
    """(wall, CPU) of one program, in ms."""
    tools = native_tools(folder)
    store = folder / f"store-{local}-{shares_network}"
    async with await AgentClient.start_ready(tools, store, local=local) as client:
        if not local:
            await sync(client, {TOP: {TEST[len(TOP) + 1 :]: X(TRUE)}})
        program, cwd = (b"/bin/true", b"/") if local else (TEST, TOP)
        request = start((program,), cwd=cwd, shares_network=shares_network)
        await run(client, request)
        before_ms, began_s = cpu_ms(client.process.pid), time.monotonic()
        for _ in range(ROUNDS):
            end = await (await run(client, request)).finish()
            assert end.code == 0, end
        wall_ms = (time.monotonic() - began_s) * 1000
        return wall_ms / ROUNDS, (cpu_ms(client.process.pid) - before_ms) / ROUNDS


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="burst-start-", dir="/var/tmp") as name:
        os.chmod(name, 0o755)
        for label, local, shares in (
            ("as it is", True, True),
            ("in its place", False, True),
            ("with the project's network", False, False),
        ):
            wall, cpu = asyncio.run(measure(Path(name), local=local, shares_network=shares))
            print(f"{label:28} {wall:6.1f} ms, {cpu:5.2f} ms of CPU")


if __name__ == "__main__":
    main()
