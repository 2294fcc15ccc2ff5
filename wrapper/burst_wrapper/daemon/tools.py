"""Our own compiled parts (sandbox launcher, observer), built once by home's own compiler."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from burst_wrapper.native_build import NativeTools, build_native
from burst_wrapper.processes import find_program


class Tools:
    """Builds on first use; without a compiler there simply are none, and `reason` says so."""

    def __init__(self, cache_dir: bytes) -> None:
        self._folder = Path(os.fsdecode(os.path.join(cache_dir, b"native")))
        self._task: asyncio.Task[NativeTools] | None = None

    async def get(self) -> NativeTools:
        if self._task is None:
            compiler = find_program(b"cc", b"/", os.environb)
            self._task = asyncio.create_task(
                asyncio.to_thread(build_native, compiler, self._folder)
            )
        return await asyncio.shield(self._task)
