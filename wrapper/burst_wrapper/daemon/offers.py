"""What home compiled while a server booted is offered to its store.

Only while nobody waits for that link, one result at a time, and only what the server says it lacks:
the next worktree, or this one tomorrow, finds it there.
"""

from __future__ import annotations

import asyncio
import logging
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
    """Until everything was offered, or the link is gone. What was taken is removed from `made`."""
    while made and there.usable and home.usable:
        if there.in_flight:
            await asyncio.sleep(_PAUSE_S)
            continue
        strong_key, one = next(iter(made.items()))
        try:
            await _offer(one, home, there)
        except BurstError:
            if there.link.gone is not None:
                return
        made.pop(strong_key, None)
    _log.info("%s has been offered what home compiled", there.name)


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
