"""burst_wrapper.daemon.upload: blobs to an agent, each once, and none that is not what it says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing
from burst_wrapper.daemon.platform import Sources
from burst_wrapper.daemon.upload import Uploader
from burst_wrapper.treescan import Tree
from fake_agent import FakeAgent, linked

LARGE = 1_300_000


def received(agent: FakeAgent) -> dict[Digest, bytes]:
    """What an agent would have stored: whole blobs only."""
    got: dict[Digest, bytes] = {}
    parts: dict[tuple[int, Digest], bytes] = {}
    for message in agent.heard:
        if isinstance(message, m.PutBlobs):
            for digest, (number, data) in zip(message.digests, message.blobs, strict=True):
                got[digest] = codec.decompress(number, data, digest.size_bytes)
        elif isinstance(message, m.BlobChunk):
            key = (message.id, message.digest)
            data = codec.decompress(message.codec, message.data, 2**20)
            parts[key] = parts.get(key, b"") + data
            if message.last:
                got[message.digest] = parts.pop(key)
    assert parts == {}
    return got


def file(folder: Path, name: str, content: bytes) -> tuple[Digest, bytes]:
    path = folder / name
    path.write_bytes(content)
    return Digest.of(content), bytes(path)


def sources(*files: tuple[Digest, bytes], blobs: tuple[bytes, ...] = ()) -> Sources:
    return Sources({Digest.of(data): data for data in blobs}, dict(files))


def test_from_memory_small_files_and_large_ones(tmp_path: Path) -> None:
    """Everything arrives whole; bytes on the wire are counted for who asked."""
    contents = [b"", b"small", b"x" * 300_000, os.urandom(LARGE), b"y" * 524_288]
    files = [file(tmp_path, str(n), content) for n, content in enumerate(contents)]

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            source = sources(*files, blobs=(b"directory",))
            wanted = [Digest.of(b"directory"), *(digest for digest, _ in files)]
            sent = await Uploader(link).send(5, wanted + wanted, [Sources(), source])
            got = received(agent)
            assert got == {Digest.of(content): content for content in (*contents, b"directory")}
            assert LARGE < sent < LARGE + 20_000

    asyncio.run(scenario())


def test_an_agent_on_this_machine_is_told_paths(tmp_path: Path) -> None:
    """No bytes of files travel; what is only in memory does."""
    files = [file(tmp_path, str(n), b"%d" % n) for n in range(900)]

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent, local=True) as link:
            wanted = [digest for digest, _ in files] + [Digest.of(b"memory")]
            await Uploader(link).send(5, wanted, [sources(*files, blobs=(b"memory",))])
            told = [message for message in agent.heard if isinstance(message, m.PutFiles)]
            assert [pair for message in told for pair in message.files] == files
            assert {message.id for message in told} == {5}
            assert received(agent) == {Digest.of(b"memory"): b"memory"}

    asyncio.run(scenario())


def test_borrowed_trees_are_searched_last(tmp_path: Path) -> None:
    """Sources of other packages, whose files and directories most agents have."""
    digest, path = file(tmp_path, "f", b"content")
    directory = Digest.of(b"directory")
    tree = Tree(
        bytes(tmp_path), directory, {directory: b"directory"}, {path: digest}, {}, {}, {}, 0
    )

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            await Uploader(link).send(5, [digest, directory], [Sources(more=[tree])])
            assert set(received(agent).values()) == {b"content", b"directory"}

    asyncio.run(scenario())


def test_units_that_lack_the_same_blob_send_it_once(tmp_path: Path) -> None:
    """The second waits for the first, and may send again afterwards."""
    large = file(tmp_path, "large", os.urandom(LARGE))
    small = file(tmp_path, "small", b"small")

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            uploader = Uploader(link)
            source = [sources(large, small)]
            first = asyncio.create_task(uploader.send(5, [large[0]], source))
            second = asyncio.create_task(uploader.send(6, [large[0], small[0]], source))
            counts = await asyncio.gather(first, second)
            assert counts[0] >= LARGE > counts[1]
            assert {c.id for c in agent.heard if isinstance(c, m.BlobChunk)} == {5}
            assert len(received(agent)) == 2
            await uploader.send(7, [small[0]], source)
            assert len(agent.of(m.PutBlobs)) == 2

    asyncio.run(scenario())


def test_a_blob_that_home_lacks() -> None:
    """Named; the others of that request are not sent for nothing."""

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            uploader = Uploader(link)
            wanted = [Digest.of(b"here"), Digest.of(b"nowhere")]
            with pytest.raises(BlobMissing, match=wanted[1].hex):
                await uploader.send(5, wanted, [sources(blobs=(b"here",))])
            assert received(agent) == {}
            await uploader.send(6, wanted[:1], [sources(blobs=(b"here",))])
            assert received(agent) == {wanted[0]: b"here"}

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("change", ["edited", "cut", "deleted", "a folder"])
def test_a_file_that_is_not_what_was_hashed(tmp_path: Path, size: int, change: str) -> None:
    """Missing, by its name: a wrong blob would be refused and asked for again, for ever."""
    digest, path = file(tmp_path, "f.rs", os.urandom(size))
    changed = tmp_path / "f.rs"
    if change == "edited":
        with changed.open("r+b") as writer:
            writer.write(b"#")
    elif change == "cut":
        os.truncate(path, size // 2)
    else:
        changed.unlink()
        if change == "a folder":
            changed.mkdir()

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            uploader = Uploader(link)
            with pytest.raises(BlobMissing, match=r"f\.rs"):
                await uploader.send(5, [digest], [sources((digest, path))])
            assert uploader._under_way == {}

    asyncio.run(scenario())


def test_who_waits_for_an_upload_that_fails_is_not_stuck(tmp_path: Path) -> None:
    """It asks the agent again, is told that the blob is missing, and tries by itself."""
    digest, path = file(tmp_path, "f", os.urandom(LARGE))
    os.truncate(path, 5)
    other = file(tmp_path, "g", b"g")

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            uploader = Uploader(link)
            source = [sources((digest, path), other)]
            first = asyncio.create_task(uploader.send(5, [digest], source))
            second = asyncio.create_task(uploader.send(6, [digest, other[0]], source))
            with pytest.raises(BlobMissing):
                await first
            await second

    asyncio.run(scenario())


def test_a_link_that_ends_during_an_upload(tmp_path: Path) -> None:
    """Its error, for the sender and for who waits."""
    digest, path = file(tmp_path, "f", os.urandom(LARGE))

    async def scenario() -> None:
        agent = FakeAgent()
        async with linked(agent) as link:
            uploader = Uploader(link)
            sending = asyncio.create_task(uploader.send(5, [digest], [sources((digest, path))]))
            await agent.hears(m.BlobChunk)
            agent.raw(b"")
            with pytest.raises(Exception, match="closed the connection"):
                await sending
            assert uploader._under_way == {}

    asyncio.run(scenario())
