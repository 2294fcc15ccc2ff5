"""The mirrors of all projects that this daemon has had sessions of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, cast

from burst_lifecycle.machine import machine_key
from burst_lifecycle.places import Places
from burst_protocol.packing import pack, unpack
from burst_wrapper.index import Index
from burst_wrapper.mirror.mirror import Mirror, mirror_name
from burst_wrapper.statcache import StatCache

_FACT: Final = "read by units"
_OBSERVED_LIMIT: Final = 20_000


class Mirrors:
    """Each lives as long as the daemon: what it saw makes the next look cheap."""

    def __init__(self, stats: StatCache, index: Index) -> None:
        self._stats = stats
        self._index = index
        self._mirrors: dict[bytes, Mirror] = {}
        self._observed: dict[bytes, dict[bytes, None]] = {}
        self._news: set[bytes] = set()
        """Of which workspaces more is observed than the index has."""
        self._machine = b""

    def of(self, workspace_root: bytes) -> Mirror:
        """Of this workspace. OSError where this machine's name cannot be kept."""
        root = os.path.normpath(workspace_root)
        found = self._mirrors.get(root)
        if found is None:
            if not self._machine:
                self._machine = machine_key(Places.of().cloud)
            observed = self._seen(root)
            found = Mirror(mirror_name(root, self._machine), self._stats, lambda: tuple(observed))
            self._mirrors[root] = found
        return found

    def saw(self, workspace_root: bytes, paths: Iterable[bytes]) -> None:
        """Units of this workspace read these files: they go there, whatever `.gitignore` says."""
        root = os.path.normpath(workspace_root)
        observed = self._seen(root)
        before = len(observed)
        if before < _OBSERVED_LIMIT:
            observed.update(dict.fromkeys(paths))
        if len(observed) > before:
            self._news.add(root)

    def remember(self) -> None:
        """To the index, which is written from time to time; a list is long, and units are many."""
        for root in self._news:
            self._index.put_fact(_FACT, root, pack(list(self._observed[root])))
        self._news.clear()

    def _seen(self, root: bytes) -> dict[bytes, None]:
        """Of earlier daemons, too: a unit that cargo finds fresh tells nobody what it reads."""
        observed = self._observed.get(root)
        if observed is None:
            observed = self._observed[root] = {}
            kept = self._index.fact(_FACT, root)
            if kept is not None:
                observed.update(dict.fromkeys(cast("list[bytes]", unpack(kept))))
        return observed
