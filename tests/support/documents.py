"""The parts of the documents that follow from the code.

python tests/support/documents.py       writes them; a test compares
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from burst_lifecycle import errors as cloud_errors
from burst_protocol import errors
from burst_protocol.errors import BurstError

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
BEGIN, END = "<!-- errors -->\n", "<!-- /errors -->\n"


def concrete_errors() -> list[type[BurstError]]:
    """Those that are raised, by exit code: kinds that are only caught have none of their own."""
    classes = [
        value
        for module in (errors, cloud_errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BurstError)
    ]
    return sorted(
        {cls for cls in classes if cls.exit_code != BurstError.exit_code},
        key=lambda cls: cls.exit_code,
    )


def error_table() -> str:
    """One row per class: exit code, reason code, message, and what to do."""
    lines = ["| exit | code | message | what to do |", "|---|---|---|---|"]
    for cls in concrete_errors():
        if not cls.hint:
            continue
        message = (cls.__doc__ or "").split("\n", 1)[0].replace("{detail}", "…")
        message = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), message)
        lines.append(f"| {cls.exit_code} | `{cls.code}` | {message} | {cls.hint} |")
    return "\n".join(lines) + "\n"


def with_error_table(text: str) -> str:
    """The README with the present table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{error_table()}{END}{after}"


def main() -> int:
    README.write_text(with_error_table(README.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
