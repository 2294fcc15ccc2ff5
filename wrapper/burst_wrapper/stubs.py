"""Stubs: small files in `target/burst` that stand for programs left where they were linked.

A stub is executable. Its first line starts `burst-stub`, which says what it is; the second one is
`burst-stub 1 <digest in hex> <size in bytes>`. cargo uplifts (hard-links) and starts it as it would
the program itself; the runner, the mirror and the daemon know it by its content.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from burst_protocol.digest import Digest

HEAD: Final = b"#!/usr/bin/env burst-stub\nburst-stub 1 "
MAX_BYTES: Final = len(HEAD) + 64 + 1 + 20 + 1
FOLDER: Final = b"burst"
"""In the plain target directory: the one that executing verbs build into."""


def text(digest: Digest) -> bytes:
    """What the stub of this program holds."""
    return HEAD + b"%s %d\n" % (digest.hex.encode(), digest.size_bytes)


def parse(content: bytes) -> Digest | None:
    """What it stands for; None if it is no stub."""
    if not content.startswith(HEAD) or len(content) > MAX_BYTES:
        return None
    words = content[len(HEAD) :].split(b" ")
    with contextlib.suppress(ValueError):
        if len(words) == 2 and len(words[0]) == 64 and words[1].endswith(b"\n"):
            return Digest(bytes.fromhex(words[0].decode()), int(words[1]))
    return None


def read(path: bytes, size_bytes: int) -> Digest | None:
    """The same of a file, whose size is known: larger ones are not even opened."""
    if not len(HEAD) < size_bytes <= MAX_BYTES:
        return None
    try:
        with open(path, "rb") as file:
            return parse(file.read(MAX_BYTES + 1))
    except OSError:
        return None


def find(target_dir: bytes) -> Iterator[tuple[bytes, Digest]]:
    """All stubs that cargo may have below this target directory. Blocking.

    `<profile>/`, `<profile>/deps/`, `<profile>/examples/`, and the same below `<triple>/`.
    """
    for profile in _folders(target_dir):
        yield from _in_profile(profile)
        for below in _folders(profile):
            if os.path.basename(below) not in _INSIDE:
                yield from _in_profile(below)


_INSIDE: Final = frozenset((b"deps", b"examples", b"build", b"incremental", b".fingerprint"))


def _in_profile(profile: bytes) -> Iterator[tuple[bytes, Digest]]:
    for folder in (profile, profile + b"/deps", profile + b"/examples"):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    size = entry.stat(follow_symlinks=False).st_size
                    digest = read(entry.path, size)
                    if digest is not None:
                        yield entry.path, digest


def _folders(path: bytes) -> list[bytes]:
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
