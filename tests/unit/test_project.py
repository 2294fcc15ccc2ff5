"""Which folders are one project: git's own files, read without git; made by the real git."""

import subprocess
from pathlib import Path

from burst_lifecycle.project import find, nearest_workspace


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "Cargo.lock").write_text("version = 4\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "x")
    return folder


def test_worktrees_are_one_project(tmp_path: Path) -> None:
    """Ten agents in ten worktrees share one volume; a clone is another project."""
    main = repository(tmp_path / "main")
    git(main, "worktree", "add", "-q", str(tmp_path / "other"))
    git(tmp_path, "clone", "-q", str(main), str(tmp_path / "clone"))
    first = find(str(main))
    assert find(str(tmp_path / "other")).key == first.key
    assert find(str(main / "crates/deep")).key == first.key
    assert find(str(tmp_path / "clone")).key != first.key
    assert len(first.key) == 16


def test_a_submodule_is_a_project_of_its_own(tmp_path: Path) -> None:
    """Its git directory lies within the other's, and is another one."""
    inner = repository(tmp_path / "inner")
    outer = repository(tmp_path / "outer")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    assert find(str(outer / "sub")).key not in {find(str(outer)).key, find(str(inner)).key}


def test_without_git_it_is_the_workspace(tmp_path: Path) -> None:
    """By its real path: a link to it is the same project."""
    (tmp_path / "app").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "app")
    assert find(str(tmp_path / "link")) == find(str(tmp_path / "app"))
    assert find(str(tmp_path / "app")).identity == str((tmp_path / "app").resolve())


def test_a_git_file_that_leads_nowhere(tmp_path: Path) -> None:
    """Never an error: the workspace itself, then."""
    (tmp_path / ".git").write_text("gitdir: /nowhere/at/all\n")
    assert find(str(tmp_path)).identity == str(tmp_path.resolve())
    (tmp_path / ".git").write_bytes(b"\xff\xfe")
    assert find(str(tmp_path)).identity == str(tmp_path.resolve())


def test_the_workspace_of_a_member(tmp_path: Path) -> None:
    """Cargo's one lock file lies in the root."""
    (tmp_path / "Cargo.lock").touch()
    (tmp_path / "crates/a").mkdir(parents=True)
    assert nearest_workspace(str(tmp_path / "crates/a")) == str(tmp_path.resolve())
    assert nearest_workspace("/proc/self") == "/proc/self"
