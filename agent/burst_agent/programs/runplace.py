"""Where a program runs on a machine that is not home: what it sees, and who it is there.

Not the compilers' sandbox: it is this machine's own root, read-only, with the mirror writable at
home's paths over it, a /tmp and a home folder of the project's own, and no way to what else the
account has: not its home, not /run with its sockets, not our stores. It is nobody's process that
may become anything else: no capabilities, no new ones, and as root another user, to whom an
idmapped mount shows the mirror as its own (mount_setattr(2)).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from collections.abc import Iterable
from typing import Final

import attrs

from burst_agent.mounts import How, Mount, Operation, plan
from burst_agent.programs.rooms import Room, make_mount_point
from burst_agent.sandbox import operation_tokens

NOBODY: Final = 65534
HOME: Final = b"/home/burst"
"""For programs of an agent that is root."""
DEFAULT_PATH: Final = b"/usr/local/bin:/usr/bin:/bin"
_OOM_SCORE: Final = 500
"""As that of compilers: the agent is the last to go."""
_PROBE_S: Final = 20.0
_NO_ARGUMENT: Final = 2
# Not this machine's: made anew, private, or of no concern to a project.
_NOT_SHOWN: Final = frozenset(
    {b"dev", b"home", b"lost+found", b"media", b"mnt", b"proc", b"root", b"run", b"tmp"}
)
_RESOLV_CONF: Final = b"/etc/resolv.conf"
# Of the account's home: what a toolchain needs, and no registry's token.
_OF_HOME: Final = (b".cargo/bin", b".rustup")


@attrs.frozen
class Person:
    """Who a program is."""

    uid: int
    gid: int
    home: bytes
    account_home: bytes
    """Where the agent's own account lives."""

    @classmethod
    def here(cls) -> Person:
        try:
            account_home = os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
        except KeyError:
            account_home = HOME
        if os.geteuid() == 0:
            return cls(NOBODY, NOBODY, HOME, account_home)
        return cls(os.geteuid(), os.getegid(), account_home, account_home)


@attrs.frozen
class Wanted:
    """What one program shall see besides the machine itself."""

    person: Person
    room: Room
    home: bytes
    writable: tuple[tuple[bytes, bytes], ...]
    """(path inside, folder on disk): the mirror's roots, and what lies on the volume for it."""
    trees: tuple[tuple[bytes, bytes], ...]
    files: tuple[tuple[bytes, bytes], ...]
    """Read-only (path inside, file on disk)."""
    hidden: tuple[bytes, ...]
    """Folders of ours: empty in there."""
    cwd: bytes
    mapped: bool = True
    """Whether the mount of what is writable can be idmapped; else its owner is changed."""


def maps_owners(helper: bytes, folder: bytes) -> bool:
    """Whether this kernel idmaps mounts of the file system that this folder is on. Blocking: runs
    the helper once, which as a program ends with 2 for want of an argument."""
    lines: list[tuple[bytes, ...]] = [
        (b"user", b"%d" % NOBODY, b"%d" % NOBODY),
        (b"bind", helper, b"/probe"),
        (b"idbind", folder, b"/folder"),
        (b"exec", b"/probe"),
        (b"arg", b"/probe"),
    ]
    spec = os.memfd_create("burst-probe")
    try:
        os.write(spec, b"".join(token + b"\0" for line in lines for token in line))
        os.lseek(spec, 0, os.SEEK_SET)
        done = subprocess.run(
            [helper, b"%d" % spec],
            env={},
            pass_fds=(spec,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        os.close(spec)
    return done.returncode == _NO_ARGUMENT


def give(folder: bytes, person: Person) -> None:
    """All of it becomes that person's. Blocking: a look at every file. Links are not followed."""
    for _, folders, files, at in os.fwalk(folder, follow_symlinks=False):
        for name in [b".", *folders, *files]:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=at, follow_symlinks=False)
                if (status.st_uid, status.st_gid) != (person.uid, person.gid):
                    os.chown(name, person.uid, person.gid, dir_fd=at, follow_symlinks=False)


def tokens(wanted: Wanted) -> tuple[tuple[bytes, ...], ...]:
    """What the helper is told of files and of who the program is. Blocking: makes mount points.

    MountConflict, ProgramNotStarted, DiskFull, OSError.
    """
    operations = plan(_mounts(wanted))
    _make_mount_points(operations)
    person = wanted.person
    if not wanted.mapped:
        for operation in operations:
            if operation.how is How.WRITE:
                give(operation.source, person)
    lines: list[tuple[bytes, ...]] = [
        (b"userns",),
        (b"user", b"%d" % person.uid, b"%d" % person.gid),
        (b"oomadj", b"%d" % _OOM_SCORE),
    ]
    write = b"idbind" if wanted.mapped else b"rwbind"
    lines.extend(operation_tokens(one, write=write, proc=b"rwproc") for one in operations)
    lines.append((b"pts", b"/dev/pts"))
    return tuple(lines)


def _mounts(wanted: Wanted) -> list[Mount]:
    mounts = list(_machine())
    mounts += [
        Mount(b"/proc", How.PROC),
        Mount(b"/dev", How.DEV),
        Mount.tmpfs(b"/run"),
        Mount.write(wanted.room.tmp, b"/tmp"),
        Mount.write(wanted.room.var_tmp, b"/var/tmp"),
        Mount.write(wanted.room.home, wanted.home),
        Mount.directory(wanted.cwd),
    ]
    mounts += [Mount.tmpfs(path, 4096) for path in wanted.hidden if _is_shown(path)]
    mounts += _of_account(wanted.person.account_home)
    mounts += [
        Mount.tree(source) if path == b"/" else Mount.read(source, path)
        for path, source in wanted.trees
    ]
    mounts += [Mount.write(source, path) for path, source in wanted.writable]
    mounts += [Mount.read(source, path) for path, source in wanted.files]
    resolv_conf = os.path.realpath(_RESOLV_CONF)  # systemd-resolved's lies in /run
    given = resolv_conf in {path for path, _ in wanted.files}
    if resolv_conf.startswith(b"/run/") and os.path.isfile(resolv_conf) and not given:
        mounts.append(Mount.read(resolv_conf, resolv_conf))
    return mounts


def _machine() -> Iterable[Mount]:
    for name in sorted(os.listdir(b"/")):
        path = b"/" + name
        if name in _NOT_SHOWN or name.startswith(b"."):
            continue
        if os.path.islink(path):
            yield Mount.symlink(os.readlink(path), path)
        elif os.path.isdir(path):
            yield Mount.read(path, path)


def _is_shown(path: bytes) -> bool:
    private = path.split(b"/")[1] in _NOT_SHOWN or path.startswith(b"/var/tmp/")
    return not private and os.path.isdir(path)


def _of_account(home: bytes) -> Iterable[Mount]:
    for name in _OF_HOME:
        path = os.path.join(home, name)
        if os.path.isdir(path):
            yield Mount.read(path, path)


def _make_mount_points(operations: tuple[Operation, ...]) -> None:
    """What is writable is a project's own folder on disk, in which only we can make something: the
    helper, as root, is nobody whom an idmapped mount knows."""
    writable = [operation for operation in operations if operation.how is How.WRITE]
    for operation in operations:
        if operation.how is How.SYMLINK:
            continue
        around = [
            outer
            for outer in writable
            if operation is not outer and operation.target.startswith(outer.target + b"/")
        ]
        if around:
            outer = max(around, key=lambda found: len(found.target))
            folder = not operation.source or os.path.isdir(operation.source)
            make_mount_point(outer.source, operation.target[len(outer.target) :], folder=folder)
