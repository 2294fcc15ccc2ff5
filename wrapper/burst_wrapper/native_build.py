"""Builds our native parts with home's own `cc`: when burst is installed, else once per cache.

Sandbox and client are freestanding and static, so they run on any Linux of this architecture. The
observer is a shared library built against home's libc, which is the libc it meets in the sandbox.
All are kept under a name that says what they were made from; a second daemon that builds at the
same time makes the same bytes, and whose rename comes second is simply dropped.

Who installs (`build_hook.py`) pays for the compiler, not the first build of all. A wheel that was
built on another system may not fit: then its name does not, and home's `cc` is asked as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

SOURCES: Final = Path(__file__).resolve().parent / "native"
SHIPPED: Final = SOURCES / "built"
"""What came with the installation."""
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
    needs_libc: bool = False

    def name(self, *origin: bytes) -> str:
        """What it is made from. OSError if the source cannot be read."""
        source = (SOURCES / self.source).read_bytes()
        parts = (source, *origin, "\0".join(self.flags + self.libraries).encode())
        joined = b"".join(hashlib.blake2b(part).digest() for part in parts)
        return hashlib.blake2b(joined, digest_size=20).hexdigest()


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
    needs_libc=True,
)
_ALL: Final = (_SANDBOX, _OBSERVER, _CLIENT)


@attrs.frozen
class NativeTools:
    """What could be built. `reason` says why something is None, and is empty otherwise."""

    sandbox: Path | None
    observer: Path | None
    client: Path | None
    reason: str


def build_native(cc: bytes | None, cache_dir: Path, shipped: Path | None = None) -> NativeTools:
    """All tools, built in `cache_dir` if need be. Never raises for want of a cc."""
    products, reason = _build_all(cc, cache_dir, _ALL, shipped or SHIPPED)
    sandbox, observer, client = products
    return NativeTools(sandbox, observer, client, reason)


def build_client(cc: bytes | None, cache_dir: Path) -> Path | None:
    """The native client alone; None if it cannot be built."""
    return _build_all(cc, cache_dir, (_CLIENT,), SHIPPED)[0][0]


def ship(cc: bytes, folder: Path) -> list[Path]:
    """Build what goes along with an installation on this very system into `folder`; what could be.

    Never raises for a compiler that does not work.
    """
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - 4 ms, with `logging`

    origins = [(recipe, _system(recipe)) for recipe in _ALL]
    with ThreadPoolExecutor(len(_ALL)) as pool:
        jobs = [pool.submit(_build, cc, it, folder, origin, []) for it, origin in origins if origin]
    return [path for job in jobs if (path := job.result()) is not None]


def _system(recipe: _Recipe) -> tuple[bytes, ...]:
    """What of this system a product depends on; empty where it is no use to ship one."""
    libc = ""
    if recipe.needs_libc:
        with contextlib.suppress(ValueError, OSError):
            libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
        if not libc:
            return ()
    return (os.uname().machine.encode(), libc.encode())


def _shipped(recipe: _Recipe, folder: Path) -> Path | None:
    origin = _system(recipe)
    try:
        path = folder / recipe.name(*origin) / recipe.product
    except OSError:
        return None
    return path if origin and os.access(path, os.X_OK) else None


def _build_all(
    cc: bytes | None, cache_dir: Path, recipes: Sequence[_Recipe], shipped: Path
) -> tuple[list[Path | None], str]:
    products = {recipe: _shipped(recipe, shipped) for recipe in recipes}
    missing = [recipe for recipe, product in products.items() if product is None]
    if not missing:
        return list(products.values()), ""
    if cc is None:
        return list(products.values()), "no C compiler found"
    try:
        origin = (_identity(cc),)
    except (OSError, subprocess.SubprocessError, ValueError) as problem:
        return list(products.values()), f"{os.fsdecode(cc)} does not work: {problem}"
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as above

    reasons: list[str] = []
    # Side by side: a first build waits for this.
    with ThreadPoolExecutor(len(missing)) as pool:
        jobs = {it: pool.submit(_build, cc, it, cache_dir, origin, reasons) for it in missing}
    products |= {recipe: job.result() for recipe, job in jobs.items()}
    return list(products.values()), "; ".join(reasons)


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
    cc: bytes, recipe: _Recipe, folder: Path, origin: tuple[bytes, ...], reasons: list[str]
) -> Path | None:
    """The product, in `folder`; appends to `reasons` why there is none."""
    import shutil  # noqa: PLC0415 - they load much, and mostly nothing is to be built
    import tempfile  # noqa: PLC0415

    temporary: Path | None = None
    try:
        final = folder / recipe.name(*origin)
        product = final / recipe.product
        if product.is_file():
            return product
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix="build-", dir=folder))
        target = temporary / recipe.product
        done = subprocess.run(
            [cc, *recipe.flags, "-o", target, SOURCES / recipe.source, *recipe.libraries],
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
