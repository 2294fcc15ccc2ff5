"""What the daemon knows before it serves anybody: its memory of files, and of the platform."""

from __future__ import annotations

import contextlib
import os
import threading

import attrs

from burst_protocol.errors import BurstError
from burst_wrapper.daemon.early_hash import EarlyHash
from burst_wrapper.daemon.platform import Platforms
from burst_wrapper.index import Index
from burst_wrapper.statcache import StatCache
from burst_wrapper.toolchain import is_proxy


@attrs.frozen
class Ground:
    cache_dir: bytes
    state_dir: bytes
    index: Index
    stats: StatCache
    platforms: Platforms

    @classmethod
    def lay(cls, cache_dir: bytes, state_dir: bytes) -> Ground:
        """OSError if there is no room for it."""
        index = Index(os.path.join(cache_dir, b"home.db"))
        stats = StatCache(index)
        return cls(cache_dir, state_dir, index, stats, Platforms(stats, cache_dir))

    def warm(self, rustc: bytes, early: EarlyHash | None) -> None:
        """Begin to hash that compiler's toolchain, half a gigabyte, and to try a link, in threads.

        Whoever needs it waits for that instead of doing it. Does nothing if it cannot be told
        without knowing more of the caller which toolchain is meant. `early` has begun already.
        """
        if early is None and (not os.path.isabs(rustc) or is_proxy(rustc)):
            return
        threading.Thread(target=self._warm, args=(rustc, early), daemon=True).start()

    def _warm(self, rustc: bytes, early: EarlyHash | None) -> None:
        # Who needs this toolchain meets the same trouble, and can tell of it.
        with contextlib.suppress(BurstError, OSError):
            self.platforms.warm(rustc, dict(os.environb), early)
