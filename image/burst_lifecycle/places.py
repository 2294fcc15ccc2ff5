"""Where burst keeps its files (XDG Base Directory Specification 0.8), and how it writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs


def home_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """$HOME, else what the password database says."""
    return environ.get(b"HOME") or os.path.expanduser(b"~")


def _xdg(environ: Mapping[bytes, bytes], name: bytes, default: bytes) -> bytes:
    base = environ.get(name, b"")
    if not base.startswith(b"/"):  # the specification: relative values are to be ignored
        base = home_dir(environ) + b"/" + default
    return base + b"/burst"


def config_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What the user writes."""
    return _xdg(environ, b"XDG_CONFIG_HOME", b".config")


def cache_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What may be deleted at any time: the store, compiled helpers."""
    return _xdg(environ, b"XDG_CACHE_HOME", b".cache")


def data_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """What must stay: the launcher that cargo's configuration names, burst's SSH key."""
    return _xdg(environ, b"XDG_DATA_HOME", b".local/share")


def state_dir(environ: Mapping[bytes, bytes]) -> bytes:
    """Logs, the journal, the ledger, and what `enable` changed."""
    return _xdg(environ, b"XDG_STATE_HOME", b".local/state")


@attrs.frozen
class Places:
    """The folders of the lifecycle, as text (surrogates stand for what is not UTF-8)."""

    config: str
    data: str
    state: str

    @classmethod
    def of(cls, environ: Mapping[bytes, bytes] | None = None) -> Places:
        """From a whole environment; by default that of this process."""
        env = os.environb if environ is None else environ
        return cls(*(os.fsdecode(place(env)) for place in (config_dir, data_dir, state_dir)))

    @property
    def cloud(self) -> str:
        """Ledger, notices, pins, this machine's key: `$XDG_STATE_HOME/burst/cloud`."""
        return os.path.join(self.state, "cloud")

    @property
    def config_file(self) -> str:
        return os.path.join(self.config, "config.toml")

    @property
    def ssh_key(self) -> str:
        """Unless `ssh_key_path` names another one."""
        return os.path.join(self.data, "ssh", "ed25519")


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
