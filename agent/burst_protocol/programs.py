"""The messages about programs, mirrors and connections; `messages` holds the whole table.

A *mirror* is a project's folders as they lie at home, at the same paths on the agent, and writable:
what `cargo burst test|bench|run` start runs in it. A *program* is one process started there. Both
belong to a name that home gives, so that the runs of one project share what they write.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from burst_protocol.digest import Digest
from burst_protocol.wire import BOOL, BYTES, DIGEST, INT, TEXT, field, many, pair, struct

WINDOW_BYTES: Final = 1024 * 1024
"""So many bytes of one stream (a program's stdout, a connection) may be on their way unread."""

TERMINAL_STDIN: Final = 1
TERMINAL_STDOUT: Final = 2
TERMINAL_STDERR: Final = 4


@attrs.frozen
class AskMissing:
    """Which of these blobs are not here? Answered by Missing, with none of them if all are."""

    id: int = field(INT)
    digests: tuple[Digest, ...] = field(many(DIGEST))


@attrs.frozen
class SyncMirror:
    """Make the mirror's roots equal to these trees. Answered by Missing or Mirrored.

    What runs have created there and nobody has fetched stays; what runs have changed of what home
    sent is set right again; what home sent and has no longer is removed.
    """

    id: int = field(INT)
    mirror: str = field(TEXT)
    """Lower case letters, digits and `-`: the project's key."""
    roots: tuple[tuple[bytes, Digest], ...] = field(many(pair(BYTES, DIGEST)))
    """Absolute path at home, and what lies there. None lies in another one, except that a target
    directory may lie in the workspace."""


@attrs.frozen
class Mirrored:
    id: int = field(INT)
    written: int = field(INT)
    removed: int = field(INT)


@attrs.frozen
class AskChanges:
    """What have runs written below these roots? Answered by Changes; their bytes
    are in the store then.

    `patterns` as in `.gitignore`, relative to each root.
    """

    id: int = field(INT)
    mirror: str = field(TEXT)
    """Or `driver/NAME`: a folder that programs keep. Its paths begin with `/` at its top."""
    roots: tuple[bytes, ...] = field(many(BYTES))
    patterns: tuple[str, ...] = field(many(TEXT))


@attrs.frozen
class ChangedFile:
    """A regular file that a run created or changed."""

    path: bytes = field(BYTES)
    digest: Digest = field(DIGEST)
    executable: bool = field(BOOL)


@attrs.frozen
class Changes:
    id: int = field(INT)
    files: tuple[ChangedFile, ...] = field(many(struct(ChangedFile)))


@attrs.frozen
class Fetched:
    """Home has these now: from here on they are as if home had sent them."""

    mirror: str = field(TEXT)
    files: tuple[ChangedFile, ...] = field(many(struct(ChangedFile)))


@attrs.frozen
class StartProgram:
    """Start a program in a mirror. Answered by Missing (blobs), Lacking (libraries) or Running;
    then ProgramOutput*, ProgramEnded | Failed.
    """

    id: int = field(INT)
    mirror: str = field(TEXT)
    argv: tuple[bytes, ...] = field(many(BYTES))
    env: tuple[tuple[bytes, bytes], ...] = field(many(pair(BYTES, BYTES)))
    cwd: bytes = field(BYTES)
    terminals: int = field(INT)
    """Which of its three are a terminal (TERMINAL_*); each other one is a pipe."""
    rows: int = field(INT)
    columns: int = field(INT)
    trees: tuple[tuple[bytes, Digest], ...] = field(many(pair(BYTES, DIGEST)))
    """Shown read-only at these absolute paths besides: a toolchain, say."""
    libraries: tuple[tuple[str, Digest], ...] = field(many(pair(TEXT, DIGEST)))
    """Home's shared libraries by name, for what the agent's machine lacks or has older (glibc). The
    empty digest: home has none either, and it is to be started all the same."""
    services: tuple[str, ...] = field(many(TEXT))
    """`postgresql`, `mysql`, `redis`: started before it, in its network namespace."""
    memory_bytes: int = field(INT)
    """A limit for it and all its children; 0: what protects the machine, if it is not home."""
    wall_s: int = field(INT)
    """It is ended after so long; 0: never."""
    alone: bool = field(BOOL)
    """Nothing else of ours runs on the machine meanwhile: compile slots are drained and held."""
    shares_network: bool = field(BOOL)
    """In the machine's own network (the agent is at home), not in the mirror's namespace."""
    prolongs: bool = field(BOOL)
    detached: bool = field(BOOL)
    """Goes on when its client is gone; its output is dropped then."""
    keeps: tuple[tuple[bytes, str], ...] = field(many(pair(BYTES, TEXT)), default=())
    """Folders of the agent's own on its volume, writable at these absolute paths, by name (as that
    of a mirror): the target directory of a cargo that runs there, say. Swept by age and size."""


@attrs.frozen
class Lacking:
    """The machine does not have these shared libraries, or has an older glibc than the program asks
    for; send them with the next StartProgram."""

    id: int = field(INT)
    libraries: tuple[str, ...] = field(many(TEXT))
    """Names as in DT_NEEDED. `libc.so.6` stands for glibc and all that belongs to it."""
    reason: str = field(TEXT)


@attrs.frozen
class Running:
    id: int = field(INT)
    notes: tuple[str, ...] = field(many(TEXT))
    """What the user may want to know: no outgoing traffic here, say."""


@attrs.frozen
class ProgramOutput:
    """Bytes of a program's stdout (1) or stderr (2), of its terminal (0), or of a connection (1).
    Empty: that stream has ended."""

    id: int = field(INT)
    stream: int = field(INT)
    data: bytes = field(BYTES)


@attrs.frozen
class Input:
    """For a program's stdin or a connection; empty: its end."""

    id: int = field(INT)
    data: bytes = field(BYTES)


@attrs.frozen
class Credit:
    """So many more bytes of this stream may be sent: whoever receives a stream says so. Both sides
    begin with WINDOW_BYTES per stream (client: per output stream; agent: for Input)."""

    id: int = field(INT)
    stream: int = field(INT)
    """As in ProgramOutput; 0 for Input."""
    size: int = field(INT)


@attrs.frozen
class Resize:
    id: int = field(INT)
    rows: int = field(INT)
    columns: int = field(INT)


@attrs.frozen
class StopOutput:
    """Nobody reads this stream any more (`| head`): the program is to notice, as it would at home.
    An empty ProgramOutput follows."""

    id: int = field(INT)
    stream: int = field(INT)
    """1 or 2; a terminal has no such thing."""


@attrs.frozen
class Signal:
    """Send this signal to the program's foreground process group."""

    id: int = field(INT)
    number: int = field(INT)


@attrs.frozen
class Stopped:
    """The program was stopped by this signal (Ctrl-Z: SIGTSTP); it waits for Signal(SIGCONT)."""

    id: int = field(INT)
    number: int = field(INT)


@attrs.frozen
class ProgramEnded:
    """All ProgramOutputs came before. `signal` is 0 or what killed it; `reason` is empty, or why we
    ended it: `wall`, `memory`."""

    id: int = field(INT)
    code: int = field(INT)
    signal: int = field(INT)
    reason: str = field(TEXT)
    wall_ms: int = field(INT)
    max_rss_bytes: int = field(INT)


@attrs.frozen
class Connect:
    """To a TCP port on the loopback of the mirror's network. Answered by Connected or Failed; then
    ProgramOutput and Input go both ways until both have said an empty one, or Cancel."""

    id: int = field(INT)
    mirror: str = field(TEXT)
    port: int = field(INT)


@attrs.frozen
class Connected:
    id: int = field(INT)


ProgramMessage = (
    AskMissing | SyncMirror | Mirrored | AskChanges | Changes | Fetched | StartProgram | Lacking
    | Running | ProgramOutput | Input | Credit | Resize | Signal | ProgramEnded | Connect
    | Connected | Stopped | StopOutput
)  # fmt: skip
CLASSES: Final[tuple[type[Any], ...]] = (
    AskMissing, SyncMirror, Mirrored, AskChanges, Changes, Fetched, StartProgram, Lacking,
    Running, ProgramOutput, Input, Credit, Resize, Signal, ProgramEnded, Connect,
    Connected, Stopped, StopOutput,
)  # fmt: skip
"""Numbered from where those of `messages` end: append only."""
