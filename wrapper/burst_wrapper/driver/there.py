"""The machine that drives, as this process sees it: an open session, and programs started in it.

Programs are started through the runner, which is their stand-in here: terminal, pipes, signals and
ends are its affair.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import attrs

from burst_wrapper.driver import home_toolchain, surroundings, toolchains
from burst_wrapper.driver.errors import CannotProbe, NoRustupThere, NoToolchainThere
from burst_wrapper.driver.toolchains import Machine, Wanted
from burst_wrapper.session_client import Session, hook_path
from burst_wrapper.verbs import child
from burst_wrapper.verbs.child import Ended
from burst_wrapper.verbs.summary import Voice

_SHELL: Final = b"/bin/sh"
SYSTEM_PATH: Final = b"/usr/local/bin:/usr/bin:/bin"
_PROBE_S: Final = 60
_PIECE_BYTES: Final = 65536


@attrs.define
class There:
    session: Session
    environ: Mapping[bytes, bytes] = attrs.field(repr=False)
    """This process's own."""
    voice: Voice
    _machine: Machine | None = None
    _shown: str = ""
    """The sysroot here that programs there see."""

    @property
    def name(self) -> str:
        return self.session.info.name

    @property
    def store_root(self) -> bytes:
        return self.session.info.store_root

    @property
    def machine(self) -> Machine:
        """What it has; asked once. CannotProbe."""
        if self._machine is None:
            rustup_home = surroundings.kept(self.store_root, "rustup")
            words = (_SHELL, b"-c", toolchains.PROBE.encode(), b"sh", os.fsencode(rustup_home))
            # A value that names one of the shared folders has it shown.
            env = {
                b"PATH": SYSTEM_PATH,
                b"RUSTUP_HOME": os.fsencode(rustup_home),
                b"CARGO_HOME": os.fsencode(surroundings.kept(self.store_root, "cargo")),
            }
            said = self.ask(words, env)
            self._machine = Machine.parse(said, self.name)
        return self._machine

    def ask(self, argv: Sequence[bytes], variables: Mapping[bytes, bytes]) -> bytes:
        """The stdout of a quick question. CannotProbe."""
        done = self._asked(argv, variables)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            detail = said[0].removeprefix("error: ") if said else f"status {done.returncode}"
            raise CannotProbe(detail, host=self.name)
        return done.stdout

    def complaint(
        self,
        argv: Sequence[bytes],
        variables: Mapping[bytes, bytes],
        patience_s: float | None = _PROBE_S,
    ) -> bytes:
        """The stderr of what failed; empty if it did not. None: however long it takes.
        CannotProbe."""
        done = self._asked(argv, variables, patience_s)
        return done.stderr if done.returncode else b""

    def _asked(
        self,
        argv: Sequence[bytes],
        variables: Mapping[bytes, bytes],
        patience_s: float | None = _PROBE_S,
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                [os.fsencode(hook_path("burst-runner")), *argv],
                env=self.for_runner(variables),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=patience_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            shown = os.fsdecode(argv[0])
            raise CannotProbe(f"`{shown}` takes too long", host=self.name) from None

    def start(
        self,
        argv: Sequence[bytes],
        variables: Mapping[bytes, bytes],
        hear: Callable[[bytes], None] | None = None,
        *,
        online: bool = True,
    ) -> Ended:
        """A program with our terminal; `hear` takes its stdout instead of ours. `online`: in that
        machine's own network, where registries are reached. CannotStart."""
        words = [os.fsencode(hook_path("burst-runner")), *argv]
        environ = self.for_runner(variables, online=online)
        if hear is None:
            return child.run(words, environ)
        with _Ear(hear) as ear:
            return child.run(words, environ, started=ear.begin)

    def toolchain(self, asked: Wanted) -> str:
        """The folder there of what was asked for. What is not there is this machine's own, if it
        has it; else rustup there gets it.

        NoToolchainThere, CannotProbe.
        """
        lacks: NoToolchainThere | None = None
        try:
            found = toolchains.find(self.machine, asked)
        except NoToolchainThere as error:
            found, lacks = None, error
        if found is not None:
            return found
        named = asked.channel if asked.by.startswith("+") else ""
        self._shown = home_toolchain.sysroot(self.environ, os.getcwdb(), named)
        if self._shown:
            return self._shown
        if lacks is not None:
            raise lacks
        if not self.machine.rustup:
            detail = f"toolchain `{asked.channel}` ({asked.by}) is not on {self.name}"
            raise NoToolchainThere(f"{detail}, and neither is rustup")
        self.install(asked)
        found = toolchains.find(self.machine, asked)
        if found is None:
            raise NoToolchainThere(f"toolchain `{asked.channel}` is not on {self.name}")
        return found

    def install(self, asked: Wanted) -> None:
        """By rustup there, with its own words on our stderr. NoRustupThere, NoToolchainThere."""
        if not self.machine.rustup:
            raise NoRustupThere(host=self.name)
        words = [self.machine.rustup, "toolchain", "install", asked.channel or "stable"]
        words += ["--no-self-update", "--profile", asked.profile or "minimal"]
        for option, values in (("--component", asked.components), ("--target", asked.targets)):
            words += [part for value in values for part in (option, value)]
        env = surroundings.of_rustup(self.machine, self.store_root, self.environ)
        ended = self.start([os.fsencode(word) for word in words], env)
        self._machine = None
        if not ended.good:
            raise NoToolchainThere(
                f"rustup on {self.name} could not install `{asked.channel or 'stable'}`"
            )

    def for_runner(
        self, variables: Mapping[bytes, bytes], *, online: bool = True
    ) -> dict[bytes, bytes]:
        """The environment of a runner whose program gets these variables."""
        return {
            **self.environ,
            **surroundings.for_runner(variables),
            b"BURST_SESSION": self.session.info.id.encode(),
            surroundings.ONLINE: b"1" if online else b"0",
            surroundings.TOOLCHAIN: os.fsencode(self._shown),
        }


class _Ear:
    """Stands where stdout is while a child is started, and hears it to its end."""

    def __init__(self, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._stdout = os.dup(1)
        self._read, write = os.pipe()
        os.dup2(write, 1)
        os.close(write)
        return self

    def begin(self, _pid: int) -> None:
        """The child has it: stdout is ours again."""
        os.dup2(self._stdout, 1)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while data := os.read(self._read, _PIECE_BYTES):
            self._hear(data)

    def __exit__(self, *_: object) -> None:
        os.dup2(self._stdout, 1)
        os.close(self._stdout)
        if self._thread is not None:
            self._thread.join()
        os.close(self._read)
