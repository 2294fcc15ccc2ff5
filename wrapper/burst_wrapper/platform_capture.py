"""The system parts of a platform: what rustc runs on, and what a link uses, as trees.

A sandbox that holds these entries and the toolchain, and nothing else of a system, starts rustc and
links programs that are byte-identical to home's. Results are kept on disk and are valid as long as
every captured file is the same by inode, size and mtime.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import attrs

from burst_protocol.elf import is_elf, library_closure, read_mapped
from burst_protocol.errors import PlatformProblem
from burst_wrapper.linkenv import (
    DECIDING_VARIABLES,
    LinkTools,
    library_files,
    locate_linker,
    parse_linker_script,
    probe,
)
from burst_wrapper.pathwalk import CapturedEntry, tidy, walk
from burst_wrapper.processes import run_program
from burst_wrapper.toolchain import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from burst_wrapper.linkenv import LinkRequest
    from burst_wrapper.processes import Run
    from burst_wrapper.toolchain import Toolchain

_FORMAT: Final = 2
_PROBLEM_VALID_S: Final = 60
"""A linker that could not be captured is asked again after this time, not for every unit."""
_MERGED_USR: Final = (b"/bin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/sbin")
_CACHE_FILE: Final = b"/etc/ld.so.cache"
_SCRIPT_LIMIT_BYTES: Final = 64 * 1024
_NOT_LOADED: Final = (b".rlib", b".rmeta", b".a", b".o", b".rs", b".natvis")

_Stamp = tuple[int, int, int] | None
"""inode, size, mtime (ns), not following a link; None: must not exist."""


@attrs.frozen
class SystemTree:
    """Entries in the order of their paths; a link comes with what it leads to."""

    files: tuple[CapturedEntry, ...]

    def merged(self, *others: SystemTree) -> SystemTree:
        return SystemTree(tidy(e for tree in (self, *others) for e in tree.files))

    def without(self, toolchain: Toolchain) -> SystemTree:
        """Leave out what the toolchain's own tree brings."""
        folders = tuple(s.path + b"/" for s in toolchain.entries if s.kind == "dir")
        paths = [source.path for source in toolchain.entries]

        def is_there(entry: CapturedEntry) -> bool:
            if entry.kind == "directory":
                return any((path + b"/").startswith(entry.path + b"/") for path in paths)
            return entry.path in paths

        return SystemTree(
            tuple(
                entry
                for entry in self.files
                if not entry.path.startswith(folders) and not is_there(entry)
            )
        )


@attrs.frozen
class LinkEnvironment:
    """One captured way to link."""

    tree: SystemTree
    tools: LinkTools

    def find_library(self, name: bytes, folders: Sequence[bytes] = ()) -> tuple[bytes, ...]:
        """Files `-l name` may mean at home, in the linker's order; `folders`: the link's `-L`."""
        return library_files(name, (*folders, *self.tools.library_folders), static=False)


def capture_paths(
    paths: Iterable[bytes],
    *,
    library_folders: Sequence[bytes] = (),
    library_path: Sequence[bytes] = (),
) -> tuple[CapturedEntry, ...]:
    """Entries for files of home, with all they lead to; what does not exist is passed over.

    Links with their targets, the libraries that ELF files load, the files that linker scripts name
    (`-l` names are looked up in `library_folders`). `library_path` is the caller's LD_LIBRARY_PATH:
    used for what would be missing without it.
    """
    found: dict[bytes, None] = {}
    entries: list[CapturedEntry] = []
    elves: list[bytes] = []
    todo = list(paths)[::-1]
    while todo:
        path = todo.pop()
        if path in found:
            continue
        found[path] = None
        try:
            way = walk(path)
        except OSError:
            continue
        entries += way.entries
        if way.entries[-1].kind != "file":
            continue
        data = read_mapped(way.real)
        if data is None:
            continue
        if is_elf(data):
            elves.append(path)
        elif len(data) <= _SCRIPT_LIMIT_BYTES and way.real.endswith((b".so", b".a", b".so.1")):
            todo += _script_files(data[:], library_folders)
    entries += _libraries(elves, library_path)
    return tidy(entries)


def extend(
    tree: SystemTree,
    paths: Iterable[bytes],
    *,
    library_folders: Sequence[bytes] = (),
    library_path: Sequence[bytes] = (),
) -> SystemTree:
    """`tree` with files that a remote run looked for in vain and that exist at home."""
    more = capture_paths(paths, library_folders=library_folders, library_path=library_path)
    return tree.merged(SystemTree(more))


def _script_files(text: bytes, library_folders: Sequence[bytes]) -> Iterator[bytes]:
    for name in parse_linker_script(text):
        if name.startswith(b"-l"):
            yield from library_files(name[2:], library_folders, static=False)
        elif name.startswith(b"/"):
            yield name
        else:
            yield from library_files(b":" + name, library_folders, static=True)


def _libraries(elves: Sequence[bytes], library_path: Sequence[bytes]) -> list[CapturedEntry]:
    closure = library_closure(elves)
    if closure.missing and library_path:
        closure = library_closure(elves, library_path=library_path)
    files = [*closure.files]
    if closure.by_cache:
        files.append(_CACHE_FILE)
    entries: list[CapturedEntry] = []
    for file in files:
        with contextlib.suppress(OSError):
            entries += walk(file).entries
    return entries


def _merged_usr() -> list[CapturedEntry]:
    """`/lib -> usr/lib` and its like: paths are spelled both ways."""
    return [
        CapturedEntry(path, "symlink", os.readlink(path))
        for path in _MERGED_USR
        if os.path.islink(path)
    ]


@attrs.define
class PlatformCapture:
    """Captures with a memory, in this process and below `folder`.

    May be used from several threads; a probe that is running makes others wait for it.
    """

    folder: bytes
    run: Run = run_program
    clock: Callable[[], float] = time.monotonic
    _memory: dict[str, _Record] = attrs.field(factory=dict)
    _problems: dict[str, tuple[float, str]] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def runtime(
        self, toolchain: Toolchain, env: Mapping[bytes, bytes], helpers: Sequence[bytes] = ()
    ) -> SystemTree:
        """What the programs of the toolchain, and `helpers` (our own .so files), run on.

        The helpers themselves and the toolchain's own files are not part of it. < 10 ms when known.
        """
        key = _key("runtime", *_identity(toolchain), *helpers, *map(_stamp, helpers))
        with self._lock:
            record = self._recall(key)
            if record is None:
                record = self._keep(key, self._capture_runtime(toolchain, env, helpers))
        return record.tree

    def link(
        self,
        toolchain: Toolchain,
        request: LinkRequest,
        cwd: bytes,
        env: Mapping[bytes, bytes],
    ) -> LinkEnvironment:
        """What links of this kind use. About 1 s when new, < 10 ms when known.

        PlatformProblem with the reason for links that must stay at home.
        """
        deciding = [env.get(name) for name in DECIDING_VARIABLES]
        relative = request.relative or any(not part.startswith(b"/") for part in _path(env))
        place = cwd if relative else b""
        key = _key("link", *_identity(toolchain), *attrs.astuple(request), *deciding, place)
        with self._lock:
            record = self._recall(key)
            if record is not None and record.tools is not None:
                tools = record.tools
                if locate_linker(tools.linker_name, toolchain, cwd, env)[0] == tools.linker:
                    return LinkEnvironment(record.tree, tools)
            asked_s, problem = self._problems.get(key, (0.0, ""))
            if problem and self.clock() - asked_s < _PROBLEM_VALID_S:
                raise PlatformProblem(problem)
            try:
                tools = probe(toolchain, request, cwd, env, self.run)
            except PlatformProblem as error:
                self._problems[key] = (self.clock(), error.detail)
                raise
            entries = capture_paths(
                (*tools.programs, *tools.plugins, *tools.files),
                library_folders=tools.library_folders,
                library_path=_library_path(env),
            )
            tree = SystemTree(tidy([*_merged_usr(), *entries])).without(toolchain)
            record = self._keep(key, _Record.of(tree, dict.fromkeys(tools.absent), tools))
        return LinkEnvironment(record.tree, tools)

    def _capture_runtime(
        self, toolchain: Toolchain, env: Mapping[bytes, bytes], helpers: Sequence[bytes]
    ) -> _Record:
        programs = [*_programs(toolchain), *helpers]
        entries = _libraries(programs, _library_path(env))
        tree = SystemTree(tidy([*_merged_usr(), *entries])).without(toolchain)
        return _Record.of(tree, {path: _stamp(path) for path in programs}, None)

    def _recall(self, key: str) -> _Record | None:
        record = self._memory.get(key) or _Record.load(self._file(key), key)
        if record is None or not record.still_true():
            return None
        self._memory[key] = record
        return record

    def _keep(self, key: str, record: _Record) -> _Record:
        self._memory[key] = record
        self._problems.pop(key, None)
        # A full or read-only disk costs the next process a probe, nothing else.
        with contextlib.suppress(OSError):
            record.save(self._file(key), key)
        return record

    def _file(self, key: str) -> bytes:
        name = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return os.path.join(self.folder, os.fsencode(name) + b".json")


def _identity(toolchain: Toolchain) -> tuple[object, ...]:
    clippy = toolchain.clippy_driver
    return toolchain.rustc, signature(toolchain.rustc), clippy and signature(clippy)


def _programs(toolchain: Toolchain) -> Iterator[bytes]:
    """ELF files of the toolchain that run on this machine."""
    for source in toolchain.sources():
        if source.kind == "file":
            yield source.path
        elif source.kind == "dir" and source.path.endswith(b"/rustlib/" + toolchain.host):
            for folder, _, names in os.walk(source.path):
                for name in sorted(names):
                    if not name.endswith(_NOT_LOADED):
                        yield os.path.join(folder, name)


def _path(env: Mapping[bytes, bytes]) -> list[bytes]:
    return env.get(b"PATH", b"/bin:/usr/bin").split(b":")


def _library_path(env: Mapping[bytes, bytes]) -> list[bytes]:
    return [p for p in env.get(b"LD_LIBRARY_PATH", b"").split(b":") if p.startswith(b"/")]


def _stamp(path: bytes) -> _Stamp:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _key(*parts: object) -> str:
    """Unambiguous text of everything a capture depends on besides the files it captured."""
    return repr((_FORMAT, *parts))


@attrs.frozen
class _Record:
    tree: SystemTree
    stamps: tuple[tuple[bytes, _Stamp], ...]
    tools: LinkTools | None

    @classmethod
    def of(
        cls, tree: SystemTree, others: Mapping[bytes, _Stamp], tools: LinkTools | None
    ) -> _Record:
        # A folder changes with everything that is put into it; only its presence matters.
        stamps = {e.path: _stamp(e.path) for e in tree.files if e.kind != "directory"}
        return cls(tree, tuple({**stamps, **others}.items()), tools)

    def still_true(self) -> bool:
        return all(_stamp(path) == known for path, known in self.stamps)

    def save(self, file: bytes, key: str) -> None:
        value = {
            "key": key,
            "entries": [
                [os.fsdecode(e.path), e.kind, os.fsdecode(e.target)] for e in self.tree.files
            ],
            "stamps": [[os.fsdecode(path), stamp] for path, stamp in self.stamps],
            "tools": None if self.tools is None else _plain(attrs.asdict(self.tools)),
        }
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        import tempfile  # noqa: PLC0415 - loads much; a daemon's start can do without

        handle, name = tempfile.mkstemp(dir=os.path.dirname(file), prefix=b"new-")
        try:
            with open(handle, "w", encoding="ascii") as out:
                out.write(json.dumps(value))  # `dump` does it in Python, piece by piece
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise

    @classmethod
    def load(cls, file: bytes, key: str) -> _Record | None:
        """None for no record, a damaged one, or another key's."""
        try:
            with open(file, encoding="ascii") as stored:
                value: Any = json.load(stored)
            if value["key"] != key:
                return None
            entries = tuple(
                CapturedEntry(os.fsencode(path), kind, os.fsencode(target))
                for path, kind, target in value["entries"]
            )
            stamps = tuple(
                (os.fsencode(path), None if stamp is None else (stamp[0], stamp[1], stamp[2]))
                for path, stamp in value["stamps"]
            )
            tools = value["tools"]
            return cls(
                SystemTree(entries), stamps, None if tools is None else LinkTools(**_back(tools))
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _plain(value: Mapping[str, object]) -> dict[str, object]:
    """bytes as text; a list says it was a tuple of them."""
    return {
        name: os.fsdecode(part)
        if isinstance(part, bytes)
        else [os.fsdecode(item) for item in part]
        if isinstance(part, tuple)
        else {"word": part}
        for name, part in value.items()
    }


def _back(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: os.fsencode(part)
        if isinstance(part, str)
        else tuple(os.fsencode(item) for item in part)
        if isinstance(part, list)
        else part["word"]
        for name, part in value.items()
    }
