"""What comes home of what a session's programs, or its cargo, have written over there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from burst_protocol.digest import Digest
from burst_protocol.errors import LinkLost
from burst_wrapper import home_wire as w
from burst_wrapper.driver.kept import fetch_kept as kept_of
from burst_wrapper.mirror import weight
from burst_wrapper.mirror.mirror import DEFAULT_FETCH

if TYPE_CHECKING:
    from burst_wrapper.daemon.session_ground import SessionGround
    from burst_wrapper.daemon.tally import Tally
    from burst_wrapper.statcache import StatCache


def patterns_of(request: w.SessionRequest) -> tuple[str, ...]:
    """What comes back of the project's folders; a lock file in any case, as cargo writes it."""
    usual = () if request.no_fetch else (*DEFAULT_FETCH, *request.fetch)
    return (*usual, "**/Cargo.lock") if request.drives else usual


async def fetch_written(
    ground: SessionGround, patterns: tuple[str, ...], tally: Tally, tell: Callable[[str], None]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Files that match, and those beside which what came instead lies. BurstError."""
    mirror, executor = ground.mirror, ground.executor
    if mirror is None or executor is None:
        return (), ()
    if not executor.usable:
        raise executor.link.gone or LinkLost("it ended", host=executor.name)
    back = await mirror.fetch(executor, ground.project, patterns)
    tally.bytes_down += back.bytes_received
    for conflict in back.conflicts:
        if conflict.kept:
            tell(f"what came instead lies in {os.fsdecode(back.conflicts_folder)}")
        else:
            name = weight.printable(os.fsdecode(conflict.path))
            tell(f"{name} was not taken: {conflict.reason}")
    return back.files, tuple(conflict.path for conflict in back.conflicts if conflict.kept)


async def fetch_kept(
    ground: SessionGround, wanted: w.KeptRequest, stats: StatCache, tally: Tally
) -> w.KeptFiles:
    """Of the target directory that a cargo there has. BurstError."""
    mirror, executor = ground.mirror, ground.executor
    if mirror is None or executor is None or not ground.away:
        return w.KeptFiles()
    if not executor.usable:
        raise executor.link.gone or LinkLost("it ended", host=executor.name)
    received = executor.link.received_bytes

    def digest_of(path: bytes) -> Digest | None:
        state = stats.digest(path)
        return None if state is None else state.digest

    written = await kept_of(executor, mirror.name, wanted, digest_of)
    tally.bytes_down += executor.link.received_bytes - received
    return w.KeptFiles(written)
