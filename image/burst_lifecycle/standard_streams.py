"""Standard streams that whoever started us has closed (`<&-`, some daemons, some cron jobs).

Python has None in their place, and the next file that is opened takes their number: a lock or a
socket would be what our children read and write. Rust's runtime does the same for cargo.
"""

from __future__ import annotations

import os
import sys


def ensure() -> None:
    """Whatever is closed is /dev/null afterwards, here and for children."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            # The lowest number is taken, and those below are open by now.
            os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
        mode = "w" if number else "r"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
