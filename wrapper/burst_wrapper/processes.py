"""Run a short program and take what it says."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Sequence[bytes], bytes, Mapping[bytes, bytes]], "Completed"]
    """argv, working directory, whole environment. Never raises for a program that fails."""

_TIMEOUT_S: Final = 60


@attrs.frozen
class Completed:
    status: int
    """Exit status; negative for a signal; 127 where it could not be started or took too long."""
    stdout: bytes = b""
    stderr: bytes = b""


def run_program(argv: Sequence[bytes], cwd: bytes, env: Mapping[bytes, bytes]) -> Completed:
    """Blocks for up to 60 s: callers in an event loop put it into a thread."""
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Completed(127, b"", os.fsencode(str(error)))
    return Completed(done.returncode, done.stdout, done.stderr)


def find_program(
    name: bytes, cwd: bytes, env: Mapping[bytes, bytes], before_path: Sequence[bytes] = ()
) -> bytes | None:
    """The absolute path that execvp(3) takes for `name`; `before_path` stands in front of PATH.

    Links are not followed. An empty part of PATH is the working directory; without PATH it is
    what the C library uses.
    """
    if b"/" in name:
        return _runnable(os.path.join(cwd, name))
    folders = [*before_path, *env.get(b"PATH", b"/bin:/usr/bin").split(b":")]
    for folder in folders:
        found = _runnable(os.path.join(cwd, folder, name))
        if found is not None:
            return found
    return None


def _runnable(path: bytes) -> bytes | None:
    return path if os.path.isfile(path) and os.access(path, os.X_OK) else None
