"""What is executed, and what came of it: Action, ActionResult, Observation."""

from __future__ import annotations

from typing import Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.packing import pack, unpack
from burst_protocol.wire import (
    BOOL,
    BYTES,
    DIGEST,
    INT,
    TEXT,
    field,
    many,
    optional,
    pair,
    struct,
)

KIND_FILE: Final = 0
KIND_EXECUTABLE: Final = 1
KIND_DIRECTORY: Final = 2
KIND_SYMLINK: Final = 3

ASK: Final = "ask"
"""`Access.op`: cargo was asked for the workspace of the manifest at that path. `found`: it was
answered from the file at ANSWER_PATH."""
ANSWER_PATH: Final = b"/.burst/answer"
"""As `native/observer.c` has it. No project and no distribution has such a directory."""


@attrs.frozen
class Input:
    """One thing the sandbox shows: a file or a whole tree at its absolute path.

    `local` is where an agent on the same machine finds the very same bytes without a copy; it is a
    hint, never identity, and other agents ignore it. For a symlink the digest is EMPTY and
    `target` is what it points to. A directory at `/` is exploded: its entries appear at the root.
    """

    path: bytes = field(BYTES)
    kind: int = field(INT)
    digest: Digest = field(DIGEST)
    target: bytes = field(BYTES, default=b"")
    local: bytes = field(BYTES, default=b"", eq=False)


@attrs.frozen
class Incremental:
    """Where `-C incremental` points, and the agent's name for the persistent state behind it."""

    path: bytes = field(BYTES)
    state_key: bytes = field(BYTES)


@attrs.frozen
class Action:
    """A command in an input root. Everything the command can see is in here by digest."""

    argv: tuple[bytes, ...] = field(many(BYTES))
    env: tuple[tuple[bytes, bytes], ...] = field(many(pair(BYTES, BYTES)))
    cwd: bytes = field(BYTES)
    out_dir: bytes = field(BYTES)
    inputs: tuple[Input, ...] = field(many(struct(Input)))
    directories: tuple[bytes, ...] = field(many(BYTES), default=())
    """Absolute paths that exist in the sandbox as empty directories unless an input fills them."""
    incremental: Incremental | None = field(optional(struct(Incremental)), default=None)
    scan_for: bytes = field(BYTES, default=b"")
    """Outputs are searched for this string (the target directory), see OutputFile.mentions."""
    programs: tuple[bytes, ...] = field(many(BYTES), default=())
    """Programs that the command may start without being reported (the linker)."""
    timeout_s: int = field(INT, default=3600)
    priority: int = field(INT, default=0)
    quiet: tuple[bytes, ...] = field(many(BYTES), default=())
    """Absolute path prefixes (toolchain, system) whose found accesses are not reported."""


@attrs.frozen
class OutputFile:
    """A file below the out-dir after the run."""

    path: bytes = field(BYTES)
    """Relative to the out-dir."""
    digest: Digest = field(DIGEST)
    executable: bool = field(BOOL)
    mentions: bool = field(BOOL, default=False)
    """Whether the bytes hold `Action.scan_for`."""


@attrs.frozen
class Access:
    """One look at the world that the observer reported."""

    op: str = field(TEXT)
    """open, stat, list, readlink, …"""
    path: bytes = field(BYTES)
    found: bool = field(BOOL)


@attrs.frozen
class Observation:
    """What the command was seen to use, beyond what is in every sandbox (toolchain, out-dir)."""

    complete: bool = field(BOOL)
    """The observer was loaded in every process and nothing was lost."""
    accesses: tuple[Access, ...] = field(many(struct(Access)))
    env_names: tuple[bytes, ...] = field(many(BYTES))
    programs: tuple[bytes, ...] = field(many(BYTES))
    network: bool = field(BOOL)


@attrs.frozen
class ActionResult:
    """What a successful run left: outputs in order of appearance, stdout, stderr line by line."""

    outputs: tuple[OutputFile, ...] = field(many(struct(OutputFile)))
    stdout: bytes = field(BYTES)
    stderr: tuple[bytes, ...] = field(many(BYTES))
    out_dir: bytes = field(BYTES)
    target_dir: bytes = field(BYTES)
    wall_ms: int = field(INT)

    def encode(self) -> bytes:
        return pack(_RESULT.encode(self))

    @classmethod
    def decode(cls, data: bytes) -> ActionResult:
        """RemoteProtocolError for anything else."""
        result: ActionResult = _RESULT.decode(unpack(data))
        return result

    def digests(self) -> list[Digest]:
        return [output.digest for output in self.outputs]


_RESULT: Final = struct(ActionResult)
