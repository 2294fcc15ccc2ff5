"""`burst-agent lease …`: one question, one JSON document on stdout.

Exit status: 0 done, 1 refused (the document says why), 2 it could not be asked at all.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from typing import Final

from burst_agent.lease import FOLDER, Lease

DONE: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2
_LONGEST_S: Final = 400 * 86_400.0


def seconds(text: str) -> float:
    """A duration that is one: not negative, not NaN, not longer than a year or so."""
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= _LONGEST_S):
        raise argparse.ArgumentTypeError(f"{text} is no duration in seconds")
    return value


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="burst-agent lease")
    parser.add_argument("--folder", default=FOLDER, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="who works here, since when nobody does")
    drain = verbs.add_parser("drain", help="no more work, if nothing runs")
    drain.add_argument("--min-idle", type=seconds, default=0.0, metavar="S")
    drain.add_argument("--reason", default="drained", metavar="TEXT")
    drain.add_argument("--cancel", action="store_true", help="work is welcome again")
    extend = verbs.add_parser("extend", help="how long it may live, from now on")
    extend.add_argument("--hard-end-in", type=seconds, metavar="S")
    extend.add_argument("--keep-alive", type=seconds, metavar="S", help="idle for so long is idle")
    extend.add_argument("--age", type=seconds, metavar="S", help="since its creation")
    notice = verbs.add_parser("notice", help="told to every client")
    notice.add_argument("text", metavar="TEXT")
    return parser.parse_args(argv)


def answer(options: argparse.Namespace, lease: Lease) -> dict[str, object]:
    match options.verb:
        case "status":
            return lease.status()
        case "drain" if options.cancel:
            return lease.cancel_drain()
        case "drain":
            return lease.drain(options.min_idle, options.reason)
        case "extend":
            return lease.extend(options.hard_end_in, options.keep_alive, options.age)
        case _:
            return lease.notice(options.text)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    try:
        lease = Lease(options.folder)
        found = answer(options, lease)
    except OSError as error:
        found, status = {"error": f"{options.folder}: {error.strerror}"}, UNUSABLE
    else:
        lease.close()
        status = REFUSED if any(value is False for value in found.values()) else DONE
    sys.stdout.write(json.dumps(found) + "\n")
    return status
