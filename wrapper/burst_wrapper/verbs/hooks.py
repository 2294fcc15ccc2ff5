"""What cargo's environment gets from us: the three hooks, and the session's name.

At home nothing stands between cargo and what it starts: only rustc is wrapped. A runner and
rustdoc's hook are set where programs run elsewhere, or in a network of their own with services.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from burst_protocol.errors import BurstError, DaemonUnavailable
from burst_wrapper.session_client import hook_path
from burst_wrapper.verbs.cargo_settings import CargoSettings, runner_variable

if TYPE_CHECKING:
    from burst_wrapper.session_client import Session
    from burst_wrapper.verbs.cargo import Cargo
    from burst_wrapper.verbs.command_line import CommandLine

WRAPPER: Final = "burst-rustc"
RUNNER: Final = "burst-runner"
RUSTDOC: Final = "burst-rustdoc"


def wrapper(environ: Mapping[bytes, bytes], settings: CargoSettings) -> dict[bytes, bytes]:
    """RUSTC_WRAPPER, unless cargo is told to call us already: one that is called by two paths is
    asked for rustc's version again each time."""
    if os.path.basename(settings.wrapper()) == WRAPPER:
        return {}
    try:
        return {b"RUSTC_WRAPPER": hook_path(WRAPPER, environ)}
    except BurstError:
        # Half an installation: cargo compiles by itself.
        return {}


def runners(
    environ: Mapping[bytes, bytes], triples: Sequence[str], settings: CargoSettings
) -> dict[bytes, bytes]:
    """The other two. DaemonUnavailable if they cannot be used."""
    runner = hook_path(RUNNER, environ)
    if len(runner.split()) != 1:
        raise DaemonUnavailable(f"cargo cannot start a runner with a blank in {runner!r}")
    found = {runner_variable(triple): runner for triple in triples}
    found[b"RUSTDOC"] = hook_path(RUSTDOC, environ)
    if own := settings.rustdoc():
        found[b"BURST_RUSTDOC"] = os.fsencode(own)  # which ours becomes
    return found


def given(session: Session | None, own: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The session's variables, and those of `--env`, which cargo and what it starts see at home,
    too."""
    return {**dict(own), **({} if session is None else session.environ)}


def triples(cargo: Cargo, line: CommandLine, settings: CargoSettings) -> list[str]:
    """All targets that programs may be built for. A target given by a file is named as that."""
    named = line.values("--target") or settings.build_targets()
    host = cargo.host()
    found = [
        os.path.basename(name).removesuffix(".json") if name.endswith(".json") else name
        for name in named
        if name not in ("host-tuple", "")
    ]
    return list(dict.fromkeys([*found, *([host] if host else [])]))


def users_runner(cargo: Cargo, settings: CargoSettings, names: Sequence[str]) -> str:
    """The first of these targets whose programs are started by a runner of the user's own; empty if
    there is none. That runner (an emulator, a probe on a board) is at home."""
    for name in names:
        facts: list[str] = []
        if settings.has_conditional_runner:
            facts = _facts(cargo, name)
        if settings.has_runner(name, facts):
            return name
    return ""


_RUNS: Final = {
    "x86_64": ("x86_64", "x86"),
    "aarch64": ("aarch64",),
    "riscv64": ("riscv64",),
}
"""`target_arch` of programs that a machine of this architecture runs by itself."""


def foreign_target(cargo: Cargo, names: Sequence[str]) -> str:
    """The first of these targets whose programs no Linux machine like this one can run; empty if
    there is none. What becomes of them is for cargo to find out here, as without us: the kernel may
    know an emulator (binfmt_misc), or it says that it does not."""
    if len(names) < 2:  # home's own, which is among them
        return ""
    host = cargo.host()
    runs = _RUNS.get(host.partition("-")[0])
    for name in names:
        if name == host or runs is None:
            continue
        facts = dict(fact.split("=", 1) for fact in _facts(cargo, name) if "=" in fact)
        arch, system = (facts.get(key, "").strip('"') for key in ("target_arch", "target_os"))
        if arch and (arch not in runs or system != "linux"):
            return name
    return ""


def _facts(cargo: Cargo, triple: str) -> list[str]:
    """`rustc --print cfg`; nothing if it cannot say."""
    argv = [b"rustc", *([os.fsencode(cargo.toolchain)] if cargo.toolchain else [])]
    argv += [b"--print", b"cfg", b"--target", os.fsencode(triple)]
    try:
        done = subprocess.run(argv, capture_output=True, env=_plain(cargo), check=False)
    except OSError:
        return []
    return done.stdout.decode("utf-8", "replace").splitlines()


def _plain(cargo: Cargo) -> Mapping[bytes, bytes]:
    return dict(cargo.environ)
