"""Where blobs lie in a store: shared, because a daemon reads an embedded agent's blobs directly."""

from __future__ import annotations

from burst_protocol.digest import Digest


def blob_path(root: bytes, digest: Digest, *, executable: bool = False) -> bytes:
    """Path of a blob below the store's root. Executables have a twin: modes belong to the inode."""
    name = digest.hash.hex().encode()
    kind = b"exe" if executable else b"cas"
    return b"%s/%s/%s/%s" % (root, kind, name[:2], name)
