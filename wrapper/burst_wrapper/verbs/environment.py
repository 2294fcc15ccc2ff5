"""Which variables of the user programs on another machine see: none, unless they are named.

`forward_env` of the user's configuration, then of the project's, then `--env`; the last one wins.
Values travel as fields of messages, never on a command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

_REFUSED: Final = frozenset(
    b"PATH HOME USER LOGNAME PWD OLDPWD SHELL CARGO_TARGET_DIR SCCACHE_DIR RUSTC_WRAPPER "
    b"RUSTC_WORKSPACE_WRAPPER RUSTDOC CARGO_HOME RUSTUP_HOME RUSTUP_TOOLCHAIN".split()
)
"""What they mean is this machine's affair, or ours."""
_REFUSED_PREFIXES: Final = (b"BURST_", b"CARGO_BUILD_RUSTC_WRAPPER", b"LD_PRELOAD")


@attrs.frozen
class Forwarded:
    variables: tuple[tuple[bytes, bytes], ...]
    warnings: tuple[str, ...]


def is_refused(name: bytes) -> bool:
    """Names that are never forwarded."""
    runner = name.startswith(b"CARGO_TARGET_") and name.endswith(b"_RUNNER")
    return name in _REFUSED or name.startswith(_REFUSED_PREFIXES) or runner


def forwarded(
    configured: Iterable[bytes],
    given: Sequence[tuple[bytes, bytes | None]],
    environ: Mapping[bytes, bytes],
) -> Forwarded:
    """`configured`: names, weakest first; those that are unset here are passed over. `given`: of
    the command line; None stands for this process's own value."""
    found: dict[bytes, bytes] = {}
    warnings: list[str] = []
    for name in dict.fromkeys(configured):
        if is_refused(name):
            warnings.append(f"{_shown(name)} in `forward_env` is never forwarded")
        elif name in environ:
            found[name] = environ[name]
    for name, value in given:
        if is_refused(name):
            warnings.append(f"--env {_shown(name)}: it is never forwarded")
        elif b"\0" in name or b"\0" in (value or b""):
            warnings.append(f"--env {_shown(name)}: no variable holds a NUL")
        elif value is not None:
            found[name] = value
        elif name in environ:
            found[name] = environ[name]
        else:
            warnings.append(f"--env {_shown(name)}: it is not set here")
    return Forwarded(tuple(found.items()), tuple(dict.fromkeys(warnings)))


def _shown(name: bytes) -> str:
    """With nothing in it that a terminal would act upon."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
