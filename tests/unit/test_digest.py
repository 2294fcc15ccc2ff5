"""burst_protocol.digest: identity of bytes, and keys that cannot collide by concatenation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.digest import EMPTY, Digest, KeyHasher
from burst_protocol.layout import blob_path

# https://github.com/BLAKE3-team/BLAKE3/blob/master/test_vectors/test_vectors.json, input_len 0, 1
BLAKE3_OF_NOTHING = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
BLAKE3_OF_ZERO = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_known_vectors() -> None:
    """The hash is BLAKE3 as published."""
    assert EMPTY.hex == BLAKE3_OF_NOTHING
    assert Digest.of(b"\0").hex == BLAKE3_OF_ZERO


@given(st.binary(), st.integers(0, 2**64 - 1))
def test_packed_and_back(data: bytes, size: int) -> None:
    """40 bytes hold every digest."""
    digest = Digest(Digest.of(data).hash, size)
    assert len(digest.packed()) == 40
    assert Digest.unpacked(digest.packed()) == digest


@pytest.mark.parametrize(
    "value", [b"", b"x" * 39, b"x" * 41, "x" * 40, list(range(40)), None, 40, (1,) * 40]
)
def test_only_forty_bytes_are_a_digest(value: Any) -> None:
    """A peer can send any type; a list of small numbers must not pass for bytes."""
    with pytest.raises(ValueError, match="40 bytes"):
        Digest.unpacked(value)


@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 17 << 20])
def test_files_have_the_digest_of_their_bytes(tmp_path: Path, size: int) -> None:
    """Small files are read, large ones mapped, huge ones hashed by threads: one answer."""
    data = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    file = tmp_path / "f\u00fc"
    file.write_bytes(data)
    assert Digest.of_file(bytes(file)) == Digest.of(data)
    assert Digest.of_file(str(file)).size_bytes == size


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    """The caller decides what that means."""
    with pytest.raises(FileNotFoundError):
        Digest.of_file(bytes(tmp_path / "none"))


@given(st.lists(st.binary(max_size=8)), st.lists(st.binary(max_size=8)))
def test_different_field_lists_have_different_keys(one: list[bytes], two: list[bytes]) -> None:
    """Where a field ends is part of the key."""

    def key(fields: list[bytes]) -> bytes:
        hasher = KeyHasher(b"test")
        hasher.add(*fields)
        return hasher.key()

    assert (key(one) == key(two)) == (one == two)


def test_keys_of_different_domains_differ() -> None:
    """A weak key is never a strong key, whatever is hashed."""
    assert KeyHasher(b"weak").key() != KeyHasher(b"strong").key()
    apart, together = KeyHasher(b"d"), KeyHasher(b"d")
    apart.add(b"a")
    apart.add(b"b")
    together.add(b"a", b"b")
    assert apart.key() == together.key()


def test_blobs_lie_where_both_sides_look() -> None:
    """The daemon reads an embedded agent's blobs by this path; executables have a twin."""
    digest = Digest.of(b"x")
    name = digest.hex.encode()
    assert blob_path(b"/s", digest) == b"/s/cas/" + name[:2] + b"/" + name
    assert blob_path(b"/s", digest, executable=True) == b"/s/exe/" + name[:2] + b"/" + name
