"""Shared libraries of proc macros: as much a part of a macro as its own code.

rustc opens a macro with dlopen, and ld.so loads what that needs, unseen by the observer; the
macro's own bytes stay the same when such a library changes. So they are inputs and in the key.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from burst_protocol.elf import library_closure, read_elf, read_mapped

if TYPE_CHECKING:
    from burst_wrapper.closures import ExternFile
    from burst_wrapper.daemon.platform import Platform

_COUNTERS: Final = b"__llvm_prf_cnts"
"""The section of what counts how often code ran; its name survives `strip` (LLVM's
`InstrProfData.inc`)."""


def libraries(
    macros: Iterable[ExternFile], env: Mapping[bytes, bytes], platform: Platform
) -> tuple[bytes, ...]:
    """Paths, as ld.so finds them, of what neither the toolchain nor the captured system has.

    Looks at the file system only for macros that need a library of another name than those; the
    others, nearly all, cost a look-up by digest.
    """
    system = {entry.path for entry in platform.system.files}
    names = {os.path.basename(path) for path in system}
    unusual = [
        macro.path
        for macro in macros
        if not names.issuperset(_needed(macro.path, macro.digest.hash))
    ]
    if not unusual:
        return ()
    folders = env.get(b"LD_LIBRARY_PATH", b"").split(b":")
    closure = library_closure(unusual, library_path=[folder for folder in folders if folder])
    return tuple(
        path
        for path in closure.files
        if path not in system
        and os.path.realpath(path) not in system
        and not platform.toolchain.holds(path)
    )


def writes_profiles(macros: Iterable[ExternFile]) -> bool:
    """Whether one of them was compiled with `-C instrument-coverage`: LLVM's runtime in it then
    writes a file when rustc ends, whatever the macro does."""
    return any(_is_instrumented(macro.path, macro.digest.hash) for macro in macros)


@functools.lru_cache(maxsize=4096)
def _is_instrumented(path: bytes, digest: bytes) -> bool:  # noqa: ARG001 - part of the key
    data = read_mapped(path)
    return data is not None and data.find(_COUNTERS) >= 0


@functools.lru_cache(maxsize=4096)
def _needed(path: bytes, digest: bytes) -> tuple[bytes, ...]:  # noqa: ARG001 - part of the key
    elf = read_elf(path)
    return () if elf is None else elf.needed
