"""What the user said about one workspace's mirror, when asked.

Kept in burst's own folder, since nothing is written into a source tree.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Final

import attrs

from burst_lifecycle.atomic_file import write_atomically
from burst_lifecycle.places import Places

_FOLDER: Final = "mirrors"
_LIMIT_BYTES: Final = 1 << 20


@attrs.frozen
class Answers:
    """What the user said about one workspace."""

    asked: bool = False
    exclude: tuple[str, ...] = ()
    """Patterns, as in the configuration's `exclude`."""


def load(places: Places, workspace_root: bytes) -> Answers:
    """Nothing, if nothing was said or it cannot be read."""
    try:
        with open(_file(places, workspace_root), "rb") as file:
            content: Any = json.loads(file.read(_LIMIT_BYTES))
        exclude = content["exclude"]
    except (OSError, ValueError, KeyError, TypeError):
        return Answers()
    if not isinstance(exclude, list) or not all(isinstance(entry, str) for entry in exclude):
        return Answers()
    return Answers(asked=True, exclude=tuple(exclude))


def save(places: Places, workspace_root: bytes, exclude: tuple[str, ...]) -> None:
    """OSError."""
    content = {"workspace": os.fsdecode(workspace_root), "exclude": list(exclude)}
    text = json.dumps(content, indent=1, ensure_ascii=True) + "\n"
    write_atomically(_file(places, workspace_root), text.encode(), mode=0o600)


def _file(places: Places, workspace_root: bytes) -> bytes:
    name = hashlib.sha256(os.path.normpath(workspace_root)).hexdigest()[:32]
    return os.fsencode(os.path.join(places.state, _FOLDER, f"{name}.json"))
