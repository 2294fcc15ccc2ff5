"""`burst-admin`: finds the verb's module, runs it, and says what always must be said.

Before the verb: notices that wait to be shown, once. After it, also after an error: that nobody
reaped for a while although something bills, and what bills under another token.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from burst_lifecycle import standard_streams
from burst_lifecycle.admin.parser import make_parser
from burst_protocol.errors import BurstError

if TYPE_CHECKING:
    from burst_lifecycle.admin.desk import Desk

EXIT_BUG = 70
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the script; returns the exit code."""
    standard_streams.ensure()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = make_parser().parse_args(words or ["--help"])
    except BurstError as error:
        return _report(error)
    except SystemExit as end:  # argparse has printed help or version
        return end.code if isinstance(end.code, int) else 0
    from burst_lifecycle.admin.desk import Desk  # noqa: PLC0415 - `--help` must not wait for it

    return run(options, Desk())


def run(options: object, desk: Desk) -> int:
    """One verb, with all that goes around it."""
    module = import_module(f"burst_lifecycle.admin.{options.verb}")  # type: ignore[attr-defined]
    from burst_lifecycle.admin import reminders  # noqa: PLC0415 - as above

    quiet = getattr(module, "QUIET", False)
    failure: BurstError | None = None
    code = 0
    try:
        if not quiet:
            reminders.before(desk)
        code = module.run(options, desk)
    except BurstError as error:
        failure = error
    except KeyboardInterrupt:
        desk.say("", "interrupted; what was begun is found again by `burst-admin status`")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `burst-admin status | head`
        sys.stderr.close()  # or the interpreter reports the failing flush of stdout
        return 1
    except Exception as error:
        return _bug(error, desk)
    try:
        billing = reminders.out_of_reach(desk) if quiet else reminders.after(desk, failure)
    except Exception as error:
        return _bug(error, desk)
    if failure is not None:
        return _report(failure, desk)
    if billing is not None and code == 0:
        return _report(billing, desk)
    return code


def _report(error: BurstError, desk: Desk | None = None) -> int:
    """What happened, and what to do; the only place that prints an error."""
    head, hint = "error:", "hint:"
    stream = sys.stderr if desk is None else desk.stderr
    if desk is not None:
        head, hint = desk.painted("red", head, stream), desk.painted("cyan", hint, stream)
    stream.write(f"{head} {error}\n")
    if error.hint:
        stream.write(f"{hint} {error.hint}\n")
    return error.exit_code


def _bug(error: Exception, desk: Desk) -> int:
    import traceback  # noqa: PLC0415 - not for those who meet no bug

    traceback.print_exception(error, file=desk.stderr)
    desk.say(
        f"error: a bug in burst: {type(error).__name__}: {error}",
        "hint: please report it with the lines above; `burst-admin status` says what exists",
    )
    return EXIT_BUG


if __name__ == "__main__":
    sys.exit(main())
