"""Which rustc is this, and which files are it.

A caller's `rustc` may be rustup's proxy, a link, a distribution's program or a self-built one.
rustc itself says where its sysroot is; everything it needs of its own is below that. What is no
rustc and no clippy-driver of a toolchain (a script, another tool) is a ToolchainProblem: the call
stays at home.
"""

from __future__ import annotations

import fnmatch
import os
from typing import TYPE_CHECKING, Final, Literal

import attrs

from burst_protocol.elf import read_elf
from burst_protocol.errors import ToolchainProblem
from burst_wrapper.pathwalk import Walk, walk
from burst_wrapper.processes import find_program, run_program
from burst_wrapper.rustup import is_rustups

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from burst_wrapper.processes import Run

Signature = tuple[int, int, int, int] | None
"""inode, size, mtime and ctime (ns) of a path; None where nothing is."""

_OWN_PATTERNS: Final = (b"librustc*", b"libstd-*", b"libtest-*", b"rustlib")
_LLVM_PATTERN: Final = b"libLLVM*"
"""Not rustc's own where the folder is shared: the one it loads is part of the runtime."""
_FOREIGN_ENTRIES_OF_A_SHARED_FOLDER: Final = 8
_SOURCE_PARTS: Final = ((b"src", b"library"), (b"rustc-src", b"compiler"))
"""Below `lib/rustlib/<first>/rust`, what rustc looks at when a component (or a link to a whole
checkout, as `x.py` makes it) is there: the presence of std's sources changes recorded paths."""


@attrs.frozen
class TreeSource:
    """A piece of the toolchain tree, at its home path. A `dir` means all that is below it."""

    path: bytes
    kind: Literal["dir", "file", "symlink"]
    triple: bytes = b""
    """Only needed when compiling for this target; empty: always."""


@attrs.frozen
class Toolchain:
    rustc: bytes
    """The real file, in the sysroot, whatever the caller called."""
    sysroot: bytes
    """Physical path, as rustc records it."""
    clippy_driver: bytes | None
    version: bytes
    """What `rustc -vV` prints. Equal texts do not prove equal compilers: the tree's digest does."""
    host: bytes
    """Target triple of the compiler itself."""
    entries: tuple[TreeSource, ...]
    """Sorted by path; a link comes with what it points to."""

    def sources(self, target: bytes | None = None) -> tuple[TreeSource, ...]:
        """`entries` without the standard libraries of targets other than host and `target`.

        So `rustup target add` makes no result of another target a miss.
        """
        wanted = {b"", self.host, target}
        return tuple(entry for entry in self.entries if entry.triple in wanted)

    def holds(self, path: bytes) -> bool:
        """Whether a path is one of `entries` or below one: the sysroot of a distribution's rustc
        is /usr, and what else lies there is the system's."""
        return any(
            entry.path == name or (entry.kind == "dir" and name.startswith(entry.path + b"/"))
            for name in dict.fromkeys((path, os.path.realpath(path)))
            for entry in self.entries
        )


def resolve(
    rustc_argv0: bytes, cwd: bytes, env: Mapping[bytes, bytes], run: Run = run_program
) -> Toolchain:
    """The toolchain a caller in `cwd` with `env` gets from `rustc_argv0`; ToolchainProblem if none.

    Starts rustc twice (about 30 ms each): use a `ToolchainCache` where it matters.
    """
    call = _Call.of(rustc_argv0, cwd, env)
    return _with_aliases(_ask(call, run), call)


@attrs.define
class ToolchainCache:
    """`resolve` with a memory. Valid as long as the files that decided the answer are the same."""

    run: Run = run_program
    _known: dict[tuple[bytes, ...], tuple[Toolchain, dict[bytes, Signature]]] = attrs.field(
        factory=dict
    )

    def resolve(self, rustc_argv0: bytes, cwd: bytes, env: Mapping[bytes, bytes]) -> Toolchain:
        call = _Call.of(rustc_argv0, cwd, env)
        key = call.key()
        known = self._known.get(key)
        if known is not None and all(signature(p) == s for p, s in known[1].items()):
            return _with_aliases(known[0], call)
        # Taken before the question, so that a change in between is seen the next time.
        before = {path: signature(path) for path in call.deciding_files()}
        toolchain = _ask(call, self.run)
        watched = _watched(toolchain)
        self._known[key] = (toolchain, before | {path: signature(path) for path in watched})
        return _with_aliases(toolchain, call)


def signature(path: bytes) -> Signature:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@attrs.frozen
class _Call:
    """What the answer depends on, before anything is started."""

    program: bytes
    real: bytes
    proxy: bool
    cwd: bytes
    env: Mapping[bytes, bytes]

    @classmethod
    def of(cls, argv0: bytes, cwd: bytes, env: Mapping[bytes, bytes]) -> _Call:
        program = find_program(argv0, cwd, env)
        if program is None:
            raise ToolchainProblem(f"{os.fsdecode(argv0)} is not found")
        real = os.path.realpath(program)
        proxy = is_proxy(program)
        if not proxy and (_role(real) is None or not _loads_driver(real)):
            raise ToolchainProblem(
                f"{os.fsdecode(program)} is no rustc or clippy-driver (loads no librustc_driver)"
            )
        return cls(program, real, proxy, cwd, env)

    @property
    def rustup_home(self) -> bytes:
        home = self.env.get(b"HOME", b"/")
        return os.path.join(self.cwd, self.env.get(b"RUSTUP_HOME") or home + b"/.rustup")

    def key(self) -> tuple[bytes, ...]:
        if not self.proxy:
            return (self.program,)
        chosen = self.env.get(b"RUSTUP_TOOLCHAIN", b"")
        return (self.program, self.rustup_home, chosen, b"" if chosen else self.cwd)

    def deciding_files(self) -> tuple[bytes, ...]:
        files = [self.program, self.real]
        if self.proxy:
            files.append(self.rustup_home + b"/settings.toml")
            chosen = self.env.get(b"RUSTUP_TOOLCHAIN")
            if chosen:
                files.append(os.path.join(self.rustup_home, b"toolchains", chosen))
            else:
                folder = self.cwd
                while True:
                    files += [
                        os.path.join(folder, b"rust-toolchain"),
                        os.path.join(folder, b"rust-toolchain.toml"),
                    ]
                    if folder in (b"/", b""):
                        break
                    folder = os.path.dirname(folder)
        return tuple(files)

    def aliases(self) -> tuple[bytes, ...]:
        """Paths by which this caller may mean the toolchain."""
        found = [] if self.proxy else [self.program]
        chosen = self.env.get(b"RUSTUP_TOOLCHAIN")
        if chosen:
            found.append(os.path.join(self.rustup_home, b"toolchains", chosen))
        found += [p for p in self.env.get(b"LD_LIBRARY_PATH", b"").split(b":") if p[:1] == b"/"]
        return tuple(found)


def _role(path: bytes) -> Literal["rustc", "clippy-driver"] | None:
    """By name; distributions add a version (`rustc-1.85.0`)."""
    name = os.path.basename(path)
    if name == b"rustc" or name.startswith(b"rustc-"):
        return "rustc"
    if name == b"clippy-driver" or name.startswith(b"clippy-driver-"):
        return "clippy-driver"
    return None


def is_proxy(program: bytes) -> bool:
    """Whether rustup decides, by folder and environment, which toolchain this program is."""
    return _role(program) is not None and is_rustups(program)


def _loads_driver(program: bytes) -> bool:
    elf = read_elf(program)
    return elf is not None and any(name.startswith(b"librustc_driver") for name in elf.needed)


def _prefix(program: bytes) -> bytes:
    return os.path.dirname(os.path.dirname(program))


def library_folders(sysroot: bytes) -> tuple[bytes, ...]:
    """`lib`, `lib64`, and Debian's folder per architecture; only those that exist."""
    lib = os.path.join(sysroot, b"lib")
    folders = [lib, os.path.join(sysroot, b"lib64")]
    folders += [os.path.join(lib, name) for name in _names(lib) if name.endswith(b"-linux-gnu")]
    return tuple(folder for folder in folders if os.path.isdir(folder))


def driver_libraries(sysroot: bytes) -> tuple[bytes, ...]:
    """librustc_driver-*.so below the sysroot: the compiler proper; `bin/rustc` only starts it."""
    return tuple(
        os.path.join(folder, name)
        for folder in library_folders(sysroot)
        for name in _names(folder)
        if name.startswith(b"librustc_driver")
    )


def _ask(call: _Call, run: Run) -> Toolchain:
    ask = call.program
    if _role(call.program if call.proxy else call.real) == "clippy-driver":
        # The rustc beside answers the same; clippy-driver's own arguments are another dialect.
        sibling = os.path.join(os.path.dirname(call.program), b"rustc")
        ask = sibling if os.access(sibling, os.X_OK) else call.program
    # Asking must not download a toolchain; cargo's own call did, if it was wanted.
    env = {**call.env, b"RUSTUP_AUTO_INSTALL": b"0"}
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - not for who only looks

    with ThreadPoolExecutor(1) as pool:  # a first build waits for both
        asked = pool.submit(run, (ask, b"--print", b"sysroot"), call.cwd, env)
        verbose = run((ask, b"-vV"), call.cwd, env)
        printed = asked.result()
    if printed.status != 0 or verbose.status != 0:
        said = (printed.stderr or verbose.stderr).decode("utf-8", "replace").strip()
        raise ToolchainProblem(f"{os.fsdecode(ask)} does not answer: {said}")
    host = next(
        (line[6:].strip() for line in verbose.stdout.split(b"\n") if line.startswith(b"host: ")),
        b"",
    )
    sysroot = os.path.realpath(printed.stdout.rstrip(b"\n"))
    rustc = os.path.realpath(os.path.join(sysroot, b"bin/rustc"))
    if not host or not _loads_driver(rustc):
        raise ToolchainProblem(f"{os.fsdecode(sysroot)} is not the sysroot of a rustc")
    if not call.proxy and _prefix(call.real) != sysroot and _role(call.real) == "rustc":
        raise ToolchainProblem(f"{os.fsdecode(call.program)} uses another sysroot than its own")
    clippy: bytes | None = os.path.join(sysroot, b"bin/clippy-driver")
    clippy = os.path.realpath(clippy) if clippy and os.path.isfile(clippy) else None
    toolchain = Toolchain(rustc, sysroot, clippy, verbose.stdout, host, ())
    return attrs.evolve(toolchain, entries=_sorted(_collect(toolchain)))


def _watched(toolchain: Toolchain) -> tuple[bytes, ...]:
    """Files whose change means another compiler, and folders whose change means other entries."""
    rustlib = os.path.join(toolchain.sysroot, b"lib/rustlib")
    inner = [entry.path for entry in toolchain.entries if entry.kind == "dir"]
    inner += [os.path.join(path, name) for path in inner for name in (b"bin", b"lib")]
    return (
        toolchain.rustc,
        os.path.join(toolchain.sysroot, b"bin/clippy-driver"),
        *driver_libraries(toolchain.sysroot),
        *library_folders(toolchain.sysroot),
        rustlib,
        *inner,
    )


def _with_aliases(toolchain: Toolchain, call: _Call) -> Toolchain:
    """Add the links by which the caller spells the sysroot: both paths must exist in a sandbox."""
    inside = toolchain.sysroot + b"/"
    links: list[TreeSource] = []
    for alias in call.aliases():
        try:
            way = walk(alias)
        except OSError:
            continue
        if (way.real + b"/").startswith(inside):
            links += [TreeSource(entry.path, "symlink") for entry in way.links]
    if not links:
        return toolchain
    return attrs.evolve(toolchain, entries=_sorted([*toolchain.entries, *links]))


def shares_its_folder(sysroot: bytes) -> bool:
    """Whether a sysroot is a prefix of the system's (a distribution's rustc: /usr), where most of
    `bin` and `lib` is not the toolchain's."""
    patterns = (*_OWN_PATTERNS, _LLVM_PATTERN)
    foreign = [
        name for name in _names(os.path.join(sysroot, b"lib")) if not _matches(name, patterns)
    ]
    return len(foreign) > _FOREIGN_ENTRIES_OF_A_SHARED_FOLDER


def _collect(toolchain: Toolchain) -> Iterable[TreeSource]:
    """Everything below the sysroot that a compile can read; never `share/`."""
    sysroot = toolchain.sysroot
    for name in (b"bin/rustc", b"bin/clippy-driver"):
        yield from _whole(os.path.join(sysroot, name))
    patterns: tuple[bytes, ...] = (*_OWN_PATTERNS, _LLVM_PATTERN)
    if shares_its_folder(sysroot):
        patterns = _OWN_PATTERNS
    folders = library_folders(sysroot)
    for folder in folders:
        for name in _names(folder):
            path = os.path.join(folder, name)
            # Other libraries of the folder come with the runtime, if something loads them.
            if name != b"rustlib" and path not in folders and _matches(name, patterns):
                yield from _whole(path)
    yield from _collect_rustlib(os.path.join(sysroot, b"lib/rustlib"), toolchain)


def _collect_rustlib(rustlib: bytes, toolchain: Toolchain) -> Iterable[TreeSource]:
    for name in _names(rustlib):
        path = os.path.join(rustlib, name)
        source_part = dict(_SOURCE_PARTS).get(name)
        if source_part is not None:
            yield from _whole(os.path.join(path, b"rust", source_part))
        elif not os.path.isdir(path):
            continue  # the installer's records: 1 MB that rustc never opens
        elif name == b"etc":
            # Debugger scripts; only MSVC links embed one kind of them.
            yield from (
                found
                for inner in _names(path)
                if inner.endswith(b".natvis")
                for found in _whole(os.path.join(path, inner))
            )
        else:
            triple = b"" if name == toolchain.host else name
            yield from _whole(path, triple)


def _whole(path: bytes, triple: bytes = b"") -> Iterable[TreeSource]:
    """A file, link or folder with everything its links lead to; nothing for what is not there."""
    way = _try_walk(path)
    if way is None:
        return
    for entry in way.entries:
        if entry.kind == "symlink":
            yield TreeSource(entry.path, "symlink", triple)
    if way.entries[-1].kind == "file":
        yield TreeSource(way.real, "file", triple)
        return
    yield TreeSource(way.real, "dir", triple)
    if os.path.basename(way.real) in dict(_SOURCE_PARTS).values():
        return  # thousands of plain files
    inside = way.real + b"/"
    for folder, folders, files in os.walk(way.real):
        for name in [*folders, *files]:
            inner = os.path.join(folder, name)
            target = _try_walk(inner) if os.path.islink(inner) else None
            if target is not None and not target.real.startswith(inside):
                yield from (
                    entry for entry in _whole(inner, triple) if not entry.path.startswith(inside)
                )


def _try_walk(path: bytes) -> Walk | None:
    try:
        return walk(path)
    except OSError:
        return None


def _matches(name: bytes, patterns: Iterable[bytes]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _names(folder: bytes) -> Sequence[bytes]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return ()


def _sorted(sources: Iterable[TreeSource]) -> tuple[TreeSource, ...]:
    by_path: dict[bytes, TreeSource] = {}
    for source in sources:
        known = by_path.get(source.path)
        if known is None or not source.triple:  # needed always wins
            by_path[source.path] = source
    return tuple(by_path[path] for path in sorted(by_path))
