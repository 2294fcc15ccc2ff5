"""Home's toolchain and link environment as inputs of actions, with a digest each.

One Platform per kind of call: compile-only units see the toolchain and what rustc itself runs on;
units that link see the link environment too. Resolving is remembered per cargo process: a toolchain
that changes in the middle of one build is not supported by cargo either.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import attrs

from burst_protocol.action import (
    KIND_DIRECTORY,
    KIND_EXECUTABLE,
    KIND_FILE,
    KIND_SYMLINK,
    Input,
)
from burst_protocol.digest import EMPTY, Digest, KeyHasher
from burst_protocol.errors import PlatformProblem, ToolchainProblem
from burst_protocol.tree import TreeBuilder
from burst_wrapper.argv import RustcCall
from burst_wrapper.callers import Caller
from burst_wrapper.daemon.early_hash import EarlyHash
from burst_wrapper.linkenv import LinkRequest
from burst_wrapper.platform_capture import PlatformCapture, SystemTree
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import Toolchain, ToolchainCache, driver_libraries, signature
from burst_wrapper.treescan import Tree, TreeScanner

_ROOT: Final = b"/"


@attrs.define
class Sources:
    """Where the bytes of digests are at home: in memory, or in files."""

    blobs: dict[Digest, bytes] = attrs.field(factory=dict)
    files: dict[Digest, bytes] = attrs.field(factory=dict)
    more: list[Tree] = attrs.field(factory=list)
    """Trees that are only searched if something is missing: most agents have them."""

    def add(self, tree: Tree) -> None:
        """All of it."""
        self.blobs.update(tree.blobs)
        self.files.update((digest, path) for path, digest in tree.files.items())

    def find(self, digest: Digest) -> bytes | Path | None:
        """The bytes, or the path of a file that holds them; without `more`."""
        data = self.blobs.get(digest)
        if data is not None:
            return data
        path = self.files.get(digest)
        return None if path is None else Path(path)

    def find_in_trees(self, digest: Digest) -> bytes | Path | None:
        """The same in `more`."""
        for tree in self.more:
            data = tree.blobs.get(digest)
            if data is not None:
                return data
            path = tree.path_of(digest)
            if path is not None:
                return Path(path)
        return None


@attrs.frozen
class Path:
    """A file at home, as opposed to bytes in memory."""

    name: bytes


@attrs.frozen(eq=False)
class Platform:
    key: bytes
    toolchain: Toolchain
    inputs: tuple[Input, ...]
    quiet: tuple[bytes, ...]
    """Prefixes where a found access is of no interest: it is all in `key`."""
    programs: tuple[bytes, ...]
    library_folders: tuple[bytes, ...]
    sources: Sources
    system: SystemTree
    _paths: dict[bytes, bytes] = attrs.field(factory=dict)

    def effective_path(self, value: bytes) -> bytes:
        """The part of a PATH that can matter to a link: folders of which the sandbox shows
        something. So an activated virtual environment is no miss; a unit whose macros could read
        the variable itself is keyed by all of it."""
        known = self._paths.get(value)
        if known is None:
            shown = {os.path.dirname(entry.path) for entry in self.system.files}
            shown |= {os.path.dirname(item.path) for item in self.inputs}
            known = b":".join(
                folder
                for folder in value.split(b":")
                if folder in shown or os.path.realpath(folder) in shown or folder[:1] != b"/"
            )
            self._paths[value] = known
        return known


class Platforms:
    def __init__(self, stats: StatCache, cache_dir: bytes) -> None:
        self._stats = stats
        self._scanner = TreeScanner(stats)
        self._toolchains = ToolchainCache()
        self._capture = PlatformCapture(os.path.join(cache_dir, b"platform"))
        self._memory: dict[tuple[object, ...], Platform] = {}
        self._building: dict[tuple[object, ...], asyncio.Future[Platform]] = {}
        self._toolchain_inputs: dict[tuple[object, ...], tuple[tuple[Input, ...], Sources]] = {}
        self._asking = threading.Lock()
        self.hashing = threading.Lock()
        """Held by who hashes a toolchain."""
        self.helpers: tuple[bytes, ...] = ()
        """Our own shared libraries that rustc loads (the observer)."""

    async def of(
        self, call: RustcCall, cwd: bytes, env: Mapping[bytes, bytes], caller: Caller | None
    ) -> Platform:
        """ToolchainProblem, or PlatformProblem where such a link cannot be captured."""
        request = LinkRequest.of_argv(call.args) if call.links else None
        key = (
            None if caller is None else (caller.pid, caller.start_ticks),
            call.driver,
            call.rustc,
            call.target,
            env.get(b"RUSTUP_TOOLCHAIN"),
            None if env.get(b"RUSTUP_TOOLCHAIN") else cwd,
            env.get(b"LD_LIBRARY_PATH"),
            env.get(b"PATH"),
            request,
        )
        known = self._memory.get(key)
        if known is not None:
            return known
        building = self._building.get(key)
        if building is None:
            building = asyncio.ensure_future(
                asyncio.to_thread(self._build, call, cwd, dict(env), request)
            )
            self._building[key] = building
        try:
            platform = await asyncio.shield(building)
        finally:
            if building.done():
                self._building.pop(key, None)
        if caller is not None:
            if len(self._memory) > 512:
                self._memory.clear()
            self._memory[key] = platform
        return platform

    def warm(self, rustc: bytes, env: dict[bytes, bytes], early: EarlyHash | None) -> None:
        """Hash that compiler's toolchain and try how it links, for whoever asks `of` meanwhile or
        later. Blocking. `early`: digests that are being made.

        ToolchainProblem, PlatformProblem.
        """
        with ThreadPoolExecutor(1) as pool:
            with self.hashing:  # nobody may hash what is being hashed
                try:
                    toolchain = self._resolve(rustc, b"/", env)
                    linking = pool.submit(self._warm_link, toolchain, env)
                finally:
                    if early is not None:
                        self._stats.learn(early.rows())
            self._known_toolchain(toolchain, None)
            linking.result()

    def _warm_link(self, toolchain: Toolchain, env: dict[bytes, bytes]) -> None:
        """As cargo links where nobody has said anything of linkers: what starts a build, the
        programs of build scripts, is linked like that as a rule."""
        link = self._capture.link(toolchain, LinkRequest(), b"/", env)
        for entry in link.tree.files:
            if entry.kind == "file":
                self._stats.digest(entry.path)

    def _resolve(self, driver: bytes, cwd: bytes, env: Mapping[bytes, bytes]) -> Toolchain:
        with self._asking:
            return self._toolchains.resolve(driver, cwd, env)

    def _build(
        self,
        call: RustcCall,
        cwd: bytes,
        env: dict[bytes, bytes],
        request: LinkRequest | None,
    ) -> Platform:
        toolchain = self._resolve(call.driver, cwd, env)
        if call.is_clippy and toolchain.clippy_driver is None:
            raise ToolchainProblem("it has no clippy-driver")
        programs: tuple[bytes, ...] = ()
        folders: tuple[bytes, ...] = ()
        # Side by side, since a first build waits for both: half a gigabyte to hash, links to try.
        with ThreadPoolExecutor(1) as pool:
            linking = None
            if request is not None:
                linking = pool.submit(self._capture.link, toolchain, request, cwd, env)
            inputs, toolchain_sources = self._known_toolchain(toolchain, call.target)
            link = None if linking is None else linking.result()
        sources = Sources(dict(toolchain_sources.blobs), dict(toolchain_sources.files))
        system = self._capture.runtime(toolchain, env, self.helpers)
        if link is not None:
            system = system.merged(link.tree)
            programs = (link.tools.linker, *link.tools.programs)
            folders = link.tools.library_folders
        system_digest = self._system(system, sources)
        hasher = KeyHasher(b"platform")
        for item in inputs:
            hasher.add(item.path, bytes((item.kind,)), item.digest.hash, item.target)
        hasher.add(system_digest.hash)
        # Not the folders that system files lie in: a linker may stand in a project.
        quiet = [item.path for item in inputs]
        quiet += [entry.path for entry in system.files if entry.kind != "directory"]
        return Platform(
            hasher.key(),
            toolchain,
            (*inputs, Input(_ROOT, KIND_DIRECTORY, system_digest)),
            tuple(dict.fromkeys(quiet)),
            programs,
            folders,
            sources,
            system,
        )

    def _known_toolchain(
        self, toolchain: Toolchain, target: bytes | None
    ) -> tuple[tuple[Input, ...], Sources]:
        """Scanned once per state of the compiler's own files, not once per build."""
        watched = [toolchain.rustc, *driver_libraries(toolchain.sysroot)]
        watched += [entry.path for entry in toolchain.entries]
        watched += [os.path.join(entry.path, b"lib") for entry in toolchain.entries]
        key = (toolchain.sysroot, toolchain.entries, target, *map(signature, watched))
        # Two at once would read the same half gigabyte twice.
        with self.hashing:
            known = self._toolchain_inputs.get(key)
            if known is None:
                known = self._toolchain(toolchain, target)
                self._toolchain_inputs[key] = known
            return known

    def _toolchain(
        self, toolchain: Toolchain, target: bytes | None
    ) -> tuple[tuple[Input, ...], Sources]:
        inputs: list[Input] = []
        sources = Sources()
        for entry in toolchain.sources(target):
            if entry.kind == "symlink":
                inputs.append(
                    Input(entry.path, KIND_SYMLINK, EMPTY, target=os.readlink(entry.path))
                )
            elif entry.kind == "file":
                state = self._stats.digest(entry.path)
                if state is None:
                    raise ToolchainProblem(f"{os.fsdecode(entry.path)} cannot be read")
                kind = KIND_EXECUTABLE if state.executable else KIND_FILE
                inputs.append(Input(entry.path, kind, state.digest, local=entry.path))
                sources.files[state.digest] = entry.path
            else:
                tree = self._scanner.whole(entry.path)
                inputs.append(Input(entry.path, KIND_DIRECTORY, tree.digest, local=entry.path))
                sources.add(tree)
        return tuple(inputs), sources

    def _system(self, system: SystemTree, sources: Sources) -> Digest:
        """The system's entries as one tree that is laid over the sandbox's root."""
        builder = TreeBuilder()
        for entry in system.files:
            if entry.kind == "symlink":
                builder.symlink(entry.path, entry.target)
                continue
            if entry.kind == "directory":
                builder.directory(entry.path)
                continue
            state = self._stats.digest(entry.path)
            if state is None:
                raise PlatformProblem(f"{os.fsdecode(entry.path)} cannot be read")
            builder.file(entry.path, state.digest, executable=state.executable)
            sources.files[state.digest] = entry.path
        return builder.build(sources.blobs)
