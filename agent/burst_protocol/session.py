"""The conversation's rules, with no I/O in it: both ends use this one class.

Rule 1: everything that decides whether a message may be sent or received now lives here.
Rule 2: it knows its role only to know which table is its own.

A connection is NEW until both Hellos passed, then OPEN, then CLOSED. A request is known by its id
from the client's first message with that id until its end; an agent that speaks of an unknown id is
ignored (its request was cancelled: normal), one that speaks out of turn is an error.
"""

from __future__ import annotations

import enum
from typing import Final

from burst_protocol import messages as m
from burst_protocol.errors import LocalProtocolError, RemoteProtocolError, VersionMismatch
from burst_protocol.framing import VERSION, FrameDecoder, frame
from burst_protocol.messages import Message


class Role(enum.Enum):
    CLIENT = "client"
    AGENT = "agent"


class State(enum.Enum):
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


_CLIENT_SAYS: Final = """
    Hello UseTools Lookup Execute PutBlobs BlobChunk PutFiles Fetch Accept Release Cancel
    PutResult Ping Pong AskStatus Shutdown OpenStore AskMissing SyncMirror AskChanges Fetched
    StartProgram Input Credit Resize Signal Connect StopOutput
"""
_AGENT_SAYS: Final = """
    Hello Ready Hit Lists Missing Started Output Stdout Stderr Observed Exited Failed
    BlobChunk Ping Pong Status Opened Notice Mirrored Changes Lacking Running ProgramOutput
    Credit ProgramEnded Connected Stopped
"""
_FROM_CLIENT: Final = frozenset(_CLIENT_SAYS.split())
_FROM_AGENT: Final = frozenset(_AGENT_SAYS.split())
# By name: most connections never need the classes of `programs`.


class Session:
    """Bytes in, messages out; messages in, bytes out."""

    def __init__(self, role: Role, build: str, pid: int) -> None:
        self.role = role
        self.state = State.NEW
        self.peer: m.Hello | None = None
        self._build = build
        self._pid = pid
        self._decoder = FrameDecoder()
        self._said_hello = False
        self._mine = _FROM_CLIENT if role is Role.CLIENT else _FROM_AGENT
        self._theirs = _FROM_AGENT if role is Role.CLIENT else _FROM_CLIENT

    def hello(self) -> bytes:
        """Our first bytes."""
        return self.send(m.Hello(VERSION, self._build, self._pid))

    def send(self, message: Message) -> bytes:
        """The frame for `message`; LocalProtocolError if it is not ours to send now."""
        kind = type(message)
        if self.state is State.CLOSED:
            raise LocalProtocolError("the session is closed")
        if kind.__name__ not in self._mine:
            raise LocalProtocolError(f"{kind.__name__} is not sent by the {self.role.value}")
        if (kind is m.Hello) == self._said_hello:
            raise LocalProtocolError("Hello comes first and once")
        self._said_hello = True
        return frame(message)

    def receive(self, data: bytes) -> list[Message]:
        """Messages completed by `data`; after an error the session is closed."""
        if self.state is State.CLOSED:
            raise RemoteProtocolError("bytes after the end")
        try:
            received = self._decoder.feed(data)
            return [message for message in received if self._admit(message)]
        except (RemoteProtocolError, VersionMismatch):
            self.state = State.CLOSED
            raise

    def _admit(self, message: Message) -> bool:
        kind = type(message)
        if kind.__name__ not in self._theirs:
            raise RemoteProtocolError(f"{kind.__name__} cannot come from the peer")
        if isinstance(message, m.Hello):
            if self.state is not State.NEW:
                raise RemoteProtocolError("a second Hello")
            if message.version != VERSION or message.build != self._build:
                raise VersionMismatch(
                    f"it is {message.build} (protocol {message.version}), "
                    f"we are {self._build} (protocol {VERSION})"
                )
            self.peer = message
            self.state = State.OPEN
            return False
        if self.state is State.NEW:
            raise RemoteProtocolError(f"{kind.__name__} before Hello")
        return True

    def close(self) -> None:
        self.state = State.CLOSED
