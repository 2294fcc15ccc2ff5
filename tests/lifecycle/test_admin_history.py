"""One history of many ledgers: the order of copies and repeated lines change nothing."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from burst_lifecycle.books import Account
from burst_lifecycle.cloud.model import Inventory, Kind, Server, ServerState
from burst_lifecycle.events import (
    Command,
    Created,
    Deleted,
    Ending,
    Event,
    Gone,
    How,
    Intent,
    Ready,
    Reap,
    Resized,
    Seen,
    Session,
    Settled,
)
from burst_lifecycle.history import End, merge, observed

HERE = Account("https://cloud", "f00d")
_TIMES = st.integers(0, 50).map(lambda n: n * 600.0)
_IDS = st.integers(1, 3)
_KINDS = st.sampled_from((Kind.SERVER, Kind.VOLUME, Kind.PRIMARY_IP))
_WORDS = st.sampled_from(("", "a", "b"))
_SIZES = st.sampled_from((Decimal(10), Decimal(20)))

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Created,
        at_s=_TIMES,
        kind=_KINDS,
        id=_IDS,
        created_s=st.none() | _TIMES,
        operation=_WORDS,
        name=_WORDS,
        location=_WORDS,
        type=_WORDS,
        token=_WORDS,
        size_gb=st.none() | _SIZES,
        by=_WORDS,
    ),
    st.builds(Intent, at_s=_TIMES, kind=_KINDS, operation=_WORDS, by=_WORDS),
    st.builds(Settled, at_s=_TIMES, kind=_KINDS, operation=_WORDS),
    st.builds(Ready, at_s=_TIMES, id=_IDS, how=st.sampled_from(How), took_s=_TIMES),
    st.builds(Seen, at_s=_TIMES, kind=_KINDS, id=_IDS),
    st.builds(Resized, at_s=_TIMES, id=_IDS, size_gb=_SIZES),
    st.builds(Deleted, at_s=_TIMES, kind=_KINDS, id=_IDS, reason=_WORDS, case=_WORDS),
    st.builds(Gone, at_s=_TIMES, kind=_KINDS, id=_IDS),
    st.builds(Session, at_s=_TIMES, session=_WORDS, id=_IDS, start_s=_TIMES, end_s=_TIMES),
    st.builds(
        Command,
        at_s=_TIMES,
        command=_WORDS,
        id=st.none() | _IDS,
        verb=_WORDS,
        start_s=_TIMES,
        end_s=_TIMES,
        ok=st.booleans(),
    ),
    st.builds(Ending, at_s=_TIMES, kind=_KINDS, id=_IDS, reason=_WORDS),
    st.builds(Reap, at_s=_TIMES, ok=st.booleans(), by=_WORDS),
)


@settings(max_examples=60)
@given(st.data(), st.lists(EVENTS, max_size=25))
def test_copies_in_any_order_with_any_repetition(data: st.DataObject, events: list[Event]) -> None:
    """Two machines, a volume's copy, the same file twice: one history."""
    expected = merge(events)
    shuffled = data.draw(st.permutations(events))
    cut = data.draw(st.integers(0, len(events)))
    some = data.draw(st.lists(st.sampled_from(events), max_size=10)) if events else []
    assert merge(shuffled[:cut], some, shuffled[cut:]) == expected
    assert merge(shuffled) == expected


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=25))
def test_what_a_life_says_is_consistent(events: list[Event]) -> None:
    """It is not seen after its end, and never both ended and missed."""
    for life in merge(events).lives:
        assert life.created_s <= life.seen_s
        assert life.end is None or life.gone_s is None
        assert life.end is None or life.seen_s <= max(life.end.at_s, life.created_s)
        assert life.gone_s is None or life.gone_s >= life.seen_s
        assert [gb for _, gb in life.sizes_gb] == sorted({gb for _, gb in life.sizes_gb})


def server(ident: int, created_s: float) -> Created:
    return Created(
        at_s=created_s,
        kind=Kind.SERVER,
        id=ident,
        created_s=created_s,
        token=HERE.token,
        endpoint=HERE.endpoint,
        operation=f"op{ident}",
        name=f"burst-build-{ident}",
        type="ccx43",
    )


def test_the_earliest_end_is_the_end() -> None:
    """Two machines delete the same server: the second heard that it is gone already."""
    copies: tuple[list[Event], list[Event]] = (
        [server(1, 0), Deleted(at_s=900, kind=Kind.SERVER, id=1, reason="idle", case="a")],
        [Deleted(at_s=930, kind=Kind.SERVER, id=1, reason="down", case="a")],
    )
    (life,) = merge(*copies).lives
    assert life.end == End(900, "idle", "a")


def test_an_address_goes_with_its_server() -> None:
    """Nobody records what the cloud deletes by itself."""
    address = Created(at_s=5, kind=Kind.PRIMARY_IP, id=9, created_s=2, operation="op1", type="ipv4")
    gone = Gone(at_s=5000, kind=Kind.PRIMARY_IP, id=9)
    events: list[Event] = [
        server(1, 0),
        address,
        gone,
        Deleted(at_s=900, kind=Kind.SERVER, id=1, reason="idle"),
    ]
    lives = {life.kind: life for life in merge(events).lives}
    assert lives[Kind.PRIMARY_IP].end == End(900, "idle", "")
    assert lives[Kind.PRIMARY_IP].gone_s is None


def test_a_look_finds_and_misses() -> None:
    """What is there has been there since it was created; what is not, of the same token, is gone;
    another token's is not judged."""
    known = merge([server(1, 0), server(2, 0)]).lives
    there = Server(
        id=3,
        name="burst-build-3",
        labels={},
        created_s=50.0,
        state=ServerState.RUNNING,
        type="ccx43",
        location="fsn1",
    )
    inventory = Inventory(servers=(there,), read_s=1000.0)
    history = merge([server(1, 0), server(2, 0)], observed(inventory, known, HERE))
    found = {life.id: life for life in history.lives}
    assert found[3].open
    assert (found[3].created_s, found[3].seen_s) == (50.0, 1000.0)
    assert not found[1].open
    assert (found[1].seen_s, found[1].gone_s) == (0.0, 1000.0)
    other = observed(inventory, known, Account(HERE.endpoint, "beef"))
    assert all(not isinstance(event, Gone) for event in other)


def test_seen_again_after_it_was_missed() -> None:
    """A list that lagged behind its create is no end."""
    events: list[Event] = [
        server(1, 0),
        Gone(at_s=1, kind=Kind.SERVER, id=1),
        Seen(at_s=9, kind=Kind.SERVER, id=1),
    ]
    (life,) = merge(events).lives
    assert life.open


def test_an_intent_without_answer() -> None:
    """It stays until something of its operation is known, or nothing will be."""
    asked = Intent(at_s=1, kind=Kind.SERVER, operation="op1", name="burst-build-op1")
    assert merge([asked]).unfinished == (asked,)
    assert merge([asked, server(1, 2)]).unfinished == ()
    settled = Settled(at_s=5, operation="op1", kind=Kind.SERVER)
    assert merge([settled, asked]).unfinished == ()


def test_a_volume_that_grew() -> None:
    """From the resize on; a size that somebody only saw counts from then on."""
    made = Created(at_s=0, kind=Kind.VOLUME, id=5, created_s=0, size_gb=Decimal(100))
    grew = Resized(at_s=50, id=5, size_gb=Decimal(200))
    seen = Created(at_s=90, kind=Kind.VOLUME, id=5, created_s=0, size_gb=Decimal(300))
    (life,) = merge([seen, grew, made]).lives
    assert life.sizes_gb == ((0, Decimal(100)), (50, Decimal(200)), (90, Decimal(300)))


def test_who_asked_for_the_end_was_stopped_before_the_answer() -> None:
    """It is gone, and that was when; unless it was seen after that."""
    ending = Ending(at_s=5000.0, kind=Kind.SERVER, id=7, reason="idle", case="a")
    gone = Gone(at_s=90_000.0, kind=Kind.SERVER, id=7)
    (life,) = merge([server(7, 10.0), ending, gone]).lives
    assert life.end == End(5000.0, "idle", "a")
    assert life.gone_s is None
    seen = Seen(at_s=6000.0, kind=Kind.SERVER, id=7)
    (life,) = merge([server(7, 10.0), ending, seen, gone]).lives
    assert (life.end, life.gone_s) == (None, 90_000.0)
    (life,) = merge([server(7, 10.0), ending]).lives
    assert life.open
