"""The command line of `burst-admin`. Imports nothing but argparse: `--help` must be there at once.

Each verb is a module of this package with `run(options, desk) -> exit code`. Completions are made
from this parser (`completion`), so a new option needs no second place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

from burst_protocol.errors import UsageError


class Wrong(UsageError):
    """{detail}"""

    def __init__(self, detail: str, prog: str) -> None:
        super().__init__(detail)
        self.hint = f"see `{prog} --help`"  # type: ignore[misc]  # per verb


class Parser(argparse.ArgumentParser):
    """Errors in our form, one way of writing help."""

    def __init__(self, **settings: object) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        raise Wrong(message, self.prog)


def _duration(word: str) -> float:
    from burst_lifecycle.admin.text import parse_duration  # noqa: PLC0415 - only if one is given

    try:
        return parse_duration(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(word: str) -> tuple[str, str]:
    """`1.3678` or `ccx63=1.3678`."""
    from decimal import Decimal, InvalidOperation  # noqa: PLC0415 - only if one is given

    name, _, amount = word.rpartition("=")
    try:
        value = Decimal(amount)
    except InvalidOperation:
        value = Decimal(-1)
    if not value.is_finite() or value < 0:
        raise argparse.ArgumentTypeError(f"`{word}` is no rate: say 1.3678 or ccx63=1.3678")
    return name, amount


def _moment(word: str) -> str:
    """Checked, and kept as a word: what it means depends on the cloud's time."""
    from burst_lifecycle.admin.text import parse_moment  # noqa: PLC0415 - only if one is given

    try:
        parse_moment(word, 0.0)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return word


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def _yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _owner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--owner", metavar="OWNER", help="of that owner (default: yours; `status` shows all)"
    )


def _up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server-type",
        action="append",
        metavar="TYPE",
        default=[],
        help="try this type (again for more, in this order; default: the configuration's)",
    )
    parser.add_argument(
        "--location", action="append", metavar="NAME", default=[], help="as above, for locations"
    )
    parser.add_argument(
        "--keep-alive", type=_duration, metavar="TIME", help="idle time before it may go"
    )
    parser.add_argument(
        "--hard-end", type=_duration, metavar="TIME", help="from now, busy or not (default: 12h)"
    )
    _json(parser)


def _status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch", action="store_true", help="look again and again; redraws on a terminal"
    )
    parser.add_argument(
        "--interval",
        type=_duration,
        default=15.0,
        metavar="TIME",
        help="between two looks of --watch (default: 15s, at least 10s: the API counts requests)",
    )
    _owner(parser)
    _json(parser)


def _audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", type=_moment, metavar="WHEN", help="2026-01-31, or so long ago: 30d, 12h"
    )
    parser.add_argument("--until", type=_moment, metavar="WHEN", help="as --since (default: now)")
    parser.add_argument(
        "--rate",
        type=_rate,
        action="append",
        default=[],
        metavar="[TYPE=]EUR",
        help="euros per server hour, instead of the cloud's price list",
    )
    parser.add_argument(
        "--keep-alive",
        type=_duration,
        action="append",
        default=[],
        metavar="TIME",
        help="what if idle servers were kept so long (again for more)",
    )
    parser.add_argument(
        "--ledger",
        action="append",
        default=[],
        metavar="FILE",
        help="another machine's copy (again for more)",
    )
    parser.add_argument(
        "--offline", action="store_true", help="only records: no look into the cloud, no prices"
    )
    form = parser.add_mutually_exclusive_group()
    _json(form)  # type: ignore[arg-type]  # a group takes arguments as a parser does
    form.add_argument("--html", metavar="FILE", help="write a page with charts there")


def _down(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with-volumes", action="store_true", help="volumes, too: what is cached there is lost"
    )
    parser.add_argument(
        "--everything", action="store_true", help="volumes, images, firewalls and keys, too"
    )
    parser.add_argument("--force", action="store_true", help="also servers on which something runs")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    _owner(parser)
    _yes(parser)


def _extend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hard-end", type=_duration, metavar="TIME", help="so long from now, busy or not"
    )
    parser.add_argument(
        "--by", type=_duration, metavar="TIME", help="so much later than it is set now"
    )
    parser.add_argument(
        "--keep-alive", type=_duration, metavar="TIME", help="idle time before it may go"
    )


def _reap(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="only say what would be done, and why")
    what.add_argument(
        "--install",
        nargs="?",
        const="auto",
        choices=("auto", "systemd", "cron"),
        help="run it every five minutes: by a systemd user timer, else by cron",
    )
    what.add_argument("--uninstall", action="store_true", help="undo --install")
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    _json(parser)


def _image(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = verbs.add_parser("build", help="bake an image from the recipe and boot it once")
    build.add_argument("--server-type", metavar="TYPE", default="", help="to bake on")
    build.add_argument("--location", metavar="NAME", default="", help="to bake in")
    build.add_argument(
        "--mirror", metavar="DIR|URL", default="", help="in place of all downloads (see the README)"
    )
    build.add_argument(
        "--keep-server", action="store_true", help="leave a failed bake until its expiry"
    )
    found = verbs.add_parser("list", help="images with their recipe, stage, size and cost")
    _json(found)
    prune = verbs.add_parser("prune", help="delete images that a newer one replaced")
    prune.add_argument(
        "--keep", type=int, default=1, metavar="N", help="current images to keep (default: 1)"
    )
    prune.add_argument("--dry-run", action="store_true", help="only show them")
    _yes(prune)


def _volume(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    found = verbs.add_parser("list", help="volumes with project, size, use and cost")
    _json(found)
    adopt = verbs.add_parser(
        "adopt", help="give a volume to the project in this folder (after a rename)"
    )
    adopt.add_argument("volume", metavar="ID|NAME")
    adopt.add_argument("--project", metavar="HEX", help="to that project instead")
    _yes(adopt)
    remove = verbs.add_parser("rm", help="delete volumes and what is cached there")
    remove.add_argument("volume", nargs="+", metavar="ID|NAME")
    _yes(remove)


def _cache(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, words in (
        ("list", "what lies in the store, by kind and by age"),
        ("size", "how large it is, and its limit"),
        ("evict", "make room: least recently used first"),
    ):
        verb = verbs.add_parser(name, help=words)
        verb.add_argument(
            "--root", metavar="DIR", help="of another store (default: this machine's)"
        )
        _json(verb)
        if name == "evict":
            verb.add_argument(
                "--to-gb", type=float, metavar="N", help="leave at most so much (default: limit)"
            )
            verb.add_argument(
                "--older", type=_duration, metavar="TIME", help="only what was not used for so long"
            )


def _doctor(parser: argparse.ArgumentParser) -> None:
    _json(parser)


def _completion(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


VERBS: dict[str, tuple[str, str, Callable[[argparse.ArgumentParser], None]]] = {
    "up": (
        "boot the server now, and say what it costs",
        (
            "Uses the server that runs, powers on the one that is off in its paid hour, or makes\n"
            "a new one; returns when its agent answers. What it costs is said before."
        ),
        _up,
    ),
    "status": (
        "what exists, what it costs, and when it goes",
        (
            "Every resource with state, age, idle time, lease and cost; what will be deleted when\n"
            "and by whom; strays of every location and leftovers without complete labels."
        ),
        _status,
    ),
    "audit": (
        "what was spent, and on what",
        (
            "Sessions, starts, wall time and euros, from the ledgers of all machines that can be\n"
            "found. Amounts are without VAT; what cannot be known is shown as `at least`."
        ),
        _audit,
    ),
    "down": (
        "delete the server; volumes stay unless told otherwise",
        (
            "Finds everything by its labels, shows it, asks, and deletes it. A server on which\n"
            "something runs is refused unless --force is given."
        ),
        _down,
    ),
    "extend": (
        "move a server's hard end, or its idle time",
        "The only way to keep a server beyond its hard end. Says what that may cost.",
        _extend,
    ),
    "reap": (
        "delete what has expired or is idle",
        (
            "Needs nothing but a token, so it can run on any machine that is awake. A server goes\n"
            "only if its agent let it go, it is off, its hard end has passed or it never got ready."
        ),
        _reap,
    ),
    "image": ("bake, list and prune images", "Images that servers boot from.", _image),
    "volume": (
        "list, adopt and delete volumes",
        "Volumes hold what is cached for a project.",
        _volume,
    ),
    "cache": (
        "look into this machine's store, or make room",
        "The store of the agent on this machine: compiled units and their parts.",
        _cache,
    ),
    "doctor": (
        "check token, key, clock, ssh, versions and reaper",
        "Looks at all that a server needs, and changes nothing.",
        _doctor,
    ),
    "completion": (
        "completions for bash, zsh or fish",
        (
            "Prints a file for the shell, for instance\n"
            "  burst-admin completion bash > ~/.local/share/bash-completion/completions/burst-admin"
        ),
        _completion,
    ),
}

EPILOG = """\
exit codes: 0 done; 1 a check failed, or the answer was no; 2 wrong usage; 10 to 59 what went
wrong (see the README); 55 something costs money and cannot be ended with this token; 70 a bug.
`burst-admin VERB --help` says more."""


def make_parser() -> Parser:
    """All verbs, with all their options."""
    from burst_protocol.version import BUILD  # noqa: PLC0415

    parser = Parser(
        prog="burst-admin",
        description="Burst's servers: what exists, what it costs, and how to make it stop.",
        epilog=EPILOG,
    )
    parser.add_argument("-V", "--version", action="version", version=f"burst-admin {BUILD}")
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="VERB", parser_class=Parser, title="verbs"
    )
    for name, (words, description, fill) in VERBS.items():
        fill(verbs.add_parser(name, help=words, description=description))
    return parser
