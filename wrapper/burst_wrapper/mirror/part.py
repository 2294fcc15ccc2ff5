"""Some roots of a mirror, and where their bytes are."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from burst_protocol.digest import Digest
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.mirror.rules import Why


@attrs.frozen(eq=False)
class Part:
    roots: tuple[tuple[bytes, Digest], ...]
    sources: Sources
    paths: Mapping[bytes, Digest]
    """Files of the project by absolute path; none of a target directory's."""
    size_bytes: int
    held: tuple[tuple[bytes, Why, str], ...] = ()
    """What stays at home."""
