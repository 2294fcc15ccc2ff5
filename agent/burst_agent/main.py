"""`burst-agent`: what it is asked to be. Nothing is imported before that is known."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Final

_PARTS: Final = {
    "cache": "burst_agent.cache_cli",
    "lease": "burst_agent.lease_cli",
    "connect": "burst_agent.connect",
    "serve": "burst_agent.service",
    "volume": "burst_agent.host.volume",
    "hostkey": "burst_agent.host.hostkey",
}
_ALONE: Final = "burst_agent.single"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status. `lease` and `connect` are run over ssh all the time, so they start fast."""
    words = list(sys.argv[1:] if argv is None else argv)
    part = _PARTS.get(words[0]) if words else None
    chosen: Callable[[Sequence[str]], int] = importlib.import_module(part or _ALONE).main
    return chosen(words[1:] if part else words)


if __name__ == "__main__":
    sys.exit(main())
