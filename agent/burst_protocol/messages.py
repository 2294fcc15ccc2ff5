"""Every message of the protocol on two screens. Requests carry an id; answers carry the same one.

Client (a daemon)                         Agent
    Hello                        <->        Hello
    OpenStore                     ->        Opened | Failed: before anything else, or not at all
    UseTools                      ->        Ready
    Lookup                        ->        Hit | Lists
    Execute                       ->        Hit | Lists | Missing | Started, then
                                            Output* Stdout* Stderr* Observed*, Exited | Failed
    PutBlobs, BlobChunk, PutFiles ->        (nothing, or Failed)
    Fetch                         ->        BlobChunk* | Failed
    Accept | Release              ->        (nothing): keep the result, or forget it
    Cancel                        ->        Failed(cancelled), if anything was running
    PutResult                     ->        (nothing): a result that came from another agent
    Ping                         <->        Pong
    AskStatus                     ->        Status
    AskMissing                    ->        Missing
    SyncMirror                    ->        Missing | Mirrored
    AskChanges                    ->        Changes
    Fetched                       ->        (nothing)
    StartProgram                  ->        Missing | Lacking | Running, then ProgramOutput*,
                                            Stopped*, ProgramEnded | Failed
    Connect                       ->        Connected | Failed, then ProgramOutput*
    Input, Resize, Signal         ->        (nothing): of a running program or connection
    StopOutput                    ->        (nothing): nobody reads that stream any more
    Credit                       <->        (nothing): more of a stream may come
                                 <-         Notice: for the user, whenever there is one
    Shutdown                      ->        (closes)

Changing a message: bump VERSION in `framing` and say in CHANGELOG what old readers, new readers and
old writers do. Versions never mix: the Hello is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from burst_protocol import codec
from burst_protocol.action import Action, ActionResult, Observation, OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack, unpack
from burst_protocol.wire import (
    BOOL,
    BYTES,
    DIGEST,
    INT,
    KEY,
    TEXT,
    Kind,
    field,
    many,
    optional,
    pair,
    struct,
)

CODEC_RAW: Final = codec.RAW
CODEC_ZSTD: Final = codec.ZSTD


@attrs.frozen
class Hello:
    """First message of either side. `build` is the release; `version` the protocol's number."""

    version: int = field(INT)
    build: str = field(TEXT)
    pid: int = field(INT)


@attrs.frozen
class UseTools:
    """Our own compiled parts (their blobs come first); None where home has no C compiler."""

    id: int = field(INT)
    sandbox: Digest | None = field(optional(DIGEST))
    observer: Digest | None = field(optional(DIGEST))


@attrs.frozen
class Ready:
    """How this agent runs things."""

    id: int = field(INT)
    launcher: str = field(TEXT)
    """`namespaces`, `bubblewrap`, `none`, or `` when nothing can be run here."""
    reason: str = field(TEXT)
    observer: bool = field(BOOL)
    slots: int = field(INT)
    store_root: bytes = field(BYTES)
    arch: str = field(TEXT)


@attrs.frozen
class Lookup:
    """Is there a result under one of these strong keys? If not, which input lists are known?"""

    id: int = field(INT)
    weak_key: bytes = field(KEY)
    strong_keys: tuple[bytes, ...] = field(many(KEY))
    push: bool = field(BOOL, default=False)
    """Send the blobs of a hit right away, before the Hit (agents on other machines)."""
    prolongs: bool = field(BOOL, default=True)
    """Whether a server should stay for the sake of whoever asks; see Execute."""


@attrs.frozen
class Hit:
    id: int = field(INT)
    strong_key: bytes = field(KEY)
    result: ActionResult = field(struct(ActionResult))


@attrs.frozen
class Lists:
    """Input lists known under the weak key, most recent first (opaque to the agent)."""

    id: int = field(INT)
    lists: tuple[bytes, ...] = field(many(BYTES))


@attrs.frozen
class Execute:
    """Run this, unless one of the strong keys has a result or an equal action is running."""

    id: int = field(INT)
    weak_key: bytes = field(KEY)
    strong_keys: tuple[bytes, ...] = field(many(KEY))
    lists_tried: int = field(INT)
    """How many lists the client knew; if the agent has more it answers Lists instead of running.
    -1: run in any case."""
    action_key: bytes = field(KEY)
    """Equal keys are equal actions, whatever target directory they name: coalesced."""
    action: Action = field(struct(Action))
    push: bool = field(BOOL)
    """Send output blobs without being asked (agents on other machines)."""
    prolongs: bool = field(BOOL, default=True)
    """Counts as use of a server. False for what uses one that is there and keeps none."""
    detached: bool = field(BOOL, default=False)
    """Goes on when its client is gone; otherwise it ends then, at once or after a while."""


@attrs.frozen
class Missing:
    """These blobs are not here; send them and send Execute again."""

    id: int = field(INT)
    digests: tuple[Digest, ...] = field(many(DIGEST))


@attrs.frozen
class Started:
    id: int = field(INT)
    coalesced: bool = field(BOOL)
    out_dir: bytes = field(BYTES)
    """The out-dir of the run that is streamed; another one's when coalesced."""


@attrs.frozen
class Output:
    id: int = field(INT)
    file: OutputFile = field(struct(OutputFile))


@attrs.frozen
class Stdout:
    id: int = field(INT)
    data: bytes = field(BYTES)


@attrs.frozen
class Stderr:
    """One line with its newline, if it had one."""

    id: int = field(INT)
    line: bytes = field(BYTES)


@attrs.frozen
class Observed:
    """What was seen since the last Observed of this action; `last` comes before Exited."""

    id: int = field(INT)
    observation: Observation = field(struct(Observation))
    last: bool = field(BOOL)


@attrs.frozen
class Exited:
    """The command ended. `signal` is 0 or what killed it. All Outputs came before."""

    id: int = field(INT)
    code: int = field(INT)
    signal: int = field(INT)
    wall_ms: int = field(INT)
    max_rss_bytes: int = field(INT)


@attrs.frozen
class Failed:
    """Something of ours failed: `code` is that of an error class."""

    id: int = field(INT)
    code: str = field(TEXT)
    detail: str = field(TEXT)


@attrs.frozen
class PutBlobs:
    """Small blobs, whole. Each is (digest, codec, data)."""

    digests: tuple[Digest, ...] = field(many(DIGEST))
    blobs: tuple[tuple[int, bytes], ...] = field(many(pair(INT, BYTES)))


@attrs.frozen
class BlobChunk:
    """Part of a large blob, in order; `last` makes it visible if the digest is right."""

    id: int = field(INT)
    digest: Digest = field(DIGEST)
    codec: int = field(INT)
    data: bytes = field(BYTES)
    last: bool = field(BOOL)


@attrs.frozen
class PutFiles:
    """For an agent on the same machine: take these files' bytes, if they have these digests."""

    id: int = field(INT)
    files: tuple[tuple[Digest, bytes], ...] = field(many(pair(DIGEST, BYTES)))


@attrs.frozen
class Fetch:
    id: int = field(INT)
    digest: Digest = field(DIGEST)


@attrs.frozen
class Accept:
    """The result of run `id` was right: keep it under this key, and the list under the weak key."""

    id: int = field(INT)
    weak_key: bytes = field(KEY)
    input_list: bytes = field(BYTES)
    strong_key: bytes = field(KEY)
    result: ActionResult = field(struct(ActionResult))


@attrs.frozen
class Release:
    """Nobody needs run `id` any more; its result was not accepted."""

    id: int = field(INT)


@attrs.frozen
class Cancel:
    id: int = field(INT)


@attrs.frozen
class PutResult:
    """A result made by another agent of the same owner; its blobs came first."""

    weak_key: bytes = field(KEY)
    input_list: bytes = field(BYTES)
    strong_key: bytes = field(KEY)
    result: ActionResult = field(struct(ActionResult))


@attrs.frozen
class Ping:
    token: int = field(INT)


@attrs.frozen
class Pong:
    token: int = field(INT)


@attrs.frozen
class AskStatus:
    id: int = field(INT)


@attrs.frozen
class Status:
    id: int = field(INT)
    running: int = field(INT)
    queued: int = field(INT)
    store_bytes: int = field(INT)
    executed: int = field(INT)
    hits: int = field(INT)


@attrs.frozen
class Shutdown:
    pass


@attrs.frozen
class OpenStore:
    """Work in the store on this volume; without it, in the agent's own. First of all or never."""

    id: int = field(INT)
    volume: str = field(TEXT)
    """The name of a mounted volume's folder."""


@attrs.frozen
class Opened:
    id: int = field(INT)
    root: bytes = field(BYTES)


@attrs.frozen
class Notice:
    """Something the user should know: the server's hard end is near, say."""

    text: str = field(TEXT)


CoreMessage = (
    Hello | UseTools | Ready | Lookup | Hit | Lists | Execute | Missing | Started | Output | Stdout
    | Stderr | Observed | Exited | Failed | PutBlobs | BlobChunk | PutFiles | Fetch | Accept
    | Release | Cancel | PutResult | Ping | Pong | AskStatus | Status | Shutdown | OpenStore
    | Opened | Notice
)  # fmt: skip
if TYPE_CHECKING:
    from burst_protocol.programs import ProgramMessage

    Message = CoreMessage | ProgramMessage
else:
    Message = CoreMessage

# Numbers on the wire are positions in this list, and then in that of `programs`: append only there.
_CORE: Final[tuple[type[Any], ...]] = (
    Hello, UseTools, Ready, Lookup, Hit, Lists, Execute, Missing, Started, Output, Stdout,
    Stderr, Observed, Exited, Failed, PutBlobs, BlobChunk, PutFiles, Fetch, Accept,
    Release, Cancel, PutResult, Ping, Pong, AskStatus, Status, Shutdown, OpenStore,
    Opened, Notice,
)  # fmt: skip


class _Table:
    """Classes by number. Those of `programs` are loaded with the first message of theirs: to make
    a class takes half a millisecond, and most builds start no program."""

    def __init__(self) -> None:
        self.classes: tuple[type[Any], ...] = _CORE
        self.kinds: list[Kind] = [struct(cls) for cls in _CORE]
        self.numbers = {cls: number for number, cls in enumerate(_CORE)}

    def whole(self) -> None:
        """Load the rest, once."""
        if self.classes is not _CORE:
            return
        from burst_protocol.programs import CLASSES  # noqa: PLC0415 - see above

        self.classes = (*_CORE, *CLASSES)
        self.kinds += [struct(cls) for cls in CLASSES]
        self.numbers = {cls: number for number, cls in enumerate(self.classes)}


_TABLE: Final = _Table()


def encode(message: Message) -> bytes:
    kind = type(message)
    if kind not in _TABLE.numbers:
        _TABLE.whole()
    number = _TABLE.numbers[kind]
    return pack([number, _TABLE.kinds[number].encode(message)])


def decode(data: bytes | memoryview) -> Message:
    """RemoteProtocolError for anything that `encode` cannot have written."""
    value = unpack(data)
    if type(value) is not list or len(value) != 2 or type(value[0]) is not int:
        raise RemoteProtocolError("not a message")
    number = value[0]
    if number >= len(_TABLE.kinds):
        _TABLE.whole()
    if not 0 <= number < len(_TABLE.kinds):
        raise RemoteProtocolError(f"unknown message {number}")
    message: Message = _TABLE.kinds[number].decode(value[1])
    return message


def all_classes() -> tuple[type[Any], ...]:
    """Every message, by number."""
    _TABLE.whole()
    return _TABLE.classes
