"""The real `Bakery`: a bake over the live lifecycle, its log on stderr and in a file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Final

import attrs

from burst_lifecycle import images, recipe
from burst_lifecycle.admin.desk import Desk
from burst_lifecycle.admin.live import Live
from burst_lifecycle.admin.ports import Bake, Control, Tell
from burst_lifecycle.bake import Baker
from burst_lifecycle.baking.job import Job, Wish
from burst_lifecycle.cloud.model import Image

LOGS: Final = "bakes"
_KEEP_LOGS: Final = 10


def bakery(control: Control, desk: Desk) -> Ovens:
    """For `burst-admin image`."""
    assert isinstance(control, Live)
    return Ovens(control, desk)


@attrs.frozen(eq=False)
class Ovens:
    """Implements `ports.Bakery`."""

    control: Live
    desk: Desk

    async def build(self, wish: Bake, tell: Tell) -> Image:
        mirror = recipe.Mirror.of(wish.mirror)
        lifecycle = self.control.lifecycle
        await lifecycle.reconcile()
        with log_file(os.path.join(self.desk.places.cloud, LOGS)) as (path, file):
            tell(f"the log is {path}")
            job = Job(
                context=lifecycle.context,
                guard=lifecycle.guard,
                recipe=recipe.packaged(),
                wish=Wish(
                    server_type=wish.server_type,
                    location=wish.location,
                    mirror=mirror,
                    keep_server=wish.keep_server,
                ),
                tell=_both(tell, file),
                log=self._shower(file),
            )
            return await Baker(job).run()

    async def outdated(self, found: Sequence[Image], keep: int) -> Sequence[Image]:
        control = self.control
        return images.outdated(found, control.owner, keep, control.cloud.now_s())

    def _shower(self, file: BinaryIO) -> Callable[[bytes], None]:
        stderr = self.desk.stderr

        def show(data: bytes) -> None:
            file.write(data)
            # What a server says is not to move the cursor or to change colours here.
            text = data.decode("utf-8", "replace")
            stderr.write("".join(one if one.isprintable() or one == "\n" else " " for one in text))
            stderr.flush()

        return show


def _both(tell: Tell, file: BinaryIO) -> Tell:
    def say(line: str) -> None:
        file.write(f"## {line}\n".encode())
        tell(line)

    return say


@contextmanager
def log_file(folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new one, for its owner alone; the ten newest are kept."""
    os.makedirs(folder, 0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    path = os.path.join(folder, f"{stamp}-{os.getpid()}.log")
    for old in sorted(os.listdir(folder))[: -(_KEEP_LOGS - 1)]:
        os.unlink(os.path.join(folder, old))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as file:
        yield path, file
