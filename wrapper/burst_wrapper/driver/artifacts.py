"""Cargo's JSON messages: which files a build has made that its user wants to have.

https://doc.rust-lang.org/cargo/reference/external-tools.html#json-messages. Wanted is what cargo
*uplifts* (what it puts beside `deps/`: programs, examples, libraries that were asked for), and what
a message calls `executable`, test binaries too. What lies in `deps` and `build` for the next rustc
stays where the next rustc is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from typing import Any, Final

import attrs

_INNER: Final = (b"deps", b"build", b"incremental", b".fingerprint")
_LONGEST_LINE_BYTES: Final = 16 << 20


@attrs.define
class Artifacts:
    """What messages have named so far: absolute paths, in their order, each once."""

    _paths: dict[bytes, None] = attrs.field(factory=dict)
    executables: list[bytes] = attrs.field(factory=list)
    """Of these, what can be started."""
    finished: bool = False
    """Cargo has said that its build is over; what comes then is a program's."""
    success: bool = False

    @property
    def paths(self) -> tuple[bytes, ...]:
        return tuple(self._paths)

    def message(self, message: dict[str, Any]) -> None:
        """One of cargo's messages; unknown ones mean nothing."""
        if message.get("reason") == "build-finished":
            self.finished = True
            self.success = message.get("success") is True
        if message.get("reason") != "compiler-artifact":
            return
        executable = message.get("executable")
        if isinstance(executable, str):
            self._add(executable)
            self.executables.append(os.fsencode(executable))
        filenames = message.get("filenames")
        for name in filenames if isinstance(filenames, list) else ():
            if isinstance(name, str) and _uplifted(os.fsencode(name)):
                self._add(name)

    def _add(self, path: str) -> None:
        self._paths[os.fsencode(path)] = None


def _uplifted(path: bytes) -> bool:
    folder = os.path.dirname(path)
    if os.path.basename(folder) in _INNER:
        return False
    return os.path.basename(os.path.dirname(folder)) not in _INNER


@attrs.define
class Sieve:
    """Cargo's stdout, taken apart as it comes: `keep` gets the bytes that are the user's.

    Where the messages were our wish, the user sees none of them; where it was the user's, all.
    """

    artifacts: Artifacts
    keep: Callable[[bytes], None]
    ours: bool
    _line: bytearray = attrs.field(factory=bytearray)

    def feed(self, data: bytes) -> None:
        """Some bytes of it; whole lines are handed on at once."""
        if not self.ours:
            self.keep(data)
        self._line += data
        if b"\n" not in data:
            if len(self._line) > _LONGEST_LINE_BYTES:
                self._give(bytes(self._line))
                self._line.clear()
            return
        *lines, rest = bytes(self._line).split(b"\n")
        for line in lines:
            self._judge(line + b"\n")
        self._line = bytearray(rest)

    def close(self) -> None:
        """Its end; a last line without a line end counts."""
        if self._line:
            self._judge(bytes(self._line))
            self._line.clear()

    def _judge(self, line: bytes) -> None:
        message = None if self.artifacts.finished else as_message(line)
        if message is None:
            self._give(line)
        else:
            self.artifacts.message(message)

    def _give(self, line: bytes) -> None:
        if self.ours:
            self.keep(line)


def as_message(line: bytes) -> dict[str, Any] | None:
    """One of cargo's messages, or None for any other line."""
    if not line.startswith(b'{"reason":'):
        return None
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) else None


def of_output(output: bytes) -> Artifacts:
    """Of a whole stdout."""
    artifacts = Artifacts()
    sieve = Sieve(artifacts, keep=lambda _: None, ours=True)
    sieve.feed(output)
    sieve.close()
    return artifacts


def below(paths: Iterable[bytes], folder: bytes) -> tuple[bytes, ...]:
    """Those in `folder`, relative to it: cargo is believed, but not out of the target directory."""
    prefix = folder.rstrip(b"/") + b"/"
    return tuple(
        path[len(prefix) :] for path in map(os.path.normpath, paths) if path.startswith(prefix)
    )
