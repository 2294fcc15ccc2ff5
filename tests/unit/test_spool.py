"""burst_wrapper.daemon.spool and burst_protocol.codec: blobs on their way home."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol import codec
from burst_protocol import messages as m
from burst_protocol.digest import Digest
from burst_protocol.errors import DiskFull, RemoteProtocolError
from burst_wrapper.daemon.spool import Spool

CONTENT = b"0123456789" * 100
DIGEST = Digest.of(CONTENT)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(bytes(tmp_path / "spool"))


def send(spool: Spool, identity: int, *parts: bytes, digest: Digest = DIGEST) -> None:
    """All parts, the last one as such."""
    for number, part in enumerate(parts, 1):
        spool.chunk(m.BlobChunk(identity, digest, *codec.compress(part), last=number == len(parts)))


def files(spool: Spool) -> list[bytes]:
    return sorted(os.listdir(spool._folder))


def test_pieces_become_a_blob(spool: Spool) -> None:
    """Only with the last one is it there; bytes on the wire are counted per request."""
    spool.chunk(m.BlobChunk(1, DIGEST, codec.RAW, CONTENT[:300], last=False))
    assert not spool.has(DIGEST)
    assert not os.path.exists(spool.path(DIGEST))
    spool.chunk(m.BlobChunk(1, DIGEST, codec.RAW, CONTENT[300:], last=True))
    assert spool.has(DIGEST)
    with open(spool.path(DIGEST), "rb") as file:
        assert file.read() == CONTENT
    assert spool.received == {1: len(CONTENT)}


def test_packed_pieces_are_counted_packed(spool: Spool) -> None:
    """What came over the line, not what it holds."""
    packed = codec.compress(CONTENT)
    spool.chunk(m.BlobChunk(1, DIGEST, *packed, last=True))
    assert packed[0] == codec.ZSTD
    assert spool.received[1] == len(packed[1]) < len(CONTENT)
    assert spool.has(DIGEST)


def test_two_requests_for_one_blob(spool: Spool) -> None:
    """Pieces of both interleave; the file stays until both have taken it over."""
    first, second = CONTENT[:10], CONTENT[10:]
    for identity in (1, 2):
        spool.chunk(m.BlobChunk(identity, DIGEST, codec.RAW, first, last=False))
    for identity in (1, 2):
        spool.chunk(m.BlobChunk(identity, DIGEST, codec.RAW, second, last=True))
    spool.drop([DIGEST])
    assert os.path.exists(spool.path(DIGEST))
    spool.drop([DIGEST])
    assert files(spool) == []
    spool.drop([DIGEST])
    assert not spool.has(DIGEST)


def test_a_request_that_is_over_leaves_nothing(spool: Spool) -> None:
    """Partly received blobs go; another request's stay."""
    spool.chunk(m.BlobChunk(1, DIGEST, codec.RAW, b"half", last=False))
    spool.chunk(m.BlobChunk(2, DIGEST, codec.RAW, CONTENT[:1], last=False))
    spool.forget(1)
    spool.forget(1)
    assert len(files(spool)) == 1
    spool.chunk(m.BlobChunk(2, DIGEST, codec.RAW, CONTENT[1:], last=True))
    assert spool.has(DIGEST)


def test_the_rest_of_a_forgotten_blob_is_no_blob(spool: Spool) -> None:
    """Pieces that were under way when the request ended do not make a wrong file visible."""
    spool.chunk(m.BlobChunk(1, DIGEST, codec.RAW, CONTENT[:500], last=False))
    spool.forget(1)
    spool.chunk(m.BlobChunk(1, DIGEST, codec.RAW, CONTENT[500:], last=True))
    assert not spool.has(DIGEST)
    assert files(spool) == []


def test_a_new_spool_is_empty(tmp_path: Path) -> None:
    """What an earlier link left behind goes."""
    send(Spool(bytes(tmp_path / "spool")), 1, CONTENT)
    spool = Spool(bytes(tmp_path / "spool"))
    assert files(spool) == []
    assert not spool.has(DIGEST)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.root
def test_a_full_disk_is_called_that(small_disk: Path) -> None:
    """Not a lost link: `explain` counts it by its name."""
    spool = Spool(bytes(small_disk / "spool"))
    content = os.urandom(200_000)
    with pytest.raises(DiskFull):
        send(spool, 1, *(content[at : at + 1000] for at in range(0, len(content), 1000)))
    spool.forget(1)
    assert files(spool) == []


# How pieces are packed


@given(st.binary(max_size=2000), st.integers(1, 40))
def test_packing_and_back(data: bytes, times: int) -> None:
    """Smaller or as it is, never larger."""
    data *= times
    number, packed = codec.compress(data)
    assert len(packed) <= len(data)
    assert codec.decompress(number, packed, len(data)) == data


def test_a_few_bytes_cannot_ask_for_gigabytes() -> None:
    """Whether the frame says how much it holds or does not."""
    bomb = zstandard.ZstdCompressor().compress(bytes(50_000_000))
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(50_000_000))
    for packed in (bomb, silent):
        assert len(packed) < 10_000
        with pytest.raises(RemoteProtocolError):
            codec.decompress(codec.ZSTD, packed, 1_000_000)


@pytest.mark.parametrize("data", [b"", b"junk", zstandard.compress(b"x" * 5000)[:-3]])
def test_damaged_packing(data: bytes) -> None:
    """The peer's error."""
    with pytest.raises(RemoteProtocolError):
        codec.decompress(codec.ZSTD, data, 10_000)


@given(st.binary(max_size=60), st.integers(-1, 5))
def test_random_packing(data: bytes, number: int) -> None:
    """Nothing else is ever raised, nothing larger than allowed comes out of it."""
    try:
        plain = codec.decompress(number, data, 1000)
    except RemoteProtocolError:
        return
    assert number == codec.RAW or len(plain) <= 1000
