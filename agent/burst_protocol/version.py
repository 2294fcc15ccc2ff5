"""The release. Daemon and agent must be of the same one; wrappers only share a protocol number."""

from typing import Final

BUILD: Final = "0.1.0"
