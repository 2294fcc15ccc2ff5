"""Cargo's token of one unit: given back while another machine works, taken again before it runs at
home.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import attrs

from burst_wrapper.jobs import TokenPool, token_source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from burst_wrapper.callers import Caller
    from burst_wrapper.daemon.client import Client
    from burst_wrapper.daemon.executor import Executor
    from burst_wrapper.jobs import TokenPools

_PAUSE_S: Final = 0.02
_MORE_THAN_SLOTS: Final = 4
"""So many units wait at an agent whose slots are all taken; more would only wait longer."""


@attrs.define
class Token:
    _pools: TokenPools
    _pid: int
    """Of the wrapper: a child of the cargo whose token it is."""
    _pool: TokenPool | None = attrs.field(default=None, init=False)
    _donated: bool = attrs.field(default=False, init=False)

    def donate(self, executor: Executor, caller: Caller | None, env: Mapping[bytes, bytes]) -> None:
        """Give cargo its token back while another machine works for it."""
        if executor.local or caller is None or self._donated:
            return
        if executor.in_flight > executor.slots + _MORE_THAN_SLOTS:
            return
        if self._pool is None:
            self._pool = self._pools.enter(caller, self._pid, env)
        if self._pool is not None:
            self._donated = self._pool.donate()

    async def take_back(self, client: Client) -> None:
        """Local work stays within `-j`: a unit whose token was given away waits for another one.

        There is always one coming: every unit in flight holds one, and most of them end.
        """
        while self._donated and self._pool is not None and client.listening:
            if self._pool.take():
                self._pool.reclaimed()
                self._donated = False
                return
            await asyncio.sleep(_PAUSE_S)

    def left_to_wrapper(self, env: Mapping[bytes, bytes]) -> bytes | None:
        """Where the wrapper takes one before it compiles at home; None if it has its own still."""
        if not self._donated or self._pool is None:
            return None
        self._pool.reclaimed()
        self._donated = False
        return token_source(env)

    def end(self, caller: Caller | None) -> None:
        """The unit is over, whatever became of it."""
        if self._pool is not None and caller is not None:
            if self._donated:
                self._pool.finished()
            self._pools.leave(caller, self._pool)
