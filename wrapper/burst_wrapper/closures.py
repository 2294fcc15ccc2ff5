"""Which crates a crate needs: the closure behind `--extern`, remembered per produced artifact.

rustc needs, for every crate of the transitive closure, the file with its metadata; proc macros of
dependencies too, even unused ones, but nothing below a proc macro. It looks for a macro of a
dependency twice, and the second time opens every file that begins like it (`libpastey-…` for
`paste`; `find_library_crate` in rustc_metadata's locator). The crate names that it meets there move
what it interns later, and so the order of what it hashes by them: of each such *namesake* one file
is shown. Those that the macro is built from were there before it, and are preferred: which others
are there yet may differ from build to build.
A unit that links needs the rlibs as well.

What a crate's closure is we know because we saw its compile; of an artifact that somebody else
made, its metadata tells. Where it does not, everything in the `-L dependency` directories is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack, unpack
from burst_wrapper import crate_metadata
from burst_wrapper.argv import RustcCall
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache

_FACT: Final = "closure"
_PACKAGE: Final = "package"
_METADATA: Final = (b".rmeta", b".rlib", b".so")
_ALL: Final = (b".rmeta", b".rlib", b".so")


@attrs.frozen
class Closure:
    """Stems (`libserde-0123abcd`) of every crate a crate needs; macros apart."""

    crates: frozenset[bytes]
    macros: frozenset[bytes]

    def of_macro(self, stem: bytes) -> Closure:
        """What users of a proc macro need, if this is what the macro itself needs."""
        name = _crate_name(stem)
        crates = frozenset(each for each in self.crates if _is_namesake(each, name))
        macros = frozenset(each for each in self.macros if _is_namesake(each, name))
        return Closure(crates, macros | {stem})


@attrs.frozen
class ExternFile:
    path: bytes
    digest: Digest


@attrs.frozen
class Externs:
    """What must be visible for the `--extern`s of one call."""

    files: tuple[ExternFile, ...]
    macros: tuple[ExternFile, ...]
    closure: Closure
    known: bool
    """False if some artifact was not seen when it was made, and does not say what it needs, so that
    all candidates were taken."""
    missing: tuple[bytes, ...]
    """Extern paths that do not exist: rustc will say so, at home."""


class Closures:
    def __init__(self, index: Index, stats: StatCache) -> None:
        self._index = index
        self._stats = stats
        self._memory: dict[bytes, Closure] = {}
        self._packages: dict[bytes, bytes] = {}

    def remember_package(self, stem: bytes, package_dir: bytes) -> None:
        """Where the sources of a crate from a registry or git lie."""
        if self._packages.get(stem) != package_dir:
            self._packages[stem] = package_dir
            self._index.put_fact(_PACKAGE, stem, package_dir)

    def packages(self, closure: Closure) -> list[bytes]:
        """Source directories behind a closure, as far as they cannot change.

        rustc opens them for the snippets of macros that other crates export.
        """
        found: set[bytes] = set()
        for stem in closure.crates:
            package_dir = self._packages.get(stem)
            if package_dir is None:
                package_dir = self._index.fact(_PACKAGE, stem)
                if package_dir is None:
                    continue
                self._packages[stem] = package_dir
            found.add(package_dir)
        return sorted(found)

    def remember(self, digest: Digest, closure: Closure) -> None:
        """`digest` is that of a file which carries the crate's metadata."""
        if self._memory.get(digest.hash) == closure:
            return
        self._memory[digest.hash] = closure
        self._index.put_fact(
            _FACT, digest.hash, pack([sorted(closure.crates), sorted(closure.macros)])
        )

    def _remembered(self, digest: Digest) -> Closure | None:
        known = self._memory.get(digest.hash)
        if known is None:
            data = self._index.fact(_FACT, digest.hash)
            if data is None:
                return None
            try:
                value: Any = unpack(data)
                crates, macros = value
                known = Closure(frozenset(crates), frozenset(macros))
                if not all(type(stem) is bytes for stem in known.crates | known.macros):
                    return None
            except (RemoteProtocolError, TypeError, ValueError):
                return None
            self._memory[digest.hash] = known
        return known

    def _of(self, path: bytes, digest: Digest, directories: list[bytes]) -> Closure | None:
        """As remembered; of an artifact that somebody else made, by what it says itself."""
        known = self._remembered(digest)
        if known is not None:
            return known
        stem, extension = os.path.splitext(os.path.basename(path))
        try:
            if extension == b".so":
                if not crate_metadata.is_proc_macro(path):
                    return None
                closure = Closure(frozenset(), frozenset((stem,)))
            else:
                around = _stems(directories)
                smaller = os.path.join(os.path.dirname(path), stem + b".rmeta")
                where = smaller if smaller in around.get(stem, ()) else path
                named = crate_metadata.crates_named(where, around)
                if named is None:
                    return None
                macros = {each for each in named if self._is_macro(around[each], directories)}
                closure = Closure(frozenset(named - macros - {stem}), frozenset(macros))
        except OSError:
            return None
        self.remember(digest, closure)
        return closure

    def _is_macro(self, files: set[bytes], directories: list[bytes]) -> bool:
        """Whether these are all the files of a proc macro: asked of each once, not by each user."""
        if any(not file.endswith(b".so") for file in files):
            return False
        path = min(files)
        state = self._stats.digest(path)
        if state is None:
            return False
        closure = self._of(path, state.digest, directories)
        return closure is not None and os.path.splitext(os.path.basename(path))[0] in closure.macros

    def resolve(self, call: RustcCall, cwd: bytes, *, links: bool) -> Externs:
        """Stats a few files per crate of the closure; hashes only what is not yet known."""
        directories = _search_directories(call, cwd)
        crates: set[bytes] = set()
        macros: set[bytes] = set()
        searched: set[bytes] = set()
        named: dict[bytes, bytes] = {}
        known = True
        missing: list[bytes] = []
        for extern in call.externs:
            if extern.path is None:
                continue
            path = os.path.join(cwd, extern.path)
            folder, name = os.path.split(path)
            stem, extension = os.path.splitext(name)
            if folder not in directories:
                directories.append(folder)
            state = self._stats.digest(path)
            if state is None:
                missing.append(path)
                continue
            named[path] = stem
            closure = self._of(path, state.digest, directories)
            if closure is None:
                known = False
            else:
                crates |= closure.crates
                macros |= closure.macros
                if extension == b".so" and stem in closure.macros:
                    continue
                searched |= closure.macros
            crates.add(stem)
        if known:
            files, macro_files = self._collect(directories, crates, macros, links=links)
            files += self._namesakes(directories, searched, crates | macros)
        else:
            files, macro_files = self._everything(directories, links=links)
            crates = {os.path.splitext(os.path.basename(file.path))[0] for file in files}
            macros = {os.path.splitext(os.path.basename(file.path))[0] for file in macro_files}
        # All that lies around, and namesakes, can be what this unit wrote before.
        out_dir = os.path.join(cwd, call.out_dir or b"")

        def is_input(file: ExternFile) -> bool:
            folder, name = os.path.split(file.path)
            return file.path in named or folder != out_dir or not call.writes(name)

        files = list(filter(is_input, files))
        macro_files = list(filter(is_input, macro_files))
        crates -= {call.lib_stem} - set(named.values())
        have = {file.path for file in files} | {file.path for file in macro_files}
        for path in named:
            if path not in have:
                state = self._stats.digest(path)
                if state is not None:
                    files.append(ExternFile(path, state.digest))
        return Externs(
            tuple(sorted(files, key=_path)),
            tuple(sorted(macro_files, key=_path)),
            Closure(frozenset(crates), frozenset(macros)),
            known,
            tuple(missing),
        )

    def _collect(
        self, directories: list[bytes], crates: set[bytes], macros: set[bytes], *, links: bool
    ) -> tuple[list[ExternFile], list[ExternFile]]:
        files: list[ExternFile] = []
        macro_files: list[ExternFile] = []
        digest = self._stats.digest
        for stem in crates:
            for folder in directories:
                found = False
                for extension in _ALL:
                    path = b"%s/%s%s" % (folder, stem, extension)
                    state = digest(path)
                    if state is None:
                        continue
                    found = True
                    files.append(ExternFile(path, state.digest))
                    if not links:
                        # The first one carries the metadata; the others are not looked at.
                        break
                if found:
                    break
        for stem in macros:
            for folder in directories:
                path = b"%s/%s.so" % (folder, stem)
                state = digest(path)
                if state is not None:
                    macro_files.append(ExternFile(path, state.digest))
                    break
        return files, macro_files

    def _namesakes(
        self, directories: list[bytes], macros: set[bytes], shown: set[bytes]
    ) -> Iterator[ExternFile]:
        """One file of each crate that begins like one of these macros, if none is shown yet."""
        beginnings = tuple(b"lib" + _crate_name(stem) for stem in macros)
        if not beginnings:
            return
        taken = set(map(_crate_name, shown))
        for folder in directories:
            try:
                found = _libraries(folder, beginnings)
            except OSError:
                continue
            for stem, extension in sorted(found, key=_smallest_first):
                crate = _crate_name(stem)
                if crate in taken:
                    continue
                path = b"%s/%s%s" % (folder, stem, extension)
                state = self._stats.digest(path)
                if state is not None:
                    taken.add(crate)
                    yield ExternFile(path, state.digest)

    def _everything(
        self, directories: list[bytes], *, links: bool
    ) -> tuple[list[ExternFile], list[ExternFile]]:
        files: list[ExternFile] = []
        macro_files: list[ExternFile] = []
        for folder in directories:
            try:
                present = set(_libraries(folder))
            except OSError:
                continue
            for stem, extension in present:
                if extension == b".rlib" and not links and (stem, b".rmeta") in present:
                    continue
                path = b"%s/%s%s" % (folder, stem, extension)
                state = self._stats.digest(path)
                if state is None:
                    continue
                lone = extension == b".so" and present.isdisjoint(
                    ((stem, b".rmeta"), (stem, b".rlib"))
                )
                (macro_files if lone else files).append(ExternFile(path, state.digest))
        return files, macro_files


def _stems(directories: list[bytes]) -> dict[bytes, set[bytes]]:
    """All crates that lie there, and the files that each of them has."""
    found: dict[bytes, set[bytes]] = {}
    for folder in directories:
        for stem, extension in _libraries(folder):
            found.setdefault(stem, set()).add(b"%s/%s%s" % (folder, stem, extension))
    return found


def _libraries(
    folder: bytes, beginnings: tuple[bytes, ...] = (b"lib",)
) -> list[tuple[bytes, bytes]]:
    """Stem and extension of every file in there that carries metadata. OSError if it is none."""
    names = (name for name in os.listdir(folder) if name.startswith(beginnings))
    return [parts for parts in map(os.path.splitext, names) if parts[1] in _ALL]


def _crate_name(stem: bytes) -> bytes:
    """`serde` of `libserde-0123abcd`."""
    return stem.removeprefix(b"lib").partition(b"-")[0]


def _is_namesake(stem: bytes, macro: bytes) -> bool:
    """Whether rustc learns another crate's name when it looks for a macro of that one."""
    name = _crate_name(stem)
    return name.startswith(macro) and name != macro


def _smallest_first(library: tuple[bytes, bytes]) -> tuple[int, bytes]:
    stem, extension = library
    return _ALL.index(extension), stem


def _search_directories(call: RustcCall, cwd: bytes) -> list[bytes]:
    directories: list[bytes] = []
    for search in call.search_paths:
        if search.kind in (b"dependency", b"crate", b"all"):
            path = os.path.join(cwd, search.path)
            if path not in directories:
                directories.append(path)
    return directories


def _path(file: ExternFile) -> bytes:
    return file.path
