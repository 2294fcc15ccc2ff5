"""What `cargo burst` and the runner say to the daemon, beside the wrapper's requests.

An opening is `MAGIC`, u32 length of what follows, then fields of u32 length and bytes, as in
`daemon.request`. The first one says what it is about:

========== ========================================================================================
`session`  a `SessionRequest`, packed. Kept open for as long as the session is.
`program`  see `runner`: a program that shall run where the session's programs run
`rustdoc`  a version and a session: `K` if tests of documentation need the runner, else `L`
========== ========================================================================================

Then frames go both ways: a kind (1 byte), u32 length, payload. All numbers are little endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from burst_protocol.errors import BurstError, EnvironmentProblem, RemoteProtocolError
from burst_protocol.packing import pack, unpack
from burst_protocol.wire import BOOL, BYTES, INT, TEXT, field, many, pair, struct
from burst_wrapper.daemon.request import PEER_MAGIC

MAGIC: Final = PEER_MAGIC
MAX_OPENING_BYTES: Final = 64 * 1024 * 1024
MAX_FRAME_BYTES: Final = 16 * 1024 * 1024

# Frames of a session. From the daemon:
INFO: Final = b"I"
PROGRESS: Final = b"P"
SUMMARY: Final = b"S"
NOTE: Final = b"N"
"""Text: what the daemon is busy with while one waits for an answer."""
ERROR: Final = b"E"
HEARTBEAT: Final = b"H"
# To the daemon:
ASK_PROGRESS: Final = b"p"
CLOSE: Final = b"c"
FETCH_KEPT: Final = b"k"
# The daemon's answer:
KEPT: Final = b"K"


@attrs.frozen
class SessionRequest:
    """What one `cargo burst VERB` wants; the daemon answers with a `SessionInfo`."""

    verb: str = field(TEXT)
    """As the user sees it: `test`, `nextest`, `run` …"""
    cwd: bytes = field(BYTES)
    """Where cargo will be started, absolute."""
    workspace_root: bytes = field(BYTES)
    """cargo's `workspace_root`, absolute."""
    target_dir: bytes = field(BYTES)
    """cargo's `target_directory`, absolute: the plain one, without our `burst` behind it."""
    roots: tuple[bytes, ...] = field(many(BYTES), default=())
    """Folders outside the workspace that the mirror needs besides those it finds by itself."""
    host: str = field(TEXT, default="")
    """`--host`; empty: BURST_HOST of `environ`, then the configuration."""
    keep_alive_s: int = field(INT, default=-1)
    """`--keep-alive`: how long a server stays after this; -1: as configured."""
    reap: bool = field(BOOL, default=True)
    """False: `--no-reap`, the server is not ended for idleness by this session."""
    executes: bool = field(BOOL, default=False)
    """Whether cargo will start programs through the runner (`test`, `bench`, `run`, `nextest run`
    …). Only then programs may stay on a remote executor; False means real files in the
    plain target directory (`build`, `check`, `--no-run`, `run-local`, JSON messages)."""
    fetch: tuple[str, ...] = field(many(TEXT), default=())
    """Patterns as in .gitignore, relative to each root: what comes back besides the usual."""
    no_fetch: bool = field(BOOL, default=False)
    """Nothing comes back."""
    env: tuple[tuple[bytes, bytes], ...] = field(many(pair(BYTES, BYTES)), default=())
    """What programs on a remote executor see of the user's environment (`--env`, `forward_env`),
    resolved. What cargo sets itself goes along anyway."""
    forwards: tuple[tuple[int, int], ...] = field(many(pair(INT, INT)), default=())
    """`-L`: (port on 127.0.0.1 here, port on the loopback there)."""
    services: tuple[str, ...] = field(many(TEXT), default=())
    """`postgresql`, `mysql`, `redis`."""
    alone: bool = field(BOOL, default=False)
    """Programs run with nothing else of ours on that machine (`bench`)."""
    detach: bool = field(BOOL, default=False)
    """A program that was started goes on when we leave."""
    yes: bool = field(BOOL, default=False)
    """`--yes`: a mirror of any size goes without a question."""
    environ: tuple[tuple[bytes, bytes], ...] = field(many(pair(BYTES, BYTES)), default=())
    """Of `cargo burst` itself, exact: what is compared with a program's to find what cargo added,
    and where BURST_*, SSH_AUTH_SOCK and PATH are looked up."""

    drives: bool = field(BOOL, default=False)
    """Cargo itself is one of the programs: there must be another machine, the target directory is a
    folder that it keeps, and a program sees of its runner's environment exactly the variables
    `BURST_DRIVE_*`, without that prefix."""
    files: tuple[bytes, ...] = field(many(BYTES), default=())
    """Single files outside the workspace that the mirror needs."""
    umask: int = field(INT, default=0o022)
    """For what comes back; `session_client` fills it in."""


@attrs.frozen
class KeptRequest:
    """Bring files of the kept target directory home; answered by `KeptFiles`."""

    patterns: tuple[str, ...] = field(many(TEXT))
    """As in `.gitignore`, relative to it."""
    into: bytes = field(BYTES)
    """The folder at home that takes them, absolute."""
    strip: bytes = field(BYTES, default=b"/")
    """Only what lies in this folder there, and relative to it."""
    umask: int = field(INT, default=0o022)


@attrs.frozen
class KeptFiles:
    written: tuple[bytes, ...] = field(many(BYTES), default=())
    """Absolute paths; what was the same already is not among them."""


@attrs.frozen
class SessionInfo:
    id: str = field(TEXT)
    """For `BURST_SESSION` in cargo's environment."""
    executor: str = field(TEXT)
    """`home` or `remote`: where programs run."""
    name: str = field(TEXT)
    """Of the executor, for people: `home`, or the host."""
    target_dir: bytes = field(BYTES)
    """For `CARGO_TARGET_DIR`; the plain one unless programs stay on a remote executor."""
    notes: tuple[str, ...] = field(many(TEXT), default=())
    """For the user: why it is `home` though a host was named, say."""
    store_root: bytes = field(BYTES, default=b"")
    """Where the agent keeps everything, if it is another machine's."""


@attrs.frozen
class Progress:
    """Of this session, up to now."""

    units_remote: int = field(INT, default=0)
    """Compiled elsewhere."""
    hits: int = field(INT, default=0)
    """Came from a store."""
    local: int = field(INT, default=0)
    """Compiled on this machine."""
    running: int = field(INT, default=0)
    """Units and programs at this moment."""
    bytes_up: int = field(INT, default=0)
    bytes_down: int = field(INT, default=0)
    server: str = field(TEXT, default="")
    """`boots`, `connecting`, `ready`, `lost`; empty where there is nothing but home."""


@attrs.frozen
class Summary:
    """How it ended."""

    progress: Progress = field(struct(Progress))
    wall_ms: int = field(INT)
    """From opening to closing."""
    saved_ms: int = field(INT)
    """An estimate of the wall time saved: the rustc time of hits and of what was compiled
    elsewhere, spread over this machine's cores, less the wall time that units took. 0 where that
    is nothing or not known."""
    cost_eur: str = field(TEXT, default="")
    """What the server cost meanwhile, for people (`0.0123`); empty where none was used."""
    fetched: tuple[bytes, ...] = field(many(BYTES), default=())
    """Absolute paths that came back."""
    conflicts: tuple[bytes, ...] = field(many(BYTES), default=())
    """Absolute paths that did not, because they were changed here meanwhile."""
    notes: tuple[str, ...] = field(many(TEXT), default=())
    programs: int = field(INT, default=0)
    """Started elsewhere."""


@attrs.frozen
class Trouble:
    """An error of the tree, as it travels."""

    code: str = field(TEXT)
    detail: str = field(TEXT)
    facts: tuple[tuple[str, str], ...] = field(many(pair(TEXT, TEXT)))

    @classmethod
    def of(cls, error: BurstError) -> Trouble:
        facts = tuple((name, str(value)) for name, value in error.facts.items())
        return cls(error.code, error.detail if error.facts else str(error.detail), facts)

    def error(self) -> BurstError:
        """The same class if this process knows it."""
        facts: dict[str, Any] = dict(self.facts)
        for known in _classes(BurstError):
            if known.code == self.code:
                return known(self.detail, **facts)
        return EnvironmentProblem(self.detail)


def _classes(root: type[BurstError]) -> Iterator[type[BurstError]]:
    for cls in root.__subclasses__():
        yield cls
        yield from _classes(cls)


def encode(value: Any) -> bytes:
    """One of the classes above, packed."""
    return pack(struct(type(value)).encode(value))


def decode(cls: type[Any], data: bytes) -> Any:
    """RemoteProtocolError for anything that `encode` cannot have written."""
    return struct(cls).decode(unpack(data))


def opening(*fields: bytes) -> bytes:
    body = b"".join(len(one).to_bytes(4, "little") + one for one in fields)
    return MAGIC + len(body).to_bytes(4, "little") + body


def fields_of(body: bytes) -> list[bytes]:
    """Of an opening, without its magic and length. RemoteProtocolError."""
    fields: list[bytes] = []
    at = 0
    while at < len(body):
        length = int.from_bytes(body[at : at + 4], "little")
        one = body[at + 4 : at + 4 + length]
        if at + 4 > len(body) or len(one) != length:
            raise RemoteProtocolError("an opening that ends early")
        fields.append(one)
        at += 4 + length
    return fields


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return kind + len(payload).to_bytes(4, "little") + payload


def frames(received: bytearray) -> Iterator[tuple[bytes, bytes]]:
    """Take the whole frames out of `received`. RemoteProtocolError for a damaged stream."""
    while len(received) >= 5:
        end = 5 + int.from_bytes(received[1:5], "little")
        if end > MAX_FRAME_BYTES:
            raise RemoteProtocolError(f"a frame of {end} bytes")
        if len(received) < end:
            return
        kind, payload = bytes(received[:1]), bytes(received[5:end])
        del received[:end]
        yield kind, payload
