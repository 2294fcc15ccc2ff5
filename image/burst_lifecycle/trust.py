"""Which project files the user has read: by path and by every byte.

A cloned repository's file can ask for dear servers, for variables of the user's shell, for files
outside of the project. Such keys count only after `cargo burst enable --trust`, and no longer when
a single byte of the file has changed.
"""

from __future__ import annotations

import contextlib
import json
import os

import attrs

from burst_lifecycle.atomic_file import write_atomically


@attrs.frozen
class Trust:
    """Stored one file per project file in `$XDG_STATE_HOME/burst/trusted`."""

    state: str
    """`Places.state`."""

    def holds(self, path: str, content: bytes) -> bool:
        """Whether the user trusted exactly this content at this place. Never raises."""
        try:
            with open(self._record(path), "rb") as file:
                stored = json.loads(file.read(1 << 16))
        except (OSError, ValueError):
            return False
        return isinstance(stored, dict) and stored == _entry(path, content)

    def add(self, path: str, content: bytes) -> None:
        """The bytes that were shown to the user, not those that lie there by now. OSError."""
        folder = os.path.join(self.state, "trusted")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        text = json.dumps(_entry(path, content))
        write_atomically(os.fsencode(self._record(path)), text.encode(), mode=0o600)

    def forget(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._record(path))

    def _record(self, path: str) -> str:
        name = _sha256(os.fsencode(os.path.realpath(path)))
        return os.path.join(self.state, "trusted", f"{name}.json")


def _entry(path: str, content: bytes) -> dict[str, str]:
    return {
        "path": os.fsencode(os.path.realpath(path)).decode(errors="backslashreplace"),
        "sha256": _sha256(content),
    }


def _sha256(content: bytes) -> str:
    import hashlib  # noqa: PLC0415 - with OpenSSL, 3 ms; most projects have no such file

    return hashlib.sha256(content).hexdigest()
