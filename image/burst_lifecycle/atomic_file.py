"""How burst replaces a file's content: at once, or not at all."""

from __future__ import annotations

import os


def write_atomically(
    path: bytes, content: bytes, *, mode: int = 0o644, keep_equal: bool = False
) -> None:
    """Replace a file's content at once, or leave it; its folder is made.

    A symlink stays one: its target is replaced. An existing file keeps its mode. With
    `keep_equal`, a file that has that content and mode is not touched. Raises OSError.
    """
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    try:
        with open(path, "rb") as old:
            if not keep_equal:
                mode = os.fstat(old.fileno()).st_mode & 0o7777
            elif old.read() == content and os.fstat(old.fileno()).st_mode & 0o777 == mode:
                return
    except FileNotFoundError:
        pass
    import tempfile  # noqa: PLC0415 - loads much; a daemon's start can do without

    fd, temporary = tempfile.mkstemp(prefix=b".burst-", dir=folder)
    try:
        with open(fd, "wb") as new:
            new.write(content)
            os.fchmod(new.fileno(), mode)
            new.flush()
            os.fsync(new.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
