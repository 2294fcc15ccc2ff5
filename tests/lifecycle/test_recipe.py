"""The recipe's files: what they are known by, and its scripts, run in folders of their own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import pytest

from burst_lifecycle import recipe
from burst_lifecycle.errors import ServerProblem
from burst_lifecycle.recipe import Mirror, Recipe
from burst_protocol.errors import UsageError

FOLDER = Path(__file__).resolve().parents[2] / "image" / "recipe"
SCRIPTS = sorted(FOLDER.rglob("*.sh"))
PINNED = b"what is pinned\n"


def test_the_hash_is_over_everything() -> None:
    """Names and contents of all files; not their order, nor what an editor leaves behind."""
    one = Recipe({"run.sh": b"a", "versions": b"b"})
    same = Recipe({"versions": b"b", "run.sh": b"a"})
    assert one.fingerprint == same.fingerprint
    others = [{"run.sh": b"b", "versions": b"a"}, {"run.sh": b"ab", "versions": b""}]
    others += [{"run.sh": b"a"}, {"run.sh": b"a", "version": b"b"}]
    found = {Recipe(files).fingerprint for files in others}
    assert len(found | {one.fingerprint}) == 5
    assert re.fullmatch("[0-9a-f]{16}", one.fingerprint)


def test_the_archive() -> None:
    """Equal for equal recipes, scripts executable, nobody's."""
    found = recipe.packaged()
    assert found.archive() == recipe.packaged().archive()
    with tarfile.open(fileobj=io.BytesIO(found.archive())) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
    assert set(entries) == {f"recipe/{name}" for name in found.files}
    assert entries["recipe/run.sh"].mode == 0o755
    assert {(entry.uid, entry.mtime) for entry in entries.values()} == {(0, 0)}


def test_what_an_editor_leaves_is_no_part(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "recipe")
    before = recipe.read(tmp_path / "recipe").fingerprint
    (tmp_path / "recipe" / "versions~").write_text("old")
    (tmp_path / "recipe" / ".versions.swp").write_text("old")
    assert recipe.read(tmp_path / "recipe").fingerprint == before
    with pytest.raises(ServerProblem, match="no recipe"):
        recipe.read(tmp_path)


def test_every_line_of_versions() -> None:
    """Is of a known form; each file has a SHA-256, an https address, and both machines."""
    machines: dict[str, set[str]] = {}
    for line in (FOLDER / "versions").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        kind, *words = line.split(" ")
        match kind:
            case "toolchain":
                assert re.fullmatch(r"\d+\.\d+\.\d+", words[0])
            case "package":
                assert words[0] in {"any", "ubuntu", "debian"}
                assert len(words) == 2
            case "file":
                name, machine, version, sha256, url = words
                assert re.fullmatch("[0-9a-f]{64}", sha256)
                assert url.startswith("https://")
                assert version in url
                assert machine in url
                machines.setdefault(name, set()).add(machine)
            case _:
                pytest.fail(line)
    assert set(machines) == {"rustup-init", "cargo-nextest", "sccache"}
    assert all(found == {"x86_64", "aarch64"} for found in machines.values())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_posix(script: Path) -> None:
    """By the shell itself, and by shellcheck where it is installed."""
    subprocess.run(["sh", "-n", script], check=True)
    if shutil.which("shellcheck"):
        # Phases get their variables from run.sh and lib.sh.
        options = ["-s", "sh", "-e", "SC1091,SC2154,SC2164,SC1003,SC2034"]
        done = subprocess.run(
            ["shellcheck", *options, script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@attrs.frozen
class Shop:
    """A copy of the recipe, with one pinned file, and a place to work."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Shop:
        shutil.copytree(FOLDER, folder / "recipe")
        machine = os.uname().machine
        digest = hashlib.sha256(PINNED).hexdigest()
        line = f"file thing {machine} 1.0 {digest} https://127.0.0.1:9/thing\n"
        (folder / "recipe" / "versions").write_text(line)
        (folder / "work").mkdir()
        return cls(folder)

    @property
    def mirror(self) -> Path:
        return self.folder / "work" / "mirror"

    def sh(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = {"recipe": f"{self.folder}/recipe", "work": f"{self.folder}/work", "mirror": ""}
        return subprocess.run(
            ["sh", "-c", script],
            env={"PATH": os.environ["PATH"], **given, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def fetch(self, content: bytes | None) -> subprocess.CompletedProcess[str]:
        self.mirror.mkdir()
        if content is not None:
            (self.mirror / f"thing-{os.uname().machine}").write_bytes(content)
        script = '. "$recipe/lib.sh"; fetch thing "$work/got"'
        return self.sh(script, mirror=str(self.mirror))

    def check_mirror(self, source: str = "sent") -> subprocess.CompletedProcess[str]:
        script = 'sh "$recipe/phases/10-mirror.sh"'
        return self.sh(script, mirror=str(self.mirror), source=source)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop.open(tmp_path)


def test_a_mirror_gives_the_pinned_file(shop: Shop) -> None:
    assert shop.fetch(PINNED).returncode == 0
    assert (shop.folder / "work" / "got").read_bytes() == PINNED


def test_another_file_ends_the_bake(shop: Shop) -> None:
    """Mirror or not; and it is gone."""
    done = shop.fetch(b"what somebody put there\n")
    assert done.returncode == 1
    assert "thing 1.0 is not the file that versions names" in done.stderr
    assert not (shop.folder / "work" / "got").exists()


def test_what_a_mirror_lacks_is_not_fetched_elsewhere(shop: Shop) -> None:
    done = shop.fetch(None)
    assert done.returncode == 1
    assert "the mirror has neither" in done.stderr


def test_a_mirror_is_what_its_sums_say(shop: Shop) -> None:
    """All of it, and nothing else."""
    (shop.mirror / "rust").mkdir(parents=True)
    rustc = shop.mirror / "rust" / "rustc"
    rustc.write_text("#!/bin/sh\n")
    assert "no SHA256SUMS" in shop.check_mirror().stderr
    write_sums(shop.mirror)
    good = shop.check_mirror()
    assert good.returncode == 0, good.stderr
    assert "1 files" in good.stdout
    (shop.mirror / "more").write_text("x")
    assert "does not list more" in shop.check_mirror().stderr
    (shop.mirror / "more").unlink()
    rustc.write_text("#!/bin/sh\nevil\n")
    assert "is not what its SHA256SUMS says" in shop.check_mirror().stderr


def write_sums(folder: Path) -> None:
    """As the README says."""
    command = "find . -type f ! -name SHA256SUMS -exec sha256sum {} + >SHA256SUMS"
    subprocess.run(["sh", "-c", command], cwd=folder, check=True)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Over HTTP, as any web server does."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nobody reads it."""

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_a_mirror_at_a_url(shop: Shop, tmp_path: Path) -> None:
    """File by file, as its sums list them; programs are executable again."""
    there = tmp_path / "there"
    (there / "rust" / "bin").mkdir(parents=True)
    (there / "rust" / "bin" / "rustc").write_text("#!/bin/sh\n")
    (there / "apt").mkdir()
    (there / "apt" / "a b+c_1%3a2~3.deb").write_text("package")
    write_sums(there)
    with served(there) as url:
        done = shop.check_mirror(url)
        assert done.returncode == 0, done.stderr
        assert (shop.mirror / "apt" / "a b+c_1%3a2~3.deb").read_text() == "package"
        assert os.access(shop.mirror / "rust" / "bin" / "rustc", os.X_OK)
        sums = there / "SHA256SUMS"
        sums.write_text(sums.read_text() + f"{'0' * 64}  ../../outside\n")
        assert "the mirror lists ../../outside" in shop.check_mirror(url).stderr


def test_the_dead_man_hears_of_a_bake(tmp_path: Path) -> None:
    """As long as it goes on; what somebody put in the heartbeat's place is not written through."""
    (tmp_path / "run" / "burst").mkdir(parents=True)
    beat = tmp_path / "run" / "burst" / "heartbeat"
    beat.symlink_to(tmp_path / "elsewhere")
    with subprocess.Popen(["sleep", "600"]) as bake:
        beating = subprocess.Popen(
            ["sh", FOLDER / "beat.sh", str(bake.pid)],
            env={"PATH": os.environ["PATH"], "BURST_ROOT": str(tmp_path)},
        )
        try:
            give_up_s = time.monotonic() + 20
            while beat.is_symlink():
                assert time.monotonic() < give_up_s
                time.sleep(0.01)
            assert beat.read_text().strip().isdecimal()
            assert not (tmp_path / "elsewhere").exists()
        finally:
            bake.kill()
            beating.kill()
            beating.wait()
    done = subprocess.run(["sh", FOLDER / "beat.sh", str(bake.pid)], timeout=10, check=False)
    assert done.returncode == 0


def test_home_refuses_what_is_no_mirror(tmp_path: Path) -> None:
    """Before anything costs money."""
    assert Mirror.of("") is None
    for text in (str(tmp_path), "http://example.org/mirror", "ftp://x"):
        with pytest.raises(UsageError):
            Mirror.of(text)
    found = Mirror.of("https://example.org/mirror/")
    assert found is not None
    assert found.word == "https://example.org/mirror"


def test_a_folder_is_sent_whole(tmp_path: Path) -> None:
    """With its modes and links."""
    (tmp_path / "from" / "tools").mkdir(parents=True)
    (tmp_path / "from" / "SHA256SUMS").write_text("")
    program = tmp_path / "from" / "tools" / "program"
    program.write_bytes(b"x" * 700_000)
    program.chmod(0o755)
    (tmp_path / "from" / "tools" / "link").symlink_to("program")
    found = Mirror.of(str(tmp_path / "from"))
    assert found is not None
    assert found.word == "sent"

    async def receive() -> bytes:
        return b"".join([piece async for piece in found.stream()])

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(receive()))) as archive:
        entries = {entry.name: entry for entry in archive.getmembers()}
    assert entries["./tools/program"].size == 700_000
    assert entries["./tools/program"].mode & 0o777 == 0o755
    assert entries["./tools/link"].linkname == "program"


def test_cleaning_leaves_nothing_of_the_machine(tmp_path: Path) -> None:
    """In a folder instead of a machine: keys, ids, logs, histories go; the marker stays."""
    root = tmp_path / "root"
    gone = [
        "etc/ssh/ssh_host_ed25519_key",
        "etc/ssh/ssh_host_ed25519_key.pub",
        "root/.ssh/authorized_keys",
        "home/burst/.ssh/authorized_keys",
        "root/.bash_history",
        "var/lib/systemd/random-seed",
        "var/lib/dbus/machine-id",
        "var/lib/apt/lists/some_Packages",
        "var/lib/burst/created",
        "var/lib/burst/store/blob",
        "var/lib/cloud/instance/user-data.txt",
        "etc/burst/deadman.conf",
        "var/tmp/burst-bake/recipe/run.sh",
    ]
    kept = ["etc/burst/image.json", "etc/ssh/sshd_config", "opt/burst/agent/x/COMMAND"]
    emptied = ["etc/machine-id", "var/log/cloud-init.log"]
    for name in (*gone, *kept, *emptied):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("something\n")
    (root / "tmp").mkdir()
    # Commands about the machine itself are of no concern here.
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name in ("systemctl", "cloud-init", "apt-get", "journalctl", "fstrim", "chown", "sync"):
        (stubs / name).write_text("#!/bin/sh\nexit 0\n")
        (stubs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-s"],
        input=(FOLDER / "clean.sh").read_text(),
        env={"PATH": f"{stubs}:{os.environ['PATH']}", "BURST_ROOT": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "burst-clean ok", done.stderr
    assert [name for name in gone if (root / name).exists()] == []
    assert all((root / name).read_text() == "something\n" for name in kept)
    assert all((root / name).read_text() == "" for name in emptied)
