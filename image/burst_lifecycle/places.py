"""The folders of the lifecycle, and what lies where in them."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from burst_lifecycle.xdg import config_dir, data_dir, state_dir


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
