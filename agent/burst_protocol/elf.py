"""What a program or library needs from others: a small reader of ELF files and of ld.so's rules.

Facts from elf(5), the System V gABI (chapter 5), ld.so(8) and glibc's `sysdeps/generic/dl-cache.h`.
Nothing is executed: `ldd` runs the program's own loader, and fails for other architectures.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Data = bytes | mmap.mmap

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_VERDEF, _DT_VERNEED = 0x6FFFFFFC, 0x6FFFFFFE
_VER_BASE, _VER_WEAK = 1, 2
_MAX_VERSIONS: Final = 10_000

GLIBC: Final = "libc.so.6"
"""Stands for glibc and all that must be of the same build."""
_OF_GLIBC: Final = frozenset(
    {
        *("libBrokenLocale.so.1", "libanl.so.1", "libc.so.6", "libc_malloc_debug.so.0"),
        *("libdl.so.2", "libm.so.6", "libmvec.so.1", "libnsl.so.1", "libnss_compat.so.2"),
        *("libnss_dns.so.2", "libnss_files.so.2", "libnss_hesiod.so.2", "libpthread.so.0"),
        *("libresolv.so.2", "librt.so.1", "libthread_db.so.1", "libutil.so.1"),
    }
)

_MULTIARCH: Final = {
    3: b"i386-linux-gnu",
    21: b"powerpc64le-linux-gnu",
    22: b"s390x-linux-gnu",
    40: b"arm-linux-gnueabihf",
    62: b"x86_64-linux-gnu",
    183: b"aarch64-linux-gnu",
    243: b"riscv64-linux-gnu",
    258: b"loongarch64-linux-gnu",
}
"""Debian's library folder by e_machine; Debian's ld.so looks there first."""

_CACHE_MAGIC: Final = b"glibc-ld.so.cache1.1"
_CACHE_HEADER_BYTES: Final = 48
_CACHE_ENTRY: Final = struct.Struct("=iIIIQ")
"""flags, offset of the name, offset of the path, OS version, hwcap (`struct file_entry_new`)."""


@attrs.frozen
class Elf:
    """The parts of one file's dynamic section that decide which other files it loads."""

    bits: int
    """32 or 64."""
    little: bool
    machine: int
    """e_machine: 62 is x86-64, 183 AArch64."""
    interpreter: bytes = b""
    soname: bytes = b""
    needed: tuple[bytes, ...] = ()
    rpath: tuple[bytes, ...] = ()
    runpath: tuple[bytes, ...] = ()
    wants: tuple[tuple[bytes, bytes], ...] = ()
    """(name of a library, version of its symbols): without them ld.so refuses to start it."""
    provides: tuple[bytes, ...] = ()
    """Versions of its own symbols; none: it has no versions."""

    @property
    def kind(self) -> tuple[int, bool, int]:
        """Equal for files that can be loaded into one process."""
        return self.bits, self.little, self.machine


@attrs.frozen
class Closure:
    """The interpreter and libraries that some files load, as ld.so spells them, without them."""

    files: tuple[bytes, ...]
    missing: tuple[bytes, ...]
    """Names that no rule found; the program cannot start without them."""
    by_cache: tuple[bytes, ...]
    """Files of `files` that the default folders alone would not give: ld.so.cache is needed."""


def is_glibc(name: str) -> bool:
    """Whether a library of this name belongs to glibc: its parts share private symbols, so they are
    all of one build or none is."""
    return name in _OF_GLIBC or name.startswith(("ld-linux", "ld64.so", "ld.so."))


def glibc_names() -> tuple[str, ...]:
    """All but the loader, whose name depends on the processor."""
    return tuple(sorted(_OF_GLIBC))


def is_elf(data: Data) -> bool:
    return data[:4] == b"\x7fELF"


def parse(data: Data) -> Elf | None:
    """None for what is no ELF file, or a damaged one: to ld.so these are the same."""
    try:
        return _parse(data)
    except (struct.error, IndexError, ValueError, OverflowError):
        return None


def _parse(data: Data) -> Elf | None:
    if not is_elf(data) or len(data) < 52:
        return None
    bits = {1: 32, 2: 64}[data[4]] if data[4] in (1, 2) else 0
    if bits == 0 or data[5] not in (1, 2):
        return None
    little = data[5] == 1
    order = "<" if little else ">"
    (machine,) = struct.unpack_from(order + "H", data, 18)
    if bits == 64:
        (table,) = struct.unpack_from(order + "Q", data, 32)
        size, count = struct.unpack_from(order + "HH", data, 54)
    else:
        (table,) = struct.unpack_from(order + "I", data, 28)
        size, count = struct.unpack_from(order + "HH", data, 42)
    loads: list[tuple[int, int, int]] = []
    interpreter, dynamic = b"", (0, 0)
    for index in range(count):
        at = table + index * size
        if bits == 64:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", data, at)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", data, at)
        if kind == _PT_LOAD:
            loads.append((address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = (offset, length)
        elif kind == _PT_INTERP:
            interpreter = data[offset : offset + length].rstrip(b"\0")
    tags = list(_dynamic_tags(data, order, bits, dynamic))
    strings = next((value for tag, value in tags if tag == _DT_STRTAB), None)
    if strings is None:
        return Elf(bits, little, machine, interpreter)

    def in_file(address: int) -> int | None:
        for start, offset, length in loads:
            if start <= address < start + length:
                return offset + address - start
        return None

    base = in_file(strings)
    if base is None:
        return None
    places = {tag: in_file(value) for tag, value in tags if tag in {_DT_VERDEF, _DT_VERNEED}}

    def texts(wanted: int) -> tuple[bytes, ...]:
        return tuple(_text(data, base + value) for tag, value in tags if tag == wanted)

    def folders(wanted: int) -> tuple[bytes, ...]:
        return tuple(part for text in texts(wanted) for part in text.split(b":") if part)

    return Elf(
        bits,
        little,
        machine,
        interpreter,
        (texts(_DT_SONAME) or (b"",))[0],
        texts(_DT_NEEDED),
        folders(_DT_RPATH),
        folders(_DT_RUNPATH),
        tuple(_versions_wanted(data, order, places.get(_DT_VERNEED), base)),
        tuple(_versions_provided(data, order, places.get(_DT_VERDEF), base)),
    )


def _versions_wanted(
    data: Data, order: str, at: int | None, strings: int
) -> Iterator[tuple[bytes, bytes]]:
    """The chain of Verneed, each with a chain of Vernaux (LSB core, symbol versioning)."""
    if at is None:
        return
    for _ in range(_MAX_VERSIONS):
        _, count, file, first, following = struct.unpack_from(order + "HHIII", data, at)
        name, aux = _text(data, strings + file), at + first
        for _ in range(count):
            _, flags, _, version, more = struct.unpack_from(order + "IHHII", data, aux)
            if not flags & _VER_WEAK:
                yield name, _text(data, strings + version)
            aux += more
        if not following:
            return
        at += following


def _versions_provided(data: Data, order: str, at: int | None, strings: int) -> Iterator[bytes]:
    """The chain of Verdef; the first Verdaux of each is its name."""
    if at is None:
        return
    for _ in range(_MAX_VERSIONS):
        _, flags, _, _, _, first, following = struct.unpack_from(order + "HHHHIII", data, at)
        if not flags & _VER_BASE:
            (name,) = struct.unpack_from(order + "I", data, at + first)
            yield _text(data, strings + name)
        if not following:
            return
        at += following


def _dynamic_tags(
    data: Data, order: str, bits: int, place: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    entry = struct.Struct(order + ("qQ" if bits == 64 else "iI"))
    offset, length = place
    for at in range(offset, offset + length - entry.size + 1, entry.size):
        tag, value = entry.unpack_from(data, at)
        if tag == 0:
            return
        yield tag, value


def _text(data: Data, at: int) -> bytes:
    end = data.find(b"\0", at)
    if end < 0 or at < 0:
        raise ValueError("a name without its end")
    return data[at:end]


def read_mapped(path: bytes) -> Data | None:
    """A file's bytes, mapped: of 150 MB of librustc_driver only a few pages are read."""
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None


def read_elf(path: bytes, read: Callable[[bytes], Data | None] = read_mapped) -> Elf | None:
    data = read(path)
    if data is None:
        return None
    try:
        return parse(data)
    finally:
        if isinstance(data, mmap.mmap):
            # Slices are copies, so nothing refers to the map any more.
            with contextlib.suppress(BufferError):
                data.close()


def parse_cache(data: Data) -> dict[bytes, tuple[bytes, ...]]:
    """`/etc/ld.so.cache`: name to paths, in its order; {} for a format we do not know.

    An old-format table may stand before the new one. Entries for special processors (hwcap) are
    left out: they are other builds of the same library.
    """
    start = data.find(_CACHE_MAGIC)
    if start < 0:
        return {}
    found: dict[bytes, list[bytes]] = {}
    try:
        (count,) = struct.unpack_from("=I", data, start + len(_CACHE_MAGIC))
        for index in range(count):
            at = start + _CACHE_HEADER_BYTES + index * _CACHE_ENTRY.size
            _, name, path, _, hwcap = _CACHE_ENTRY.unpack_from(data, at)
            if hwcap == 0:
                found.setdefault(_text(data, start + name), []).append(_text(data, start + path))
    except (struct.error, ValueError):
        return {}
    return {name: tuple(paths) for name, paths in found.items()}


def default_folders(elf: Elf) -> tuple[bytes, ...]:
    """Where ld.so looks without being told; folders of other distributions do no harm."""
    folders: list[bytes] = []
    multiarch = _MULTIARCH.get(elf.machine)
    if multiarch is not None:
        folders += [b"/lib/" + multiarch, b"/usr/lib/" + multiarch]
    if elf.bits == 64:
        folders += [b"/lib64", b"/usr/lib64"]
    folders += [b"/lib", b"/usr/lib"]
    if b"musl" in elf.interpreter:
        folders += [b"/usr/local/lib"]
    return tuple(folders)


def library_closure(
    paths: Sequence[bytes],
    *,
    library_path: Sequence[bytes] = (),
    read: Callable[[bytes], Data | None] = read_mapped,
) -> Closure:
    """Everything that `paths` (programs, or libraries to be dlopen'ed) load, each on its own.

    `library_path`: the folders of LD_LIBRARY_PATH.
    """
    loader = _Loader(library_path, read)
    for path in paths:
        loader.load(path)
    return Closure(tuple(loader.files), tuple(loader.missing), tuple(loader.by_cache))


def find_library(
    name: bytes,
    like: Elf,
    *,
    library_path: Sequence[bytes] = (),
    read: Callable[[bytes], Data | None] = read_mapped,
) -> bytes | None:
    """Where a program like that one would find this library, if anywhere."""
    loader = _Loader(library_path, read)
    found = loader.find(name, _Loaded(b"/", attrs.evolve(like, rpath=(), runpath=()), None))
    return None if found is None else found.path


@attrs.frozen
class _Loaded:
    path: bytes
    elf: Elf
    parent: _Loaded | None


@attrs.define
class _Loader:
    """ld.so for several processes; what was read once is kept."""

    library_path: Sequence[bytes]
    read: Callable[[bytes], Data | None]
    # Dictionaries as ordered sets.
    files: dict[bytes, None] = attrs.field(factory=dict)
    missing: dict[bytes, None] = attrs.field(factory=dict)
    by_cache: dict[bytes, None] = attrs.field(factory=dict)
    _seen: dict[bytes, Elf | None] = attrs.field(factory=dict)
    _cache: dict[bytes, tuple[bytes, ...]] | None = None

    def load(self, path: bytes) -> None:
        root = self._elf(path)
        if root is None:
            return
        if root.interpreter and self.read(root.interpreter) is None:
            self.missing[root.interpreter] = None
        elif root.interpreter:
            self.files[root.interpreter] = None
        # A program's $ORIGIN is where it really is; a library's is the path it was found by.
        real = os.path.realpath(path) if root.interpreter else path
        queue = [_Loaded(real, root, None)]
        # glibc's libc.so.6 needs the loader by its soname: that one is in the process already.
        loaded = {root.soname, os.path.basename(root.interpreter)}
        for item in queue:
            for name in item.elf.needed:
                if name in loaded:
                    continue
                loaded.add(name)
                found = self.find(name, item)
                if found is None:
                    self.missing[name] = None
                    continue
                self.files[found.path] = None
                if found.elf.soname:
                    loaded.add(found.elf.soname)
                queue.append(found)

    def _elf(self, path: bytes) -> Elf | None:
        if path not in self._seen:
            self._seen[path] = read_elf(path, self.read)
        return self._seen[path]

    def find(self, name: bytes, wants: _Loaded) -> _Loaded | None:
        if b"/" in name:
            return self._fitting(_expanded(name, wants)[0], wants)
        for folder in self._told(wants):
            found = self._fitting(folder + b"/" + name, wants)
            if found is not None:
                return found
        first_default = None
        for folder in default_folders(wants.elf):
            first_default = self._fitting(folder + b"/" + name, wants)
            if first_default is not None:
                break
        for path in self._cached(name):
            found = self._fitting(path, wants)
            if found is not None:
                default = first_default.path if first_default is not None else b""
                if default != path and os.path.realpath(default) != os.path.realpath(path):
                    self.by_cache[path] = None
                return found
        return first_default

    def _told(self, wants: _Loaded) -> Iterator[bytes]:
        """RPATHs of the chain (only if there is no RUNPATH), LD_LIBRARY_PATH, RUNPATH."""
        if not wants.elf.runpath:
            at: _Loaded | None = wants
            while at is not None:
                if not at.elf.runpath:
                    for folder in at.elf.rpath:
                        yield from _expanded(folder, at)
                at = at.parent
        yield from self.library_path
        for folder in wants.elf.runpath:
            yield from _expanded(folder, wants)

    def _fitting(self, path: bytes, wants: _Loaded) -> _Loaded | None:
        elf = self._elf(path)
        if elf is None or elf.kind != wants.elf.kind:
            return None
        return _Loaded(path, elf, wants)

    def _cached(self, name: bytes) -> tuple[bytes, ...]:
        if self._cache is None:
            data = self.read(b"/etc/ld.so.cache")
            self._cache = {} if data is None else parse_cache(data)
        return self._cache.get(name, ())


def _expanded(text: bytes, item: _Loaded) -> tuple[bytes, ...]:
    """$ORIGIN and $LIB; the latter's value is compiled into ld.so, so every known one is tried."""
    origin = os.path.dirname(item.path) or b"/"
    for variable in (b"$ORIGIN", b"${ORIGIN}"):
        text = text.replace(variable, origin)
    if b"$LIB" not in text and b"${LIB}" not in text:
        return (text,)
    multiarch = _MULTIARCH.get(item.elf.machine, b"")
    values = (b"lib/" + multiarch, b"lib64" if item.elf.bits == 64 else b"lib", b"lib")
    return tuple(text.replace(b"${LIB}", v).replace(b"$LIB", v) for v in values)
