"""Home's shared libraries by name, for machines that lack them or have older ones.

An agent that is to start a program says which names it lacks (`Lacking`): names as in DT_NEEDED;
`libc.so.6` stands for glibc and all that must be of the same build. What is found here is sent, and
named in the next StartProgram; for what is not, the empty digest says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import attrs

from burst_protocol.elf import (
    GLIBC,
    Elf,
    find_library,
    glibc_names,
    is_glibc,
    library_closure,
    read_elf,
)


@attrs.frozen
class Found:
    """`path` is None if home has none either."""

    name: str
    path: bytes | None


def find_libraries(
    names: Iterable[str], library_path: Sequence[bytes] = (), like: Elf | None = None
) -> tuple[Found, ...]:
    """These libraries and what they load themselves, each once. Blocking: a few maps of files.

    `library_path`: the folders of the program's LD_LIBRARY_PATH, which come first. `like`: a
    program of the wanted kind; home's own interpreter otherwise.
    """
    like = like or _own()
    found: dict[str, bytes | None] = {}
    for name in dict.fromkeys(names):
        if is_glibc(name):
            found.update(dict.fromkeys([GLIBC]))
            found.update(_glibc(like))
            continue
        path = None if like is None else _find(name, like, library_path)
        found[name] = path
        if path is None:
            continue
        # What it needs besides may be on the other machine; then it is not asked for again.
        for file in library_closure([path], library_path=library_path).files:
            base = os.path.basename(file).decode(errors="replace")
            if not is_glibc(base):
                found.setdefault(base, os.path.realpath(file))
    return tuple(Found(name, path) for name, path in found.items())


def _glibc(like: Elf | None) -> dict[str, bytes]:
    """All parts that home has, its loader under the name that programs ask for."""
    if like is None or b"ld-linux" not in like.interpreter:
        return {}  # another libc: nothing of it helps a program that wants glibc
    parts = {name: _find(name, like, ()) for name in glibc_names()}
    found = {name: path for name, path in parts.items() if path is not None}
    if GLIBC not in found:
        return {}
    loader = os.path.basename(like.interpreter).decode(errors="replace")
    return {**found, loader: os.path.realpath(like.interpreter)}


def _find(name: str, like: Elf, library_path: Sequence[bytes]) -> bytes | None:
    path = find_library(os.fsencode(name), like, library_path=library_path)
    return None if path is None else os.path.realpath(path)


def _own() -> Elf | None:
    """A program of this machine, whatever brought its Python along."""
    for path in (b"/bin/sh", b"/usr/bin/env", b"/proc/self/exe"):
        elf = read_elf(path)
        if elf is not None and elf.interpreter:
            return elf
    return None
