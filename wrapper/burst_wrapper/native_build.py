"""Builds our native parts once, with home's own `cc`.

Sandbox and client are freestanding and static, so they run on any Linux of this architecture. The
observer is a shared library built against home's libc, which is the libc it meets in the sandbox.
All are kept under a name that says what they were made from; a second daemon that builds at the
same time makes the same bytes, and whose rename comes second is simply dropped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import attrs

SOURCES: Final = Path(__file__).resolve().parent / "native"
BUILD_TIMEOUT_S: Final = 120.0

# The first build of all waits for the compiler, and what these do is mostly system calls: -O2 would
# take nearly three times as long to build them (1.77 s of CPU instead of 0.63 s).
_COMMON: Final = ("-std=gnu11", "-Og", "-g0", "-w", "-fno-stack-protector", "-U_FORTIFY_SOURCE")
_LINK: Final = ("-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s")


@attrs.frozen
class _Recipe:
    source: str
    product: str
    flags: tuple[str, ...]
    libraries: tuple[str, ...] = ()


_FREESTANDING: Final = (
    *_COMMON,
    *("-static", "-nostdlib", "-ffreestanding", "-fno-pie", "-no-pie"),
    "-fno-asynchronous-unwind-tables",
    *_LINK,
)

_SANDBOX: Final = _Recipe("sandbox.c", "burst-sandbox", _FREESTANDING)
_CLIENT: Final = _Recipe("client.c", "burst-client", _FREESTANDING)
_OBSERVER: Final = _Recipe(
    "observer.c",
    "libburst-observer.so",
    # dlopen searches where its caller would: our own call of it must be a jump.
    (
        *_COMMON,
        *("-O1", "-foptimize-sibling-calls"),
        "-shared",
        "-fPIC",
        "-fvisibility=hidden",
        "-fno-builtin",
        *_LINK,
    ),
    # dlsym lives in libdl before glibc 2.34; behind the source, or --as-needed drops it.
    ("-Wl,--as-needed", "-ldl"),
)


@attrs.frozen
class NativeTools:
    """What could be built. `reason` says why something is None, and is empty otherwise."""

    sandbox: Path | None
    observer: Path | None
    client: Path | None
    reason: str


def build_native(cc: bytes | None, cache_dir: Path) -> NativeTools:
    """All tools from `cache_dir`, built there first if need be. Never raises for want of a cc."""
    products, reason = _build_all(cc, cache_dir, (_SANDBOX, _OBSERVER, _CLIENT))
    sandbox, observer, client = products
    return NativeTools(sandbox, observer, client, reason)


def build_client(cc: bytes | None, cache_dir: Path) -> Path | None:
    """The native client alone; None if it cannot be built."""
    return _build_all(cc, cache_dir, (_CLIENT,))[0][0]


def _build_all(
    cc: bytes | None, cache_dir: Path, recipes: Sequence[_Recipe]
) -> tuple[list[Path | None], str]:
    nothing: list[Path | None] = [None] * len(recipes)
    if cc is None:
        return nothing, "no C compiler found"
    try:
        identity = _identity(cc)
    except (OSError, subprocess.SubprocessError, ValueError) as problem:
        return nothing, f"{os.fsdecode(cc)} does not work: {problem}"
    reasons: list[str] = []
    # Side by side: a first build waits for this.
    with ThreadPoolExecutor(len(recipes)) as pool:
        jobs = [pool.submit(_build, cc, identity, cache_dir, it, reasons) for it in recipes]
    return [job.result() for job in jobs], "; ".join(reasons)


def _environment() -> dict[str, str]:
    """Nothing that steers a compiler (CPATH, LIBRARY_PATH, GCC_EXEC_PREFIX ...) gets in."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _identity(cc: bytes) -> bytes:
    """Version text and target of the compiler. Raises OSError, SubprocessError, ValueError."""
    answers: list[bytes] = []
    for question in (b"--version", b"-dumpmachine"):
        done = subprocess.run(
            [cc, question],
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            timeout=BUILD_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise ValueError(f"exit {done.returncode} for {question.decode()}")
        answers.append(done.stdout.strip())
    return b"\0".join(answers)


def _build(
    cc: bytes, identity: bytes, cache_dir: Path, recipe: _Recipe, reasons: list[str]
) -> Path | None:
    source = SOURCES / recipe.source
    flags, libraries = recipe.flags, recipe.libraries
    temporary: Path | None = None
    try:
        parts = (source.read_bytes(), identity, "\0".join(flags + libraries).encode())
        name = hashlib.blake2b(b"".join(hashlib.blake2b(p).digest() for p in parts), digest_size=20)
        final = cache_dir / name.hexdigest()
        product = final / recipe.product
        if product.is_file():
            return product
        cache_dir.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="build-", dir=cache_dir))
        target = temporary / recipe.product
        done = subprocess.run(
            [cc, *flags, "-o", target, source, *libraries],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            timeout=BUILD_TIMEOUT_S,
        )
        if done.returncode != 0:
            said = done.stdout.decode(errors="replace").strip().splitlines()
            reasons.append(
                f"{recipe.source} does not build: {said[0] if said else done.returncode}"
            )
            return None
        # Read and run by other users too: a sandbox of another uid binds the observer.
        target.chmod(0o555)
        temporary.chmod(0o755)
        with contextlib.suppress(OSError):  # somebody else was first, with the same bytes
            temporary.rename(final)
        if product.is_file():
            return product
        reasons.append(f"{recipe.source}: {final} cannot be made")
    except (OSError, subprocess.SubprocessError) as problem:
        reasons.append(f"{recipe.source}: {problem}")
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return None
