"""Which crates an artifact that somebody else compiled needs, as its metadata says.

rustc's metadata lists all crates that were loaded for it, each with the `-C extra-filename` that is
a part of its file's name (`CrateDep` in rustc_metadata's `rmeta`), so that the closure of a crate
is in its own file. The form of metadata changes with each rustc; that these names stand in it as
they are does not. In a shared library metadata is packed: of those only proc macros are told, by
the one symbol that each exports.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable
from typing import Final

_RMETA: Final = b"rust\0\0\0"
_AR: Final = b"!<arch>\n"
_EXTRA: Final = re.compile(rb"-[0-9a-f]{16}")
"""As cargo makes them."""
_MACRO: Final = b"rustc_proc_macro_decls_"


def is_proc_macro(library: bytes) -> bool:
    """Whether the shared library at this path is one. OSError if it cannot be read."""
    with open(library, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_MACRO) >= 0


def crates_named(artifact: bytes, stems: Iterable[bytes]) -> set[bytes] | None:
    """Those of `stems` (`libserde-0123abcd…`) that an .rmeta or .rlib may have been compiled with,
    itself among them; None if that cannot be told. OSError if it cannot be read."""
    with open(artifact, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if not data[:8].startswith((_RMETA, _AR)):
                return None
            extras = set(_EXTRA.findall(data))
    if _extra(os.path.splitext(os.path.basename(artifact))[0]) not in extras:
        return None
    # Of a name that is not cargo's nothing is said by its absence.
    return {stem for stem in stems if (extra := _extra(stem)) is None or extra in extras}


def _extra(stem: bytes) -> bytes | None:
    extra = stem[stem.find(b"-") :]
    return extra if _EXTRA.fullmatch(extra) else None
