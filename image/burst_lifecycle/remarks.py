"""What every command says about the configuration: what has no effect, and what waits for trust.

Light: commands that have nothing else to do with servers ask for it, too.
"""

from __future__ import annotations

import os

import attrs

from burst_lifecycle.places import Places
from burst_lifecycle.project import nearest_workspace
from burst_lifecycle.settings import PROJECT_FILE, load
from burst_protocol.errors import ConfigError

TRUST_HINT = "read it, then `cargo burst enable --trust` in that project"


@attrs.frozen
class Remark:
    """A sentence for people, and what they can do."""

    text: str
    hint: str = ""


def remarks(places: Places, folder: str) -> list[Remark]:
    """Of the user's file, and that of the project in this folder. A file that cannot be used is a
    remark, too."""
    root = nearest_workspace(folder)
    try:
        found = load(places, root)
    except ConfigError as error:
        return [Remark(str(error), error.hint)]
    said = [Remark(f"configuration: {sentence}") for sentence in found.warnings]
    if found.untrusted:
        path = os.path.join(root, PROJECT_FILE)
        names = ", ".join(f"`{name}`" for name in found.untrusted)
        verb = "has" if len(found.untrusted) == 1 else "have"
        said.append(
            Remark(f"{path} is not trusted: {names} {verb} no effect", TRUST_HINT),
        )
    return said
