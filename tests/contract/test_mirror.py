"""Home and agent together: what is sent, in how many round trips, and what comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from burst_protocol.errors import AgentGone, DiskFull, SourceUnreadable, TooMuch
from burst_wrapper.index import Index
from burst_wrapper.mirror import weight
from burst_wrapper.mirror.snapshot import Project, Snapshots
from burst_wrapper.statcache import StatCache
from faults import small_disk
from mirror_home import Workspace, put, remote_agent, without_folders, workspace
from mirrors import L, Tree, X
from sshd import PLAIN_UID

TREE: Tree = {
    b"Cargo.toml": b'[package]\nname = "ws"\n',
    b"Cargo.lock": b"version = 4\n",
    b"src/main.rs": b"fn main() {}\n",
    b"src/a/b/c.rs": b"// c\n",
    b"run.sh": X(b"#!/bin/sh\n"),
    b"link": L(b"src/main.rs"),
    b"fixtures/odd \n \xff\xfe": b"odd",
}


def run(base: Path, scenario: Callable[[Workspace], Awaitable[None]]) -> None:
    async def main() -> None:
        async with workspace(base) as made:
            await scenario(made)

    asyncio.run(main())


def read(path: bytes) -> bytes:
    return Path(os.fsdecode(path)).read_bytes()


def test_first_again_and_one_file(tmp_path: Path) -> None:
    """Nothing changed: one round trip of a few hundred bytes. One file: it and the folders above,
    in one round trip too."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        first = await ws.sync()
        assert ws.tree() == without_folders(TREE)
        assert first.files == len(TREE)
        again = await ws.sync()
        assert (again.round_trips, again.files, again.removed) == (1, 0, 0)
        assert again.bytes_sent < 300
        ws.write({b"src/a/b/c.rs": b"// changed\n"})
        one = await ws.sync()
        assert (one.round_trips, one.files, one.removed) == (1, 1, 0)
        assert one.bytes_sent < 1500
        assert ws.tree() == without_folders({**TREE, b"src/a/b/c.rs": b"// changed\n"})
        (ws.top / "src/a/b/c.rs").unlink()
        gone = await ws.sync()
        assert (gone.round_trips, gone.files, gone.removed) == (1, 0, 1)

    run(tmp_path, scenario)


def test_what_stays_at_home(tmp_path: Path) -> None:
    """Outputs, git's own, what is ignored at any level, secrets; `exclude` and `unexclude`."""
    kept: Tree = {
        **TREE,
        b".gitignore": b"*.log\n/data/\n!keep.log\n",
        b"keep.log": b"kept",
        b"crates/x/.gitignore": b"gen/*\n!gen/this.rs\n",
        b"crates/x/gen/this.rs": b"this",
        b"src/target/mod.rs": b"a source folder of that name",
        b".cargo/config.toml": b"[build]\n",
        b".sqlx/query.json": b"{}",
        b"notes/a.txt": b"a",
        b"data/wanted/x": b"named",
        b"tests/cert.pem": b"a public one",
    }
    stays: Tree = {
        b"a.log": b"",
        b"deep/er/b.log": b"",
        b"data/huge": b"",
        b"crates/x/gen/other.rs": b"",
        b"target/debug/x": b"",
        b"other-target/CACHEDIR.TAG": b"Signature",
        b"other-target/x": b"",
        b".git/HEAD": b"ref: refs/heads/main\n",
        b"node_modules/m/index.js": b"",
        b".env": b"PASSWORD=1",
        b"sub/.env.local": b"PASSWORD=1",
        b"private.key": b"",
        b"notes/b.txt": b"",
    }

    async def scenario(ws: Workspace) -> None:
        ws.write(kept)
        ws.write(stays)
        ws.changes = {
            "exclude": ("notes/b.*",),
            "unexclude": ("tests/cert.pem", "/data/wanted/"),
        }
        synced = await ws.sync()
        assert ws.tree() == without_folders(kept)
        assert ws.relative(synced.secrets) == [".env", "private.key", "sub/.env.local"]

    run(tmp_path, scenario)


def test_changed_patterns(tmp_path: Path) -> None:
    """A new `.gitignore` takes away what it names, and gives it back when it is gone."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        await ws.sync()
        ws.write({b".gitignore": b"/src/a/\n"})
        await ws.sync()
        assert b"src/a/b/c.rs" not in ws.tree()
        ws.write({b".gitignore": b"# nothing\n"})
        await ws.sync()
        assert b"src/a/b/c.rs" in ws.tree()
        ws.changes = {"exclude": ("src/",)}
        await ws.sync()
        assert b"src/main.rs" not in ws.tree()

    run(tmp_path, scenario)


def test_folders_outside(tmp_path: Path) -> None:
    """Path dependencies, theirs, patches, and cargo's configuration above; no token."""
    manifest = b"""
[workspace]
members = ["crates/*"]
[patch.crates-io]
patched = { path = "../patched" }
"""
    member = b'[dependencies]\nbeside = { path = "../../../beside" }\n'

    async def scenario(ws: Workspace) -> None:
        home = ws.top.parent
        ws.write({b"Cargo.toml": manifest, b"crates/one/Cargo.toml": member})
        put(home / "beside", {b"Cargo.toml": b'[build-dependencies]\nfar = {path="../far"}\n'})
        put(home / "far", {b"Cargo.toml": b"", b"src/lib.rs": b"", b".env": b"", b"target/x": b""})
        put(home / "patched", {b"Cargo.toml": b"", b"src/lib.rs": b""})
        put(home / "unrelated", {b"Cargo.toml": b""})
        config = b'[patch.crates-io]\nby-config = { path = "by-config" }\n'
        put(home / ".cargo", {b"config.toml": config, b"credentials.toml": b""})
        put(home / "by-config", {b"Cargo.toml": b"", b"src/lib.rs": b""})
        put(tmp_path / ".cargo", {b"config.toml": b'[registries.mine]\ntoken = "secret"\n'})
        await ws.sync()
        for path in (
            "beside/Cargo.toml",
            "far/src/lib.rs",
            "patched/src/lib.rs",
            "by-config/src/lib.rs",
            ".cargo/config.toml",
        ):
            assert ws.there_of(home / path).is_file()
        for absent in (home / "unrelated", home / "far/.env", home / ".cargo/credentials.toml",
                     tmp_path / ".cargo"):  # fmt: skip
            assert not ws.there_of(absent).exists()

    run(tmp_path, scenario)


def test_what_units_read(tmp_path: Path) -> None:
    """It goes though it is ignored, or lies outside; secrets do not."""
    reads: list[bytes] = []

    async def main() -> None:
        async with workspace(tmp_path, observed=lambda: reads) as ws:
            ws.write(
                {**TREE, b".gitignore": b"gen/\n", b"gen/code.rs": b"gen", b"gen/more.rs": b""}
            )
            ws.write({b".env": b"secret", b"target/debug/out.rs": b""})
            put(ws.top.parent / "shared", {b"VERSION": b"1", b"other": b""})
            await ws.sync()
            assert b"gen/code.rs" not in ws.tree()
            shared = ws.top.parent / "shared/VERSION"
            names = ("gen/code.rs", ".env", "target/debug/out.rs", "src/main.rs")
            reads.extend(os.fsencode(ws.top / name) for name in names)
            reads.extend((os.fsencode(shared), b"/etc/passwd", b"/nonexistent"))
            await ws.sync()
            assert ws.tree()[b"gen/code.rs"] == b"gen"
            assert b"gen/more.rs" not in ws.tree()
            assert b".env" not in ws.tree()
            assert b"target/debug/out.rs" not in ws.tree()
            assert ws.there_of(shared).read_bytes() == b"1"
            assert not ws.there_of(shared.parent / "other").exists()
            assert not ws.there_of(Path("/etc/passwd")).exists()
            again = await ws.sync()
            assert (again.round_trips, again.files) == (1, 0)

    asyncio.run(main())


def test_fetch(tmp_path: Path) -> None:
    """New and changed files come back, once; what changed at home meanwhile is kept beside."""

    async def scenario(ws: Workspace) -> None:
        ws.write({**TREE, b"s.snap": b"old", b"mine.snap": b"old", b"gone.snap": b"old"})
        await ws.sync()
        put(ws.there, {b"tests/new.snap": b"new", b"s.snap": b"new", b"mine.snap": b"theirs",
                       b"gone.snap": b"new", b"tool": X(b"x"), b"other": b""})  # fmt: skip
        ws.write({b"mine.snap": b"mine"})
        (ws.top / "gone.snap").unlink()
        back = await ws.fetch("*.snap", "tool")
        assert ws.relative(back.files) == ["s.snap", "tests/new.snap", "tool"]
        assert (ws.top / "s.snap").read_bytes() == b"new"
        assert os.access(ws.top / "tool", os.X_OK)
        assert (ws.top / "mine.snap").read_bytes() == b"mine"
        assert not (ws.top / "gone.snap").exists()
        assert not (ws.top / "other").exists()
        kept = {ws.relative([c.path])[0]: read(c.kept) for c in back.conflicts}
        assert kept == {"mine.snap": b"theirs", "gone.snap": b"new"}
        again = await ws.fetch("*.snap", "tool")
        assert again.files == ()
        put(ws.there, {b"s.snap": b"newer"})
        assert (await ws.fetch("s.snap")).conflicts == ()
        assert (ws.top / "s.snap").read_bytes() == b"newer"
        await ws.sync()
        assert ws.tree()[b"mine.snap"] == b"mine"
        assert b"gone.snap" not in ws.tree()
        (ws.top / "tests/new.snap").unlink()
        await ws.sync()
        assert b"tests/new.snap" not in ws.tree(), "what was fetched is home's"

    run(tmp_path, scenario)


def test_outputs_come_back_again_and_again(tmp_path: Path) -> None:
    """What home never sends may be replaced by newer ones, unless it was written meanwhile."""

    async def scenario(ws: Workspace) -> None:
        ws.write({**TREE, b".gitignore": b"/out/\n"})
        for number in (b"1", b"2"):
            await ws.sync()
            put(ws.there, {b"out/report": number})
            back = await ws.fetch("out/")
            assert back.conflicts == ()
            assert (ws.top / "out/report").read_bytes() == number
        await ws.sync()
        assert ws.tree()[b"out/report"] == b"2", "it is not home's to remove"
        put(ws.there, {b"out/report": b"3"})
        ws.write({b"out/report": b"mine"})
        assert len((await ws.fetch("out/")).conflicts) == 1

    run(tmp_path, scenario)


def test_fetch_goes_through_no_link(tmp_path: Path) -> None:
    """Neither at home, nor into `.git`."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        await ws.sync()
        (tmp_path / "elsewhere").mkdir()
        (ws.top / "src/dir").symlink_to(tmp_path / "elsewhere")
        put(ws.there, {b"src/dir/file": b"x", b".git/hooks/post-commit": X(b"x")})
        back = await ws.fetch("src/dir/**", ".git/**")
        assert back.files == ()
        assert len(back.conflicts) == 2
        assert not list((tmp_path / "elsewhere").iterdir())
        assert not (ws.top / ".git").exists()

    run(tmp_path, scenario)


def as_somebody_else(work: Callable[[], str]) -> str:
    """What it returns in a process that is not root's: root reads everything."""
    if os.geteuid() != 0:
        return work()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(PLAIN_UID)
            os.setuid(PLAIN_UID)
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.mark.parametrize("name", ["locked", "locked-folder"])
def test_what_cannot_be_read(name: str) -> None:
    """A clear error that names it, with a hint; excluded, it is no matter."""
    # Not tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory(prefix="burst-locked-") as base:
        top = Path(base, "ws")
        put(top, {b"Cargo.toml": b"", b"locked": b"", b"locked-folder/x": b""})
        Path(base).chmod(0o755)
        (top / name).chmod(0)

        def look(*exclude: str) -> str:
            root = os.fsencode(top)
            project = Project(root, root + b"/target", exclude=exclude)
            snapshots = Snapshots(StatCache(Index(b"/dev/null/index")))
            try:
                return str(len(snapshots.take(project).paths))
            except SourceUnreadable as error:
                return f"{error}|{error.hint}"

        error, _, hint = as_somebody_else(look).partition("|")
        rest = as_somebody_else(lambda: look("/locked*"))
        (top / name).chmod(0o700)
    assert error == f"cannot read {top / name}: Permission denied"
    assert "exclude" in hint
    assert rest == "1"


def test_too_much(tmp_path: Path) -> None:
    """Nothing is read before it was asked; the biggest entries are named."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        os.truncate(os.open(ws.top / "huge.bin", os.O_RDWR | os.O_CREAT), weight.LIMIT_BYTES + 1)
        with pytest.raises(TooMuch) as caught:
            await ws.sync()
        assert "huge.bin" in str(caught.value)
        ws.changes = {"exclude": ("*.bin",)}
        await ws.sync()

    run(tmp_path, scenario)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
@pytest.mark.parametrize("megabytes", [3, 8])
def test_a_full_disk_there(tmp_path: Path, megabytes: int) -> None:
    """While blobs come in, or while they are laid out: DiskFull with a hint, and the mirror is what
    it was; with less to send it goes on."""
    (tmp_path / "agent").mkdir()
    noise = {b"noise/%d" % number: os.urandom(500_000) for number in range(10)}

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        await ws.sync()
        ws.write({**noise, b"src/main.rs": b"// newer\n"})
        with pytest.raises(DiskFull) as caught:
            await ws.sync()
        assert caught.value.hint
        assert ws.tree() == without_folders(TREE)
        shutil.rmtree(ws.top / "noise")
        await ws.sync()
        assert ws.tree() == without_folders({**TREE, b"src/main.rs": b"// newer\n"})

    with small_disk(tmp_path / "agent", megabytes * 10**6):
        run(tmp_path, scenario)


def test_a_file_that_changes_while_it_is_sent(tmp_path: Path) -> None:
    """What was hashed is not there any more: home is looked at again, and never half of both."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        uploader = ws.executor.uploader
        real, turns = uploader.send, 0

        async def send(*words: Any) -> int:
            nonlocal turns
            turns += 1
            if turns < 4:
                ws.write({b"src/main.rs": b"// turn %d\n" % turns})
            return await real(*words)

        uploader.send = send  # type: ignore[method-assign, assignment]
        await ws.sync()
        assert turns >= 4
        assert ws.tree() == without_folders({**TREE, b"src/main.rs": b"// turn 3\n"})

    run(tmp_path, scenario)


def test_an_agent_that_goes_meanwhile(tmp_path: Path) -> None:
    """The error of the link, and the next agent is brought all that it lacks."""

    async def scenario(ws: Workspace) -> None:
        ws.write(TREE)
        await ws.sync()
        await ws.executor.link.close()
        ws.write({b"src/main.rs": b"// newer\n"})
        with pytest.raises(AgentGone):
            await ws.sync()
        async with remote_agent(tmp_path / "agent", tmp_path / "spool2") as executor:
            ws.executor = executor
            again = await ws.sync()
            assert (again.files, again.removed) == (1, 0)
            assert ws.tree()[b"src/main.rs"] == b"// newer\n"

    run(tmp_path, scenario)
