"""Which shared libraries a program needs that this machine lacks, and how home's are shown to it.

A program linked at home insists on what home has: names (DT_NEEDED), and versions of symbols that
an older build does not provide, above all glibc's. What is missing here is asked of home and shown:

* glibc whole or not at all, since its parts share private symbols, and over the machine's files.
  A newer one runs all that older ones run, so the machine's own programs go on in there;
* anything else in a folder of ours at the end of LD_LIBRARY_PATH.

Nothing is executed, and links are those of this machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from burst_protocol.elf import (
    GLIBC,
    Data,
    Elf,
    find_library,
    is_glibc,
    library_closure,
    read_elf,
    read_mapped,
)

FOLDER: Final = b"/.burst/lib"
_MAX_NEIGHBOURS: Final = 40
_MAX_KNOWN: Final = 4096
_TESTS_FOLDER: Final = b"deps"
_EXAMPLES_FOLDER: Final = b"examples"

Outside = Callable[[bytes], bytes | None]
"""Where on disk a path of the place lies; None: nowhere."""


class LacksLibraries(Exception):
    """Home has to send these first, or to say that it has none either."""

    def __init__(self, names: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.names = names
        self.reason = reason


@attrs.frozen
class Shown:
    files: tuple[tuple[bytes, bytes], ...] = ()
    """(path in the place, file on disk)."""
    library_path: tuple[bytes, ...] = ()
    """To be added to LD_LIBRARY_PATH."""


def show(
    program: bytes,
    outside: Outside,
    library_path: tuple[bytes, ...],
    given: Mapping[str, bytes | None],
) -> Shown:
    """How the libraries that home has sent (None: it has none) are shown to that program.

    LacksLibraries if it needs others. Blocking: a few maps of files.
    """

    def machine(path: bytes) -> Data | None:
        found = outside(path)
        return None if found is None else read_mapped(found)

    candidates = (program, *_neighbours(program, outside))
    programs = [path for path in dict.fromkeys(candidates) if _is_program(path, machine)]
    if not programs:
        return Shown()
    shown = _placed(read_elf(programs[0], machine), machine, given)
    over = dict(shown.files)

    def read(path: bytes) -> Data | None:
        put = over.get(path) or over.get(os.path.realpath(path))
        return machine(path) if put is None else read_mapped(put)

    folders = (*library_path, *shown.library_path)
    lacking: dict[str, str] = {}
    for path in programs:
        for name, reason in _looked_at(path, outside, folders, read, given):
            wanted = GLIBC if is_glibc(name) else name
            if wanted not in given:
                lacking.setdefault(wanted, f"{os.fsdecode(path)}: {reason}")
    if lacking:
        raise LacksLibraries(tuple(lacking), "; ".join(lacking.values()))
    return shown


_whole: set[tuple[object, ...]] = set()
"""Programs that lack nothing, by all that this follows from but the libraries themselves: where one
is taken away under a running agent, ld.so says so, as it does at home."""


def _looked_at(
    program: bytes,
    outside: Outside,
    folders: tuple[bytes, ...],
    read: Callable[[bytes], Data | None],
    given: Mapping[str, bytes | None],
) -> tuple[tuple[str, str], ...]:
    """`_lacking`, remembered: a test suite starts the same program a thousand times."""
    status = os.stat(outside(program) or program)
    look = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    key = (program, look, folders, tuple(sorted(given)))
    if key in _whole:
        return ()
    found = tuple(_lacking(program, folders, read))
    if not found:
        if len(_whole) >= _MAX_KNOWN:
            _whole.clear()
        _whole.add(key)
    return found


def _is_program(path: bytes, read: Callable[[bytes], Data | None]) -> bool:
    elf = read_elf(path, read)
    return elf is not None and bool(elf.interpreter)


def _neighbours(program: bytes, outside: Outside) -> Iterable[bytes]:
    """Programs that a test may start: cargo puts them two folders up, the examples beside them."""
    folder = os.path.dirname(program)
    if os.path.basename(folder) in {_TESTS_FOLDER, _EXAMPLES_FOLDER}:
        folder = os.path.dirname(folder)
    elif outside(os.path.join(folder, _TESTS_FOLDER)) is None:
        return
    found = 0
    for place in (folder, os.path.join(folder, _EXAMPLES_FOLDER)):
        there = outside(place)
        if there is None or not os.path.isdir(there):
            continue
        with os.scandir(there) as entries:
            for entry in entries:
                if found == _MAX_NEIGHBOURS:
                    return
                usable = entry.is_file() and entry.stat().st_mode & 0o111
                if usable and b"." not in entry.name:
                    found += 1
                    yield os.path.join(place, entry.name)


def _lacking(
    program: bytes, folders: tuple[bytes, ...], read: Callable[[bytes], Data | None]
) -> Iterable[tuple[str, str]]:
    """(name of a library, what is wrong with it)."""
    closure = library_closure([program], library_path=folders, read=read)
    for name in closure.missing:
        base = os.path.basename(name).decode(errors="replace")
        yield base, f"{base} is not on this machine"
    files = {path: elf for path in (program, *closure.files) if (elf := read_elf(path, read))}
    by_name = {os.path.basename(path): elf for path, elf in files.items()}
    by_name.update((elf.soname, elf) for elf in files.values() if elf.soname)
    for elf in files.values():
        for library, version in elf.wants:
            provider = by_name.get(library)
            if provider is not None and provider.provides and version not in provider.provides:
                text = library.decode(errors="replace")
                yield text, f"{text} here has no {version.decode(errors='replace')}"


def _placed(
    program: Elf | None,
    machine: Callable[[bytes], Data | None],
    given: Mapping[str, bytes | None],
) -> Shown:
    """Home's glibc over the machine's, everything else in our folder."""
    if program is None:
        return Shown()
    files: list[tuple[bytes, bytes]] = []
    beside = False
    for name, path in given.items():
        if path is None:
            continue
        encoded = name.encode()
        target = None
        if is_glibc(name):
            if encoded == os.path.basename(program.interpreter):
                target = program.interpreter
            else:
                target = find_library(encoded, program, read=machine)
        if target is None:
            target = os.path.join(FOLDER, encoded)
            beside = True
        files.append((os.path.realpath(target), path))
    return Shown(tuple(files), (FOLDER,) if beside else ())
