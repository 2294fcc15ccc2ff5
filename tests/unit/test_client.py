"""burst_wrapper.daemon.client: what one wrapper is told, and that it is told once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from burst_wrapper.daemon.client import Client


class FakeTransport(asyncio.WriteTransport):
    """Keeps what is written, in portions."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closing = False
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.closing
        assert not self.ended
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def frames(self) -> list[tuple[bytes, bytes]]:
        data = b"".join(self.writes)
        found = []
        while data:
            end = 5 + int.from_bytes(data[1:5], "little")
            found.append((data[:1], data[5:end]))
            data = data[end:]
        return found


def told(say: Callable[[Client], Awaitable[None] | None]) -> FakeTransport:
    """What arrives at the wrapper after `say` and one turn of the loop."""
    transport = FakeTransport()

    async def scenario() -> None:
        client = Client(transport, 1)
        done = say(client)
        if done is not None:
            await done
        await asyncio.sleep(0)

    asyncio.run(scenario())
    return transport


def test_frames_in_order_and_in_one_portion() -> None:
    """One wake-up of the wrapper for all that is said in one go."""

    def say(client: Client) -> None:
        client.stdout(b"out")
        client.rename([(b"/a/.burst-1", b"/a/x"), (b"/a/.burst-2", b"/a/y")])
        client.stderr(b"line\n")
        client.heartbeat()
        client.exit(101)

    transport = told(say)
    assert transport.frames() == [
        (b"O", b"out"),
        (b"R", b"/a/.burst-1\0/a/x\0/a/.burst-2\0/a/y"),
        (b"E", b"line\n"),
        (b"H", b""),
        (b"X", (101).to_bytes(4, "little")),
    ]
    assert len(transport.writes) == 1
    assert transport.ended
    assert not transport.closing, "the other half says when the wrapper has ended"


def test_a_wrapper_that_ended_before_it_gave_all_files_their_names(tmp_path: Path) -> None:
    """Killed, or broken off at the stderr of a dead cargo: what it did not rename is removed."""
    late, named = tmp_path / ".burst-1", tmp_path / "y"
    late.touch()
    named.touch()

    async def scenario() -> None:
        client = Client(FakeTransport(), 1)
        client.rename(
            [
                (bytes(late), bytes(tmp_path / "x")),
                (bytes(tmp_path / ".burst-2"), bytes(named)),
            ]
        )
        client.abort()
        assert late.exists(), "it may still do so"
        assert not client.gone.is_set()
        client.left()
        assert client.gone.is_set()

    asyncio.run(scenario())
    assert named.exists()
    assert not late.exists()


def test_what_is_said_without_an_end_goes_out_too() -> None:
    """With the next turn of the loop, not with the exit code."""
    assert told(lambda client: client.stderr(b"x\n")).frames() == [(b"E", b"x\n")]


@pytest.mark.parametrize(
    ("say", "frame"),
    [
        (lambda client: client.exit(-9), (b"X", (-9).to_bytes(4, "little", signed=True))),
        (lambda client: client.local("linker"), (b"L", b"linker")),
        (lambda client: client.local("linker", b""), (b"L", b"linker")),
        (lambda client: client.local("link-lost", b"8"), (b"J", b"8")),
        (lambda client: client.failure("error: x\n"), (b"F", b"error: x\n")),
        (lambda client: client.abort(), (b"A", b"")),
    ],
)
def test_an_answer_is_the_last_word(
    say: Callable[[Client], None], frame: tuple[bytes, bytes]
) -> None:
    """After it nothing is sent, whatever still runs for that unit."""

    def all_of_it(client: Client) -> None:
        listened = [client.listening]
        say(client)
        assert [*listened, client.listening] == [True, False]
        client.stderr(b"late\n")
        client.rename([(b"a", b"b")])
        client.exit(0)
        client.local("late")

    assert told(all_of_it).frames() == [frame]


def test_a_wrapper_that_is_gone_is_told_nothing() -> None:
    """Above all no renames: a newer build owns those paths."""

    def say(client: Client) -> None:
        client.gone.set()
        client.rename([(b"a", b"b")])
        client.exit(0)

    assert told(say).frames() == []


def test_a_second_run_repeats_nothing() -> None:
    """Lines and output that the wrapper has seen are passed over once each; new ones are shown."""

    def say(client: Client) -> None:
        client.stdout(b"ab")
        for line in (b"warning\n", b"warning\n", b"artifact\n"):
            client.stderr(line)
        client.again()
        client.stdout(b"a")
        client.stdout(b"bc")
        for line in (b"warning\n", b"other\n", b"warning\n", b"warning\n", b"artifact\n"):
            client.stderr(line)
        client.again()
        client.stdout(b"abc")
        for line in (b"other\n", b"artifact\n"):
            client.stderr(line)

    frames = told(say).frames()
    assert [payload for tag, payload in frames if tag == b"O"] == [b"ab", b"c"]
    assert [payload for tag, payload in frames if tag == b"E"] == [
        b"warning\n",
        b"warning\n",
        b"artifact\n",
        b"other\n",
        b"warning\n",
    ]


def test_shown_is_remembered() -> None:
    """From then on only the same bytes may follow."""

    def say(client: Client) -> None:
        relayed = [client.relayed]
        client.stderr(b"x\n")
        assert [*relayed, client.relayed] == [False, True]

    told(say)


def test_a_slow_wrapper_slows_its_own_unit() -> None:
    """`room` waits between pause and resume, and for nobody else."""

    async def say(client: Client) -> None:
        await client.room()
        client.pause()
        waiting = asyncio.create_task(client.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        client.resume()
        await waiting

    told(say)
