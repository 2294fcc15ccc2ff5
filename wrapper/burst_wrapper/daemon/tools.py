"""Our own compiled parts (sandbox, observer, client), built once by home's own compiler."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from burst_wrapper import launcher
from burst_wrapper.native_build import NativeTools, build_native
from burst_wrapper.processes import find_program

_log: Final = logging.getLogger("burst")


class Tools:
    """Builds on first use; without a compiler there simply are none, and `reason` says so."""

    def __init__(self, cache_dir: bytes) -> None:
        self._cache_dir = cache_dir
        self._task: asyncio.Task[NativeTools] | None = None

    async def get(self) -> NativeTools:
        if self._task is None:
            self._task = asyncio.create_task(asyncio.to_thread(self._build))
        return await asyncio.shield(self._task)

    def _build(self) -> NativeTools:
        """Also puts the client where the next wrapper calls find it."""
        compiler = find_program(b"cc", b"/", os.environb)
        tools = build_native(compiler, launcher.native_dir(self._cache_dir))
        if tools.client is not None:
            try:
                launcher.publish(tools.client, os.environb, self._cache_dir)
            except OSError as problem:
                _log.warning("no native client: %s", problem)
        return tools
