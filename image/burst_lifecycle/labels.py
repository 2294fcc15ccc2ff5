"""Labels: who owns a resource, what for, since which operation, until when.

Written with the create itself, so nothing of ours ever exists without them (primary addresses that
come with a server are labelled right after, their ids are recorded). They are the truth; whatever a
home remembers is a cache of them. Values are what the API takes: up to 63 of `[A-Za-z0-9._-]`,
beginning and ending alphanumeric, so no paths, no ISO times.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import attrs

MARK: Final = "burst"
"""`burst=1`: ours, whoever's. `burst-…` for the rest."""
OWNER: Final = "burst-owner"
PROJECT: Final = "burst-project"
ROLE: Final = "burst-role"
OPERATION: Final = "burst-op"
EXPIRES: Final = "burst-expires"
"""Epoch seconds of the API's clock."""
RECIPE: Final = "burst-recipe"
"""Which image recipe a server was made with, or an image is of."""
STAGE: Final = "burst-stage"
"""Of images: `candidate`, `current`."""
FILESYSTEM: Final = "burst-fs"
"""Of volumes: `new-<uuid>`, `ready-<uuid>` or `bad-<uuid>`."""
PIN: Final = "burst-pin"
NEXT_PIN: Final = "burst-pin-next"
"""Base32 of the SHA-256 of the host key; both are valid while it is rotated. An address has the
next one from before it is activated, then the pin with which its server was ready."""
VERSION: Final = "burst-version"
READY: Final = "burst-ready"
"""Of servers: `1` from the moment its agent answered. Of their addresses: the `burst-boot` in which
it did, see `readiness`."""
BOOT_BY: Final = "burst-boot-by"
"""Of servers: epoch seconds of the API's clock by which it must be ready. Lowered to give a boot
up; raised only together with taking `burst-ready` away, for a power-on."""
BOOT: Final = "burst-boot"
"""Of servers: which of its boots this is, by the deadline that it began with. A later one has a
later one; giving it up leaves it. Servers of earlier releases have none: there it is BOOT_BY."""
CLIENT: Final = "burst-client"
"""Which machine of the owner made it (16 hex digits of its key): it may carry on at once."""
GROWING: Final = "burst-growing"
"""Of volumes: `1` from before one is enlarged until its file system is."""
CHANGE: Final = "burst-change"
"""16 random hex digits of the last change that somebody asked for (`extend`, `volume adopt`)."""
USED: Final = "burst-used"
"""Of volumes: epoch seconds of the API's clock when its project last asked for a server."""

_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class Role(StrEnum):
    BUILD = "build"
    BAKE = "bake"
    STORE = "store"
    """Volumes."""
    IMAGE = "image"
    ACCESS = "access"
    """Keys and firewalls."""


def new_operation() -> str:
    """16 random hex digits: what a create is found by when its answer was lost."""
    return secrets.token_hex(8)


@attrs.frozen
class Claim:
    """What every resource of ours says from its first moment."""

    owner: str
    role: Role
    operation: str
    expires_s: int
    project: str = ""

    def labels(self, **more: str) -> dict[str, str]:
        """For a create. ValueError for a value that the API would refuse: a bug of the caller."""
        found = {
            MARK: "1",
            OWNER: self.owner,
            ROLE: str(self.role),
            OPERATION: self.operation,
            EXPIRES: str(self.expires_s),
            **({PROJECT: self.project} if self.project else {}),
            **more,
        }
        for key, value in found.items():
            if not _VALUE.fullmatch(value):
                raise ValueError(f"label {key}={value!r}")
        return found

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Claim | None:
        """None for what is not completely ours: such a thing is shown, never touched."""
        try:
            if labels[MARK] != "1":
                return None
            return cls(
                owner=labels[OWNER],
                role=Role(labels[ROLE]),
                operation=labels[OPERATION],
                expires_s=int(labels[EXPIRES]),
                project=labels.get(PROJECT, ""),
            )
        except (KeyError, ValueError):
            return None


def selector(owner: str | None = None, **more: str) -> str:
    """For all resources of ours, of one owner, or with more labels of ours (`role="bake"`)."""
    parts = [f"{MARK}=1"]
    if owner is not None:
        parts.append(f"{OWNER}={owner}")
    parts += [f"{MARK}-{key}={value}" for key, value in more.items()]
    return ",".join(parts)


def merged(fresh: Mapping[str, str], **changes: str | None) -> dict[str, str]:
    """A fresh read with some labels set (or, with None, removed): a PUT replaces the whole set."""
    result = dict(fresh)
    for key, value in changes.items():
        name = key.replace("_", "-")
        if value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result
