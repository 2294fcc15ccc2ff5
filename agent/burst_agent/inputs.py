"""From an action's inputs to what the sandbox shows: where each one's bytes lie here."""

from __future__ import annotations

import contextlib
import os
import stat

from burst_agent.materialise import Materialiser
from burst_agent.mounts import Mount
from burst_agent.store import BlobStore
from burst_protocol.action import (
    KIND_DIRECTORY,
    KIND_EXECUTABLE,
    KIND_FILE,
    KIND_SYMLINK,
    Action,
    Input,
)
from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError


def usable_local(given: Input) -> bool:
    """Whether the hint still leads to something of the right kind and size.

    The client hashed it and looks again at the end of the run (inputs that move are its business);
    what is wrong at a glance need not be run with.
    """
    if not given.local:
        return False
    try:
        status = os.stat(given.local)
    except OSError:
        return False
    if given.kind == KIND_DIRECTORY:
        return stat.S_ISDIR(status.st_mode)
    return stat.S_ISREG(status.st_mode) and status.st_size == given.digest.size_bytes


def missing_inputs(
    store: BlobStore, materialiser: Materialiser, action: Action, *, local: bool
) -> list[Digest]:
    """Blobs without which the input root cannot be laid out, each once. Blocking."""
    missing: dict[Digest, None] = {}
    files: list[Digest] = []
    for given in action.inputs:
        if given.kind == KIND_SYMLINK or (local and usable_local(given)):
            continue
        if given.kind == KIND_DIRECTORY:
            missing.update(dict.fromkeys(materialiser.missing_in_tree(given.digest)))
        else:
            files.append(given.digest)
    missing.update(dict.fromkeys(store.missing(files)))
    return list(missing)


def input_mounts(
    store: BlobStore,
    materialiser: Materialiser,
    action: Action,
    *,
    local: bool,
    stack: contextlib.ExitStack,
) -> list[Mount]:
    """Mounts for all inputs; `stack` holds what keeps them in place. Blocking.

    BlobMissing, DiskFull.
    """
    mounts = [Mount.directory(path) for path in action.directories]
    for given in action.inputs:
        by_hint = local and usable_local(given)
        match given.kind:
            case k if k == KIND_SYMLINK:
                mounts.append(Mount.symlink(given.target, given.path))
            case k if k == KIND_DIRECTORY:
                if by_hint:
                    source = given.local
                else:
                    lease = materialiser.lease(given.digest)
                    stack.callback(lease.close)
                    source = lease.path
                mounts.append(Mount.tree(source, given.path))
            case k if k in {KIND_FILE, KIND_EXECUTABLE}:
                executable = given.kind == KIND_EXECUTABLE
                source = given.local if by_hint else store.path(given.digest, executable=executable)
                mounts.append(Mount.read(source, given.path))
            case _:
                raise RemoteProtocolError(f"input of kind {given.kind}")
    return mounts


def mount_points(action: Action) -> frozenset[bytes]:
    """Inputs that lie in the out-dir, relative to it: their mount points are no outputs."""
    prefix = action.out_dir.rstrip(b"/") + b"/"
    return frozenset(
        given.path[len(prefix) :] for given in action.inputs if given.path.startswith(prefix)
    )
