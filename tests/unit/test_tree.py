"""burst_protocol.tree: equal trees are equal digests, and a hostile directory is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burst_protocol.digest import Digest
from burst_protocol.errors import RemoteProtocolError
from burst_protocol.packing import pack
from burst_protocol.tree import (
    Directory,
    DirectoryNode,
    FileNode,
    SymlinkNode,
    TreeBuilder,
    valid_name,
)

D = Digest.of(b"some file")

names = st.binary(min_size=1, max_size=6).filter(valid_name)
digests = st.builds(Digest.of, st.binary(max_size=3))
targets = st.binary(min_size=1, max_size=6).filter(lambda target: b"\0" not in target)


@st.composite
def directories(draw: st.DrawFn) -> Directory:
    """Any directory that can exist: each name once, in no particular order."""
    chosen = draw(st.lists(names, unique=True, max_size=9))
    kinds = [draw(st.sampled_from("fds")) for _ in chosen]
    return Directory(
        tuple(
            FileNode(name, draw(digests), draw(st.booleans()))
            for name, kind in zip(chosen, kinds, strict=True)
            if kind == "f"
        ),
        tuple(
            DirectoryNode(name, draw(digests))
            for name, kind in zip(chosen, kinds, strict=True)
            if kind == "d"
        ),
        tuple(
            SymlinkNode(name, draw(targets))
            for name, kind in zip(chosen, kinds, strict=True)
            if kind == "s"
        ),
    )


def entries(directory: Directory) -> tuple[set[Any], set[Any], set[Any]]:
    return set(directory.files), set(directory.directories), set(directory.symlinks)


@given(directories())
def test_encoding_is_canonical(directory: Directory) -> None:
    """The order in which entries were found does not matter, and nothing is lost."""
    turned = Directory(directory.files[::-1], directory.directories[::-1], directory.symlinks[::-1])
    data = directory.encode()
    assert turned.encode() == data
    decoded = Directory.decode(data)
    assert entries(decoded) == entries(directory)
    assert decoded.encode() == data


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"a/b", b"/", b"a\0", b"../x", "text", 7, None, [b"a"]]
)
def test_impossible_names_are_refused(name: Any) -> None:
    """No entry can leave its directory, hide in it or be no name at all."""
    assert not valid_name(name)
    packed = D.packed()
    for lists in (
        [[[name, packed, False]], [], []],
        [[], [[name, packed]], []],
        [[], [], [[name, b"t"]]],
    ):
        with pytest.raises(RemoteProtocolError):
            Directory.decode(pack([1, *lists]))


@pytest.mark.parametrize("name", [b"a", b"...", b".git", b" ", b"\xff\xfe", b"a\nb", b"-rf"])
def test_odd_but_possible_names_are_kept(name: bytes) -> None:
    """Names are bytes, as the kernel has it."""
    assert valid_name(name)
    directory = Directory((FileNode(name, D, True),))
    assert Directory.decode(directory.encode()) == directory


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("another format", [2, [], [], []]),
        ("too few lists", [1, [], []]),
        ("a map", {b"a": 1}),
        ("a number", 5),
        ("files that are no list", [1, 5, [], []]),
        ("a file without a flag", [1, [[b"a", D.packed()]], [], []]),
        ("a flag that is no boolean", [1, [[b"a", D.packed(), 1]], [], []]),
        ("a short digest", [1, [[b"a", b"x", False]], [], []]),
        ("numbers as a digest", [1, [[b"a", [1] * 40, False]], [], []]),
        ("a name twice", [1, [[b"a", D.packed(), False], [b"a", D.packed(), False]], [], []]),
        ("a file and a folder", [1, [[b"a", D.packed(), False]], [[b"a", D.packed()]], []]),
        ("unsorted", [1, [[b"b", D.packed(), False], [b"a", D.packed(), False]], [], []]),
        ("a symlink to nothing", [1, [], [], [[b"a", b""]]]),
        ("a symlink with NUL", [1, [], [], [[b"a", b"x\0y"]]]),
        ("a symlink to text", [1, [], [], [[b"a", "x"]]]),
    ],
)
def test_what_encode_cannot_have_written_is_refused(what: str, value: object) -> None:
    """Each as a protocol error of the peer, never as a TypeError later."""
    with pytest.raises(RemoteProtocolError):
        Directory.decode(pack(value))


@given(st.binary(max_size=60))
def test_random_bytes_are_refused(data: bytes) -> None:
    """Nothing else is ever raised."""
    try:
        directory = Directory.decode(data)
    except RemoteProtocolError:
        return
    assert directory.encode() == data


@given(directories(), st.data())
def test_one_changed_bit_changes_the_tree_or_is_refused(
    directory: Directory, data: st.DataObject
) -> None:
    """Two encodings never mean the same directory."""
    encoded = bytearray(directory.encode())
    at = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[at // 8] ^= 1 << (at % 8)
    try:
        other = Directory.decode(bytes(encoded))
    except RemoteProtocolError:
        return
    assert entries(other) != entries(directory)


# The builder


@given(st.dictionaries(st.lists(names, min_size=1, max_size=3).map(b"/".join), digests, max_size=8))
def test_builder_makes_the_tree_its_paths_say(files: dict[bytes, Digest]) -> None:
    """Every file is found again by walking down from the root; insertion order does not matter."""
    folders = {path[:at] for path in files for at, byte in enumerate(path) if byte == ord("/")}
    files = {path: digest for path, digest in files.items() if path not in folders}
    one, two = TreeBuilder(), TreeBuilder()
    for path, digest in files.items():
        one.file(b"/" + path, digest, executable=False)
    for path, digest in reversed(files.items()):
        two.file(path, digest, executable=False)
    blobs: dict[Digest, bytes] = {}
    root = one.build(blobs)
    assert root == two.build({})
    found: dict[bytes, Digest] = {}
    waiting = [(b"", root)]
    while waiting:
        prefix, digest = waiting.pop()
        assert Digest.of(blobs[digest]) == digest
        directory = Directory.decode(blobs[digest])
        found |= {prefix + node.name: node.digest for node in directory.files}
        waiting += [(prefix + node.name + b"/", node.digest) for node in directory.directories]
    assert found == files


def test_builder_knows_links_empty_folders_and_finished_trees() -> None:
    """What a platform is made of; a folder may get entries before or after it is named."""
    builder = TreeBuilder()
    builder.directory(b"/usr/lib")
    builder.file(b"/usr/lib/libc.so", D, executable=True)
    builder.symlink(b"/lib", b"usr/lib")
    builder.subtree(b"/opt/tool", D)
    builder.directory(b"/tmp")
    blobs: dict[Digest, bytes] = {}
    root = Directory.decode(blobs[builder.build(blobs)])
    assert root.symlinks == (SymlinkNode(b"lib", b"usr/lib"),)
    below = {node.name: node.digest for node in root.directories}
    assert Directory.decode(blobs[below[b"tmp"]]) == Directory()
    assert Directory.decode(blobs[below[b"opt"]]).directories == (DirectoryNode(b"tool", D),)
    usr = Directory.decode(blobs[below[b"usr"]])
    lib = Directory.decode(blobs[usr.directories[0].digest])
    assert lib.files == (FileNode(b"libc.so", D, True),)
