"""The protocol between daemon and agent, whole: what one end says the other one hears.

Strategies are made from the declared kinds of every message's fields, so that a new message is in
all of these tests at once.
"""

from __future__ import annotations

import itertools
import typing
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from burst_protocol import action, messages, programs
from burst_protocol.action import Action, ActionResult, Input
from burst_protocol.digest import EMPTY, Digest
from burst_protocol.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    VersionMismatch,
)
from burst_protocol.framing import HEADER_BYTES, MAX_FRAME_BYTES, VERSION, FrameDecoder, frame
from burst_protocol.messages import Message, decode, encode
from burst_protocol.packing import pack, unpack
from burst_protocol.session import Role, Session, State
from burst_protocol.wire import Kind, kinds_of

CLASSES: tuple[type[Any], ...] = (
    *typing.get_args(messages.CoreMessage),
    *typing.get_args(programs.ProgramMessage),
)
STRUCTS = {
    cls.__name__: cls
    for cls in (*vars(action).values(), programs.ChangedFile)
    if isinstance(cls, type) and attrs.has(cls) and cls is not Digest
}

# What each end may say once both have said Hello. Written out here as the second opinion.
CLIENT_SAYS = {
    *("UseTools", "Lookup", "Execute", "PutBlobs", "BlobChunk", "PutFiles", "Fetch", "Accept"),
    *("Release", "Cancel", "PutResult", "Ping", "Pong", "AskStatus", "Shutdown"),
    *("OpenStore", "AskMissing", "SyncMirror", "AskChanges", "Fetched", "StartProgram", "Input"),
    *("Credit", "Resize", "Signal", "Connect", "StopOutput"),
}
AGENT_SAYS = {
    *("Ready", "Hit", "Lists", "Missing", "Started", "Output", "Stdout", "Stderr", "Observed"),
    *("Exited", "Failed", "BlobChunk", "Ping", "Pong", "Status", "Opened", "Notice"),
    *("Mirrored", "Changes", "Lacking", "Running", "ProgramOutput", "Credit", "ProgramEnded"),
    *("Connected", "Stopped"),
}


# Strategies from kinds

digests = st.builds(Digest, st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1))
PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "bytes": st.binary(max_size=12),
    "text": st.text(max_size=8),
    "integer": st.integers(-(2**63), 2**64 - 1),
    "boolean": st.booleans(),
    "key": st.binary(min_size=32, max_size=32),
    "digest": digests,
}


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values of a kind, by what the kind calls itself."""
    if name in PLAIN:
        return PLAIN[name]
    for prefix, wrap in (
        ("optional ", lambda inner: st.none() | inner),
        ("list of ", lambda inner: st.lists(inner, max_size=3).map(tuple)),
    ):
        if name.startswith(prefix):
            return wrap(values_of(name.removeprefix(prefix)))
    if name.startswith("pair of "):
        first, second = name.removeprefix("pair of ").split(" and ", 1)
        return st.tuples(values_of(first), values_of(second))
    return instances(STRUCTS[name])


def instances(cls: type[Any]) -> st.SearchStrategy[Any]:
    kinds: list[Kind] = kinds_of(cls)
    return st.tuples(*[values_of(kind.name) for kind in kinds]).map(lambda values: cls(*values))


any_message = st.one_of([instances(cls) for cls in CLASSES])
client_message = st.one_of([instances(cls) for cls in CLASSES if cls.__name__ in CLIENT_SAYS])
agent_message = st.one_of([instances(cls) for cls in CLASSES if cls.__name__ in AGENT_SAYS])

slow_to_draw = settings(suppress_health_check=[HealthCheck.too_slow])


def whole(message: Any) -> Any:
    """All fields, those that equality leaves out too."""
    return type(message), attrs.asdict(message)


def opened(role: Role) -> Session:
    """A session that has said and heard Hello."""
    session, peer = Session(role, "1", 10), Session(other(role), "1", 20)
    session.hello()
    assert session.receive(peer.hello()) == []
    assert session.state is State.OPEN
    return session


def other(role: Role) -> Role:
    return Role.AGENT if role is Role.CLIENT else Role.CLIENT


def reframed(payload: bytes) -> bytes:
    """A payload with the header it needs to be looked at."""
    check = xxh3_64_intdigest(payload) & 0xFFFFFFFF
    return len(payload).to_bytes(4, "little") + check.to_bytes(4, "little") + payload


# Messages


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_message_comes_back_as_it_was(cls: type[Any]) -> None:
    """Field for field, hints included, whatever the values."""

    @given(instances(cls))
    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    def round_trip(message: Message) -> None:
        assert whole(decode(encode(message))) == whole(message)

    round_trip()


def test_numbers_on_the_wire_never_change() -> None:
    """A message's number is its place in this list: new ones go to the end, none goes away."""
    assert [cls.__name__ for cls in messages.all_classes()] == [
        *("Hello", "UseTools", "Ready", "Lookup", "Hit", "Lists", "Execute", "Missing", "Started"),
        *("Output", "Stdout", "Stderr", "Observed", "Exited", "Failed", "PutBlobs", "BlobChunk"),
        *("PutFiles", "Fetch", "Accept", "Release", "Cancel", "PutResult", "Ping", "Pong"),
        *("AskStatus", "Status", "Shutdown", "OpenStore", "Opened", "Notice"),
        *("AskMissing", "SyncMirror", "Mirrored", "AskChanges", "Changes", "Fetched"),
        *("StartProgram", "Lacking", "Running", "ProgramOutput", "Input", "Credit", "Resize"),
        *("Signal", "ProgramEnded", "Connect", "Connected", "Stopped", "StopOutput"),
    ]
    assert set(messages.all_classes()) == set(CLASSES)
    assert CLIENT_SAYS | AGENT_SAYS | {"Hello"} == {cls.__name__ for cls in CLASSES}


def test_known_frames() -> None:
    """The bytes themselves: length, check, payload; what a peer of any release must understand."""
    assert VERSION == 4
    assert frame(messages.Ping(7)).hex() == "0400000078f9ce4f92179107"
    hello = frame(messages.Hello(2, "0.1.0", 5))
    assert hello.hex() == "0b0000001953296292009302a5302e312e3005"


def test_a_directory_hint_is_no_identity() -> None:
    """`local` travels, and yet two actions that differ only in it are equal."""
    here = Input(b"/p", action.KIND_FILE, EMPTY, local=b"/elsewhere")
    assert here == Input(b"/p", action.KIND_FILE, EMPTY)
    message = messages.Execute(
        1, b"w" * 32, (), 0, b"a" * 32, Action((), (), b"/", b"/o", (here,), ()), push=False
    )
    decoded = decode(encode(message))
    assert isinstance(decoded, messages.Execute)
    assert decoded.action.inputs[0].local == b"/elsewhere"


@given(instances(ActionResult))
def test_results_are_stored_as_they_were(result: ActionResult) -> None:
    """The action cache holds the same encoding."""
    assert ActionResult.decode(result.encode()) == result
    assert result.digests() == [output.digest for output in result.outputs]


# Hostile payloads

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=41)
    | st.text(max_size=5)
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5), max_leaves=12)


@given(st.integers(-2, 40), trees)
@example(0, [1, "x", True])
@example(3, [1, b"k" * 32, [b"k" * 31]])
@example(18, [1, [7] * 40])
def test_a_wrong_type_anywhere_is_the_peers_error(number: int, fields: object) -> None:
    """Never a TypeError, and what passes is a message that says the same again."""
    try:
        message = decode(pack([number, fields]))
    except RemoteProtocolError:
        return
    assert unpack(encode(message)) == [number, fields]


@given(any_message, st.data())
@slow_to_draw
def test_one_value_replaced_by_another(message: Message, data: st.DataObject) -> None:
    """At any depth of a real message."""
    value = unpack(encode(message))
    places = list(_places(value))
    container, at = data.draw(st.sampled_from(places))
    container[at] = data.draw(trees)
    try:
        changed = decode(pack(value))
    except RemoteProtocolError:
        return
    assert unpack(encode(changed)) == value


def _places(value: Any) -> typing.Iterator[tuple[list[Any], int]]:
    if isinstance(value, list):
        for at, item in enumerate(value):
            yield value, at
            yield from _places(item)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        pack(None),
        pack([]),
        pack([23]),
        pack([23, [1], 3]),
        pack([True, [1]]),
        pack([23, [True]]),
        pack([-1, [1]]),
        pack([10**6, [1]]),
        pack({23: [1]}),
        pack([23, {0: 1}]),
        pack([23, [1]]) + b"\0",
        b"\x92\x17\xdd\xff\xff\xff\xff",  # an array that says it has four thousand million items
        b"\x92\x17\xc6\xff\xff\xff\xff",  # bytes of that length
        b"\x91" * 5000,  # deeper than any stack
        b"\x92\x17\x91\xd4\xff\x00",  # an extension type that is a malformed time stamp
        b"\x92\x17\x91\xa2\xff\xff",  # text that is not UTF-8
        b"\x92\x17\x91\xcb\x7f\xf8\0\0\0\0\0\0",  # not a number
    ],
)
def test_payloads_that_are_no_message(payload: bytes) -> None:
    """Refused without an allocation that follows the peer's numbers."""
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed(reframed(payload))


# Frames


@given(st.lists(any_message, max_size=4), st.lists(st.integers(0, 400), max_size=8))
@slow_to_draw
def test_portions_do_not_matter(sent: list[Message], cuts: list[int]) -> None:
    """One block, any portions, byte by byte: the same messages in the same order."""
    stream = b"".join(frame(message) for message in sent)
    block = FrameDecoder()
    assert block.feed(stream) == sent
    assert block.pending_bytes == 0
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    portions = FrameDecoder()
    heard = [
        message
        for start, end in itertools.pairwise(edges)
        for message in portions.feed(stream[start:end])
    ]
    assert heard == sent
    bytewise = FrameDecoder()
    single = [message for byte in stream for message in bytewise.feed(bytes((byte,)))]
    assert single == sent


@given(st.binary(max_size=200))
def test_random_bytes_never_surprise(data: bytes) -> None:
    """Either they wait for more, or the peer broke the protocol."""
    for role in Role:
        session = opened(role)
        try:
            assert session.receive(data) == []
        except RemoteProtocolError:
            assert session.state is State.CLOSED


@given(client_message, st.data())
@slow_to_draw
def test_flipped_bits_on_the_line_are_noticed(message: Message, data: st.DataObject) -> None:
    """Never another message: the frame's check or its length sees it."""
    stream = bytearray(frame(message))
    at = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[at // 8] ^= 1 << (at % 8)
    session = opened(Role.AGENT)
    try:
        heard = session.receive(bytes(stream))
    except RemoteProtocolError:
        assert session.state is State.CLOSED
    else:
        assert heard == []  # a longer length: it waits for what never comes


@given(st.sampled_from(Role), any_message, st.data())
@slow_to_draw
def test_flipped_bits_under_a_right_check(
    role: Role, message: Message, data: st.DataObject
) -> None:
    """As a peer with bad memory would send them: an error of the peer, or a proper message."""
    payload = bytearray(encode(message))
    for at in data.draw(st.lists(st.integers(0, len(payload) * 8 - 1), min_size=1, max_size=3)):
        payload[at // 8] ^= 1 << (at % 8)
    session = opened(role)
    try:
        heard = session.receive(reframed(bytes(payload)))
    except (RemoteProtocolError, VersionMismatch):
        assert session.state is State.CLOSED
        return
    for each in heard:
        assert decode(encode(each)) == each


def test_a_length_beyond_the_limit_is_refused_at_once() -> None:
    """After eight bytes, before anything is buffered; an empty frame is no message."""
    decoder = FrameDecoder()
    with pytest.raises(RemoteProtocolError, match="frame of"):
        decoder.feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little") + bytes(4))
    with pytest.raises(RemoteProtocolError):
        FrameDecoder().feed(reframed(b""))
    assert FrameDecoder().feed(MAX_FRAME_BYTES.to_bytes(4, "little") + bytes(4)) == []


def test_nobody_sends_what_the_peer_would_refuse() -> None:
    """A message too large for a frame is our error, said before the connection is lost to it."""
    with pytest.raises(LocalProtocolError, match="Stdout of"):
        frame(messages.Stdout(1, bytes(MAX_FRAME_BYTES)))
    small = messages.Stdout(1, bytes(MAX_FRAME_BYTES - 100))
    assert len(frame(small)) <= MAX_FRAME_BYTES + HEADER_BYTES


def test_messages_before_a_broken_frame_do_not_count() -> None:
    """An error is the end: nothing of that portion is acted upon."""
    session = opened(Role.AGENT)
    with pytest.raises(RemoteProtocolError):
        session.receive(frame(messages.Cancel(1)) + reframed(b"junk"))
    with pytest.raises(RemoteProtocolError, match="after the end"):
        session.receive(frame(messages.Cancel(2)))


# The session


def may_say(role: Role) -> set[str]:
    return CLIENT_SAYS if role is Role.CLIENT else AGENT_SAYS


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_who_may_say_what_when(role: Role, cls: type[Any]) -> None:
    """The table of role, state and message, for both directions."""
    message = minimal(cls)
    is_hello = cls is messages.Hello
    allowed = cls.__name__ in may_say(role)

    fresh = Session(role, "1", 1)
    if is_hello:
        fresh.send(message)
    else:
        with pytest.raises(LocalProtocolError):
            fresh.send(message)

    session = opened(role)
    if allowed:
        assert FrameDecoder().feed(session.send(message)) == [message]
    else:
        with pytest.raises(LocalProtocolError):
            session.send(message)
    session.close()
    with pytest.raises(LocalProtocolError):
        session.send(message)

    hearer = opened(other(role))
    if allowed:
        assert hearer.receive(frame(message)) == [message]
        assert hearer.state is State.OPEN
    else:
        with pytest.raises(RemoteProtocolError):
            hearer.receive(frame(message))
        assert hearer.state is State.CLOSED

    early = Session(other(role), "1", 1)
    if is_hello:
        assert early.receive(frame(minimal(cls))) == []
        assert early.peer == message
    else:
        with pytest.raises(RemoteProtocolError):
            early.receive(frame(message))
        assert early.state is State.CLOSED


def minimal(cls: type[Any]) -> Any:
    """A smallest instance; a Hello is that of `opened`'s peer."""
    if cls is messages.Hello:
        return messages.Hello(VERSION, "1", 1)
    return cls(*[_least(kind.name) for kind in kinds_of(cls)])


def _least(name: str) -> Any:
    plain: dict[str, Any] = {
        "bytes": b"",
        "text": "",
        "integer": 0,
        "boolean": False,
        "key": bytes(32),
        "digest": EMPTY,
    }
    if name in plain:
        return plain[name]
    if name.startswith("optional "):
        return None
    if name.startswith("list of "):
        return ()
    return minimal(STRUCTS[name])


@pytest.mark.parametrize(("version", "build"), [(VERSION + 1, "1"), (0, "1"), (VERSION, "2")])
def test_another_version_is_refused_by_name(version: int, build: str) -> None:
    """Both numbers are in the message; nothing after the Hello is looked at."""
    session = Session(Role.CLIENT, "1", 1)
    session.hello()
    hello = frame(messages.Hello(version, build, 1))
    with pytest.raises(VersionMismatch, match=rf"it is {build} \(protocol {version}\)"):
        session.receive(hello + frame(messages.Ping(1)))
    assert session.state is State.CLOSED
    with pytest.raises(LocalProtocolError):
        session.send(messages.Ping(1))


@given(st.lists(client_message, max_size=3), st.lists(agent_message, max_size=3))
@slow_to_draw
def test_two_ends_of_one_conversation(asked: list[Message], told: list[Message]) -> None:
    """Both talk as soon as they have said Hello, without waiting for the other's."""
    client, agent = Session(Role.CLIENT, "1", 1), Session(Role.AGENT, "1", 2)
    up = client.hello() + b"".join(client.send(message) for message in asked)
    down = agent.hello() + b"".join(agent.send(message) for message in told)
    assert agent.receive(up) == asked
    assert client.receive(down) == told
    assert (client.peer, agent.peer) == (
        messages.Hello(VERSION, "1", 2),
        messages.Hello(VERSION, "1", 1),
    )


def test_a_second_hello_is_an_error_on_either_end() -> None:
    """Ours to send, theirs to have sent."""
    session = opened(Role.CLIENT)
    with pytest.raises(LocalProtocolError, match="first and once"):
        session.hello()
    with pytest.raises(RemoteProtocolError, match="second Hello"):
        session.receive(frame(messages.Hello(VERSION, "1", 3)))
