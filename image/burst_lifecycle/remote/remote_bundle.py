"""The agent with home's own Python, packed to run on any Linux of the same architecture.

Whatever the remote distribution and its Python are, the agent's compiled parts (blake3, msgpack)
fit one minor version of Python and one libc only. So home's interpreter goes along with everything
it loads: stdlib, extension modules, shared libraries and their loader. Layout:

    COMMAND           argv by lines, `{dir}` stands for where the bundle lies
    bin/python3       finds its prefix by lib/pythonX.Y/os.py beside it: needs no PYTHONHOME
    lib/*.so*         the loader and all libraries, found by --library-path
    lib/pythonX.Y/    stdlib with burst_agent, burst_protocol and what those import

Sources go instead of bytecode: 2.0 against 3.1 MB compressed, and the host compiles what it imports
once, on the first start. About 7 MB in all, made in about 2 s, once per version.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from io import BytesIO
from typing import TYPE_CHECKING, Final

import attrs
from blake3 import blake3

from burst_protocol import elf
from burst_protocol.errors import DiskFull, PlatformProblem
from burst_protocol.version import BUILD

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT: Final = "1"
"""Part of every identity: raised when the layout or the start of the agent changes."""
PACKAGES: Final = (
    *("burst_protocol", "burst_agent", "attr", "attrs", "msgpack", "blake3", "xxhash"),
    *("zstandard", "pathspec"),
)
_ENTRY: Final = "from burst_agent.main import main; raise SystemExit(main())"
_SKIPPED_FOLDERS: Final = frozenset(
    {"test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3"}
    | {"pydoc_data", "distutils", "unittest", "site-packages", "dist-packages", "__pycache__"}
    | {"lib-dynload", "msilib", "xmlrpc", "wsgiref", "curses", "sqlite3", "dbm", "venv"}
)
_SKIPPED_FILES: Final = frozenset(("sitecustomize.py", "usercustomize.py", "turtle.py"))
_SKIPPED_MODULES: Final = frozenset(
    # These would bring libcrypto (4 MB) and sqlite; hashlib and asyncio work without.
    {"_ssl", "_hashlib", "_sqlite3"}
    | {"_tkinter", "_curses", "_curses_panel", "_dbm", "_gdbm", "readline", "nis", "ossaudiodev"}
    | {"audioop", "_uuid", "_crypt", "_lsprof", "_elementtree", "pyexpat", "spwd", "_dbus"}
    | {"_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw"}
    | {"_multibytecodec"}
)
_SKIPPED_PREFIXES: Final = ("_test", "_xx", "xx", "_ctypes_test")
_KEPT_S: Final = 14 * 24 * 3600


@attrs.frozen
class Bundle:
    """A bundle on disk at home."""

    identity: str
    path: bytes
    size_bytes: int
    unpacked_bytes: int
    arch: str


@attrs.frozen
class _Entry:
    name: str
    source: str
    """Path at home."""
    executable: bool


class HomeBundle:
    """Gives the running daemon's bundle: made when first asked for, then found in the cache."""

    def __init__(self, cache_dir: bytes) -> None:
        self._cache_dir = os.fsdecode(cache_dir)
        self._lock = asyncio.Lock()
        self._bundle: Bundle | None = None

    async def __call__(self) -> Bundle:
        """PlatformProblem if this interpreter cannot be packed, DiskFull if it finds no place."""
        async with self._lock:
            if self._bundle is None or not await asyncio.to_thread(_is_there, self._bundle):
                self._bundle = await asyncio.to_thread(build, self._cache_dir)
            return self._bundle


def _is_there(bundle: Bundle) -> bool:
    return os.path.exists(bundle.path)


def build(cache_dir: str) -> Bundle:
    """The bundle of this interpreter and these packages; blocking, a few seconds the first time."""
    entries = collect()
    command = _command(entries)
    identity, unpacked_bytes = _identify(entries, command)
    path = os.path.join(cache_dir, f"agent-{identity}.tar.gz")
    try:
        os.makedirs(cache_dir, 0o700, exist_ok=True)
        if not os.path.exists(path):
            _pack(entries, command, path)
        os.utime(path)
        _tidy(cache_dir, path)
        size_bytes = os.stat(path).st_size
    except OSError as error:
        raise DiskFull(f"{cache_dir}: {error}") from error
    return Bundle(identity, os.fsencode(path), size_bytes, unpacked_bytes, os.uname().machine)


def collect() -> list[_Entry]:
    """Everything that goes in, sorted by name."""
    entries: dict[str, _Entry] = {}
    python_dir = f"{sys.platlibdir}/python{sys.version_info[0]}.{sys.version_info[1]}"
    interpreter = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    compiled = {"bin/python3": interpreter}
    for name, source in _stdlib():
        entries[f"{python_dir}/{name}"] = _Entry(f"{python_dir}/{name}", source, executable=False)
    for name, source in _dynload():
        compiled[f"{python_dir}/lib-dynload/{name}"] = source
    for name, source in _packages():
        if name.endswith(".so"):
            compiled[f"{python_dir}/{name}"] = source
        else:
            full = f"{python_dir}/{name}"
            entries[full] = _Entry(full, source, executable=False)
    for entry in _with_libraries(compiled, interpreter):
        entries[entry.name] = entry
    return [entries[name] for name in sorted(entries)]


def _stdlib() -> Iterator[tuple[str, str]]:
    yield from _files_below(os.path.dirname(os.__file__), (".py",))


def _dynload() -> Iterator[tuple[str, str]]:
    folder = os.path.join(os.path.dirname(os.__file__), "lib-dynload")
    if not os.path.isdir(folder):
        folder = str(sysconfig.get_config_var("DESTSHARED") or folder)
    if not os.path.isdir(folder):  # all built in, as in some standalone builds
        return
    for name in sorted(os.listdir(folder)):
        module = name.partition(".")[0]
        wanted = module not in _SKIPPED_MODULES and not module.startswith(_SKIPPED_PREFIXES)
        if wanted and name.endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES)):
            yield name, os.path.join(folder, name)


def _packages() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        # find_spec imports nothing: the wrapper stays free of the agent's code.
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise PlatformProblem(f"package {package} is not installed as files")
        for location in spec.submodule_search_locations:
            for name, source in _files_below(location, None):
                if not name.endswith((".pyi", ".pyc", "py.typed", ".c", ".h", ".pyx", ".pxd")):
                    yield f"{package}/{name}", source


def _files_below(top: str, endings: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    for folder, folders, files in os.walk(top):
        skipped = _SKIPPED_FOLDERS if endings else {"__pycache__"}
        folders[:] = sorted(f for f in folders if f not in skipped and not f.startswith("config-"))
        for file in sorted(files):
            path = os.path.join(folder, file)
            if (endings is None or file.endswith(endings)) and file not in _SKIPPED_FILES:
                yield os.path.relpath(path, top), path


def _with_libraries(compiled: dict[str, str], interpreter: str) -> Iterator[_Entry]:
    """The compiled files whose libraries are all here, and those libraries."""
    library_path = [os.fsencode(os.path.join(sys.base_prefix, "lib"))]
    loader = b""
    parsed = elf.read_elf(os.fsencode(interpreter))
    if parsed is not None:
        loader = parsed.interpreter
    libraries: dict[str, bytes] = {}
    for name, source in compiled.items():
        closure = elf.library_closure([os.fsencode(source)], library_path=library_path)
        if closure.missing:
            if name == "bin/python3" or "/lib-dynload/" not in name:
                lacking = b", ".join(closure.missing).decode(errors="replace")
                raise PlatformProblem(f"{source} needs {lacking}, which is not found")
            continue  # a module of the stdlib that does not load at home either
        yield _Entry(name, source, executable=name.startswith("bin/"))
        for file in closure.files:
            # ld.so looks for a library by the name it is needed under, which is the file's own.
            libraries.setdefault(os.path.basename(os.fsdecode(file)), file)
    if loader:
        libraries.setdefault(os.path.basename(os.fsdecode(loader)), loader)
    for library, path in libraries.items():
        executable = path == loader
        yield _Entry(f"lib/{library}", os.path.realpath(os.fsdecode(path)), executable)


def _command(entries: Iterable[_Entry]) -> bytes:
    loaders = [entry.name for entry in entries if entry.executable and entry.name[:4] == "lib/"]
    start = []
    if loaders:
        # No cache: libraries of the host must not be mixed with ours.
        start = [f"{{dir}}/{loaders[0]}", "--inhibit-cache", "--library-path", "{dir}/lib"]
    argv = [*start, "{dir}/bin/python3", "-I", "-S", "-X", "utf8", "-c", _ENTRY]
    return "".join(f"{arg}\n" for arg in argv).encode()


def _identify(entries: Iterable[_Entry], command: bytes) -> tuple[str, int]:
    """BLAKE3 of what goes in, as it lies at home: tells whether a packed bundle is still right."""
    hasher = blake3()
    unpacked_bytes = 0
    for part in (FORMAT.encode(), BUILD.encode(), command):
        hasher.update(len(part).to_bytes(4, "little") + part)
    for entry in entries:
        try:
            with open(entry.source, "rb") as file:
                data = file.read()
        except OSError as error:
            raise PlatformProblem(str(error)) from error
        unpacked_bytes += len(data)
        head = f"{entry.name}\0{int(entry.executable)}\0{len(data)}\0"
        hasher.update(head.encode() + blake3(data).digest())
    return hasher.hexdigest()[:40], unpacked_bytes


def _pack(entries: Iterable[_Entry], command: bytes, path: str) -> None:
    """Write the archive beside its place, then rename. Equal inputs give equal bytes."""
    handle, temporary = tempfile.mkstemp(prefix=".agent-", dir=os.path.dirname(path))
    try:
        with (
            open(handle, "wb") as raw,
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
        ):
            _add(archive, "COMMAND", command, executable=False)
            made: set[str] = set()
            for entry in entries:
                for folder in _parents(entry.name):
                    if folder not in made:
                        made.add(folder)
                        info = tarfile.TarInfo(folder)
                        info.type, info.mode = tarfile.DIRTYPE, 0o755
                        archive.addfile(info)
                _add(archive, entry.name, _content(entry), executable=entry.executable)
        os.rename(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _add(archive: tarfile.TarFile, name: str, data: bytes, *, executable: bool) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o755 if executable else 0o644
    archive.addfile(info, BytesIO(data))


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def _content(entry: _Entry) -> bytes:
    """A file's bytes; compiled ones without symbols and debug information where `strip` is there.

    pyenv's libpython is 23 MB with and 6 MB without.
    """
    strip = shutil.which("strip")
    compiled = entry.name.startswith(("lib/", "bin/")) and not entry.name.endswith(".py")
    if strip and (compiled or entry.name.endswith(".so")):
        with tempfile.TemporaryDirectory() as folder:
            output = os.path.join(folder, "stripped")
            done = subprocess.run(
                [strip, "-s", "-o", output, entry.source],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                with open(output, "rb") as file:
                    return file.read()
    with open(entry.source, "rb") as file:
        return file.read()


def _tidy(cache_dir: str, keep: str) -> None:
    """Bundles of versions that nobody used for two weeks."""
    oldest = time.time() - _KEPT_S
    for entry in os.scandir(cache_dir):
        ours = entry.name.startswith((".agent-", "agent-"))
        if ours and entry.path != keep:
            with contextlib.suppress(OSError):
                if entry.stat().st_mtime < oldest:
                    os.unlink(entry.path)
