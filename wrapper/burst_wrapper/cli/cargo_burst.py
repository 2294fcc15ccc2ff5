"""`cargo burst <verb>`, also as `cargo-burst <verb>`: finds the verb's module and runs it.

Each verb is a module of this package with `run(arguments) -> exit code`, imported only when it is
asked for, so that `--help` does not wait for the libraries of all of them.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from burst_protocol.errors import BurstError, ConfigError, UsageError
from burst_protocol.version import BUILD
from burst_wrapper.cli import afterwards

EXIT_BUG = 70
EXIT_INTERRUPTED = 130

VERBS = {
    "enable": "make cargo use burst, for you or for one project; `enable hetzner` for servers",
    "disable": "undo `enable`",
    "explain": "why units ran here or there, hit or missed",
    "stop": "end the daemon of this user",
    "doctor": "check what burst needs, and say how to get it",
}


class UnknownVerb(UsageError):
    """no such command: `cargo burst {verb}`"""

    @property
    def advice(self) -> str:
        """The nearest verb, or where the list is."""
        from difflib import get_close_matches  # noqa: PLC0415  (12 ms that only a typo pays)

        near = get_close_matches(str(self.facts["verb"]), VERBS, n=1)
        return f"did you mean `cargo burst {near[0]}`?" if near else "see `cargo burst --help`"


def main() -> int:
    """Entry point of the `cargo-burst` script; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["burst"]:  # `cargo burst x` runs `cargo-burst burst x`
        del arguments[0]
    try:
        return _with_afterwards(arguments)
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
    if arguments[:1] and arguments[0] in VERBS:
        billing = afterwards.say(configuration=configuration)
        if billing is not None and code == 0:
            report(billing)
            return billing.exit_code
    return code


def dispatch(arguments: list[str]) -> int:
    """Run what the arguments say. Raises BurstError."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage(), end="")
        return 0
    verb, *rest = arguments
    if verb in {"-V", "--version"}:
        print(f"cargo-burst {BUILD}")
        return 0
    if verb not in VERBS:
        raise UnknownVerb(verb=verb)
    name = f"burst_wrapper.cli.{verb}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UsageError(f"`cargo burst {verb}` is not part of this version") from None
    code: int = module.run(rest)
    return code


def usage() -> str:
    """The text of `--help`."""
    lines = ["Compile Rust on another machine, with the same cargo command and result.", ""]
    lines += ["usage: cargo burst <verb> [arguments]", ""]
    present = set(os.listdir(os.path.dirname(os.path.abspath(__file__))))
    lines += [f"  {verb:<9} {text}" for verb, text in VERBS.items() if f"{verb}.py" in present]
    lines += [
        "",
        "`cargo burst <verb> --help` says more. Without `enable`, one command uses burst by",
    ]
    lines += ["    RUSTC_WRAPPER=burst-rustc cargo build", ""]
    return "\n".join(lines)


def report(error: BurstError) -> None:
    """Print an error and how to get out of it; the only place that does."""
    print(f"error: {error}", file=sys.stderr)
    hint = error.advice if isinstance(error, UnknownVerb) else error.hint
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


def report_bug(error: Exception) -> None:
    """Say that an unexpected exception is our fault, and show what a report needs."""
    import traceback  # noqa: PLC0415  (not for those who meet no bug)

    traceback.print_exception(error)
    print(f"error: a bug in burst: {type(error).__name__}: {error}", file=sys.stderr)
    print("hint: please report it with the lines above; nothing was compiled", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
