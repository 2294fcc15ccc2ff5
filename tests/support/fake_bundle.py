"""Tiny bundles whose "agent" is a shell script that says its arguments and then echoes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from typing import TYPE_CHECKING

from burst_lifecycle.remote.remote_bundle import Bundle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from pathlib import Path

AGENT = """\
#!/bin/sh
[ "$1" = --version ] && exit 0
echo "agent of $VERSION: $*"
exec cat
"""


def make_bundle(
    folder: Path,
    identity: str,
    *,
    agent: str = AGENT,
    filler_bytes: int = 0,
    unpacked_bytes: int | None = None,
    arch: str | None = None,
    members: Iterable[tarfile.TarInfo] = (),
) -> Bundle:
    """A bundle; `filler_bytes` of incompressible data make it large."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        files = {
            "COMMAND": b"/bin/sh\n{dir}/bin/agent.sh\n",
            "bin/agent.sh": agent.replace("$VERSION", identity).encode(),
            "filler": os.urandom(filler_bytes),
        }
        directory = tarfile.TarInfo("bin")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in members:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    path = folder / f"{identity}.tar.gz"
    path.write_bytes(raw.getvalue())
    return Bundle(
        identity=identity,
        path=os.fsencode(path),
        size_bytes=len(raw.getvalue()),
        unpacked_bytes=filler_bytes if unpacked_bytes is None else unpacked_bytes,
        arch=arch or os.uname().machine,
    )


def provider(bundle: Bundle) -> Callable[[], Awaitable[Bundle]]:
    """What `start_agent` asks."""

    async def give() -> Bundle:
        return bundle

    return give
