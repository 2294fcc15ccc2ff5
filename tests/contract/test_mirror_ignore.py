"""What `.gitignore` files mean, compared with git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from burst_wrapper.index import Index
from burst_wrapper.mirror.snapshot import Project, Snapshots
from burst_wrapper.statcache import StatCache
from tiers import EVERYTHING

NAMES = ("a", "b", "c.log", "d d", "e!", "#f", "g\n", "\udcff", "[h]", "aa")
FOLDERS = ("", "a/", "b/", "a/b/", "a/b/a/", "b/a/")
PATTERNS = (
    "a", "b/", "/a", "/a/", "*.log", "!c.log", "a/b", "a/*", "a/**", "**/b", "**/a/", "a/**/b",
    "*", "!*/", "!a", "!/a/b", "?", "[ab]", "[!a]", "\\#f", "#f", "e!", "\\!x", "d d", "d d ",
    "d\\ ",
    "b/*", "!b/a", "/*", "!/a", "**", "aa*", "*a", "\\[h\\]", "[", "a[", "a\\", "", "  ", "g*",
    "*/a",
    "/**/a", "b/**/", "!**/c.log", "a/b/*", "!a/b/a", "*.log\r", "a//b", "./a",
)  # fmt: skip


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    top = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q"], cwd=top, check=True)
    return top


def write(top: Path, files: dict[str, bytes]) -> None:
    for entry in top.iterdir():
        if entry.name != ".git":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name, data in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def gits(top: Path, environ: dict[str, str]) -> set[bytes]:
    words = ["git", "ls-files", "-z", "--others", "--cached", "--exclude-standard"]
    done = subprocess.run(words, cwd=top, check=True, capture_output=True, env=environ)
    return {name for name in done.stdout.split(b"\0") if name}


def ours(top: Path, environ: dict[str, str]) -> set[bytes]:
    index = Index(os.fsencode(top.parent / "index.db"))
    root = os.fsencode(top)
    env = {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}
    found = Snapshots(StatCache(index)).take(Project(root, root + b"/target", environ=env))
    index.close()
    return {path[len(root) + 1 :] for path in found.paths}


def environment(home: Path) -> dict[str, str]:
    home.mkdir(exist_ok=True)
    return {"HOME": str(home), "PATH": os.environ["PATH"]}


@settings(
    max_examples=1000 if EVERYTHING else 40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    files=st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)), max_size=12),
    patterns=st.dictionaries(
        st.sampled_from(("", "a/", "a/b/", "b/")),
        st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=5),
        min_size=1,
        max_size=3,
    ),
)
def test_as_git_does(
    repository: Path, files: set[tuple[str, str]], patterns: dict[str, list[str]]
) -> None:
    """Nested files, negation, folders, anchors, escapes, bytes that are no text."""
    content = {folder + name: b"x" for folder, name in files}
    # A name cannot be a file and a folder.
    folders = {path[:at] for path in content for at in range(len(path)) if path[at] == "/"}
    folders |= {folder.rstrip("/") for folder in patterns} | {"a"}
    content = {name: data for name, data in content.items() if name not in folders}
    for folder, lines in patterns.items():
        content[folder + ".gitignore"] = "\n".join(lines).encode() + b"\n"
    write(repository, content)
    environ = environment(repository.parent / "home")
    assert ours(repository, environ) == gits(repository, environ)


def test_what_git_knows_besides(repository: Path) -> None:
    """`.git/info/exclude`, the user's own file (named in the configuration, or at its usual place),
    patterns above the workspace, and files that are tracked though they are ignored."""
    names = ("kept", "by-info", "by-user", "above.tmp", "tracked.log", "other.log")
    files = {f"sub/{name}": b"x" for name in names}
    write(repository, {**files, ".gitignore": b"*.tmp\n", "sub/.gitignore": b"*.log\n"})
    (repository / ".git/info/exclude").write_text("by-info\n")
    home = repository.parent / "home2"
    environ = environment(home)
    (home / "ignored").write_text("by-user\n")
    (home / ".gitconfig").write_text("[core]\n\texcludesFile = ~/ignored\n")
    subprocess.run(["git", "add", "-f", "sub/tracked.log"], cwd=repository, check=True)
    sub = repository / "sub"
    expected = {b".gitignore", b"kept", b"tracked.log"}
    assert ours(sub, environ) == expected == gits(sub, environ)
    (home / ".gitconfig").unlink()
    assert b"by-user" in ours(sub, environ)
    (home / ".config/git").mkdir(parents=True)
    (home / ".config/git/ignore").write_text("by-user\n")
    assert ours(sub, environ) == expected == gits(sub, environ)
    assert ours(sub, {**environ, "PATH": "/nonexistent"}) == {b".gitignore", b"kept"}
    subprocess.run(["git", "rm", "-q", "--cached", "sub/tracked.log"], cwd=repository, check=True)
    (repository / ".git/info/exclude").write_text("")


def test_a_repository_within(repository: Path) -> None:
    """A submodule, say: the outer one's patterns do not hold in it."""
    write(repository, {".gitignore": b"*.log\n", "sub/a.log": b"", "sub/b": b"", "c.log": b""})
    subprocess.run(["git", "init", "-q", "sub"], cwd=repository, check=True)
    environ = environment(repository.parent / "home3")
    assert ours(repository, environ) == {b".gitignore", b"sub/a.log", b"sub/b"}
    shutil.rmtree(repository / "sub")


def test_a_worktree(repository: Path, tmp_path: Path) -> None:
    """`.git` is a file there, and the excludes are the main one's."""
    write(repository, {"x": b""})
    named = ("-c", "user.name=b", "-c", "user.email=b@b")
    subprocess.run(["git", "add", "x"], cwd=repository, check=True)
    subprocess.run(["git", *named, "commit", "-qm", "x"], cwd=repository, check=True)
    tree = tmp_path / "tree"
    subprocess.run(["git", "worktree", "add", "-q", str(tree)], cwd=repository, check=True)
    (repository / ".git/info/exclude").write_text("secret-plan\n")
    (tree / "secret-plan").write_text("")
    environ = environment(repository.parent / "home4")
    assert ours(tree, environ) == {b"x"} == gits(tree, environ)
