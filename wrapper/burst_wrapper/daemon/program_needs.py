"""What programs of a session need over there besides the mirror, and where its bytes are at home.

A test of documentation that rustdoc linked below /tmp, shared libraries that the machine lacks,
home's own toolchain for a cargo that finds none, and for tests that start one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import attrs

from burst_lifecycle.folders import within
from burst_protocol import programs as p
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.errors import ProgramNotStarted, ToolchainProblem
from burst_protocol.tree import TreeBuilder
from burst_wrapper.daemon import program_cargo
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.driver.home_toolchain import Trees, trees
from burst_wrapper.home_libraries import find_libraries
from burst_wrapper.paths import cargo_home

if TYPE_CHECKING:
    from burst_wrapper.daemon.program_cargo import ProgramCargo
    from burst_wrapper.daemon.programs import ProgramRequest
    from burst_wrapper.statcache import StatCache


class ProgramNeeds:
    """Of one session: what one program was given, the next one is not asked for."""

    def __init__(self, stats: StatCache) -> None:
        self._stats = stats
        self._found = Sources()
        self._lacked: dict[str, Digest] = {}
        self._toolchain: tuple[bytes, Trees, Sources] | None = None
        """Of a cargo there that has no other: home's folder, and what is shown of it."""
        self._cargo: asyncio.Future[ProgramCargo | None] | None = None

    def sources(self) -> list[Sources]:
        """Where the bytes are at home."""
        own = [] if self._toolchain is None else [self._toolchain[2]]
        if self._cargo is not None and self._cargo.done() and not self._cargo.exception():
            cargo = self._cargo.result()
            own += [] if cargo is None else [cargo.sources]
        return [self._found, *own]

    @property
    def libraries(self) -> tuple[tuple[str, Digest], ...]:
        """What programs so far have lacked; EMPTY for what home has not, either."""
        return tuple(sorted(self._lacked.items()))

    def alone_in_its_folder(
        self, program: ProgramRequest, roots: Iterable[bytes]
    ) -> tuple[tuple[bytes, Digest], ...]:
        """For a program that no root of the mirror has: rustdoc links its tests below /tmp.
        Blocking: it may hash the program."""
        path = program.argv[0]
        inside = any(within(path, root) for root in roots)
        temporary = (program.environ.get(b"TMPDIR") or b"/tmp").rstrip(b"/") + b"/"
        if inside or not path.startswith(temporary):
            return ()
        state = self._stats.digest(path)
        if state is None:
            return ()
        builder = TreeBuilder()
        builder.file(os.path.basename(path), state.digest, executable=True)
        self._found.files[state.digest] = path
        return ((os.path.dirname(path), builder.build(self._found.blobs)),)

    async def with_toolchain(self, start: p.StartProgram, folder: bytes) -> p.StartProgram:
        """With home's own toolchain, which lies in this folder. ToolchainProblem."""
        if self._toolchain is None or self._toolchain[0] != folder:
            found = await asyncio.to_thread(trees, folder, self._stats)
            self._toolchain = (folder, *found)
        return attrs.evolve(start, trees=(*start.trees, *self._toolchain[1]))

    async def with_cargo(
        self, start: p.StartProgram, workspace_root: bytes, environ: Mapping[bytes, bytes]
    ) -> p.StartProgram:
        """With a cargo, if the project's tests start one. What the user named is stronger.
        ToolchainProblem."""
        if self._cargo is None:
            work = asyncio.to_thread(self._find_cargo, workspace_root, dict(environ))
            self._cargo = asyncio.ensure_future(work)
        cargo = await asyncio.shield(self._cargo)
        if cargo is None:
            return start
        return attrs.evolve(
            start,
            trees=(*start.trees, (program_cargo.PLACE, cargo.tree)),
            env=tuple(sorted((dict(cargo.environ) | dict(start.env)).items())),
        )

    def _find_cargo(
        self, workspace_root: bytes, environ: Mapping[bytes, bytes]
    ) -> ProgramCargo | None:
        packages = program_cargo.packages(workspace_root)
        if not any(package.name in program_cargo.STARTERS for package in packages):
            return None
        toolchain = program_cargo.sysroot(environ)
        if not toolchain:
            raise ToolchainProblem(
                "tests that start cargo find only what that machine has: home's toolchain has no"
                " folder to itself, as rustup's do"
            )
        return program_cargo.bring(packages, cargo_home(environ), toolchain, self._stats)

    async def with_libraries(self, start: p.StartProgram, lacking: p.Lacking) -> p.StartProgram:
        """The same with what of home's libraries that machine lacks. ProgramNotStarted."""
        known = dict(start.libraries)
        if known.keys() >= set(lacking.libraries):
            raise ProgramNotStarted(f"it lacks still what it was given: {lacking.reason}")
        path = dict(start.env).get(b"LD_LIBRARY_PATH", b"")
        folders = [folder for folder in path.split(b":") if folder.startswith(b"/")]
        known |= await asyncio.to_thread(self._find_libraries, lacking.libraries, folders)
        self._lacked |= known
        return attrs.evolve(start, libraries=tuple(sorted(known.items())))

    def _find_libraries(self, names: tuple[str, ...], folders: list[bytes]) -> dict[str, Digest]:
        found: dict[str, Digest] = {}
        for library in find_libraries(names, folders):
            state = None if library.path is None else self._stats.digest(library.path)
            if state is None or library.path is None:
                found[library.name] = EMPTY
            else:
                found[library.name] = state.digest
                self._found.files[state.digest] = library.path
        return found
