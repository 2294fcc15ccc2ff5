"""What home compiled while a server booted is offered to its store.

Only while nobody waits for that link, one result at a time, and only what the server says it lacks:
the next worktree, or this one tomorrow, finds it there. So is what the server itself compiled while
the project's volume was not there yet: asked for it, its agent copies it onto the volume.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from burst_protocol import messages as m
from burst_protocol.errors import BurstError
from burst_wrapper.daemon.executor import Executor
from burst_wrapper.daemon.platform import Sources

if TYPE_CHECKING:
    from burst_wrapper.daemon.servers import Made

_PAUSE_S: Final = 0.2

_log: Final = logging.getLogger("burst")


async def offer(made: dict[bytes, Made], home: Executor, there: Executor) -> None:
    """Until everything was offered, or the link is gone.

    What a store that lasts was offered is removed from `made`; what one was that goes with its
    server waits for a better one.
    """
    while there.usable and home.usable:
        if there.in_flight:
            await asyncio.sleep(_PAUSE_S)
            continue
        strong_key = next(wanted(made, there), None)
        if strong_key is None:
            break
        one = made[strong_key]
        try:
            await _offer(one, home, there)
        except BurstError:
            if there.link.gone is not None:
                return
        there.offered.add(strong_key)
        if there.lasting:
            made.pop(strong_key, None)
    if there.lasting:
        _log.info("%s has been offered what was compiled elsewhere", there.name)


def wanted(made: Mapping[bytes, Made], there: Executor) -> Iterator[bytes]:
    """Strong keys of what it was not offered yet."""
    return (key for key in made if key not in there.offered)


async def _offer(one: Made, home: Executor, there: Executor) -> None:
    link = there.link
    answer = await link.ask(
        m.Lookup(link.new_id(), one.weak_key, (one.strong_key,), push=False, prolongs=False)
    )
    if isinstance(answer, m.Hit):
        return
    sources = Sources()
    for digest in one.result.digests():
        sources.files[digest] = home.blob(digest)
    await there.uploader.send(0, list(sources.files), [sources])
    link.send(m.PutResult(one.weak_key, one.inputs, one.strong_key, one.result))
    await link.drain()
