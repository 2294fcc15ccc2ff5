"""What programs need of `<target>/burst`: what they are started from, and what lies beside it.

The folder with our stubs: small files in place of executables that were linked on the agent and
stayed there. In the tree each is the executable that it stands for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from burst_protocol.tree import TreeBuilder
from burst_wrapper import stubs
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.mirror.part import Part
from burst_wrapper.statcache import StatCache

_SKIPPED: Final = (b".d", b".rlib", b".rmeta", b".o", b".cargo-lock", b".burst")
_LIBRARY: Final = re.compile(rb".*\.so(\.[0-9.]+)?\Z|.*\.dylib\Z", re.DOTALL)


def scan_target(root: bytes, stats: StatCache) -> Part:
    """Blocking. What cannot be read is left out: cargo judges its own outputs."""
    builder = TreeBuilder()
    sources = Sources()
    size = 0
    builder.directory(b"tmp")
    for path, info in _runnable(root):
        relative = path[len(root) + 1 :]
        if stat.S_ISLNK(info.st_mode):
            builder.symlink(relative, os.readlink(path))
            continue
        if stat.S_ISDIR(info.st_mode):
            builder.directory(relative)
            continue
        executable = bool(info.st_mode & 0o111)
        stands_for = stubs.read(path, info.st_size) if executable else None
        if stands_for is not None:
            builder.file(relative, stands_for, executable=True)
            continue
        state = stats.digest_of(path, info)
        if state is None:
            continue
        builder.file(relative, state.digest, executable=executable)
        sources.files[state.digest] = path
        size += info.st_size
    return Part(((root, builder.build(sources.blobs)),), sources, {}, size)


def _runnable(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Of every profile's folder: itself, its examples, its shared libraries, programs, OUT_DIRs."""
    for profile in _profiles(root):
        yield from _files(profile)
        yield from _files(profile + b"/examples")
        for path, info in _files(profile + b"/deps"):
            name = os.path.basename(path)
            # A program may have been linked at home: while the toolchain was on its way, say.
            if _LIBRARY.match(name) or (info.st_mode & 0o111 and b"." not in name):
                yield path, info
        for package in _entries(profile + b"/build"):
            out = package.path + b"/out"
            if package.is_dir(follow_symlinks=False) and os.path.isdir(out):
                yield from _below(out)


def _profiles(root: bytes) -> Iterator[bytes]:
    """`debug`, `release`, …; and with `--target` the same below the target's name."""
    for entry in _entries(root):
        if not entry.is_dir(follow_symlinks=False):
            continue
        if os.path.isdir(entry.path + b"/.fingerprint"):
            yield entry.path
        else:
            for below in _entries(entry.path):
                if os.path.isdir(below.path + b"/.fingerprint"):
                    yield below.path


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _files(folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False) or entry.name.endswith(_SKIPPED):
            continue
        try:
            yield entry.path, entry.stat(follow_symlinks=False)
        except OSError:
            continue


def _below(folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Everything, folders too: a program may list its OUT_DIR."""
    pending = [folder]
    while pending:
        place = pending.pop()
        try:
            yield place, os.lstat(place)
        except OSError:
            continue
        for entry in _entries(place):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
                continue
            try:
                yield entry.path, entry.stat(follow_symlinks=False)
            except OSError:
                continue
