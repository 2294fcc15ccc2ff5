"""What the daemon needs of the configuration; the reader is `burst_lifecycle.settings`.

A misspelt `extra_inputs` must not silently mean wrong artifacts: unknown keys are errors.
"""

from __future__ import annotations

import os
from typing import Final

import attrs

from burst_lifecycle.setting_keys import default
from burst_lifecycle.setting_values import Rule
from burst_lifecycle.settings import Layer, Settings, build, read_project, read_user
from burst_lifecycle.trust import Trust
from burst_wrapper.paths import config_dir, state_dir

__all__ = ["Config", "Rule", "config_path", "load", "load_for"]

_NO_STAMP: Final = (0, 0)


@attrs.frozen(kw_only=True)
class Config(Settings):
    """Settings with their defaults; durations in seconds, sizes in gigabytes (10^9 bytes)."""

    host: str = default("host")
    silence_s: float = default("silence_s")
    connect_timeout_s: float = default("connect_timeout_s")
    idle_exit_s: float = default("idle_exit_s")
    store_gb: float = default("store_gb")
    slots: int = default("slots")
    donate: bool = default("donate")
    key_env: tuple[bytes, ...] = default("key_env")
    extra_inputs: tuple[bytes, ...] = default("extra_inputs")
    crates: tuple[tuple[bytes, Rule], ...] = default("crate")
    pure_macros: tuple[bytes, ...] = default("pure_macros")
    stamp: tuple[int, int] = attrs.field(default=_NO_STAMP, eq=False)

    @property
    def store_bytes(self) -> int:
        return int(self.store_gb * 1e9)

    def rule(self, crate: bytes) -> Rule:
        """What holds for this crate: the global lists and every `[crate.NAME]` of it."""
        inputs, variables = self.extra_inputs, self.key_env
        for name, own in self.crates:
            if name == crate:
                inputs, variables = inputs + own.extra_inputs, variables + own.key_env
        return Rule(inputs, variables)


def config_path(environ: dict[bytes, bytes] | None = None) -> bytes:
    return config_dir(os.environb if environ is None else environ) + b"/config.toml"


def load(path: bytes) -> Config:
    """The user's file; a missing one is the default. ConfigError names file and key."""
    return _built((read_user(os.fsdecode(path)),))


def load_for(
    path: bytes, workspace_root: bytes, environ: dict[bytes, bytes] | None = None
) -> Config:
    """With what the project's own file may set. ConfigError names the file that is wrong."""
    state = state_dir(os.environb if environ is None else environ)
    project = read_project(os.fsdecode(workspace_root), Trust(os.fsdecode(state)))
    return _built((read_user(os.fsdecode(path)), project))


def _built(layers: tuple[Layer, ...]) -> Config:
    return build(Config, layers, stamp=layers[0].stamp)
