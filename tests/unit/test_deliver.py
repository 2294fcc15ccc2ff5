"""burst_wrapper.daemon.deliver: outputs of one unit, from blobs to renamed files."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from burst_protocol.action import OutputFile
from burst_protocol.digest import Digest
from burst_protocol.errors import BlobMissing, DigestMismatch
from burst_wrapper.daemon.client import Client
from burst_wrapper.daemon.deliver import Delivery
from burst_wrapper.outputs import Placed, Placer
from fake_plan import Home


class Wrapper(asyncio.WriteTransport):
    """Does with renames what the wrapper does."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False

    def write(self, data: Any) -> None:
        data = bytes(data)
        while data:
            end = 5 + int.from_bytes(data[1:5], "little")
            if data[:1] == b"R":
                names = data[5:end].split(b"\0")
                for temporary, final in zip(names[::2], names[1::2], strict=True):
                    os.rename(temporary, final)
            data = data[end:]

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True


@attrs.define
class Case:
    """A delivery into a target directory, and a store to deliver from."""

    machine: Home
    store: Path
    client: Client
    delivery: Delivery

    def output(self, path: str, content: bytes, *, executable: bool = False) -> OutputFile:
        (self.store / Digest.of(content).hex).write_bytes(content)
        return OutputFile(path.encode(), Digest.of(content), executable)

    async def place(self, output: OutputFile, origin: bytes | None = None) -> None:
        blob = bytes(self.store / output.digest.hex)
        await self.delivery.place(output, blob, origin or bytes(self.machine.out_dir))

    async def commit(self) -> None:
        self.delivery.commit()
        await asyncio.sleep(0)

    def files(self) -> dict[str, bytes]:
        out_dir = self.machine.out_dir
        return {
            str(path.relative_to(out_dir)): path.read_bytes()
            for path in out_dir.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def case(machine: Home, tmp_path: Path) -> Iterator[Case]:
    store, scratch = tmp_path / "store", tmp_path / "scratch"
    store.mkdir()
    scratch.mkdir()
    client = Client(Wrapper(), 1)
    delivery = Delivery(machine.plan(), client, Placer(), machine.stats, bytes(scratch))
    yield Case(machine, store, client, delivery)
    assert list(scratch.iterdir()) == []


def test_files_get_their_names_together_and_one_time_stamp(case: Case) -> None:
    """Until `commit` there is only what nobody looks at; afterwards the digests are known."""

    async def scenario() -> None:
        await case.place(case.output("libapp-0123.rmeta", b"metadata"))
        await case.place(case.output("app-0123.d", b"app: src/lib.rs\n"))
        assert all(name.startswith(".burst-") for name in case.files())
        await case.commit()
        assert case.files() == {
            "libapp-0123.rmeta": b"metadata",
            "app-0123.d": b"app: src/lib.rs\n",
        }
        await case.place(case.output("libapp-0123.rlib", b"x" * 3_000_000, executable=True))
        await case.commit()

    asyncio.run(scenario())
    infos = [path.stat() for path in case.machine.out_dir.iterdir()]
    assert len({info.st_mtime_ns for info in infos}) == 1
    assert (case.machine.out_dir / "libapp-0123.rlib").stat().st_mode & 0o777 == 0o755
    path = bytes(case.machine.out_dir / "libapp-0123.rmeta")
    known = case.machine.index.file(path)
    assert known is not None
    assert known[4] == Digest.of(b"metadata").hash
    assert case.delivery.placed_bytes == 3_000_000 + len(b"metadata") + len(b"app: src/lib.rs\n")


def test_dependents_are_prepared_for_before_a_name_appears(case: Case) -> None:
    """cargo may start them the moment the metadata has its name."""
    told: list[tuple[bytes, set[str]]] = []

    def before(output: OutputFile) -> None:
        told.append((output.path, {n for n in case.files() if not n.startswith(".burst-")}))

    case.delivery.before_rename = before

    async def scenario() -> None:
        await case.place(case.output("libapp-0123.rmeta", b"metadata"))
        await case.commit()

    asyncio.run(scenario())
    assert told == [(b"libapp-0123.rmeta", set())]


def test_a_second_run_delivers_only_what_is_new(case: Case) -> None:
    """Equal files once; other metadata never, for somebody may have read the first."""

    async def scenario() -> None:
        metadata = case.output("libapp-0123.rmeta", b"metadata")
        await case.place(metadata)
        await case.place(case.output("libapp-0123.rlib", b"first"))
        await case.commit()
        before = (case.machine.out_dir / "libapp-0123.rmeta").stat().st_ino
        await case.place(metadata)
        await case.place(case.output("libapp-0123.rlib", b"second"))
        await case.commit()
        assert (case.machine.out_dir / "libapp-0123.rmeta").stat().st_ino == before
        assert case.files()["libapp-0123.rlib"] == b"second"
        with pytest.raises(DigestMismatch, match="second run"):
            await case.place(case.output("libapp-0123.rmeta", b"other"))

    asyncio.run(scenario())


def test_what_is_dropped_was_never_there(case: Case) -> None:
    """Temporary files go; the same output can be placed again."""

    async def scenario() -> None:
        output = case.output("libapp-0123.rmeta", b"metadata")
        await case.place(output)
        case.delivery.drop()
        assert case.files() == {}
        assert case.delivery.delivered == {}
        await case.place(output)
        await case.commit()
        case.delivery.drop()
        assert case.files() == {"libapp-0123.rmeta": b"metadata"}

    asyncio.run(scenario())


def test_after_the_wrapper_is_gone_nothing_gets_a_name(case: Case) -> None:
    """However late the daemon is."""

    async def scenario() -> None:
        await case.place(case.output("libapp-0123.rmeta", b"metadata"))
        case.client.gone.set()
        await case.commit()

    asyncio.run(scenario())
    assert not (case.machine.out_dir / "libapp-0123.rmeta").exists()


def test_folders_of_saved_temporaries(case: Case) -> None:
    """Made below the out-dir, under the caller's umask."""

    async def scenario() -> None:
        await case.place(case.output("app.rcgu/deep/a.o", b"object"))
        await case.place(case.output("app.rcgu/b.o", b"object"))
        await case.commit()

    asyncio.run(scenario())
    assert set(case.files()) == {"app.rcgu/deep/a.o", "app.rcgu/b.o"}
    assert (case.machine.out_dir / "app.rcgu").stat().st_mode & 0o777 == 0o755


def test_dep_info_of_another_target_directory_is_rewritten(case: Case) -> None:
    """It names its own out-dir; so do artifact lines. Other files are as they were."""
    origin = b"/elsewhere/target/debug/deps"
    ours = bytes(case.machine.out_dir)

    async def scenario() -> None:
        text = origin + b"/app-0123.d: src/lib.rs\n"
        await case.place(case.output("app-0123.d", text), origin)
        await case.place(case.output("libapp-0123.rmeta", origin), origin)
        await case.commit()

    asyncio.run(scenario())
    assert case.files()["app-0123.d"] == ours + b"/app-0123.d: src/lib.rs\n"
    assert case.files()["libapp-0123.rmeta"] == origin
    line = b'{"$message_type":"artifact","artifact":"%s/app-0123.d","emit":"dep-info"}\n'
    assert case.delivery.line(line % origin, origin) == line % ours
    assert case.delivery.line(line % origin, ours) == line % origin


def test_a_blob_that_is_gone_or_damaged(case: Case) -> None:
    """The error says so, and nothing is left behind."""

    async def scenario(output: OutputFile, origin: bytes | None) -> None:
        (case.store / output.digest.hex).write_bytes(b"damaged")
        with pytest.raises(DigestMismatch):
            await case.place(output, origin)
        (case.store / output.digest.hex).unlink()
        with pytest.raises(BlobMissing):
            await case.place(output, origin)
        assert case.delivery.delivered == {}

    asyncio.run(scenario(case.output("libapp-0123.rlib", b"content"), None))
    asyncio.run(scenario(case.output("app-0123.d", b"a: b"), b"/elsewhere/debug/deps"))
    assert case.files() == {}


def test_a_cancelled_placement_is_over_when_it_says_so(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer call for the same outputs waits for that; no copy is written afterwards."""
    real = Placer.place
    started, go_on = asyncio.Event(), asyncio.Event()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def slow(self: Placer, *args: Any, **options: Any) -> Placed:
            loop.call_soon_threadsafe(started.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return real(self, *args, **options)

        monkeypatch.setattr(Placer, "place", slow)
        output = case.output("libapp-0123.rlib", b"x" * 3_000_000)
        placing = asyncio.create_task(case.place(output))
        await started.wait()
        placing.cancel()
        await asyncio.sleep(0)
        assert not placing.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await placing
        assert case.files() == {}

    asyncio.run(scenario())
