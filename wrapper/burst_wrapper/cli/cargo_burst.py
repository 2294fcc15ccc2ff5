"""`cargo burst <verb>`, also as `cargo-burst <verb>`: finds the verb's module and runs it.

Each verb about burst itself is a module of this package with `run(arguments) -> exit code`,
imported only when it is asked for, so that `--help` does not wait for the libraries of all of them.
Some are `burst-admin`'s, and every other one is cargo's: `burst_wrapper.verbs`.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

from burst_lifecycle import standard_streams
from burst_protocol.errors import BurstError, ConfigError
from burst_protocol.version import BUILD

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

VERBS = {
    "enable": "make cargo use burst, for you or for one project; `enable hetzner` for servers",
    "disable": "undo `enable`",
    "explain": "why units ran here or there, hit or missed",
    "stop": "end the daemon of this user",
    "doctor": "check what burst needs, and say how to get it",
    "toolchain": "list or install toolchains where cargo runs with `--driver remote`",
    "completion": "completions for bash, zsh or fish",
}
"""Each is a module of this package."""
OF_ADMIN = {
    "up": "a server now; says what it costs before",
    "status": "what exists, what it costs, when it goes",
    "audit": "what was spent",
    "down": "delete the server now",
    "image": "images that servers boot from",
    "cache": "the store on this machine",
}
"""The same as in `burst-admin`."""


def start() -> NoReturn:
    """Entry point of the `cargo-burst` script."""
    # What is loaded stays: looking for garbage among it took a tenth of the time.
    gc.set_threshold(50_000)
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(code)  # which reports what cannot be written
    # The interpreter would take itself apart first (8 ms).
    os._exit(code)


def main() -> int:
    """The exit code."""
    standard_streams.ensure()
    arguments = sys.argv[1:]
    if arguments[:1] == ["burst"]:  # `cargo burst x` runs `cargo-burst burst x`
        del arguments[0]
    try:
        code = _with_afterwards(arguments)
        return code if code >= 0 else _die_of(-code)
    except SystemExit as end:  # argparse has printed help
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `cargo burst explain | head`
        sys.stderr.close()  # or the interpreter reports the failing flush of stdout
        return 1
    except Exception as error:
        report_bug(error)
        return EXIT_BUG


def _die_of(number: int) -> int:
    """As what cargo ran did: a shell tells the two ends apart."""
    from burst_wrapper.verbs.child import die_of  # noqa: PLC0415 - rare

    die_of(number)


def _with_afterwards(arguments: list[str]) -> int:
    """The command, and then what every command says."""
    configuration = True
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except BurstError as error:
        report(error)
        code = error.exit_code
        configuration = not isinstance(error, ConfigError)
    if not _is_silent(arguments):
        from burst_wrapper.cli import afterwards  # noqa: PLC0415 - `--help` is there at once

        billing = afterwards.say(configuration=configuration)
        if billing is not None and code == 0:
            report(billing)
            # Of a build, the exit code is cargo's.
            return billing.exit_code if arguments[0] in VERBS else code
    return code


def _is_silent(arguments: list[str]) -> bool:
    """Whether nothing is said afterwards: help, completions that shells read, and what
    `burst-admin` says by itself."""
    return (
        not arguments
        or arguments[0] in {"-h", "--help", "help", "-V", "--version", "completion", *OF_ADMIN}
        or arguments[1:2] in (["-h"], ["--help"])
    )


def dispatch(arguments: list[str]) -> int:
    """Run what the arguments say: the exit code, or -N to die of signal N. Raises BurstError."""
    if not arguments or (len(arguments) == 1 and arguments[0] in {"-h", "--help", "help"}):
        print(usage(), end="")
        return 0
    verb, *rest = arguments
    if verb == "help":
        verb, rest = rest[0], ["--help"]
    if verb in {"-V", "--version"}:
        print(f"cargo-burst {BUILD}")
        return 0
    if verb in OF_ADMIN:
        from burst_lifecycle.admin.main import main as admin  # noqa: PLC0415 - most need it not

        return admin([verb, *rest])
    if verb in VERBS:
        module = import_module(f"burst_wrapper.cli.{verb}")
        code: int = module.run(rest)
        return code
    if rest[:1] in (["-h"], ["--help"]):
        from burst_wrapper.verbs import help_text  # noqa: PLC0415 - as above

        if help_text.has(verb):
            print(help_text.of(verb), end="")
            return 0
    from burst_wrapper.verbs import entry  # noqa: PLC0415 - as above

    return entry.run([verb, *rest], own_verbs=(*VERBS, *OF_ADMIN))


def usage() -> str:
    """The text of `--help`."""
    from burst_wrapper.verbs import help_text  # noqa: PLC0415 - only where it is asked for

    return help_text.overview(VERBS, OF_ADMIN)


def report(error: BurstError) -> None:
    """Print an error and how to get out of it; the only place that does."""
    print(f"error: {error}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def report_bug(error: Exception) -> None:
    """Say that an unexpected exception is our fault, and show what a report needs."""
    import traceback  # noqa: PLC0415  (not for those who meet no bug)

    traceback.print_exception(error)
    print(f"error: a bug in burst: {type(error).__name__}: {error}", file=sys.stderr)
    print("hint: please report it with the lines above; nothing was compiled", file=sys.stderr)


if __name__ == "__main__":
    start()
