"""`burst-admin`: what exists, what it costs, and how to make it stop.

The server lifecycle is not part of this version. The command is here so that its name is taken
and so that nobody believes a server could be running.
"""

from __future__ import annotations

import sys

from burst_protocol.version import BUILD

VERBS = {
    "status": "what exists and what it costs",
    "audit": "what was spent",
    "down": "delete the server, keep the volume",
    "reap": "delete whatever has expired",
    "image": "bake and list images",
}


def main() -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:]
    if arguments and arguments[0] in {"-V", "--version"}:
        print(f"burst-admin {BUILD}")
        return 0
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print("usage: burst-admin <verb>\n\nThese come with the server lifecycle, not yet here:")
        for verb, text in VERBS.items():
            print(f"  {verb:<8} {text}")
        return 0
    print(
        f"error: `burst-admin {arguments[0]}` comes with the server lifecycle\n"
        "hint: this version never creates a server, so there is none to look after",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
