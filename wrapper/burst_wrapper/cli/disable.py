"""`cargo burst disable`; it lives beside `enable`, whose records it reads."""

from __future__ import annotations

from burst_wrapper.cli.enable import run_disable as run

__all__ = ["run"]
