"""What programs of one mirror share besides the mirror: /tmp, /var/tmp and a home folder.

Shared, because programs of one project find each other there (sockets, caches between two tests),
as they do at home; private to the project, because two projects must not. They last as long as the
agent has the store open, and are swept by the next one after a crash.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final

import attrs

from burst_agent import diskfile
from burst_agent.root import StoreRoot
from burst_protocol.errors import ProgramNotStarted

_SHARED: Final = 0o1777
_OWN: Final = 0o755
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@attrs.frozen
class Room:
    tmp: bytes
    var_tmp: bytes
    home: bytes


class Rooms:
    """Methods block for a few system calls. Safe for threads."""

    def __init__(self, root: StoreRoot) -> None:
        self._root = root
        self._rooms: dict[str, Room] = {}
        self._mapped: bool | None = None
        self._lock = threading.Lock()

    def of(self, mirror: str) -> Room:
        """DiskFull."""
        with self._lock:
            room = self._rooms.get(mirror)
            if room is None or not os.path.isdir(room.home):
                room = self._rooms[mirror] = self._make()
            return room

    def _make(self) -> Room:
        top = self._root.temp_path()
        room = Room(top + b"/tmp", top + b"/var-tmp", top + b"/home")
        with diskfile.disk_errors("making a place for programs"):
            os.mkdir(top, 0o755)
            for path, mode in ((room.tmp, _SHARED), (room.var_tmp, _SHARED), (room.home, _OWN)):
                os.mkdir(path)
                os.chmod(path, mode)
        return room

    def mapped(self, probe: Callable[[bytes], bool]) -> bool:
        """What `probe` says of a folder here, asked once."""
        with self._lock:
            if self._mapped is None:
                folder = self._root.temp_path()
                with diskfile.disk_errors("making a place for programs"):
                    os.mkdir(folder)
                    try:
                        self._mapped = probe(folder)
                    finally:
                        os.rmdir(folder)
            return self._mapped


def make_mount_point(top: bytes, relative: bytes, *, folder: bool) -> None:
    """An empty folder or file below a folder that programs can write to; links are not followed.

    ProgramNotStarted if something else is in the way; DiskFull.
    """
    *parents, last = relative.strip(b"/").split(b"/")
    with diskfile.disk_errors("making a mount point"):
        at = os.open(top, _FOLDER)
        try:
            for name in [*parents, last] if folder else parents:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, _OWN, dir_fd=at)
                below = os.open(name, _FOLDER, dir_fd=at)
                os.close(at)
                at = below
            if not folder:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(last, flags, 0o644, dir_fd=at))
        except NotADirectoryError:
            shown = os.fsdecode(relative)
            raise ProgramNotStarted(f"/{shown.lstrip('/')} is no folder any more") from None
        finally:
            os.close(at)
