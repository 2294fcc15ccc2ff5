"""burst_wrapper.daemon.link: requests and streams by id, and one end for everybody."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import (
    AgentGone,
    BurstError,
    DiskFull,
    Draining,
    LinkLost,
    LocalProtocolError,
    RemoteProtocolError,
    VersionMismatch,
)
from burst_protocol.framing import MAX_FRAME_BYTES
from burst_protocol.messages import Message
from burst_wrapper.daemon.link import AgentLink
from fake_agent import FakeAgent, linked, no_tools, ready

KEY = b"k" * 32


def test_start_brings_tools_and_learns_what_the_agent_can() -> None:
    """Hello, UseTools, Ready; what Ready said is kept."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            assert link.ready is not None
            assert (link.ready.slots, link.ready.launcher) == (4, "namespaces")
            assert link.gone is None
            assert isinstance(agent.heard[0], m.UseTools)
            assert link.sent_bytes > 0
            assert link.received_bytes > 0
        assert agent.of(m.Shutdown) == [m.Shutdown()]
        assert agent.closed
        assert isinstance(link.gone, AgentGone)

    asyncio.run(scenario())


def test_another_release_is_refused_by_name() -> None:
    """By either end; here by us."""

    async def scenario() -> None:
        agent = FakeAgent(build="0.0.0-other")
        link = AgentLink(agent, "there", silence_s=600, local=False)
        with pytest.raises(VersionMismatch):
            await link.start(no_tools)
        assert isinstance(link.gone, VersionMismatch)
        assert "0.0.0-other" in str(link.gone)

    asyncio.run(scenario())


def test_an_answer_that_is_no_ready() -> None:
    """An agent of another mind is not worked with."""

    async def scenario() -> None:
        agent = FakeAgent(
            lambda message: (
                [m.Failed(message.id, "bug", "x")] if isinstance(message, m.UseTools) else []
            )
        )
        link = AgentLink(agent, "there", silence_s=600, local=False)
        with pytest.raises(RemoteProtocolError, match="Failed"):
            await link.start(no_tools)
        await link.close()

    asyncio.run(scenario())


def test_an_agent_that_takes_no_work_says_why_it_hangs_up() -> None:
    """A server about to go: that is no broken link."""

    async def scenario() -> None:
        agent = FakeAgent()
        link = AgentLink(agent, "there", silence_s=600, local=False)
        agent.say(m.Failed(0, "draining", "the paid hour ends"))
        agent.raw(b"")
        with pytest.raises(Draining, match="the paid hour ends"):
            await link.start(no_tools)

    asyncio.run(scenario())


def test_notices_are_heard() -> None:
    """Whenever they come; nobody need listen."""

    async def scenario() -> None:
        heard: list[str] = []
        agent = FakeAgent(
            lambda message: (
                [m.Notice("ten minutes left"), m.Status(message.id, 0, 0, 0, 0, 0)]
                if isinstance(message, m.AskStatus)
                else []
            )
        )
        async with linked(agent) as link:
            await link.ask(m.AskStatus(link.new_id()))
            link.on_notice = heard.append
            await link.ask(m.AskStatus(link.new_id()))
            assert heard == ["ten minutes left"]

    asyncio.run(scenario())


def test_answers_find_their_questions() -> None:
    """In whatever order they come."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            questions = [m.Lookup(link.new_id(), KEY, ()) for _ in range(3)]
            waiting = [asyncio.create_task(link.ask(question)) for question in questions]
            await asyncio.sleep(0)
            for question in reversed(questions):
                agent.say(m.Lists(question.id, (b"%d" % question.id,)))
            answers = await asyncio.gather(*waiting)
            assert [answer.id for answer in answers if isinstance(answer, m.Lists)] == [
                question.id for question in questions
            ]

    asyncio.run(scenario())


def test_a_stream_gets_all_with_its_id_until_it_is_closed() -> None:
    """In order; what comes for an id that nobody waits for is passed over."""

    def answers(message: Message) -> list[Message]:
        return [m.Status(message.id, 0, 0, 0, 0, 0)] if isinstance(message, m.AskStatus) else []

    async def scenario() -> None:
        agent = FakeAgent(answers)
        async with linked(agent) as link:
            identity = link.new_id()
            queue = link.open_stream(identity)
            told: list[Message] = [
                m.Started(identity, False, b"/o"),
                m.Stdout(identity, b"1"),
                m.Stderr(identity, b"2"),
            ]
            agent.say(m.Stdout(999, b"nobody's"))
            for message in told:
                agent.say(message)
            assert [await queue.get() for _ in told] == told
            link.close_stream(identity)
            agent.say(m.Stdout(identity, b"late"))
            assert isinstance(await link.ask(m.AskStatus(link.new_id())), m.Status)
            assert queue.empty()

    asyncio.run(scenario())


def test_blobs_go_to_the_sink_and_only_their_end_to_the_stream() -> None:
    """Hundreds of pieces of a large blob are not queued."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            pieces: list[m.BlobChunk] = []
            link.on_blob = pieces.append
            queue = link.open_stream(7)
            digest = Digest.of(b"abc")
            for letter in (b"a", b"b", b"c"):
                agent.say(m.BlobChunk(7, digest, codec.RAW, letter, letter == b"c"))
            last = await queue.get()
            assert isinstance(last, m.BlobChunk)
            assert last.last
            assert queue.empty()
            assert b"".join(piece.data for piece in pieces) == b"abc"

    asyncio.run(scenario())


def test_pings_are_answered() -> None:
    """The agent may ask as well."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent):
            agent.say(m.Ping(77))
            assert await agent.hears(m.Pong) == m.Pong(77)

    asyncio.run(scenario())


# Ends


async def everybody(link: AgentLink) -> tuple[asyncio.Task[Message], asyncio.Queue[Message | None]]:
    """One who asks, one who listens."""
    asking = asyncio.create_task(link.ask(m.Lookup(link.new_id(), KEY, ())))
    queue = link.open_stream(link.new_id())
    await asyncio.sleep(0)
    return asking, queue


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", AgentGone),
        (b"\0" * 40, RemoteProtocolError),
        (b"\xff" * 8, RemoteProtocolError),
    ],
)
def test_the_end_of_a_link_is_everybodys(data: bytes, error: type[BurstError]) -> None:
    """Who waits gets the error that ended it; who comes later gets the same one."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            asking, queue = await everybody(link)
            agent.raw(data)
            with pytest.raises(error):
                await asking
            assert await queue.get() is None
            with pytest.raises(error):
                link.send(m.Ping(1))
            with pytest.raises(error):
                await link.ask(m.AskStatus(link.new_id()))
            with pytest.raises(error):
                await link.drain()
            assert agent.closed

    asyncio.run(scenario())


def test_a_stream_that_breaks_is_a_lost_link() -> None:
    """Whatever the transport raises."""

    async def scenario() -> None:
        agent = FakeAgent()

        async def broken(limit: int) -> bytes:
            raise ConnectionResetError(104, "reset by peer")

        agent.read = broken  # type: ignore[method-assign]
        link = AgentLink(agent, "there", silence_s=600, local=False)
        with pytest.raises(LinkLost, match=r"connection to there lost: .*reset by peer"):
            await link.start(no_tools)
        await link.close()

    asyncio.run(scenario())


def test_a_sink_that_fails_ends_the_link_with_its_reason() -> None:
    """A full disk at home is called that."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:

            def full(_: m.BlobChunk) -> None:
                raise DiskFull("/spool")

            link.on_blob = full
            asking, _ = await everybody(link)
            agent.say(m.BlobChunk(7, Digest.of(b"a"), codec.RAW, b"a", True))
            with pytest.raises(DiskFull):
                await asking

    asyncio.run(scenario())


def test_own_absence_is_no_silence() -> None:
    """Stopped, or frozen with the whole session: who did not listen cannot have heard."""

    async def scenario() -> None:
        agent = FakeAgent(lambda said: [m.Pong(said.token)] if isinstance(said, m.Ping) else [])
        async with linked(agent, silence_s=0.3) as link:
            time.sleep(1)  # noqa: ASYNC251 - this is the absence
            agent.heard.clear()
            await agent.hears(m.Ping)
            assert link.gone is None

    asyncio.run(scenario())


def test_a_busy_agent_is_waited_for_longer() -> None:
    """As long as it is seen to work; not for ever."""

    async def scenario() -> None:
        asked: list[float] = []

        def busy() -> bool:
            asked.append(time.monotonic())
            return True

        agent = FakeAgent()
        agent.answers = ready
        link = AgentLink(agent, "there", silence_s=0.1, local=True, busy=busy)
        await link.start(no_tools)
        async with asyncio.timeout(20):
            while link.gone is None:  # noqa: ASYNC110 - nothing else tells of it
                await asyncio.sleep(0.01)
        assert len(asked) > 1
        await link.close()

    asyncio.run(scenario())


def test_silence_is_an_end() -> None:
    """Pings go out first; an agent that answers none of them is given up."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent, silence_s=0.6) as link:
            asking, _ = await everybody(link)
            with pytest.raises(LinkLost, match="nothing heard"):
                await asking
            assert agent.of(m.Ping)

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_agent_that_answers_pings_may_take_its_time() -> None:
    """A long compile says nothing for minutes."""

    async def scenario() -> None:
        pings = 0

        def answers(message: Message) -> list[Message]:
            nonlocal pings
            if not isinstance(message, m.Ping):
                return []
            pings += 1
            # By the fifth the patience of 1.5 s is over.
            return [m.Lists(lookup.id, ())] if pings == 5 else [m.Pong(message.token)]

        agent = FakeAgent(answers)
        async with linked(agent, silence_s=1.5) as link:
            lookup = m.Lookup(link.new_id(), KEY, ())
            assert isinstance(await link.ask(lookup), m.Lists)

    asyncio.run(scenario())


def test_a_cancelled_question_is_forgotten() -> None:
    """Its answer may come or not."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            asking, _ = await everybody(link)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.sleep(0)
            assert link._answers == {}
            agent.say(m.Lists(2, ()))
            agent.say(m.Ping(1))
            await agent.hears(m.Pong)
            assert link.gone is None

    asyncio.run(scenario())


def test_too_large_a_message_is_our_error_and_not_the_links_end() -> None:
    """The peer would have hung up."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            huge = m.PutBlobs((), ((codec.RAW, bytes(MAX_FRAME_BYTES + 1)),))
            with pytest.raises(LocalProtocolError):
                link.send(huge)
            assert link.gone is None

    asyncio.run(scenario())


@pytest.mark.parametrize("local", [True, False])
def test_blobs_from_memory_travel_in_batches(local: bool) -> None:
    """Packed for other machines only, drained between batches, all of them."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent, local=local) as link:
            contents = [bytes([n]) * 200_000 for n in range(8)] + [os.urandom(2000), b"", b"x"]
            blobs = {Digest.of(content): content for content in contents}
            await link.put_blobs(blobs)
            await link.put_blobs({})
            got: dict[Digest, bytes] = {}
            codecs = set()
            for message in agent.of(m.PutBlobs):
                assert isinstance(message, m.PutBlobs)
                for digest, (number, data) in zip(message.digests, message.blobs, strict=True):
                    got[digest] = codec.decompress(number, data, digest.size_bytes)
                    codecs.add(number)
            assert got == blobs
            assert codecs == ({codec.RAW} if local else {codec.RAW, codec.ZSTD})
            assert len(agent.of(m.PutBlobs)) > 1
            assert agent.drained >= len(agent.of(m.PutBlobs)) - 1

    asyncio.run(scenario())
