"""How a program is run here: in a place made for it, or as this machine is.

====================  ==========================  =================================================
where the agent is    namespaces                  way
====================  ==========================  =================================================
at home               not asked for, or refused   as it is
at home               for services                its own files and user; the mirror's network
elsewhere             yes                         the run place (`runplace`), the mirror's network
elsewhere             refused                     as it is, in the mirror's folder, with a note
====================  ==========================  =================================================
"""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import Final

import attrs

from burst_agent import diskfile
from burst_agent.execute import Workshop
from burst_agent.network.entry import SHARED, Entry
from burst_agent.programs import libraries, runplace
from burst_agent.programs.child import Command
from burst_agent.programs.keeps import Keeps
from burst_agent.programs.ports import Mirrors
from burst_agent.programs.rooms import Rooms
from burst_agent.programs.runplace import Person, Wanted
from burst_agent.sandbox import NativeLauncher
from burst_protocol import programs as p
from burst_protocol.digest import EMPTY
from burst_protocol.errors import ProgramNotStarted, RemoteProtocolError

_LIBRARY_PATH: Final = b"LD_LIBRARY_PATH"
NO_PLACE: Final = (
    "this machine allows no namespaces: programs see all of it, and the project at {top} instead "
    "of its own path"
)


@attrs.frozen
class Way:
    command: Command
    notes: tuple[str, ...]
    """What the user may want to know."""


@attrs.frozen
class Ground:
    """Where programs of one client can run."""

    shop: Workshop
    mirrors: Mirrors
    rooms: Rooms
    hidden: tuple[bytes, ...]
    """Folders of ours that no program shall see."""
    local: bool

    @property
    def namespaces(self) -> bool:
        return isinstance(self.shop.launcher, NativeLauncher)


def prepare(
    request: p.StartProgram, ground: Ground, entry: Entry | None, stack: contextlib.ExitStack
) -> Way:
    """Blocking. `stack` holds what the program needs while it runs.

    ProgramNotStarted, LacksLibraries, MountConflict, BlobMissing, DiskFull, OSError.
    """
    if not request.argv or not request.argv[0]:
        raise ProgramNotStarted("it has no name")
    notes = () if entry is None else entry.notes
    network, fds = _network(entry)
    if ground.namespaces and not ground.local:
        return _in_place(request, ground, entry, stack)
    cwd = ground.mirrors.folder(request.mirror, request.cwd)
    if request.keeps and not ground.local:
        raise ProgramNotStarted(
            "this machine allows no namespaces, so nothing can be kept at home's paths"
        )
    if ground.local:
        if fds and not ground.namespaces:
            raise ProgramNotStarted("this machine allows no namespaces, so it has no services")
        uid, gid = (b"%d" % number for number in (os.geteuid(), os.getegid()))
        apart = ((b"userns",), (b"user", uid, gid), (b"keeproot",), (b"keepprivileges",))
        head = (*apart, *network) if fds else ((b"plain",),)
        program = _as_here(request, request.cwd)
    else:
        top = os.fsdecode(ground.mirrors.folder(request.mirror, b"/"))
        notes = (*notes, NO_PLACE.format(top=top or "/"))
        head = ((b"plain",),)
        program = _as_here(request, cwd, ground.mirrors)
    env = request.env
    command = Command(program, request.argv, env, cwd, ground.shop.helper, head, fds)
    return Way(command, notes)


def _in_place(
    request: p.StartProgram, ground: Ground, entry: Entry | None, stack: contextlib.ExitStack
) -> Way:
    helper = ground.shop.helper
    if helper is None:
        raise ProgramNotStarted("there is no helper to make its place")
    person = Person.here()
    env = _with_defaults(request.env, person)
    home = dict(env)[b"HOME"]
    network, fds = _network(entry)
    wanted = Wanted(
        person=person,
        room=ground.rooms.of(request.mirror),
        home=home,
        writable=_writable(request, ground, env, stack),
        trees=tuple(_trees(request, ground, stack)),
        files=_files(entry, ground, stack),
        hidden=ground.hidden,
        cwd=request.cwd,
        mapped=os.geteuid() != 0 or ground.rooms.mapped(partial(runplace.maps_owners, helper)),
    )
    view = _View(wanted)
    program = view.program(request, env)
    shown = libraries.show(program, view.outside, _library_path(env), _given(request, ground))
    wanted = attrs.evolve(wanted, files=(*wanted.files, *shown.files))
    if shown.library_path:
        env = _with_library_path(env, shown.library_path)
    head = (*network, *runplace.tokens(wanted))
    notes = () if entry is None else entry.notes
    if view.outside(request.cwd) is None:
        notes = (
            *notes,
            f"{os.fsdecode(request.cwd)} is no folder of the project: it is empty here",
        )
    command = Command(program, request.argv, env, request.cwd, helper, head, fds)
    return Way(command, notes)


def _network(entry: Entry | None) -> tuple[tuple[tuple[bytes, ...], ...], tuple[int, ...]]:
    """Words for the helper, and the descriptors that they name."""
    if entry is None or entry.net_fd == SHARED:
        return (), ()
    lines: list[tuple[bytes, ...]] = [(b"joinnet", b"%d" % entry.net_fd)]
    fds = [entry.net_fd]
    if entry.user_fd != SHARED:
        lines.append((b"joinuser", b"%d" % entry.user_fd))
        fds.append(entry.user_fd)
    return tuple(lines), tuple(fds)


def _with_defaults(
    env: tuple[tuple[bytes, bytes], ...], person: Person
) -> tuple[tuple[bytes, bytes], ...]:
    """What every program may expect to find set."""
    given = dict(env)
    if not given.get(b"HOME", b"").startswith(b"/") or given[b"HOME"].strip(b"/") == b"":
        given[b"HOME"] = person.home
    given.setdefault(b"PATH", runplace.DEFAULT_PATH)
    return tuple(given.items())


def _writable(
    request: p.StartProgram,
    ground: Ground,
    env: tuple[tuple[bytes, bytes], ...],
    stack: contextlib.ExitStack,
) -> tuple[tuple[bytes, bytes], ...]:
    """The mirror's roots that lie in no other one, and the folders on the volume that the
    environment names: a cargo that runs here keeps its target directory, home and cache there."""
    found: dict[bytes, bytes] = {}
    for root in sorted(ground.mirrors.roots(request.mirror)):
        if not any(root.startswith(outer.rstrip(b"/") + b"/") for outer in found):
            folder = ground.mirrors.folder(request.mirror, root)
            if os.path.isdir(folder):
                found[root] = folder
    keeps = Keeps(ground.shop.store)
    for path, kept in request.keeps:
        found[path] = keeps.folder(kept)
        stack.enter_context(keeps.using(kept))
    driver = keeps.top + b"/"
    for _, value in env:
        for path in value.split(b":"):
            if path.startswith(driver):
                name = path[len(driver) :].split(b"/")[0]
                if name not in {b"", b".", b".."}:
                    folder = driver + name
                    os.makedirs(folder, mode=0o755, exist_ok=True)
                    found[folder] = folder
    return tuple(found.items())


def _trees(
    request: p.StartProgram, ground: Ground, stack: contextlib.ExitStack
) -> list[tuple[bytes, bytes]]:
    found = []
    for path, digest in request.trees:
        lease = ground.shop.materialiser.lease(digest)
        stack.callback(lease.close)
        found.append((path, lease.path))
    return found


def _files(
    entry: Entry | None, ground: Ground, stack: contextlib.ExitStack
) -> tuple[tuple[bytes, bytes], ...]:
    if entry is None or not entry.resolv_conf:
        return ()
    path = ground.shop.store.root.temp_path()
    with diskfile.disk_errors("writing resolv.conf"), open(path, "xb") as file:
        stack.callback(os.unlink, path)
        file.write(entry.resolv_conf)
        os.fchmod(file.fileno(), 0o644)
    return ((os.path.realpath(b"/etc/resolv.conf"), path),)


def _given(request: p.StartProgram, ground: Ground) -> dict[str, bytes | None]:
    """Home's libraries as files here. RemoteProtocolError for what is no library's name."""
    found: dict[str, bytes | None] = {}
    for name, digest in request.libraries:
        if not name or "/" in name or name in {".", ".."} or "\0" in name:
            raise RemoteProtocolError(f"{name!r} is no name of a library")
        store = ground.shop.store
        # The loader is executed.
        found[name] = None if digest == EMPTY else store.path(digest, executable=True)
    return found


def _library_path(env: tuple[tuple[bytes, bytes], ...]) -> tuple[bytes, ...]:
    return tuple(filter(None, dict(env).get(_LIBRARY_PATH, b"").split(b":")))


def _with_library_path(
    env: tuple[tuple[bytes, bytes], ...], folders: tuple[bytes, ...]
) -> tuple[tuple[bytes, bytes], ...]:
    given = dict(env)
    given[_LIBRARY_PATH] = b":".join((*_library_path(env), *folders))
    return tuple(given.items())


class _View:
    """Where on disk lies what a path in the place leads to."""

    def __init__(self, wanted: Wanted) -> None:
        room = wanted.room
        shown = dict(
            [
                (b"/tmp", room.tmp),
                (b"/var/tmp", room.var_tmp),
                (wanted.home, room.home),
                *wanted.trees,
                *wanted.writable,
                *wanted.files,
            ]
        )
        self._shown = sorted(shown.items(), key=lambda pair: -len(pair[0]))

    def outside(self, path: bytes) -> bytes | None:
        """None if nothing is there. Links in the mirror that lead out of it are not followed to
        where they lead in there."""
        for inside, folder in self._shown:
            if path == inside or path.startswith(inside.rstrip(b"/") + b"/"):
                found = folder + path[len(inside) :] if inside != b"/" else folder + path
                if os.path.lexists(found):
                    return found
                if inside != b"/":
                    return None
        return path if os.path.lexists(path) else None

    def program(self, request: p.StartProgram, env: tuple[tuple[bytes, bytes], ...]) -> bytes:
        """Its absolute path in there; a name without a slash is looked up along its own PATH."""
        name = request.argv[0]
        if b"/" in name:
            return os.path.normpath(os.path.join(request.cwd, name))
        for folder in dict(env)[b"PATH"].split(b":"):
            path = os.path.join(request.cwd, folder, name)
            found = self.outside(path)
            if found is not None and os.path.isfile(found) and os.access(found, os.X_OK):
                return path
        raise ProgramNotStarted(f"{os.fsdecode(name)}: not found along its PATH")


def _as_here(request: p.StartProgram, cwd: bytes, mirrors: Mirrors | None = None) -> bytes:
    """The program's file on this machine."""
    name = request.argv[0]
    if b"/" in name:
        path = os.path.join(request.cwd, name)
        mirrored = path if mirrors is None else mirrors.folder(request.mirror, path)
        return mirrored if os.path.lexists(mirrored) else path
    for folder in dict(request.env).get(b"PATH", os.defpath.encode()).split(b":"):
        path = os.path.join(cwd, folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise ProgramNotStarted(f"{os.fsdecode(name)}: not found along its PATH")
