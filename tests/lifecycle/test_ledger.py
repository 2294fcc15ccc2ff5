"""burst_lifecycle.ledger, books, events, jsonlines: no line is lost, what is open stays known."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_lifecycle import jsonlines
from burst_lifecycle.books import Account, Books, add_up, still_billing
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import (
    CLASSES,
    Command,
    Created,
    Deleted,
    Ending,
    Event,
    Gone,
    How,
    Intent,
    Labelled,
    Part,
    Ready,
    Reap,
    Refusal,
    Resized,
    Seen,
    Session,
    Settled,
    Unknown,
    Unreadable,
    decode,
    encode,
)
from burst_lifecycle.ledger import Ledger, parse
from burst_protocol.errors import DiskFull

ONE_OF_EACH: tuple[Event, ...] = (
    Intent(at_s=1.0, kind=Kind.SERVER, operation="op1", name="burst-build-op1", token="f" * 16),
    Created(
        at_s=2.5,
        kind=Kind.SERVER,
        id=7,
        operation="op1",
        created_s=2.0,
        eur_per_hour=Decimal("1.3678"),
        eur_per_month=Decimal("853.49"),
        endpoint="https://api.example/v1",
    ),
    Settled(at_s=3.0, operation="op2", kind=Kind.VOLUME, reason="no-capacity"),
    Ready(at_s=4.0, id=7, how=How.COLD, took_s=12.5),
    Seen(at_s=5.0, kind=Kind.VOLUME, id=8),
    Resized(at_s=6.0, id=8, size_gb=Decimal(100)),
    Deleted(at_s=7.0, kind=Kind.SERVER, id=7, reason="idle", case="a"),
    Gone(at_s=8.0, kind=Kind.VOLUME, id=8),
    Session(at_s=9.0, session="s1", id=7, start_s=3.0, end_s=9.0),
    Command(
        at_s=9.5,
        command="c1",
        verb="build",
        start_s=1.0,
        end_s=9.0,
        ok=True,
        split=((Part.WAIT, 1.5), (Part.REMOTE, 6.5)),
    ),
    Reap(at_s=10.0, ok=True, deleted=1),
    Refusal(at_s=11.0, code="quota", what="dedicated_core_limit"),
    Labelled(at_s=12.0, kind=Kind.VOLUME, id=8, label="burst-project", value="p", change="c2"),
    Ending(at_s=13.0, kind=Kind.SERVER, id=7, reason="idle", case="a"),
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "cloud"), by="machine1")


def born(ident: int, kind: Kind = Kind.SERVER, **more: Any) -> Created:
    return Created(at_s=float(ident), kind=kind, id=ident, operation=f"op{ident}", **more)


def test_every_event_comes_back(ledger: Ledger) -> None:
    """With the machine's name; files and folder are private."""
    assert {type(event) for event in ONE_OF_EACH} == set(CLASSES.values())
    ledger.append(*ONE_OF_EACH)
    history = ledger.read()
    assert history.events == tuple(attrs.evolve(event, by="machine1") for event in ONE_OF_EACH)
    assert history.unreadable == 0
    assert os.stat(ledger.path).st_mode & 0o777 == 0o600
    assert os.stat(ledger.folder).st_mode & 0o777 == 0o700


def test_lines_are_for_other_readers_too(ledger: Ledger) -> None:
    """The format of the docstring: short names, euros as text."""
    ledger.append(ONE_OF_EACH[1], ONE_OF_EACH[9])
    one, two = map(json.loads, Path(ledger.path).read_text().splitlines())
    assert one == {
        "event": "created",
        "t": 2.5,
        "by": "machine1",
        "kind": "servers",
        "id": 7,
        "created_s": 2.0,
        "op": "op1",
        "endpoint": "https://api.example/v1",
        "eur_per_hour": "1.3678",
        "eur_per_month": "853.49",
    }
    assert two["split"] == {"wait": 1.5, "remote": 6.5}


@pytest.mark.parametrize(
    "change",
    [
        {"t": "1"},
        {"t": None},
        {"t": True},
        {"t": float("inf")},
        {"kind": "dogs"},
        {"kind": ["servers"]},
        {"id": 7.5},
        {"id": "7"},
        {"op": 5},
        {"eur_per_hour": "-1"},
        {"eur_per_hour": "NaN"},
        {"eur_per_hour": []},
        {"event": None},
        {"event": 5},
    ],
)
def test_lines_that_are_no_events(change: dict[str, Any]) -> None:
    """Unreadable, whatever the field."""
    with pytest.raises(Unreadable):
        decode({**encode(ONE_OF_EACH[1]), **change})


def test_newer_versions(ledger: Ledger) -> None:
    """Unknown events are skipped, unknown fields ignored; a damaged line is counted."""
    jsonlines.append(
        ledger.path,
        [{"event": "teleported", "t": 1}, {**encode(ONE_OF_EACH[4]), "colour": "red"}, {"t": 1}],
    )
    history = ledger.read()
    assert history.events == (ONE_OF_EACH[4],)
    assert history.unreadable == 1
    with pytest.raises(Unknown):
        decode({"event": "teleported", "t": 1})


def test_a_torn_line_is_ended_by_the_next_writer(ledger: Ledger) -> None:
    """A crash in the middle of a write costs that line only."""
    ledger.append(ONE_OF_EACH[0])
    with open(ledger.path, "rb+") as file:
        file.seek(-20, os.SEEK_END)
        file.truncate()
    ledger.append(ONE_OF_EACH[10])
    history = ledger.read()
    assert [type(event) for event in history.events] == [Reap]
    assert history.unreadable == 1


def test_what_is_open(ledger: Ledger) -> None:
    """Created, and neither deleted nor gone; with its present size and latest token."""
    volume = born(2, Kind.VOLUME, size_gb=Decimal(10), token="t1", created_s=2.0)
    ledger.append(
        Intent(at_s=0.5, kind=Kind.SERVER, operation="op1"),
        Intent(at_s=0.6, kind=Kind.VOLUME, operation="op1"),
        Intent(at_s=0.7, kind=Kind.SERVER, operation="op9"),
        born(1),
        volume,
        born(3, Kind.SSH_KEY),
        Resized(at_s=5.0, id=2, size_gb=Decimal(20)),
        Created(at_s=6.0, kind=Kind.VOLUME, id=2, token="t2"),
        Deleted(at_s=7.0, kind=Kind.SERVER, id=1),
        Created(at_s=8.0, kind=Kind.SERVER, id=1, token="late"),
        Settled(at_s=9.0, operation="op9", kind=Kind.SERVER),
    )
    books = ledger.books()
    assert [thing.key for thing in books.open] == [(Kind.VOLUME, 2), (Kind.SSH_KEY, 3)]
    (billing,) = books.billing()
    assert (billing.size_gb, billing.token, billing.created_s) == (Decimal(20), "t2", 2.0)
    assert [(intent.kind, intent.operation) for intent in books.pending] == [(Kind.VOLUME, "op1")]


def test_an_address_ends_with_its_server() -> None:
    """Whoever deletes a server need not look for the address that went with it."""
    server, other = born(1), born(3, Kind.PRIMARY_IP)
    address = attrs.evolve(born(2, Kind.PRIMARY_IP), operation=server.operation)
    end = Deleted(at_s=9.0, id=1, kind=Kind.SERVER, endpoint=server.endpoint, reason="off")
    assert len(add_up([server, address, other]).billing()) == 3
    assert add_up([server, address, other, end]).billing() == add_up([other]).billing()


def test_what_bills_under_another_token() -> None:
    """Named until it is seen deleted; nothing of what is free."""
    mine, other = Account("https://a/v1", "t1"), Account("https://a/v1", "t2")
    books = add_up(
        [
            born(1, token="t1", endpoint="https://a/v1"),
            born(2, token="t2", endpoint="https://a/v1"),
            born(3, token="t1", endpoint="https://b/v1"),
            born(4, Kind.FIREWALL, token="t2", endpoint="https://a/v1"),
        ]
    )
    assert [thing.id for thing in books.elsewhere(mine)] == [2, 3]
    assert [thing.id for thing in books.elsewhere(other)] == [1, 3]
    assert [thing.id for thing in books.elsewhere(None)] == [1, 2, 3]


def test_what_every_command_says_of_it() -> None:
    """What, where, how much an hour; exit code not zero; nothing once it was seen deleted."""
    mine = Account("https://a/v1", "t1")
    server = born(
        2,
        name="burst-build-x",
        type="ccx63",
        location="fsn1",
        token="t2",
        endpoint="https://a/v1",
        eur_per_hour=Decimal("1.3678"),
    )
    volume = born(3, Kind.VOLUME, token="t2", endpoint="https://a/v1")
    error = still_billing(add_up([server, volume]), mine, 0.0)
    assert error is not None
    assert error.exit_code != 0
    assert str(error) == (
        "something still costs money: server burst-build-x (ccx63 in fsn1), volume 3, made with "
        "another token; at least €1.3678 an hour until it is deleted in the console of its project"
    )
    refused = still_billing(add_up([attrs.evolve(server, token="t1")]), None, 0.0)
    assert "not accepted" in str(refused)
    ends = [Gone(at_s=9.0, kind=thing.kind, id=thing.id) for thing in (server, volume)]
    assert still_billing(add_up([server, volume, *ends]), mine, 0.0) is None


def test_equal_ids_at_two_endpoints_are_two_things() -> None:
    """A deletion here does not end the other; one without endpoint (an old line) ends both."""
    pair = [born(1, endpoint="https://a/v1"), born(1, endpoint="https://b/v1")]
    end = Deleted(at_s=5.0, kind=Kind.SERVER, id=1, endpoint="https://a/v1")
    assert [thing.endpoint for thing in add_up([*pair, end]).open] == ["https://b/v1"]
    assert add_up([*pair, attrs.evolve(end, endpoint="")]).open == ()


_EVENTS = st.one_of(
    st.builds(
        Created,
        at_s=st.integers(0, 9).map(float),
        kind=st.sampled_from([Kind.SERVER, Kind.VOLUME]),
        id=st.integers(1, 3),
        operation=st.sampled_from(["a", "b"]),
        created_s=st.none() | st.integers(0, 5).map(float),
        size_gb=st.none() | st.integers(10, 12).map(Decimal),
    ),
    st.builds(Deleted, at_s=st.just(9.0), kind=st.just(Kind.SERVER), id=st.integers(1, 3)),
    st.builds(
        Intent,
        at_s=st.just(1.0),
        kind=st.sampled_from([Kind.SERVER, Kind.VOLUME]),
        operation=st.sampled_from(["a", "b", "c"]),
    ),
    st.builds(Settled, at_s=st.just(1.0), kind=st.just(Kind.SERVER), operation=st.just("c")),
)


@given(st.lists(_EVENTS, max_size=12), st.randoms(use_true_random=False))
def test_what_is_open_does_not_depend_on_the_order_of_lines(
    events: list[Event], shuffle: random.Random
) -> None:
    """Copies of several machines are put together as they come, some lines twice."""
    mixed = [*events, *events[:3]]
    shuffle.shuffle(mixed)

    def shape(books: Books) -> object:
        things = {(thing.key, thing.created_s) for thing in books.open}
        return things, {(intent.kind, intent.operation) for intent in books.pending}

    assert shape(add_up(mixed)) == shape(add_up(events))


def test_rotation_keeps_what_is_open(tmp_path: Path) -> None:
    """However many files went: open things, pending intents, the last good reap."""
    folder = tmp_path / "cloud"
    ledger = Ledger(str(folder), by="m", rotate_bytes=2000, keep_files=2)
    open_volume = born(1, Kind.VOLUME, size_gb=Decimal(10), token="t", endpoint="e", project="p")
    lost = Intent(at_s=1.0, kind=Kind.SERVER, operation="lost", name="n")
    ledger.append(open_volume, lost, Resized(at_s=2.0, id=1, size_gb=Decimal(30), endpoint="e"))
    ledger.append(Reap(at_s=3.0, ok=True))
    for number in range(2, 300):
        server = born(number, endpoint="e")
        ledger.append(server, Deleted(at_s=server.at_s, kind=server.kind, id=number, endpoint="e"))
    files = sorted(os.listdir(folder))
    assert len(files) == 4, files  # two rotated ones, the present one, and the lock
    books = ledger.books()
    assert [thing.id for thing in books.open] == [1]
    assert books.open[0].size_gb == Decimal(30)
    assert attrs.evolve(books.open[0], by="", size_gb=Decimal(10)) == open_volume
    assert [event.at_s for event in books.growth] == [2.0]
    assert [intent.operation for intent in books.pending] == ["lost"]
    assert books.last_good_reap is not None
    assert books.last_good_reap.at_s == 3.0


WRITER = """
import sys
from burst_lifecycle.cloud.model import Kind
from burst_lifecycle.events import Seen
from burst_lifecycle.ledger import Ledger
ledger = Ledger(sys.argv[1], by=sys.argv[2], rotate_bytes=3000, keep_files=1000)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    ledger.append(Seen(at_s=float(number), kind=Kind.SERVER, id=number))
    if len(sys.argv) > 4:
        print(number, flush=True)
"""


def writer(folder: Path, name: str, count: int, *more: str) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.slow
def test_writers_beside_each_other_lose_nothing(tmp_path: Path) -> None:
    """Four processes, and dozens of rotations among them."""
    children = [writer(tmp_path, f"w{number}", 100) for number in range(4)]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        child.communicate()
        assert child.returncode == 0
    history = Ledger(str(tmp_path), by="").read()
    assert history.unreadable == 0
    assert len(list(tmp_path.glob("ledger.0*"))) > 4
    for number in range(4):
        mine = [event for event in history.events if event.by == f"w{number}"]
        assert {event.at_s for event in mine} == set(map(float, range(100)))


@pytest.mark.slow
def test_a_killed_writer_leaves_all_it_said_it_wrote(tmp_path: Path) -> None:
    """What it reported after `append` is there, and nothing is damaged."""
    child = writer(tmp_path, "w", 100000, "tell")
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("\n")
    child.stdin.flush()
    said = [int(child.stdout.readline()) for _ in range(40)]
    child.kill()
    said += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    child.stdin.close()
    child.stdout.close()
    history = Ledger(str(tmp_path), by="").read()
    assert {event.at_s for event in history.events} >= set(map(float, said))
    assert history.unreadable == 0


def test_a_cancelled_record_is_written(ledger: Ledger) -> None:
    """The caller goes on being cancelled, but knows the line stands."""

    async def run() -> None:
        task = asyncio.create_task(ledger.record(ONE_OF_EACH[0]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(ledger.read().events) == 1

    asyncio.run(run())


def test_no_room(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error before anything is created."""
    ledger.append(ONE_OF_EACH[0])
    os.unlink(ledger.path)
    os.symlink("/dev/full", ledger.path)
    with pytest.raises((DiskFull, OSError)):
        ledger.append(ONE_OF_EACH[0])


def test_copies_are_parsed_the_same(ledger: Ledger) -> None:
    """That of a volume comes as lines."""
    ledger.append(*ONE_OF_EACH)
    assert parse(jsonlines.read(ledger.path)) == ledger.read()
