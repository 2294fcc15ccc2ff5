"""Breaking things on purpose: projects that hold still, processes to kill, and what comes of it.

A test builds plainly first (`plain`), then through burst while something breaks, and asserts with
`same` that nobody could tell the difference, and with `reasons` that it was counted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import attrs

from burst_wrapper.hot import socket_name
from compare import compare_targets, report
from space import BURST_RUSTC, Done, Space, without_waiting
from sshd import descendants

T = TypeVar("T")
Phase = Literal["expanding", "checking", "generating"]
PHASES: Final[tuple[Phase, ...]] = ("expanding", "checking", "generating")
PATIENCE_S: Final = 90.0
_TIMING: Final = re.compile(r"target\(s\) in .*|in [0-9.]+s$", re.MULTILINE)
_MEANWHILE: Final = "warning: build failed, waiting for other jobs"

MANIFEST: Final = '[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n'
SMALL: Final = {
    "Cargo.toml": MANIFEST.format(name="small"),
    "src/lib.rs": "pub fn seven() -> u32 {\n    let unused = 1;\n    7\n}\n",
    "src/main.rs": 'fn main() {\n    println!("{}", small::seven());\n}\n',
}
"""Two units and a warning."""

_SPIN: Final = (
    "pub const SLOW: u64 = {\n    let mut i = 0u64;\n    let mut x = 1u64;\n"
    "    while i < 250_000 {\n        x = x.wrapping_mul(31).wrapping_add(i);\n        i += 1;\n"
    "    }\n    x\n};\n"
)
_HEAVY: Final = "".join(
    f"pub fn f{n}(mut v: Vec<(u{8 << n % 5}, String)>) -> Vec<(u{8 << n % 5}, String)> {{\n"
    "    v.sort();\n    v.dedup();\n"
    "    let m: std::collections::BTreeMap<_, _> = v.into_iter().collect();\n"
    f"    m.into_iter().map(|(a, b)| (a / {n + 3}, b)).collect()\n}}\n"
    for n in range(6)
)
_LIBRARY: Final = "pub fn seven() -> u32 {\n    let unused = 1;\n    7\n}\n"


def held_project(phase: Phase) -> dict[str, str]:
    """A workspace whose crate `held` (with a warning) takes about a second in that phase.

    `after` needs its metadata only, `app` all of it.
    """
    members = ["held", "after", "app"]
    held = _LIBRARY
    dependencies = profile = ""
    files: dict[str, str] = {}
    if phase == "expanding":
        members.append("spin")
        dependencies = '[dependencies]\nspin = { path = "../spin" }\n'
        held += "spin::spin!();\n"
        files["spin/Cargo.toml"] = MANIFEST.format(name="spin") + "[lib]\nproc-macro = true\n"
        files["spin/src/lib.rs"] = (
            "use proc_macro::TokenStream;\n\n#[proc_macro]\n"
            "pub fn spin(_: TokenStream) -> TokenStream {\n"
            "    let start = std::time::Instant::now();\n"
            "    while start.elapsed().as_millis() < 1200 {}\n    TokenStream::new()\n}\n"
        )
    elif phase == "checking":
        held += _SPIN
    else:
        held += _HEAVY
        profile = '[profile.dev.package."held"]\nopt-level = 3\n'
    files |= {
        "Cargo.toml": f'[workspace]\nresolver = "2"\nmembers = {members!r}\n{profile}',
        "held/Cargo.toml": MANIFEST.format(name="held") + dependencies,
        "held/src/lib.rs": held,
        "after/Cargo.toml": MANIFEST.format(name="after")
        + '[dependencies]\nheld = { path = "../held" }\n',
        "after/src/lib.rs": "pub fn eight() -> u32 {\n    held::seven() + 1\n}\n",
        "app/Cargo.toml": MANIFEST.format(name="app")
        + '[dependencies]\nafter = { path = "../after" }\n',
        "app/src/main.rs": 'fn main() {\n    println!("{}", after::eight());\n}\n',
    }
    return files


# --- building ---


@attrs.frozen
class Plain:
    """What cargo without burst said and left."""

    done: Done
    target: Path


def plain(space: Space, *arguments: str, **env: str) -> Plain:
    """Build without burst from an empty target/, which then lies beside the project."""
    aside = space.folder / f"plain-{len(list(space.folder.glob('plain-*')))}"
    space.fresh_target()
    done = space.plain(*(arguments or ("build",)), **env)
    if (space.project / "target").exists():
        (space.project / "target").rename(aside)
    return Plain(done, aside)


def words(text: str) -> list[str]:
    """cargo's lines without times and without what it says of others that run at the same time,
    in an order that does not depend on who was faster."""
    lines = _TIMING.sub("in …", without_waiting(text)).splitlines()
    return sorted(line for line in lines if not line.startswith(_MEANWHILE))


def same(space: Space, expected: Plain, done: Done) -> None:
    """Exit code, messages and every file are plain cargo's; nothing of ours is left or said."""
    assert done.status == expected.done.status, f"{done.stderr}\n{space.log()}"
    assert words(done.stderr) == words(expected.done.stderr), space.log()
    assert words(done.stdout) == words(expected.done.stdout), space.log()
    clean(space, done)
    if done.status == 0:
        target = space.project / "target"
        found = compare_targets(expected.target, target, incremental=False)
        assert not found, report(found)


def clean(space: Space, done: Done) -> None:
    """No traceback anywhere, no temporary file left in target/."""
    assert "Traceback" not in done.stderr + done.stdout
    assert leftovers(space.project / "target") == []
    assert "Traceback" not in space.log(), space.log()


def leftovers(folder: Path) -> list[str]:
    """Our temporary files below a folder."""
    return [str(path) for path in folder.rglob(".burst-*")]


def refused(done: Done, *, about: str, times: int = 1) -> None:
    """Under BURST_REQUIRE_REMOTE: a clear error with a hint, once per failing unit."""
    lines = done.stderr.splitlines()
    errors = [n for n, line in enumerate(lines) if line.startswith("error: remote execution")]
    assert done.status == 101, done.stderr
    assert len(errors) == times, done.stderr
    for number in errors:
        assert about in lines[number], done.stderr
        assert lines[number + 1].startswith("hint: "), done.stderr
        assert len(lines[number]) < 400, done.stderr
    assert "Traceback" not in done.stderr


def reasons(space: Space, build: int = 1) -> Counter[str]:
    """Units of the last build that the chosen executor did not answer, by reason."""
    return Counter(u["reason"] for u in space.units(build) if u["where"] in ("local", "failed"))


def unit(space: Space, crate: str, build: int = 1) -> dict[str, Any]:
    """What `explain` says of a crate's one unit."""
    found = [u for u in space.units(build) if u["crate"] == crate]
    assert len(found) == 1, found
    return found[0]


@attrs.define
class Running:
    """A cargo through burst that goes on meanwhile, leader of a process group of its own."""

    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def start(
        cls,
        space: Space,
        *arguments: str,
        cwd: Path | None = None,
        prefix: Sequence[str] = (),
        **env: str,
    ) -> Iterator[Running]:
        """`env` like Space.cargo's, but BURST_REQUIRE_REMOTE is not set."""
        process = subprocess.Popen(
            [*prefix, "cargo", *(arguments or ("build",))],
            cwd=cwd or space.project,
            env={**space.env, "RUSTC_WRAPPER": str(BURST_RUSTC), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield cls(process)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def finish(self, timeout_s: float = PATIENCE_S) -> Done:
        stdout, stderr = self.process.communicate(timeout=timeout_s)
        return Done(
            self.process.returncode,
            stdout.decode("utf-8", "backslashreplace"),
            stderr.decode("utf-8", "backslashreplace"),
        )

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)


# --- processes ---


def until(question: Callable[[], T | None], what: str, timeout_s: float = PATIENCE_S) -> T:
    """The first answer that is not empty. Polls, since /proc tells nobody when it changes."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = question()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Running or stopped, not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a process that this test's own space started; for SIGKILL, until it is gone."""
    handle = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)
    if number == signal.SIGKILL:
        until(lambda: not alive(pid), f"the end of {pid}")


def kill_unreaped(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL for a child of ours; it is gone when this returns."""
    process.kill()
    process.wait()


def _cmdline(pid: int) -> list[str]:
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return data.decode("utf-8", "replace").split("\0")


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def socket_path(space: Space) -> Path:
    return space.folder / "run" / "burst" / os.fsdecode(socket_name())


def daemon_pid(space: Space) -> int:
    """Who listens on the socket, by the kernel's word; 0 if no daemon does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(socket_path(space)))
        except OSError:
            return 0
        data = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    ours = any("burst_wrapper.daemon.main" in word for word in _cmdline(pid))
    return pid if ours and alive(pid) else 0


def agent_pid(space: Space) -> int:
    """The embedded agent's; 0 if none runs."""
    daemon = daemon_pid(space)
    for pid in descendants(daemon) if daemon else []:
        if is_agent(pid):
            return pid
    return 0


def rustcs(space: Space, crate: str, *, below: int | None = None) -> list[int]:
    """Processes that are rustc itself (no wrapper, no launcher) and compile that crate of that
    machine, here or on a host: cargo names the output folder by its absolute path.

    `below` 0 is a process that is not there, and has none.
    """
    if below == 0:
        return []
    found = []
    pids = descendants(below) if below is not None else _pids()
    for pid in pids:
        words = _cmdline(pid)
        if "--crate-name" not in words or words[words.index("--crate-name") + 1] != crate:
            continue
        if not any(f"{space.folder}/" in word for word in words):
            continue  # another test's, which runs at the same time
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "rustc" and alive(pid):
                found.append(pid)
    return found


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def is_agent(pid: int) -> bool:
    """Of either kind, embedded or on a host."""
    words = _cmdline(pid)
    started = "--root" in words and bool({"--stdio", "--fd"} & set(words))
    return (started or _name(pid) == "burst-agent") and alive(pid)


def is_wrapper(pid: int) -> bool:
    """burst-rustc itself, native or not, before it becomes rustc."""
    words = _cmdline(pid)
    return "--crate-name" in words and not words[0].endswith("/rustc")


def hold(space: Space, phase: Phase, *, find: Callable[[], list[int]] | None = None) -> int:
    """Stop `held`'s rustc in the sandbox as soon as it is in that phase; its pid."""
    candidates = find or (lambda: rustcs(space, "held", below=agent_pid(space)))

    def caught() -> int | None:
        if phase == "generating" and not metadata(space):
            return None
        return next(iter(candidates()), None)

    pid = until(caught, f"rustc {phase} in the sandbox")
    os.kill(pid, signal.SIGSTOP)
    if phase == "generating":
        assert not list((space.project / "target/debug/deps").glob("libheld-*.rlib"))
    return pid


def metadata(space: Space) -> Path | None:
    """The metadata of `held`, once it was delivered."""
    found = list((space.project / "target/debug/deps").glob("libheld-*.rmeta"))
    return found[0] if found else None


def processes_of(*places: Path) -> list[str]:
    """Live processes that have to do with one of the folders: by arguments, cwd or HOME."""
    marks = [str(place).encode() for place in places]
    found = []
    for pid in _pids():
        if pid == os.getpid():
            continue
        parts = []
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                parts.append(Path(f"/proc/{pid}/{name}").read_bytes())
        with contextlib.suppress(OSError):
            parts.append(os.fsencode(os.readlink(f"/proc/{pid}/cwd")))
        if any(mark in part for mark in marks for part in parts) and alive(pid):
            found.append(f"{pid} {' '.join(_cmdline(pid))[:150]}")
    return found


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder with inode, size and mtime: a late write changes it."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            info = os.lstat(path)
            found[os.path.relpath(path, folder)] = (info.st_ino, info.st_size, info.st_mtime_ns)
    return found


# --- places ---


def configure(space: Space, text: str) -> None:
    """Write config.toml."""
    folder = space.home / ".config" / "burst"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)


def damage(path: Path, how: str) -> None:
    """As a failing disk or a careless tool does; the mode stays."""
    if how == "delete":
        path.unlink()
        return
    mode = path.stat().st_mode & 0o7777
    path.chmod(0o600)
    if how == "flip":
        data = bytearray(path.read_bytes())
        if data:
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    elif how == "garbage":
        path.write_bytes(os.urandom(300))
    else:
        os.truncate(path, path.stat().st_size // 2 if how == "truncate" else 0)
    path.chmod(mode)


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """A tmpfs of that size at `place` (made). Needs root; unmounted at the end."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tmpfs", str(place)],
        check=True,
    )
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, leave_bytes: int = 0) -> Path:
    """A file that takes what is free on that disk, but for `leave_bytes`."""
    ballast = place / "ballast"
    free = shutil.disk_usage(place).free - leave_bytes
    with ballast.open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, max(1, free))
    return ballast
