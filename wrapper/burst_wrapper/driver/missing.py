"""What a cargo elsewhere says it lacks, read from its complaint, and whether it is here. Blocking.

cargo names a manifest it cannot read in its error: ``failed to read `/a/b/Cargo.toml` ``.
"""

from __future__ import annotations

import os
import re
from typing import Final

_QUOTED: Final = re.compile(rb"`(/[^`\n]+)`")
_MANIFEST: Final = b"Cargo.toml"


def named_folders(complaint: bytes) -> list[bytes]:
    """Folders with a manifest here that the text names, in its order."""
    found: dict[bytes, None] = {}
    for path in _QUOTED.findall(complaint):
        folder = os.path.normpath(
            os.path.dirname(path) if os.path.basename(path) == _MANIFEST else path
        )
        if os.path.isfile(os.path.join(folder, _MANIFEST)):
            found[folder] = None
    return list(found)
