"""`burst-agent`: what it is asked to be. Nothing is imported before that is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status. `lease` and `connect` are run over ssh all the time, so they start fast."""
    words = list(sys.argv[1:] if argv is None else argv)
    match words[:1]:
        case ["lease"]:
            from burst_agent import lease_cli  # noqa: PLC0415

            return lease_cli.main(words[1:])
        case ["connect"]:
            from burst_agent import connect  # noqa: PLC0415

            return connect.main(words[1:])
        case ["serve"]:
            from burst_agent import service  # noqa: PLC0415

            return service.main(words[1:])
        case ["volume"]:
            from burst_agent.host import volume  # noqa: PLC0415

            return volume.main(words[1:])
        case ["adopt"]:
            from burst_agent.host import adopt  # noqa: PLC0415

            return adopt.main(words[1:])
        case ["hostkey"]:
            from burst_agent.host import hostkey  # noqa: PLC0415

            return hostkey.main(words[1:])
        case ["cache"]:
            from burst_agent import cache_cli  # noqa: PLC0415

            return cache_cli.main(words[1:])
        case _:
            from burst_agent import single  # noqa: PLC0415

            return single.main(words)


if __name__ == "__main__":
    sys.exit(main())
