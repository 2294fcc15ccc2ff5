"""ELF parsing and ld.so's search rules, on files made up here and on this machine's own."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.elf import (
    Closure,
    Elf,
    is_elf,
    library_closure,
    parse,
    parse_cache,
    read_elf,
)

X86_64, I386, AARCH64 = 62, 3, 183


def make_elf(
    *needed: bytes,
    soname: bytes = b"",
    rpath: bytes = b"",
    runpath: bytes = b"",
    interpreter: bytes = b"",
    bits: int = 64,
    little: bool = True,
    machine: int = X86_64,
) -> bytes:
    """The smallest file with these dynamic tags; loaded at an address unlike its offset."""
    order = "<" if little else ">"
    wide = bits == 64
    base = 0x10000
    strings = b"\0"
    tags: list[tuple[int, int]] = []
    for tag, text in [
        *((1, name) for name in needed),
        *((number, text) for number, text in ((14, soname), (15, rpath), (29, runpath)) if text),
    ]:
        tags.append((tag, len(strings)))
        strings += text + b"\0"
    header_size, entry_size = (64, 56) if wide else (52, 32)
    strings_at = header_size + 3 * entry_size
    interpreter_at = strings_at + len(strings)
    dynamic_at = (interpreter_at + len(interpreter) + 1 + 15) // 16 * 16
    tags += [(5, base + strings_at), (0, 0)]
    dynamic = b"".join(struct.pack(order + ("qQ" if wide else "iI"), *tag) for tag in tags)
    total = dynamic_at + len(dynamic)

    def segment(kind: int, offset: int, size: int) -> bytes:
        address = base + offset
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, address, address, size, size, 1)
        return struct.pack(order + "8I", kind, offset, address, address, size, size, 4, 1)

    identity = b"\x7fELF" + bytes([2 if wide else 1, 1 if little else 2, 1]) + bytes(9)
    head = struct.pack(
        order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
        *(3, machine, 1, 0, header_size, 0, 0, header_size, entry_size, 3, 0, 0, 0),
    )
    data = identity + head + segment(1, 0, total) + segment(2, dynamic_at, len(dynamic))
    data += segment(3 if interpreter else 0, interpreter_at, len(interpreter) + 1)
    data += strings + interpreter + b"\0"
    return data.ljust(dynamic_at, b"\0") + dynamic


def make_cache(*entries: tuple[bytes, bytes, int], old_format_first: bool = False) -> bytes:
    """An ld.so.cache of (name, path, hwcap), as glibc 2.32 and later writes it."""
    strings = b""
    table = b""
    strings_at = 48 + 24 * len(entries)
    for name, path, hwcap in entries:
        places = []
        for text in (name, path):
            places.append(strings_at + len(strings))
            strings += text + b"\0"
        table += struct.pack("=iIIIQ", 0x303, *places, 0, hwcap)
    header = struct.pack("=20sIIB3xI12x", b"glibc-ld.so.cache1.1", len(entries), len(strings), 2, 0)
    prefix = b"ld.so-1.7.0\0" + struct.pack("=I", 0) if old_format_first else b""
    return prefix + header + table + strings


def closure(
    files: dict[bytes, bytes], *roots: bytes, library_path: tuple[bytes, ...] = ()
) -> Closure:
    return library_closure(roots, library_path=library_path, read=files.get)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("little", [True, False])
def test_parse_reads_all_classes_and_byte_orders(bits: int, little: bool) -> None:
    """32 and 64 bits, both byte orders, every tag that is used."""
    data = make_elf(
        b"liba.so.1",
        b"libb.so",
        soname=b"self.so",
        rpath=b"/r:/s",
        runpath=b"$ORIGIN/../lib",
        interpreter=b"/lib/ld.so",
        bits=bits,
        little=little,
        machine=AARCH64,
    )
    assert is_elf(data)
    assert parse(data) == Elf(
        bits,
        little,
        AARCH64,
        b"/lib/ld.so",
        b"self.so",
        (b"liba.so.1", b"libb.so"),
        (b"/r", b"/s"),
        (b"$ORIGIN/../lib",),
    )


def test_parse_gives_none_for_other_files() -> None:
    """Scripts, archives, empty and cut-off files are no ELF files."""
    for data in (b"", b"#!/bin/sh\n", b"!<arch>\n", b"\x7fELF", make_elf(b"liba.so")[:100]):
        assert parse(data) is None


@given(st.integers(0, 300), st.integers(0, 255), st.integers(52, 400))
def test_parse_never_raises_on_damage(at: int, value: int, length: int) -> None:
    """A flipped byte or a cut gives a value or None, never an error."""
    data = bytearray(make_elf(b"liba.so", soname=b"x", interpreter=b"/ld"))
    data[min(at, len(data) - 1)] = value
    parse(bytes(data[:length]))


def test_programs_of_this_machine() -> None:
    """Python's own executable has an interpreter that exists, and needs a libc."""
    elf = read_elf(os.fsencode(os.path.realpath(sys.executable)))
    if elf is None or not elf.interpreter:
        pytest.skip("python is not a dynamically linked program here")
    assert os.path.exists(elf.interpreter)
    assert any(name.startswith(b"libc.") for name in elf.needed)


@pytest.mark.parametrize("name", ["rustc", "cc", "ld", "bwrap", "git"])
def test_closure_agrees_with_ldd(name: str) -> None:
    """The same files as ld.so itself loads, for programs of this machine."""
    found, ldd = shutil.which(name), shutil.which("ldd")
    if found is None or ldd is None:
        pytest.skip(f"needs {name} and ldd")
    path = os.path.realpath(found)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C"}
    done = subprocess.run([ldd, path], capture_output=True, env=env, check=False)
    if done.returncode != 0 or b"not a dynamic" in done.stderr:
        pytest.skip("ldd does not know it")
    lines = done.stdout.splitlines()
    paths = [word for line in lines for word in line.split() if word.startswith(b"/")]
    got = library_closure([os.fsencode(path)])
    assert {os.path.realpath(p) for p in got.files} == {os.path.realpath(p) for p in paths}
    assert got.missing == ()


def test_default_folders_and_transitive_needs() -> None:
    """Without any path, /lib and its like; a library found once serves all that need it."""
    files = {
        b"/p": make_elf(b"liba.so", b"libc.so.6", interpreter=b"/lib64/ld.so"),
        b"/lib64/ld.so": make_elf(soname=b"ld.so"),
        b"/lib/x86_64-linux-gnu/libc.so.6": make_elf(b"ld.so", soname=b"libc.so.6"),
        b"/usr/lib/liba.so": make_elf(b"libc.so.6", b"libmissing.so", soname=b"liba.so"),
    }
    assert closure(files, b"/p") == Closure(
        (b"/lib64/ld.so", b"/usr/lib/liba.so", b"/lib/x86_64-linux-gnu/libc.so.6"),
        (b"libmissing.so",),
        (),
    )


def test_files_of_another_architecture_are_passed_over() -> None:
    """/lib holds 32-bit libraries on some distributions; ld.so goes on looking."""
    files = {
        b"/p": make_elf(b"liba.so"),
        b"/lib/liba.so": make_elf(bits=32, machine=I386),
        b"/usr/lib/liba.so": make_elf(),
    }
    assert closure(files, b"/p").files == (b"/usr/lib/liba.so",)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        pytest.param({"rpath": b"$ORIGIN/r"}, b"/d/r/liba.so", id="rpath before everything"),
        pytest.param({"runpath": b"${ORIGIN}/r"}, b"/env/liba.so", id="runpath after environment"),
        pytest.param({"rpath": b"/d/r", "runpath": b"/none"}, b"/env/liba.so", id="runpath wins"),
        pytest.param({}, b"/env/liba.so", id="environment before cache"),
    ],
)
def test_order_of_the_search(tags: dict[str, bytes], expected: bytes) -> None:
    """RPATH, LD_LIBRARY_PATH, RUNPATH, cache, default folders; RPATH not beside a RUNPATH."""
    files = {
        b"/d/p": make_elf(
            b"liba.so", rpath=tags.get("rpath", b""), runpath=tags.get("runpath", b"")
        ),
        b"/d/r/liba.so": make_elf(),
        b"/env/liba.so": make_elf(),
        b"/lib/liba.so": make_elf(),
        b"/etc/ld.so.cache": make_cache((b"liba.so", b"/lib/liba.so", 0)),
    }
    assert closure(files, b"/d/p", library_path=(b"/env",)).files == (expected,)


def test_rpath_is_inherited_and_runpath_is_not() -> None:
    """A library's needs are looked up in its loader's RPATH, but not in its loader's RUNPATH."""
    for tag, found in (("rpath", (b"/r/liba.so", b"/r/libb.so")), ("runpath", (b"/r/liba.so",))):
        files = {
            b"/p": make_elf(b"liba.so", **{tag: b"/r"}),  # type: ignore[arg-type]
            b"/r/liba.so": make_elf(b"libb.so"),
            b"/r/libb.so": make_elf(),
        }
        assert closure(files, b"/p").files == found


def test_cache_is_needed_only_where_the_default_folders_differ() -> None:
    """The cache file changes with every installed package, so it is used only if it must be."""
    files = {
        b"/p": make_elf(b"liba.so", b"libb.so"),
        b"/usr/lib/liba.so": make_elf(),
        b"/opt/b/libb.so": make_elf(),
        b"/opt/fast/libb.so": make_elf(),
        b"/etc/ld.so.cache": make_cache(
            (b"liba.so", b"/usr/lib/liba.so", 0),
            (b"libb.so", b"/opt/fast/libb.so", 1 << 62),
            (b"libb.so", b"/opt/b/libb.so", 0),
        ),
    }
    got = closure(files, b"/p")
    assert got.files == (b"/usr/lib/liba.so", b"/opt/b/libb.so")
    assert got.by_cache == (b"/opt/b/libb.so",)


def test_cache_formats() -> None:
    """Old format in front, unknown formats, and a cut-off file."""
    data = make_cache((b"a", b"/x/a", 0), (b"a", b"/y/a", 0), old_format_first=True)
    assert parse_cache(data) == {b"a": (b"/x/a", b"/y/a")}
    assert parse_cache(b"ld.so-1.7.0\0") == {}
    assert parse_cache(data[:-3]) == {}


def test_cache_of_this_machine() -> None:
    """Every listed path names a file of that name."""
    try:
        with open("/etc/ld.so.cache", "rb") as file:
            table = parse_cache(file.read())
    except FileNotFoundError:
        pytest.skip("no ld.so.cache")
    assert table
    for name, paths in table.items():
        assert all(os.path.basename(path) == name for path in paths)
