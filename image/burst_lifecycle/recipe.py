"""The recipe of images: files that make a stock system what servers of ours boot from.

They lie in `image/recipe` (in a wheel beside this module), are sent as they are, and are known by
the hash over all of them: the label `burst-recipe`.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import attrs

from burst_lifecycle.errors import ServerProblem
from burst_protocol.errors import UsageError

WORK: Final = "/var/tmp/burst-bake"  # noqa: S108 - on servers of ours, root's alone
"""Where a bake's files lie on its server."""
SUMS: Final = "SHA256SUMS"
_PIECE_BYTES: Final = 256 * 1024
_SCRIPTS: Final = ".sh"


@attrs.frozen(slots=False)
class Recipe:
    """Files by their path in the recipe's folder."""

    files: Mapping[str, bytes]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over names and contents."""
        total = hashlib.sha256()
        for name, data in sorted(self.files.items()):
            for part in (name.encode(), data):
                total.update(len(part).to_bytes(8, "big") + part)
        return total.hexdigest()[:16]

    def archive(self) -> bytes:
        """As a tar file; equal recipes give equal bytes."""
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, data in sorted(self.files.items()):
                entry = tarfile.TarInfo(f"recipe/{name}")
                entry.size = len(data)
                entry.mode = 0o755 if name.endswith(_SCRIPTS) else 0o644
                archive.addfile(entry, io.BytesIO(data))
        return target.getvalue()


def packaged() -> Recipe:
    """The one that comes with this version."""
    here = Path(__file__).resolve().parent
    folder = here / "recipe"
    if not folder.is_dir():  # a checkout
        folder = here.parent / "recipe"
    return read(folder)


def read(folder: Path) -> Recipe:
    """ServerProblem if there is none."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith("~")
    }
    if "run.sh" not in found:
        raise ServerProblem(f"there is no recipe in {folder}", what="to be baked")
    return Recipe(found)


@attrs.frozen
class Mirror:
    """What takes the place of all downloads; see `recipe/phases/10-mirror.sh`."""

    folder: Path | None = None
    url: str = ""

    @classmethod
    def of(cls, text: str) -> Mirror | None:
        """A folder or a URL; None if empty. UsageError for what can be neither."""
        if not text:
            return None
        if "://" in text:
            if not text.startswith("https://"):
                raise UsageError(f"--mirror {text}: a URL begins with https://")
            return cls(url=text.rstrip("/"))
        folder = Path(text).expanduser().absolute()
        if not (folder / SUMS).is_file():
            raise UsageError(
                f"--mirror {text}: there is no {SUMS} in it; "
                f"`find . -type f ! -name {SUMS} -exec sha256sum {{}} + >{SUMS}` there makes one"
            )
        return cls(folder=folder)

    @property
    def word(self) -> str:
        """For run.sh."""
        return self.url or "sent"

    async def stream(self) -> AsyncIterator[bytes]:
        """A folder as a tar stream, by tar itself. ServerProblem if it cannot read all of it."""
        assert self.folder is not None
        process = await asyncio.create_subprocess_exec(
            "tar", "-C", os.fspath(self.folder), "--sort=name", "-cf", "-", ".",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_PIECE_BYTES,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while data := await process.stdout.read(_PIECE_BYTES):
                yield data
            said = await process.stderr.read()
            if await process.wait() != 0:
                raise ServerProblem(f"tar: {said.decode(errors='replace')[-200:]}", what="mirror")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
