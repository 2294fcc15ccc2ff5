"""Agent and daemon killed, hanging, missing, damaged: cargo's result stays that of plain cargo.

Each test builds plainly first, then through burst while something is broken.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

import faults
from builds import machine, with_project
from faults import (
    Phase,
    Running,
    agent_pid,
    daemon_pid,
    damage,
    hold,
    kill,
    refused,
    same,
    socket_path,
    until,
)
from space import BURST_RUSTC, Space, without_waiting
from tiers import thorough

pytest_plugins = ("space_fixtures",)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def build(space: Space, **env: str) -> None:
    """A build that must work remotely, from an empty target/."""
    space.fresh_target()
    space.cargo("build", **env).check()


FALLBACK = {"BURST_REQUIRE_REMOTE": "0"}


# --- the embedded agent ---


def test_an_agent_killed_between_builds_is_started_again(space: Space) -> None:
    """Nobody notices: nothing falls back, and what it stored is still there."""
    expected = faults.plain(space)
    build(space)
    kill(agent_pid(space))
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"hit"}


def test_what_was_built_is_written_down_while_nobody_asks() -> None:
    """It waits until no unit is waited for, and no longer: a daemon that is killed then has lost
    nothing."""
    with machine(CARGO_INCREMENTAL="0") as space:
        project = with_project(space, "codegen")
        project.cargo("build", "--offline").check()
        built = len(project.units())
        assert set(project.where().values()) == {"remote"}
        results = project.store / "actions"
        until(lambda: sum(path.is_file() for path in results.rglob("*")) >= built, "all results")
        kill(daemon_pid(project))
        project.fresh_target()
        project.cargo("build", "--offline").check()
        assert set(project.where().values()) == {"hit"}


@pytest.mark.parametrize("phase", faults.PHASES)
def test_an_agent_killed_in_mid_unit(space: Space, phase: Phase) -> None:
    """Before anything was shown, after the dep-info line, after the metadata is in use: the unit
    goes on at home and says nothing twice; the others are remote again."""
    shutil.rmtree(space.project)
    space.write(faults.held_project(phase))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        hold(space, phase)
        kill(agent_pid(space))
        same(space, expected, cargo.finish())
    assert faults.unit(space, "held")["reason"] == "agent-gone"
    assert faults.unit(space, "app")["where"] == "remote"
    done = space.cargo("build", "-v").check()
    assert done.stderr.count(" Fresh ") == len(list(space.project.glob("*/Cargo.toml")))


@pytest.mark.parametrize("phase", thorough(["generating"], faults.PHASES))
def test_an_agent_killed_in_mid_unit_is_an_error_where_remote_is_required(
    space: Space, phase: Phase
) -> None:
    """One error for the unit; the next build works."""
    space.write(faults.held_project(phase))
    with Running.start(space, "build", "-p", "held", BURST_REQUIRE_REMOTE="1") as cargo:
        hold(space, phase)
        kill(agent_pid(space))
        refused(cargo.finish(), about="the agent ended")
    assert faults.unit(space, "held")["where"] == "failed"
    assert faults.reasons(space) == {"agent-gone": 1}
    space.cargo("build", "-p", "held").check()


def test_incremental_state_of_a_killed_agent_is_not_used(space: Space) -> None:
    """Killed while it compiled an edited crate: the next build is right."""
    space.env["CARGO_INCREMENTAL"] = "1"
    space.write(faults.held_project("checking"))
    space.cargo("build").check()
    library = space.project / "held" / "src" / "lib.rs"
    library.write_text(library.read_text().replace("    7\n", "    70\n"))
    with Running.start(space, "build", "-p", "held") as cargo:
        hold(space, "checking")
        kill(agent_pid(space))
        assert cargo.finish().status == 0
    library.write_text(library.read_text().replace("    70\n", "    700\n"))
    space.cargo("build").check()
    assert space.run("target/debug/app").stdout == "701\n"


def test_an_agent_that_dies_again_and_again_is_left_alone(space: Space) -> None:
    """Three deaths within a minute: no fourth start, every unit at home, counted."""
    expected = faults.plain(space)
    build(space)
    for _ in range(3):
        kill(agent_pid(space))
        space.fresh_target()
        same(space, expected, space.cargo("build", **FALLBACK))
    assert agent_pid(space) == 0
    assert faults.reasons(space) == {"agent-gone": 2}
    space.fresh_target()
    refused(space.cargo("build"), about="ended 3 times within a minute")
    space.stop()
    build(space)


def test_a_store_that_is_no_folder(space: Space) -> None:
    """The agent cannot start: everything at home, with what it said."""
    expected = faults.plain(space)
    space.store.parent.mkdir(parents=True)
    space.store.write_text("in the way")
    same(space, expected, space.cargo("build", **FALLBACK))
    assert faults.reasons(space) == {"agent-gone": 2}
    space.fresh_target()
    refused(space.cargo("build"), about="the agent ended")
    space.store.unlink()
    space.stop()
    build(space)


def test_a_rustc_killed_in_the_sandbox(space: Space) -> None:
    """What the OOM killer does: the unit is compiled at home."""
    space.write(faults.held_project("generating"))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        kill(hold(space, "generating"))
        same(space, expected, cargo.finish())
    assert faults.unit(space, "held")["reason"] == "rustc-killed"
    assert "signal 9" in faults.unit(space, "held")["why"]
    space.fresh_target()
    with Running.start(space, "build", "-p", "held", BURST_REQUIRE_REMOTE="1") as cargo:
        kill(hold(space, "generating"))
        refused(cargo.finish(), about="rustc was killed: signal 9")


# --- the daemon ---


@pytest.mark.parametrize("phase", faults.PHASES)
def test_a_daemon_killed_in_mid_unit(space: Space, phase: Phase) -> None:
    """The wrapper becomes rustc, or finishes what the daemon began; a new daemon does the rest."""
    space.write(faults.held_project(phase))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        hold(space, phase)
        kill(daemon_pid(space))
        same(space, expected, cargo.finish())
    held = faults.unit(space, "held")
    if phase == "expanding":  # a daemon that had not even said "wait" is replaced
        assert held["reason"] in {"daemon", "executed"}
    else:
        assert (held["where"], held["reason"]) == ("local", "daemon")
    assert faults.unit(space, "app")["where"] == "remote"


def test_a_daemon_killed_in_mid_unit_is_an_error_where_remote_is_required(space: Space) -> None:
    """The wrapper itself says so."""
    space.write(faults.held_project("generating"))
    with Running.start(space, "build", "-p", "held", BURST_REQUIRE_REMOTE="1") as cargo:
        hold(space, "generating")
        kill(daemon_pid(space))
        refused(cargo.finish(), about="the daemon closed the connection")
    assert faults.unit(space, "held")["where"] == "failed"


def test_nothing_of_a_killed_daemon_goes_on(space: Space) -> None:
    """Its agent and the rustcs in the sandbox end with it."""
    space.write(faults.held_project("checking"))
    with Running.start(space) as cargo:
        rustc, agent = hold(space, "checking"), agent_pid(space)
        kill(daemon_pid(space))
        until(lambda: not faults.alive(agent), "the end of the agent")
        until(lambda: not faults.alive(rustc), "the end of rustc")
        assert cargo.finish().status == 0


@pytest.mark.parametrize("phase", thorough(["generating"], ["checking"]))
def test_a_daemon_that_hangs_in_mid_unit(space: Space, phase: Phase) -> None:
    """The wrapper gives up after the silence. The daemon, awake again, writes nothing any more."""
    space.write(faults.held_project(phase))
    expected = faults.plain(space)
    with Running.start(space, BURST_SILENCE_S="6") as cargo:
        rustc, daemon = hold(space, phase), daemon_pid(space)
        os.kill(daemon, signal.SIGSTOP)
        try:
            os.kill(rustc, signal.SIGCONT)
            same(space, expected, cargo.finish())
            before = faults.state_of(space.project / "target")
        finally:
            os.kill(daemon, signal.SIGCONT)
    until(lambda: not faults.rustcs(space, "held"), "the end of the run nobody waits for")
    space.stop()
    assert faults.state_of(space.project / "target") == before
    assert any(
        u["reason"] == "daemon" and "silent for 6 s" in u["why"]
        for u in space.units()
        if u["crate"] == "held"
    )


def test_an_agent_that_hangs_in_mid_unit(space: Space) -> None:
    """Stopped, say: given up after the silence that the configuration names, and ended."""
    faults.configure(space, "silence_s = 1\n")
    space.write(faults.held_project("checking"))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        hold(space, "checking")
        agent = agent_pid(space)
        os.kill(agent, signal.SIGSTOP)
        same(space, expected, cargo.finish())
    silent = re.search(r"nothing heard for (\d+) s", faults.unit(space, "held")["why"])
    assert silent is not None
    assert int(silent[1]) < 30
    until(lambda: not faults.alive(agent), "the end of the stopped agent")
    space.fresh_target()
    build(space)


def test_a_daemon_that_hangs_before_the_build(space: Space) -> None:
    """Its socket accepts, nobody answers."""
    expected = faults.plain(space)
    build(space)
    daemon = daemon_pid(space)
    os.kill(daemon, signal.SIGSTOP)
    try:
        space.fresh_target()
        same(space, expected, space.cargo("build", BURST_SILENCE_S="1", **FALLBACK))
        assert faults.reasons(space) == {"daemon": 2}
        space.fresh_target()
        refused(space.cargo("build", BURST_SILENCE_S="1"), about="the daemon was silent for 1 s")
    finally:
        os.kill(daemon, signal.SIGCONT)
    build(space)


@pytest.mark.parametrize("what", ["socket", "file", "folder"])
def test_something_stale_at_the_sockets_place(space: Space, what: str) -> None:
    """The socket of a killed daemon and a file are replaced; a folder is not ours to remove."""
    expected = faults.plain(space)
    path = socket_path(space)
    path.parent.mkdir(mode=0o700)
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    elif what == "file":
        path.write_text("")
    else:
        path.mkdir()
    done = space.cargo("build", BURST_REQUIRE_REMOTE=str(int(what != "folder")))
    same(space, expected, done)
    if what == "folder":
        assert faults.reasons(space) == {"daemon": 2}
        space.fresh_target()
        refused(space.cargo("build"), about="Is a directory")


@pytest.mark.parametrize("wrong", ["open", "link", "file"])
def test_a_runtime_folder_that_is_not_private(space: Space, wrong: str) -> None:
    """Somebody else could have put a socket there: it is not used."""
    expected = faults.plain(space)
    folder = space.folder / "run" / "burst"
    if wrong == "open":
        folder.mkdir()
        folder.chmod(0o770)
    elif wrong == "link":
        (space.folder / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(space.folder / "elsewhere")
    else:
        folder.write_text("")
    same(space, expected, space.cargo("build", **FALLBACK))
    assert faults.reasons(space) == {"daemon": 2}
    space.fresh_target()
    refused(space.cargo("build"), about=f"{folder} is not a private folder of this user")


@pytest.mark.root
def test_a_runtime_folder_of_somebody_else(space: Space) -> None:
    """Private, but not ours."""
    expected = faults.plain(space)
    folder = space.folder / "run" / "burst"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    same(space, expected, space.cargo("build", **FALLBACK))
    assert faults.reasons(space) == {"daemon": 2}


@pytest.mark.parametrize("variable", ["XDG_STATE_HOME", "XDG_CACHE_HOME"])
def test_folders_that_cannot_be_written(space: Space, variable: str) -> None:
    """A file stands in the place of a folder (root may write anything else): plain rustc, and no
    start of a daemon for every unit."""
    expected = faults.plain(space)
    (space.folder / "in-the-way").write_text("")
    env = {variable: str(space.folder / "in-the-way")}
    same(space, expected, space.cargo("build", **FALLBACK, **env))
    if variable != "XDG_STATE_HOME":  # where it would be counted
        assert faults.reasons(space) == {"daemon": 2}
    space.fresh_target()
    refused(space.cargo("build", **env), about=f"{space.folder / 'in-the-way'}")


def test_a_daemon_that_does_not_start(space: Space) -> None:
    """Three wrappers try, the others do not; all know why."""
    expected = faults.plain(space)
    (space.folder / "in-the-way").write_text("")
    env = {"XDG_CACHE_HOME": str(space.folder / "in-the-way")}
    for _ in range(2):
        space.fresh_target()
        same(space, expected, space.cargo("build", **FALLBACK, **env))
    space.fresh_target()
    refused(
        space.cargo("build", **env),
        about=f"the daemon does not start: {space.folder / 'in-the-way'}",
    )
    lock = socket_path(space).with_suffix(".sock.lock")
    assert lock.read_text().startswith("3 ")
    lock.unlink()  # or a minute later
    build(space)


# --- strangers ---

GOOD = b"BRS1"


def nonsense() -> list[bytes]:
    random = Random(20)
    field = (3).to_bytes(4, "little") + b"abc"
    return [
        b"",
        b"B",
        b"GET / HTTP/1.1\r\n\r\n",
        random.randbytes(4096),
        GOOD,
        GOOD + (0xFFFFFFFF).to_bytes(4, "little"),
        GOOD + (1 << 25).to_bytes(4, "little") + bytes(1000),
        GOOD + (0).to_bytes(4, "little"),
        GOOD + (3).to_bytes(4, "little") + b"abc",
        GOOD + (100).to_bytes(4, "little") + field,
        GOOD + (6 * 7).to_bytes(4, "little") + field * 6,
        GOOD + (8).to_bytes(4, "little") + (1 << 30).to_bytes(4, "little") + b"abcd",
        *(GOOD + (200).to_bytes(4, "little") + random.randbytes(200) for _ in range(20)),
        *(_request([b"1", pid, b"22", b"/", b"rustc", b""]) for pid in (b"-5", b"0", b"9" * 30)),
        _request([b"1", b"1", b"22", b"/nowhere", b"rustc\0--crate-name\0x", b"A=1\0\0=\0x"]),
        _request([b"1", b"1", b"22", b"\xff\xfe", b"", b""]),
        _request([b"7", b"1", b"22", b"/", b"rustc\0@/no/such/file", b""]),
    ]


def _request(fields: list[bytes]) -> bytes:
    body = b"".join(len(part).to_bytes(4, "little") + part for part in fields)
    return GOOD + len(body).to_bytes(4, "little") + body


def test_the_daemon_survives_nonsense(space: Space) -> None:
    """Random bytes, wrong magic, huge lengths, truncated and odd requests, many at once."""
    build(space)
    daemon = daemon_pid(space)
    kept = []
    for data in nonsense():
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(20)
        peer.connect(str(socket_path(space)))
        with peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass
            except OSError:
                pass
    for _ in range(50):  # and some that never say anything
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(str(socket_path(space)))
        kept.append(silent)
    build(space)
    for silent in kept:
        silent.close()
    assert daemon_pid(space) == daemon
    assert "Traceback" not in space.log()


# --- what is stored ---


def blobs(space: Space) -> list[Path]:
    """Stored blobs (and their executable twins), not the entries."""
    return [*space.store.glob("cas/*/*"), *space.store.glob("exe/*/*")]


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "delete"])
def test_damaged_blobs_are_made_again(space: Space, how: str, running: bool) -> None:
    """Every output blob of the store, with the agent running or started afterwards."""
    expected = faults.plain(space)
    build(space)
    outputs = {
        p.read_bytes() for p in (space.project / "target/debug/deps").iterdir() if p.is_file()
    }
    if not running:
        space.stop()
    hurt = [path for path in blobs(space) if path.read_bytes() in outputs]
    assert hurt
    for path in hurt:
        damage(path, how)
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"remote"}
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"hit"}


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("how", ["flip", "delete"])
def test_damaged_inputs_are_sent_again(space: Space, how: str, running: bool) -> None:
    """Every blob: sources, the link environment, our own tools. Nothing is compiled from them."""
    build(space)
    if not running:
        space.stop()
    for path in blobs(space):
        damage(path, how)
    main = space.project / "src" / "main.rs"
    main.write_text(main.read_text().replace("{}", "<{}>"))
    expected = faults.plain(space)
    same(space, expected, space.cargo("build", **FALLBACK))
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) <= {"hit", "remote"}


@pytest.mark.parametrize("how", ["flip", "empty", "garbage", "delete"])
@pytest.mark.parametrize("kind", ["actions", "lists"])
def test_damaged_entries_are_misses(space: Space, kind: str, how: str) -> None:
    """Entries of the action cache and input lists."""
    expected = faults.plain(space)
    build(space)
    space.stop()  # what was built last is stored now
    hurt = [p for p in (space.store / kind).rglob("*") if p.is_file()]
    assert hurt
    for path in hurt:
        damage(path, how)
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"remote"}
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"hit"}


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "garbage", "delete", "tables"])
def test_a_damaged_index_is_begun_anew(space: Space, how: str) -> None:
    """home.db: digests by stat, closures."""
    expected = faults.plain(space)
    build(space)
    space.stop()
    path = space.home / ".cache" / "burst" / "home.db"
    if how == "tables":
        with sqlite3.connect(path) as db:
            db.execute("update files set hash = x'00'")
            db.execute("update facts set value = x'ffff'")
        db.close()
    else:
        damage(path, how)
    space.fresh_target()
    same(space, expected, space.cargo("build", **FALLBACK))
    space.fresh_target()
    same(space, expected, space.cargo("build"))


def test_an_index_damaged_while_it_is_open(space: Space) -> None:
    """Somebody cleans ~/.cache during a build."""
    expected = faults.plain(space)
    build(space)
    damage(space.home / ".cache" / "burst" / "home.db", "garbage")
    for path in (space.home / ".cache" / "burst").glob("home.db-*"):
        path.unlink()
    for _ in range(2):
        space.fresh_target()
        same(space, expected, space.cargo("build", **FALLBACK))


def test_the_cache_folder_is_removed_while_the_daemon_runs(space: Space) -> None:
    """`rm -rf ~/.cache`: right results, and everything works again by itself."""
    expected = faults.plain(space)
    build(space)
    shutil.rmtree(space.home / ".cache")
    space.fresh_target()
    same(space, expected, space.cargo("build", **FALLBACK))
    space.stop()
    build(space)


# --- disks ---


@pytest.mark.root
@pytest.mark.parametrize("free_bytes", [0, 300_000])
def test_a_full_disk_for_the_store(space: Space, free_bytes: int) -> None:
    """The store cannot take inputs or outputs: at home; as soon as there is room, remote."""
    cache = space.home / ".cache"
    with faults.small_disk(cache, 200_000_000):
        space.cargo("build").check()
        (space.project / "src" / "lib.rs").write_text("pub fn seven() -> u32 {\n    7\n}\n")
        expected = faults.plain(space)
        # What the last unit had there is removed after its answer: that would be room again.
        scratch = cache / "burst" / "store" / "tmp"
        until(lambda: not any(one.is_dir() for one in scratch.glob("*/*")), "an idle agent")
        ballast = faults.fill(cache, free_bytes)
        same(space, expected, space.cargo("build", **FALLBACK))
        assert set(faults.reasons(space)) <= {"disk-full", "undeclared"}
        if free_bytes == 0:
            assert faults.reasons(space) == {"disk-full": 2}
        space.fresh_target()
        done = space.cargo("build")
        if free_bytes == 0:
            refused(done, about="no space left")
        ballast.unlink()
        space.fresh_target()
        same(space, expected, space.cargo("build"))
        space.stop()


@pytest.mark.root
def test_a_full_disk_from_the_start(space: Space) -> None:
    """Nothing of ours can be written at all."""
    expected = faults.plain(space)
    cache = space.home / ".cache"
    with faults.small_disk(cache, 1_000_000):
        faults.fill(cache)
        same(space, expected, space.cargo("build", **FALLBACK))
        assert sum(faults.reasons(space).values()) == 2
        space.stop()
        space.fresh_target()
        refused(space.cargo("build"), about="no space left")
        space.stop()


@pytest.mark.root
def test_a_full_disk_for_the_target_folder(space: Space) -> None:
    """rustc could not write there either: its own words, and nothing half written."""
    target = space.project / "target"
    space.write(faults.held_project("generating"))
    with faults.small_disk(target, 400_000):
        done = space.cargo("build", **FALLBACK)
        assert done.status == 101
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr
        assert faults.leftovers(target) == []
        space.stop()


# --- versions and settings ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hots = 1\n", "unknown key `hots`; did you mean `host`?"),
        ("silence_s = -1\n", "`silence_s` must be a number"),
        ("host = [\n", "is not TOML"),
        ("\xff", "is not TOML"),
        ("[crate.x]\ninputs = []\n", "unknown key `crate.x.inputs`"),
    ],
)
def test_a_wrong_configuration(space: Space, text: str, says: str) -> None:
    """Plain rustc, with the line to correct as the reason."""
    expected = faults.plain(space)
    faults.configure(space, "")
    (space.home / ".config/burst/config.toml").write_bytes(text.encode("latin-1"))
    same(space, expected, space.cargo("build", **FALLBACK))
    assert faults.reasons(space) == {"config": 2}
    assert all(says in u["why"] for u in space.units())
    space.fresh_target()
    refused(space.cargo("build"), about=says)
    faults.configure(space, "slots = 1\n")
    build(space)


def test_a_configuration_that_cannot_be_read(space: Space) -> None:
    """A folder in its place."""
    expected = faults.plain(space)
    (space.home / ".config/burst/config.toml").mkdir(parents=True)
    same(space, expected, space.cargo("build", **FALLBACK))
    assert faults.reasons(space) == {"config": 2}


def as_with_script(space: Space, script: Path) -> None:
    """A build with a script there for a compiler, which executes the real one: as plain cargo's."""
    script.parent.mkdir(exist_ok=True)
    real = space.run("rustup", "which", "rustc").stdout.strip()
    script.write_text(f'#!/bin/sh\nexec {real} "$@"\n')
    script.chmod(0o755)
    expected = faults.plain(space, RUSTC=str(script))
    same(space, expected, space.cargo("build", RUSTC=str(script), **FALLBACK))


def test_a_compiler_that_is_not_known(space: Space) -> None:
    """A script called rustc: it does the work itself, as it would without us."""
    as_with_script(space, space.folder / "bin" / "rustc")
    assert faults.reasons(space) == {"toolchain": 2}


def test_a_compiler_with_a_name_of_its_own(space: Space) -> None:
    """RUSTC may be called anything: its units are counted, by the name."""
    script = space.folder / "my-compiler"
    as_with_script(space, script)
    assert faults.reasons(space) == {"compiler": 2}
    assert str(script) in space.units()[0]["why"]


def test_a_toolchain_that_vanishes(space: Space) -> None:
    """Uninstalled between two builds of one daemon: rustup's own words, none of ours."""
    build(space)
    with_wrapper = space.cargo("build", RUSTUP_TOOLCHAIN="1.1.1-none", **FALLBACK)
    without = space.plain("build", RUSTUP_TOOLCHAIN="1.1.1-none")
    assert with_wrapper.status == without.status != 0
    assert without_waiting(with_wrapper.stderr) == without_waiting(without.stderr)


def test_no_compiler_at_all(space: Space) -> None:
    """The wrapper says what a shell would."""
    done = space.cargo("build", RUSTC="/nowhere/rustc", **FALLBACK)
    assert done.status == 101
    assert "error: cannot execute `/nowhere/rustc`: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_of_another_version(space: Space, tmp_path: Path) -> None:
    """Upgraded on disk under a running daemon: the new agent is refused by the old daemon."""
    home = installation(tmp_path)
    wrapper = {"RUSTC_WRAPPER": str(home / "bin" / "burst-rustc")}
    expected = faults.plain(space)
    space.cargo("build", **wrapper).check()
    version = home / "tree" / "agent" / "burst_protocol" / "version.py"
    version.write_text(version.read_text().replace("BUILD", "OLD").rstrip() + '\nBUILD = "9.9.9"\n')
    kill(agent_pid(space))
    space.fresh_target()
    same(space, expected, space.cargo("build", **FALLBACK, **wrapper))
    assert faults.reasons(space) == {"version": 2}
    assert all("it is 9.9.9" in u["why"] for u in space.units())
    space.fresh_target()
    refused(space.cargo("build", **wrapper), about="another version")
    space.stop()
    space.fresh_target()
    space.cargo("build", **wrapper).check()


def installation(folder: Path) -> Path:
    """A second installation of ours, with an interpreter folder of its own; its `tree` may be
    edited."""
    root = Path(__file__).resolve().parents[2]
    home = folder / "installation"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    for name in ("wrapper", "agent", "image"):
        shutil.copytree(
            root / name, home / "tree" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    site = next(home.glob("lib/python*/site-packages"))
    ours = Path(next(p for p in sys.path if p.endswith("site-packages")))
    lines = [str(home / "tree" / name) for name in ("wrapper", "agent", "image")]
    (site / "_burst_rustc.pth").write_text("\n".join([*lines, str(ours)]) + "\n")
    shutil.copy(BURST_RUSTC, home / "bin" / "burst-rustc")
    return home


@pytest.mark.parametrize("what", [".", "store", "tmp"])
def test_a_cache_removed_under_a_running_daemon(space: Space, what: str) -> None:
    """Another daemon begins anew: compiled again, then found, never at home."""
    space.write(faults.SMALL)
    expected = faults.plain(space)
    space.cargo("build").check()
    shutil.rmtree(space.home / ".cache" / "burst" / what)
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    space.fresh_target()
    same(space, expected, space.cargo("build"))
    assert set(space.where().values()) == {"hit"}


@pytest.mark.parametrize("phase", faults.PHASES)
@pytest.mark.parametrize("what", [".", "store"])
def test_a_cache_removed_in_mid_unit(space: Space, what: str, phase: Phase) -> None:
    """The compiler cannot write what it made: that is no error of the user's program."""
    shutil.rmtree(space.project)
    space.write(faults.held_project(phase))
    expected = faults.plain(space)
    with Running.start(space) as cargo:
        rustc = hold(space, phase)
        # The agent goes on making files there meanwhile; the compiler's own folder is gone.
        shutil.rmtree(space.home / ".cache" / "burst" / what, ignore_errors=True)
        os.kill(rustc, signal.SIGCONT)
        same(space, expected, cargo.finish())
    space.fresh_target()
    same(space, expected, space.cargo("build", **FALLBACK))
