"""Who services run as: the agent's own user, or nobody in particular if that is root."""

from __future__ import annotations

import os
import pwd
from typing import Final

USER: Final = 1_900_002_001
"""In none of the ranges that Linux systems give out (systemd's UIDS-GIDS document): no file of the
machine is its own."""
_OTHERWISE: Final = 65_531
"""In a container that has no more than 65536."""
_SYSTEM: Final = frozenset({b"usr", b"etc", b"bin", b"sbin", b"lib", b"dev", b"proc", b"sys"})
"""Where some system users are at home, and where programs lie."""
_NAME: Final = "burst"
_USERS: Final = "/etc/passwd"
_GROUPS: Final = "/etc/group"


def service_user(uid: int, uid_map: bytes) -> int:
    """User and group, the same number; 0: the agent's own. `uid_map`: as in /proc/self."""
    if uid:
        return 0
    ranges = [tuple(int(word) for word in line.split()) for line in uid_map.splitlines()]
    for user in (USER, _OTHERWISE):
        if any(first <= user < first + count for first, _, count in ranges):
            return user
    return 0


def current() -> int:
    """`service_user` of this process."""
    with open("/proc/self/uid_map", "rb") as file:
        return service_user(os.geteuid(), file.read())


def files(user: int) -> dict[str, str]:
    """What /etc/passwd and /etc/group hold for services, by path: databases look themselves up."""
    uid, gid = (user, user) if user else (os.geteuid(), os.getegid())
    return {
        _USERS: f"{_NAME}:x:{uid}:{gid}:{_NAME}:/tmp:/bin/sh\n{_read(_USERS)}",
        _GROUPS: f"{_NAME}:x:{gid}:\n{_read(_GROUPS)}",
    }


def private_folders() -> tuple[bytes, ...]:
    """What services must not see of the machine: homes, sockets, other disks. A program that is
    kept from them could have its database's superuser look (COPY … TO PROGRAM)."""
    folders = [b"/home", b"/root", b"/run", b"/mnt", b"/media"]
    try:
        home = os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        home = os.environb.get(b"HOME", b"")
    parts = home.split(b"/")
    if home.startswith(b"/") and len(parts) > 2 and parts[1] not in _SYSTEM:
        folders.append(home)
    return tuple(folders)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""
