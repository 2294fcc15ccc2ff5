"""What can go wrong about a cargo that runs on another machine."""

from __future__ import annotations

from burst_protocol.errors import EnvironmentProblem, UsageError

_NOT_FOUND = 127
"""As a shell's, for a command that is not there."""


class NobodyDrives(EnvironmentProblem):
    """no other machine is known that could run cargo"""

    exit_code = _NOT_FOUND
    code = "nobody-drives"
    hint = "name one: --host user@host, `host` in the configuration, or enable hetzner"


class NoToolchainThere(EnvironmentProblem):
    """{detail}"""

    exit_code = _NOT_FOUND
    code = "no-toolchain-there"
    hint = "`cargo burst toolchain list` shows what is there, `toolchain install` gets another one"


class NoRustupThere(EnvironmentProblem):
    """there is no rustup on {host}"""

    exit_code = _NOT_FOUND
    code = "no-rustup-there"
    hint = "install it there (https://rustup.rs), or a Rust of that machine's distribution"


class CannotProbe(EnvironmentProblem):
    """{host} does not say what it has: {detail}"""

    code = "driver-probe"
    hint = "`cargo burst doctor` looks closer"


class NotElsewhere(UsageError):
    """`cargo {verb}` cannot run on another machine: {detail}"""

    hint = "it needs a cargo on this machine"


class WhichProgram(UsageError):
    """`run-local` could not determine which binary to run; {detail}"""

    exit_code = 101
    """As cargo's own."""
    hint = "use the `--bin` option to specify one"


class CannotRunHere(EnvironmentProblem):
    """{path} cannot run here: {detail}"""

    exit_code = 126
    """As a shell's, for what is no program of this machine."""
    code = "foreign-program"
    hint = "`run` runs it where it was built; `--target` builds for another kind of machine"
