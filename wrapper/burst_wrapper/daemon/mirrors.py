"""The mirrors of all projects that this daemon has had sessions of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from burst_lifecycle.machine import machine_key
from burst_lifecycle.places import Places
from burst_wrapper.mirror.mirror import Mirror, mirror_name
from burst_wrapper.statcache import StatCache

_OBSERVED_LIMIT: Final = 20_000


class Mirrors:
    """Each lives as long as the daemon: what it saw makes the next look cheap."""

    def __init__(self, stats: StatCache) -> None:
        self._stats = stats
        self._mirrors: dict[bytes, Mirror] = {}
        self._observed: dict[bytes, dict[bytes, None]] = {}
        self._machine = b""

    def of(self, workspace_root: bytes) -> Mirror:
        """Of this workspace. OSError where this machine's name cannot be kept."""
        root = os.path.normpath(workspace_root)
        found = self._mirrors.get(root)
        if found is None:
            if not self._machine:
                self._machine = machine_key(Places.of().cloud)
            observed = self._observed.setdefault(root, {})
            found = Mirror(mirror_name(root, self._machine), self._stats, lambda: tuple(observed))
            self._mirrors[root] = found
        return found

    def saw(self, workspace_root: bytes, paths: Iterable[bytes]) -> None:
        """Units of this workspace read these files: they go there, whatever `.gitignore` says."""
        observed = self._observed.setdefault(os.path.normpath(workspace_root), {})
        if len(observed) < _OBSERVED_LIMIT:
            observed.update(dict.fromkeys(paths))
