"""The agent's smaller parts by themselves: slots, jobserver, outbox, leases, observations."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent_client import shell
from burst_agent import locks, observations
from burst_agent.connection import Outbox
from burst_agent.incremental import IncrementalStates
from burst_agent.jobserver import Jobserver
from burst_agent.results import OutputCollector, parse_artifact, relative_to
from burst_agent.root import StoreRoot
from burst_agent.slots import MEMORY_PER_RUN_BYTES, Slots
from burst_agent.store import BlobStore
from burst_protocol import messages as m
from burst_protocol.action import KIND_DIRECTORY, Input
from burst_protocol.digest import Digest
from burst_protocol.framing import CHUNK_BYTES, FrameDecoder
from burst_protocol.session import Role, Session

PLENTY = 1 << 50


def tokens_in(jobserver: Jobserver) -> int:
    count = 0
    while jobserver.take():
        count += 1
    for _ in range(count):
        jobserver.give()
    return count


# Jobserver and slots


def test_jobserver_is_whole_again_after_a_refill() -> None:
    """Tokens that died with a rustc come back, and none that it added stays."""
    jobserver = Jobserver(4)
    assert [jobserver.take() for _ in range(5)] == [True] * 4 + [False]
    jobserver.refill()
    assert tokens_in(jobserver) == 4
    os.write(jobserver.write_fd, b"+++")
    jobserver.refill()
    assert tokens_in(jobserver) == 4
    name, value = jobserver.environment
    assert name == b"CARGO_MAKEFLAGS"
    assert value.endswith(b"--jobserver-auth=%d,%d" % jobserver.fds)
    jobserver.close()


def test_running_actions_hold_tokens() -> None:
    """Threads never exceed the slots: what runs takes a token that rustc then cannot have."""

    async def scenario() -> None:
        jobserver = Jobserver(3)
        slots = Slots(3, jobserver, memory_bytes=lambda: PLENTY)
        await slots.acquire(0)
        await slots.acquire(0)
        assert tokens_in(jobserver) == 1
        slots.release()
        slots.release()
        assert tokens_in(jobserver) == 3
        slots.close()
        jobserver.close()

    asyncio.run(scenario())


def test_a_waiting_action_starts_when_rustc_returns_a_token() -> None:
    """A rustc that took all tokens for its threads delays the next start, not for ever."""

    async def scenario() -> None:
        jobserver = Jobserver(2)
        slots = Slots(2, jobserver, memory_bytes=lambda: PLENTY)
        await slots.acquire(0)
        assert jobserver.take()  # rustc's second thread
        waiting = asyncio.ensure_future(slots.acquire(0))
        await asyncio.sleep(0)
        assert slots.queued == 1
        jobserver.give()
        await asyncio.wait_for(waiting, 10)
        assert slots.running == 2
        slots.close()
        jobserver.close()

    asyncio.run(scenario())


def test_little_memory_means_one_at_a_time_but_never_none() -> None:
    """The first always runs; the second waits until there is room for it."""

    async def scenario() -> None:
        free = 0
        jobserver = Jobserver(8)
        slots = Slots(8, jobserver, memory_bytes=lambda: free)
        await slots.acquire(0)
        waiting = asyncio.ensure_future(slots.acquire(0))
        await asyncio.sleep(0)
        assert (slots.running, slots.queued) == (1, 1)
        free = 2 * MEMORY_PER_RUN_BYTES  # one for the newcomer, one for the first's growth
        await asyncio.wait_for(waiting, 10)
        assert slots.running == 2
        slots.close()
        jobserver.close()

    asyncio.run(scenario())


def test_cancelled_waiters_are_passed_over() -> None:
    """A cancelled request neither gets a slot nor stops the others."""

    async def scenario() -> None:
        jobserver = Jobserver(1)
        slots = Slots(1, jobserver, memory_bytes=lambda: PLENTY)
        await slots.acquire(0)
        urgent = asyncio.ensure_future(slots.acquire(9))
        other = asyncio.ensure_future(slots.acquire(0))
        await asyncio.sleep(0)
        urgent.cancel()
        slots.release()
        await asyncio.wait_for(other, 10)
        assert (slots.running, slots.queued) == (1, 0)
        slots.close()
        jobserver.close()

    asyncio.run(scenario())


def test_who_wants_all_slots_gets_them_when_all_are_free() -> None:
    """Nothing begins meanwhile, and what waited goes on afterwards; in order if several want it."""

    async def scenario() -> None:
        jobserver = Jobserver(2)
        slots = Slots(2, jobserver, memory_bytes=lambda: PLENTY)
        order: list[str] = []

        async def alone(name: str) -> None:
            await slots.acquire_all()
            order.append(name)
            assert slots.running == 0
            await asyncio.sleep(0)
            slots.release_all()

        async def one(name: str) -> None:
            await slots.acquire(0)
            order.append(name)
            slots.release()

        await slots.acquire(0)
        given_up = asyncio.ensure_future(alone("given up"))
        first, second = (asyncio.ensure_future(alone(name)) for name in ("first", "second"))
        run = asyncio.ensure_future(one("run"))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        assert order == []
        slots.release()
        await asyncio.wait_for(asyncio.gather(first, second, run), 10)
        assert order == ["first", "second", "run"]
        assert tokens_in(jobserver) == 2

        await slots.acquire(0)
        only = asyncio.ensure_future(alone("only"))
        other = asyncio.ensure_future(one("other"))
        await asyncio.sleep(0)
        only.cancel()
        await asyncio.wait_for(other, 10)
        slots.release()
        slots.close()
        jobserver.close()

    asyncio.run(scenario())


# Writing


def test_small_messages_overtake_blobs_but_not_those_of_their_id(tmp_path: Path) -> None:
    """What was queued for id 1 behind its blob stays behind; id 2 goes between two pieces."""
    data = os.urandom(3 * CHUNK_BYTES)
    path = tmp_path / "blob"
    path.write_bytes(data)

    async def scenario() -> list[m.Message]:
        read_fd, write_fd = os.pipe()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb", 0)
        )
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
            os.fdopen(write_fd, "wb", 0),
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        session = Session(Role.AGENT, "test", 1)
        writer.write(session.hello())
        outbox = Outbox(session, writer)
        outbox.send_blob(1, Digest.of(data), os.fsencode(path), compress=True)
        outbox.send(m.Stderr(1, b"behind"))
        outbox.send(m.Stderr(2, b"before"))
        outbox.send_blob(3, Digest.of(b"gone"), b"/nowhere", compress=False)
        writing = asyncio.create_task(outbox.run())
        decoder, seen = FrameDecoder(), list[m.Message]()
        while len(seen) < 7:
            seen += decoder.feed(await reader.read(65536))
        writing.cancel()
        await asyncio.wait([writing])
        writer.close()
        await asyncio.sleep(0)
        return seen[1:]

    seen = asyncio.run(scenario())
    assert seen[0] == m.Stderr(2, b"before")
    assert seen[-1] == m.Stderr(1, b"behind")
    pieces = [message for message in seen if isinstance(message, m.BlobChunk)]
    assert b"".join(piece.data for piece in pieces) == data
    assert [piece.last for piece in pieces] == [False, False, True]
    assert m.Failed(3, "blob-missing", str(Digest.of(b"gone"))) in seen


# Outputs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"$message_type":"artifact","artifact":"/o/a.d","emit":"dep-info"}\n', b"/o/a.d"),
        (b'{"artifact":"/o/a b.rmeta","emit":"metadata"}\n', b"/o/a b.rmeta"),
        (b'{"$message_type":"diagnostic","message":"artifact"}\n', None),
        (b'{"$message_type":"artifact","artifact":1}\n', None),
        (b'{"$message_type":"artifact","artif\n', None),
        (b"warning: artifact\n", None),
    ],
)
def test_artifact_lines(line: bytes, expected: bytes | None) -> None:
    """Only rustc's announcements, of old and new compilers, and only whole ones."""
    artifact = parse_artifact(line)
    assert (artifact and artifact.path) == expected


def test_relative_to_does_not_leave_the_folder() -> None:
    """`..` and neighbours with a common prefix are outside."""
    assert relative_to(b"/t/deps/a", b"/t/deps") == b"a"
    assert relative_to(b"/t/deps/../x", b"/t/deps") is None
    assert relative_to(b"/t/deps2/a", b"/t/deps") is None


def test_mentions_are_found_across_piece_borders(tmp_path: Path) -> None:
    """The searched string may lie on the border of two reads."""
    store = BlobStore(os.fsencode(tmp_path / "root"))
    out = tmp_path / "out"
    out.mkdir()
    needle = b"/home/me/target"
    (out / "yes").write_bytes(bytes((1 << 20) - 7) + needle + bytes(9))
    (out / "no").write_bytes(bytes((1 << 20) - 7) + needle[:-1] + bytes(9))
    collector = OutputCollector(store, os.fsencode(out), needle)
    assert {o.path: o.mentions for o in collector.rest(failed=False)} == {
        b"yes": True,
        b"no": False,
    }
    store.close()


# Leases and locks


def test_states_are_evicted_by_age_and_share(tmp_path: Path) -> None:
    """Old ones go, then the least recently used; one in use stays."""
    root = StoreRoot(os.fsencode(tmp_path / "root"))
    states = IncrementalStates(root)
    for key in (b"old", b"first", b"second", b"used"):
        lease = states.lease(key)
        Path(os.fsdecode(lease.path), "data").write_bytes(bytes(8192))
        lease.end(intact=True)
    folder = tmp_path / "root/incremental"
    day = 86_400 * 10**9
    now_ns = root.now_ns()
    for key, age in ((b"old", 30 * day), (b"first", 2000), (b"second", 1000), (b"used", 9000)):
        os.utime(folder / key.hex() / "lock", ns=(now_ns - age, now_ns - age))
    used = states.lease(b"used")
    states.evict(5 * 30_000)  # room for two
    assert set(os.listdir(folder)) == {b"second".hex(), b"used".hex()}
    used.end(intact=True)
    root.close()


def test_a_state_from_before_a_machine_crash_is_thrown_away(tmp_path: Path) -> None:
    """Files can be short or empty then, whatever their names say."""
    folder = os.fsencode(tmp_path / "root")
    root = StoreRoot(folder, boot_id=b"one")
    lease = IncrementalStates(root).lease(b"key")
    Path(os.fsdecode(lease.path), "data").write_bytes(b"x")
    lease.end(intact=True)
    again = StoreRoot(folder, boot_id=b"two")  # `root` was never closed: a crash
    lease = IncrementalStates(again).lease(b"key")
    assert lease.persistent
    assert os.listdir(lease.path) == []
    lease.end(intact=True)
    again.close()


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    """Until its descriptor is closed."""
    path = os.fsencode(tmp_path / "locks/key")
    fd = locks.try_lock(path)
    assert fd is not None
    assert locks.try_lock(path) is None
    os.close(fd)
    again = locks.try_lock(path)
    assert again is not None
    os.close(again)


def test_locks_on_keys(tmp_path: Path) -> None:
    """One agent at a time has a key, others have other keys meanwhile; the end of one frees all."""
    path = bytes(tmp_path / "run.locks")
    one, two = locks.KeyLocks(path), locks.KeyLocks(path)
    first, second = b"\xff" * 32, b"\0" * 32
    assert one.take(first)
    assert not two.take(first)
    assert two.held(first)
    assert not one.held(first)
    assert not one.held(second)
    assert two.take(second)
    assert not one.take(second)
    one.give(first)
    assert two.take(first)
    two.close()
    assert one.take(first)
    assert one.take(second)
    one.close()


# Observations


def record(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


def test_the_linkers_own_programs_are_not_foreign() -> None:
    """cc may start collect2, and that ld; what rustc starts itself must be allowed."""
    log = record(
        "H-0 10 1 1 /t/bin/rustc",
        "S-0 11 cc",
        "H-0 11 10 1 /usr/bin/gcc-12",
        "S-0 12 /usr/lib/gcc/collect2",
        "H-0 12 11 1 /usr/lib/gcc/collect2",
        "X-0 13 /usr/bin/ld",
        "H-0 13 12 1 /usr/bin/ld",
        "S-0 14 /usr/bin/git",
    )
    assert observations.foreign_programs(log, (b"/usr/bin/cc",)) == [b"/usr/bin/git"]
    assert observations.foreign_programs(log, ()) == [
        b"cc",
        b"/usr/lib/gcc/collect2",
        b"/usr/bin/ld",
        b"/usr/bin/git",
    ]


def test_a_program_that_could_not_be_started_counts() -> None:
    """The sandbox lacks git; home may have it, and its answer. A linker searched for does not."""
    log = record(
        "H-0 10 1 1 /t/bin/rustc",
        "S-2 0 git",
        "X-0 10 hg",
        "x-2 10 hg",
        "S-2 0 cc",
        "S-0 11 /usr/bin/cc",
    )
    assert observations.foreign_programs(log, (b"/usr/bin/cc",)) == [b"git", b"hg"]


def test_what_a_whole_directory_lacks_is_no_news(tmp_path: Path) -> None:
    """Its digest says so, too. Not of files that are quiet one by one, and not behind a `..`, which
    may lead elsewhere; and what is written there is always told."""
    log = tmp_path / "log"
    toolchain = Input(b"/t/lib", KIND_DIRECTORY, Digest.of(b"tree"))
    action = shell("true", quiet=(b"/t/lib", b"/usr/bin"), inputs=(toolchain,))
    log.write_bytes(
        record(
            "H-0 1 0 1 /t/bin/rustc",
            "a-2 /t/lib/gcc-ld/ld",
            "s-2 /t/library",
            "o-2 /usr/bin/ld",
            "s-2 /t/lib/../absent",
            "s-20 /t/lib/file/absent",
            "ow2 /t/lib/new/file",
            "m-2 /t/lib/other",
        )
    )
    seen = observations.Reporter(action).report(os.fsencode(log), last=True)
    assert [(a.op, a.path) for a in seen.accesses] == [
        ("stat", b"/t/library"),
        ("open", b"/usr/bin/ld"),
        ("stat", b"/t/lib/../absent"),
        ("stat", b"/t/lib/file/absent"),
        ("write", b"/t/lib/new/file"),
        ("change", b"/t/lib/other"),
    ]


def test_reports_hold_news_only_and_nothing_private(tmp_path: Path) -> None:
    """Each access once; own temporary files, out-dir and quiet places are left out."""
    log = tmp_path / "log"
    action = shell("true", cwd=b"/tmp/work", quiet=(b"/usr",), inputs=())
    reporter = observations.Reporter(action)
    log.write_bytes(
        record(
            "H-0 1 0 1 /usr/bin/rustc",
            "o-0 /usr/lib/libc.so",
            "o-2 /usr/lib/absent.so",
            "ow0 /work/out/a.rmeta",
            "ow0 /tmp/rustcAbc/x",
            "s-2 /tmp/rustcAbc/y",
            "o-0 /tmp/work/src/../data.txt",
            "s-2 /tmp/work/absent",
            "o-0 /proc/self/maps",
            "ow30 /home/me/cache",
            "e-2 MY_NAME",
            "e-0 CARGO_MAKEFLAGS",
        )
        + b"o-0 /being/writ"
    )
    first = reporter.report(os.fsencode(log), last=False)
    assert first.complete
    assert [(a.op, a.path, a.found) for a in first.accesses] == [
        ("open", b"/usr/lib/absent.so", False),
        ("open", b"/tmp/work/src/../data.txt", True),
        ("stat", b"/tmp/work/absent", False),
        ("write", b"/home/me/cache", True),
    ]
    assert first.env_names == (b"MY_NAME",)
    with log.open("ab") as file:
        file.write(b"ten\0" + record("n-0 socket 2", "s-2 /tmp/work/absent"))
    second = reporter.report(os.fsencode(log), last=True)
    assert [a.path for a in second.accesses] == [b"/being/written"]
    assert second.network
    assert second.env_names == ()
    assert not reporter.report(None, last=True).complete
