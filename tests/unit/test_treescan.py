"""burst_wrapper.treescan: what of a directory is shown, and what is known to be left out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from burst_protocol.digest import Digest
from burst_protocol.tree import Directory
from burst_wrapper import treescan
from burst_wrapper.index import Index
from burst_wrapper.statcache import FileState, StatCache
from burst_wrapper.treescan import LARGE_FILE_BYTES, TooLarge, Tree, TreeScanner


@pytest.fixture
def scanner(tmp_path: Path) -> Iterator[TreeScanner]:
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    yield TreeScanner(StatCache(index))
    index.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "package"
    root.mkdir()
    return root


def make(root: Path, *names: str) -> None:
    """Files that hold their own names; folders end with a slash."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)


def shown(tree: Tree) -> dict[str, object]:
    """All that the tree's blobs say, by path below the root."""
    found: dict[str, object] = {}
    waiting = [("", tree.digest)]
    while waiting:
        prefix, digest = waiting.pop()
        assert Digest.of(tree.blobs[digest]) == digest
        directory = Directory.decode(tree.blobs[digest])
        for file in directory.files:
            found[prefix + os.fsdecode(file.name)] = file.digest
        for link in directory.symlinks:
            found[prefix + os.fsdecode(link.name)] = link.target
        for folder in directory.directories:
            name = prefix + os.fsdecode(folder.name) + "/"
            found[name] = None
            waiting.append((name, folder.digest))
    return found


def test_a_package_is_what_lies_below_it(scanner: TreeScanner, root: Path) -> None:
    """Tracked or not, hidden or not, empty folders too; by digest and by absolute path."""
    make(root, "Cargo.toml", "src/lib.rs", "data/.hidden", "empty/")
    tree = scanner.package(bytes(root))
    assert shown(tree) == {
        "Cargo.toml": Digest.of(b"Cargo.toml"),
        "src/": None,
        "src/lib.rs": Digest.of(b"src/lib.rs"),
        "data/": None,
        "data/.hidden": Digest.of(b"data/.hidden"),
        "empty/": None,
    }
    assert tree.files[bytes(root / "src" / "lib.rs")] == Digest.of(b"src/lib.rs")
    assert tree.directories[bytes(root)] == {b"Cargo.toml", b"src", b"data", b"empty"}
    assert tree.directories[bytes(root / "empty")] == frozenset()
    assert tree.hidden == {}
    assert tree.size_bytes == sum(len(n) for n in ("Cargo.toml", "src/lib.rs", "data/.hidden"))


def test_what_is_not_the_packages_is_left_out_and_named(scanner: TreeScanner, root: Path) -> None:
    """`.git` anywhere, nested packages, marked cache folders, cargo's `target` at the top."""
    make(root, "Cargo.toml", ".git/HEAD", "target/debug/x", "sub/.git/HEAD")
    make(root, "nested/Cargo.toml", "nested/src/lib.rs", "out/CACHEDIR.TAG", "out/y")
    make(root, "src/target/mod.rs", "deep/er/nested/Cargo.toml")
    tree = scanner.package(bytes(root))
    assert set(shown(tree)) == {
        *("Cargo.toml", "sub/", "src/", "src/target/", "src/target/mod.rs", "deep/", "deep/er/"),
    }
    hidden = {path: set(names) for path, names in tree.hidden.items()}
    assert hidden == {
        bytes(root): {b".git", b"target", b"nested", b"out"},
        bytes(root / "sub"): {b".git"},
        bytes(root / "deep" / "er"): {b"nested"},
    }


def test_files_with_those_names_are_the_packages(scanner: TreeScanner, root: Path) -> None:
    """A worktree's `.git` is a file; so may `target` be."""
    make(root, ".git", "target", "Cargo.toml/x")
    assert set(shown(scanner.package(bytes(root)))) >= {".git", "target"}


def test_a_whole_directory_has_everything(scanner: TreeScanner, root: Path) -> None:
    """OUT_DIR and learned folders: what a package leaves out is in."""
    make(root, ".git/HEAD", "target/x", "nested/Cargo.toml", "out/CACHEDIR.TAG")
    tree = scanner.whole(bytes(root))
    assert {".git/HEAD", "target/x", "nested/Cargo.toml", "out/CACHEDIR.TAG"} <= set(shown(tree))
    assert tree.hidden == {}


def test_links_are_shown_as_links(scanner: TreeScanner, root: Path) -> None:
    """Never followed: not out of the package, not in circles, not where they are broken."""
    make(root, "src/lib.rs")
    (root / "out").symlink_to("/etc")
    (root / "self").symlink_to(".")
    (root / "broken").symlink_to("nowhere")
    (root / "file").symlink_to("src/lib.rs")
    tree = scanner.package(bytes(root))
    found = shown(tree)
    assert (found["out"], found["self"]) == (b"/etc", b".")
    assert (found["broken"], found["file"]) == (b"nowhere", b"src/lib.rs")
    assert tree.links[bytes(root / "out")] == b"/etc"
    assert set(tree.files) == {bytes(root / "src" / "lib.rs")}


def test_odd_files_are_hidden(scanner: TreeScanner, root: Path) -> None:
    """A fifo is not opened; a package that has one is known to show fewer names."""
    make(root, "a")
    os.mkfifo(root / "fifo")
    tree = scanner.whole(bytes(root))
    assert set(shown(tree)) == {"a"}
    assert tree.hidden == {bytes(root): (b"fifo",)}


def test_very_large_files_are_left_to_be_learned(scanner: TreeScanner, root: Path) -> None:
    """In a package; a folder that somebody lists is taken whole."""
    make(root, "a")
    with (root / "large").open("wb") as file:
        file.truncate(LARGE_FILE_BYTES + 1)
    with (root / "limit").open("wb") as file:
        file.truncate(LARGE_FILE_BYTES)
    package = scanner.package(bytes(root))
    assert set(shown(package)) == {"a", "limit"}
    assert package.hidden == {bytes(root): (b"large",)}
    assert set(shown(scanner.whole(bytes(root)))) == {"a", "limit", "large"}


def test_equal_trees_have_equal_digests(scanner: TreeScanner, tmp_path: Path) -> None:
    """Wherever they lie and in whatever order they were made; one bit of mode tells them apart."""
    make(tmp_path / "one", "a", "b/c", "b/d")
    make(tmp_path / "two", "b/d", "b/c", "a")
    one, two = scanner.package(bytes(tmp_path / "one")), scanner.package(bytes(tmp_path / "two"))
    assert one.digest == two.digest
    (tmp_path / "two" / "a").chmod(0o755)
    assert scanner.package(bytes(tmp_path / "two")).digest != one.digest


def test_names_are_bytes(scanner: TreeScanner, root: Path) -> None:
    """Not every name is text."""
    name = b"\xff\n odd"
    with open(bytes(root) + b"/" + name, "wb"):
        pass
    tree = scanner.package(bytes(root))
    assert tree.directories[bytes(root)] == {name}
    assert tree.files == {bytes(root) + b"/" + name: Digest.of(b"")}


def test_a_missing_directory_is_an_empty_one(scanner: TreeScanner, root: Path) -> None:
    """It may be gone by now; rustc will say what it misses."""
    tree = scanner.package(bytes(root / "gone"))
    assert shown(tree) == {}


def test_too_many_files(scanner: TreeScanner, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with a data set in it is not sent, and not hashed to its end."""
    monkeypatch.setattr(treescan, "MAX_FILES", 5)
    make(root, *(f"{number}" for number in range(5)))
    scanner.package(bytes(root))
    make(root, "one-more")
    with pytest.raises(TooLarge):
        scanner.package(bytes(root))


def test_too_deep_directories(scanner: TreeScanner, root: Path) -> None:
    """As too many files: an answer, not a crash of the daemon."""
    here = os.getcwd()
    os.chdir(root)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    try:
        with pytest.raises(TooLarge):
            scanner.package(bytes(root))
    finally:
        _remove_deep(root)


def _remove_deep(root: Path) -> None:
    """rmtree recurses; this turns the chain inside out instead."""
    fd = os.open(root, os.O_RDONLY)
    while "d" in os.listdir(fd):
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        deeper = "d" in os.listdir(inner)
        if deeper:
            os.rename("d", "rest", src_dir_fd=inner, dst_dir_fd=fd)
        os.close(inner)
        os.rmdir("d", dir_fd=fd)
        if deeper:
            os.rename("rest", "d", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)


def test_what_vanishes_during_the_scan_is_passed_over(root: Path, tmp_path: Path) -> None:
    """An editor's temporary file: neither shown nor hidden, for at home it is gone too."""
    make(root, "a", "b")
    index = Index(bytes(tmp_path / "cache" / "home.db"))

    class Deletes(StatCache):
        """The first file that is looked at takes the second one along."""

        def digest_of(self, path: bytes, info: os.stat_result) -> FileState | None:
            (root / "b").unlink(missing_ok=True)
            return super().digest_of(path, info)

    tree = TreeScanner(Deletes(index)).package(bytes(root))
    assert set(shown(tree)) == {"a"}
    assert tree.hidden == {}
    index.close()


# Outlines: trees that are shown where they lie


def test_an_outline_names_everything_and_reads_nothing(root: Path, tmp_path: Path) -> None:
    """Same files, names and links as the whole tree; a file is hashed when it is asked for."""
    make(root, "src/lib.rs", ".git/HEAD", "nested/Cargo.toml", "empty/")
    (root / "link").symlink_to("src")
    index = Index(bytes(tmp_path / "cache" / "home.db"))
    looked: list[bytes] = []

    class Watched(StatCache):
        def digest_of(self, path: bytes, info: os.stat_result) -> FileState | None:
            looked.append(path)
            return super().digest_of(path, info)

    outline = TreeScanner(Watched(index)).outline(bytes(root))
    whole = TreeScanner(StatCache(index)).whole(bytes(root))
    assert looked == []
    assert outline.directories == whole.directories
    assert outline.links == whole.links
    assert set(outline.files) == set(whole.files)
    assert outline.size_bytes == whole.size_bytes
    path = bytes(root / "src" / "lib.rs")
    assert outline.files[path] == whole.files[path]
    assert looked == [path]
    assert outline.files.get(b"/elsewhere") is None
    index.close()


def test_an_outline_notices_changes(scanner: TreeScanner, root: Path) -> None:
    """A file that is not what it was, or no file any more, has a digest that nothing has."""
    make(root, "a", "b", "c", "d")
    outline = scanner.outline(bytes(root))
    (root / "a").write_text("changed")
    (root / "b").unlink()
    (root / "c").unlink()
    (root / "c").symlink_to("d")
    digests = {name: outline.files[bytes(root / name)] for name in ("a", "b", "c", "d")}
    changed = treescan.CHANGED
    assert digests == {"a": changed, "b": changed, "c": changed, "d": Digest.of(b"d")}


def test_outlines_of_equal_states_are_equal(scanner: TreeScanner, root: Path) -> None:
    """And of any change they differ: one more name, a touched file, a link elsewhere."""
    make(root, "a", "b/c")
    digests = [scanner.outline(bytes(root)).digest]
    assert scanner.outline(bytes(root)).digest == digests[0]
    make(root, "new")
    digests.append(scanner.outline(bytes(root)).digest)
    os.utime(root / "b" / "c", ns=(1, 1))
    digests.append(scanner.outline(bytes(root)).digest)
    (root / "a").unlink()
    digests.append(scanner.outline(bytes(root)).digest)
    assert len(set(digests)) == len(digests)
