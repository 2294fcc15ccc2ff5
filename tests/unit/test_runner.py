"""burst_wrapper.runner: what it runs at once, and how it stands in for what runs elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import burst_wrapper.runner as runner_module
from burst_wrapper import home_wire as w
from burst_wrapper import runner_daemon
from burst_wrapper.launcher import launcher_text
from burst_wrapper.runner_rustdoc import without_runner
from fake_programs import BEGUN, FakePrograms, Runner, exit_frame
from faults import until
from screens import Screen

MODULE = Path(runner_module.__file__).resolve()
STUB = b"#!/usr/bin/env burst-stub\nburst-stub 1 " + b"0" * 64 + b" 5\n"
IN = {"BURST_SESSION": "0123456789abcdef"}


@pytest.fixture
def runner(tmp_path: Path) -> str:
    """A launcher as `cargo burst` writes it."""
    path = tmp_path / "burst-runner"
    path.write_bytes(launcher_text(os.fsencode(sys.executable), bytes(MODULE), "burst-runner"))
    path.chmod(0o755)
    return str(path)


def call(
    *command: str | bytes | Path, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command,
        env={**os.environ, **variables},
        capture_output=True,
        check=False,
        input=stdin.encode(),
        timeout=60,
    )


# --- what it imports ---


def test_it_starts_as_light_as_the_wrapper() -> None:
    """Itself, `hot` and `_socket` besides a bare interpreter; nothing from site-packages."""
    script = (
        "import sys; before = set(sys.modules)\n"
        "from _frozen_importlib_external import SourceFileLoader\n"
        f"code = SourceFileLoader('runner', {str(MODULE)!r}).get_code('runner')\n"
        f"namespace = {{'__name__': 'runner', '__file__': {str(MODULE)!r}}}\n"
        "exec(code, namespace)\n"
        "print(*sorted(set(sys.modules) - before), '|', *sorted(n for n, v in namespace.items()\n"
        "    if type(v) is type(sys)))"
    )
    answer = call(sys.executable, "-I", "-S", "-c", script)
    added, _, imported = answer.stdout.decode().partition("|")
    assert imported.split() == ["hot", "posix", "sys"], answer.stderr
    assert set(added.split()) <= {"_socket", "burst_wrapper", "burst_wrapper.hot"}


# --- at home ---


@pytest.mark.parametrize("variables", [{}, IN, {**IN, "BURST_DISABLE": "1"}])
def test_without_a_session_it_becomes_the_program(
    runner: str, home: object, variables: dict[str, str]
) -> None:
    """No session, one of a daemon that is gone, or burst switched off: nothing is between."""
    answer = call(runner, "sh", "-c", "cat; echo error >&2; exit 3", stdin="text", **variables)
    assert (answer.returncode, answer.stdout, answer.stderr) == (3, b"text", b"error\n")
    assert call(runner, "sh", "-c", "kill -TERM $$", **variables).returncode == -signal.SIGTERM


@pytest.mark.parametrize("answer", [b"", w.frame(b"L", b"it is of another session"), w.frame(b"?")])
def test_a_session_that_has_ended_means_nothing(
    runner: str, programs: FakePrograms, answer: bytes
) -> None:
    """What somebody exported long ago, or a daemon that does not understand us."""
    programs.play = lambda peer: peer.tell(answer)
    done = call(runner, "echo", "here", **IN)
    if answer[:1] == b"?":
        assert done.returncode == runner_module.EXIT_OURS
    else:
        assert (done.returncode, done.stdout, done.stderr) == (0, b"here\n", b"")


def test_the_program_gets_cargos_environment_and_nothing_else(runner: str, home: object) -> None:
    environ = {b"CARGO_BIN_EXE_my-tool": b"/t", b"x.y": b"\n", b"PATH": os.environb[b"PATH"]}
    shown = subprocess.run([runner, "env", "-0"], env=environ, check=True, capture_output=True)
    assert dict(e.split(b"=", 1) for e in shown.stdout[:-1].split(b"\0")) == environ


@pytest.mark.parametrize("variables", [{}, IN])
def test_a_stub_is_not_run(
    runner: str, home: object, tmp_path: Path, variables: dict[str, str]
) -> None:
    """After the session: a clear end that nobody takes for a pass."""
    stub = tmp_path / "app-0123"
    stub.write_bytes(STUB)
    stub.chmod(0o755)
    answer = call(runner, stub, **variables)
    assert answer.returncode == runner_module.EXIT_OURS
    error, hint = answer.stderr.decode().splitlines()
    assert error.startswith(f"error: `{stub}` is not on this machine")
    assert hint.startswith("hint: `cargo burst run`")
    assert answer.stdout == b""


def test_a_program_that_is_not_there(runner: str, home: object) -> None:
    assert call(runner, "/nowhere/app").returncode == 127
    assert call(runner).returncode == 2


# --- elsewhere ---


def test_what_it_asks_and_shows(runner: str, programs: FakePrograms, tmp_path: Path) -> None:
    """Arguments, folder and environment go there; three streams and the exit code come back."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (4).to_bytes(4, "little")))
        assert peer.hear_input(4) == b"1234"
        peer.tell(w.frame(b"O", b"out"), w.frame(b"C", (100).to_bytes(4, "little")))
        assert peer.hear_input(2) == b"56"
        assert peer.hear() == (b"I", b"")
        peer.tell(w.frame(b"E", b"err"), exit_frame(3))

    programs.play = play
    done = call(runner, "/t/app", "a b", b"\xff", stdin="123456", **IN, X="y")
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out", b"err")
    (seen,) = programs.seen
    assert seen.fields[:3] == [b"program", runner_daemon.VERSION, IN["BURST_SESSION"].encode()]
    assert seen.fields[3] == os.getcwdb()
    assert seen.argv == [b"/t/app", b"a b", b"\xff"]
    assert b"X=y\0" in seen.fields[5]
    assert seen.terminals == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL])
def test_a_death_by_signal_is_one_here(
    runner: str, programs: FakePrograms, number: signal.Signals
) -> None:
    programs.play = lambda peer: peer.tell(BEGUN, exit_frame(-number))
    assert call(runner, "/t/app", **IN).returncode == -number


def test_a_signal_goes_to_the_program(runner: str, programs: FakePrograms) -> None:
    """Which may take its time, or not mind: how it ends is how we end."""
    heard: list[bytes] = []
    runs = threading.Event()

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"O", b"runs\n"))
        heard.append(peer.hear_a(b"S"))
        runs.set()
        heard.append(peer.hear_a(b"S"))
        peer.tell(exit_frame(7))

    programs.play = play
    with subprocess.Popen(
        [runner, "/t/app"],
        env={**os.environ, **IN},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"runs\n"
        process.send_signal(signal.SIGINT)
        assert runs.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 7
    assert heard == [bytes([signal.SIGINT]), bytes([signal.SIGTERM])]


def test_a_runner_that_is_killed_says_so_by_its_end(runner: str, programs: FakePrograms) -> None:
    gone = threading.Event()

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"O", b"runs\n"))
        while peer.hear() is not None:
            pass
        gone.set()

    programs.play = play
    with subprocess.Popen(
        [runner, "/t/app"],
        env={**os.environ, **IN},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert gone.wait(30)


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (b"", "the daemon ended while `/t/app` ran"),
        (w.frame(b"F", b"error: link\nhint: again\n"), "error: link"),
        (w.frame(b"?"), "unknown frame"),
    ],
)
def test_a_lost_program_is_never_a_pass(
    runner: str, programs: FakePrograms, last: bytes, says: str
) -> None:
    """Whatever was shown before: 125, and two lines that say why."""
    programs.play = lambda peer: peer.tell(BEGUN, w.frame(b"O", b"ok\n"), last)
    done = call(runner, "/t/app", **IN)
    assert (done.returncode, done.stdout) == (runner_module.EXIT_OURS, b"ok\n")
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert says in error
    assert hint.startswith("hint: ")


def test_a_reader_that_goes_is_told_once(runner: str, programs: FakePrograms) -> None:
    """What the program does about it is its own affair: stderr and its end come as ever."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN)
        peer.tell(*[w.frame(b"O", bytes(4096))] * 100)
        assert peer.hear_a(b"W") == b"\1"
        peer.tell(w.frame(b"O", b"late"), w.frame(b"E", b"broken"), exit_frame(9))

    programs.play = play
    with subprocess.Popen(
        [runner, "/t/app"],
        env={**os.environ, **IN},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"broken"
        assert process.wait(30) == 9


# --- at a terminal ---


def shell(runner: str, after: str = "") -> list[str]:
    """A program at the terminal, started by somebody who says afterwards how it ended."""
    return ["sh", "-c", f'"$0" /t/app; echo "ended $?"; {after}', runner]


def environ() -> dict[str, str]:
    return {**os.environ, **IN}


def test_raw_while_it_runs_and_cooked_afterwards(runner: str, programs: FakePrograms) -> None:
    """Keys go there as they are, what comes is shown as it is, its size follows ours."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"ready\r\n"))
        assert peer.hear_input(4) == b"\x03\x1aq\r"
        peer.tell(w.frame(b"T", b"keys\r\n"))
        assert peer.hear_a(b"R") == bytes([50, 0, 200, 0])
        peer.tell(w.frame(b"T", b"resized\r\n"), exit_frame(3))

    programs.play = play
    with Screen.open(shell(runner), environ(), rows=40, columns=132) as screen:
        screen.until(b"ready")
        assert not screen.cooked()
        screen.type(b"\x03\x1aq\r")
        screen.until(b"keys")
        screen.resize(50, 200)
        screen.until(b"resized")
        screen.until(b"ended 3")
        assert screen.cooked()
        assert screen.end() == 0
    (seen,) = programs.seen
    assert seen.terminals == 7
    assert seen.fields[7:] == [b"40", b"132"]


def hold(peer: Runner) -> None:
    """A full-screen program that runs until somebody goes."""
    screen = b"\x1b[?1049h\x1b[?25l\x1b[?1006;1000h\x1b[2Jfull"
    peer.tell(BEGUN, w.frame(b"T", screen[:4]), w.frame(b"T", screen[4:]))
    while peer.hear() is not None:
        pass


def test_the_terminal_is_as_it_was_if_we_are_killed(runner: str, programs: FakePrograms) -> None:
    programs.play = hold
    command = '"$0" /t/app; echo "ended $?"; exec cat'
    with Screen.open(["sh", "-c", command, runner], environ()) as screen:
        screen.until(b"full")
        assert not screen.cooked()
        child = until(lambda: _children(screen.pid), "the runner")[0]
        os.kill(child, signal.SIGKILL)
        screen.until(b"ended 137")
        assert until(screen.cooked, "the terminal's mode")


def test_the_terminal_is_as_it_was_if_the_daemon_goes(runner: str, programs: FakePrograms) -> None:
    """The mode, the screen, the cursor and the mouse."""

    def play(peer: Runner) -> None:
        screen = b"\x1b[?1049h\x1b[?25l\x1b[?1006;1000h\x1b[2Jfull"
        peer.tell(BEGUN, w.frame(b"T", screen[:4]), w.frame(b"T", screen[4:]))

    programs.play = play
    with Screen.open(shell(runner), environ()) as screen:
        screen.until(b"full")
        shown = screen.until(b"ended 125")
        assert b"\x1b[?1049l" in shown
        assert b"\x1b[?1000l" in shown
        assert b"\x1b[?1006l" in shown
        assert b"\x1b[?25h" in shown
        assert b"error: the daemon ended" in shown
        assert screen.cooked()


def test_ctrl_c_ends_the_whole_group(runner: str, programs: FakePrograms) -> None:
    """The program dies of it there; here cargo, which the terminal would have told, too."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"ready"))
        assert peer.hear_input(1) == b"\x03"
        peer.tell(exit_frame(-signal.SIGINT))

    programs.play = play
    cargo = "import subprocess, sys, time\nsubprocess.run(sys.argv[1:])\nprint('went on')"
    command = [sys.executable, "-c", cargo, runner, "/t/app"]
    with Screen.open(command, environ()) as screen:
        screen.until(b"ready")
        screen.type(b"\x03")
        assert screen.end() != 0
        assert b"went on" not in screen.shown


def test_the_second_ctrl_c_ends_what_goes_on(
    runner: str, programs: FakePrograms, tmp_path: Path
) -> None:
    """cargo, which waits beside it, would have gone at the first: with it we all do."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"ready"))
        assert peer.hear_input(1) == b"\x03"
        peer.tell(w.frame(b"T", b"ignores"))
        while peer.hear() is not None:
            pass

    programs.play = play
    cargo = tmp_path / "cargo"
    shutil.copy("/bin/bash", cargo)
    with Screen.open([cargo, "-c", shell(runner)[2], runner], environ()) as screen:
        screen.until(b"ready")
        screen.type(b"\x03")
        screen.until(b"ignores")
        screen.type(b"\x03")
        assert screen.end() == -signal.SIGINT
        assert b"ended" not in screen.shown


def test_ctrl_c_is_a_key_for_a_program_that_cargo_became(
    runner: str, programs: FakePrograms
) -> None:
    """`cargo run`: as at home, it may take as many as it likes."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"ready"))
        assert peer.hear_input(3) == b"\x03\x03\x03"
        peer.tell(exit_frame(0))

    programs.play = play
    with Screen.open(shell(runner), environ()) as screen:
        screen.until(b"ready")
        for _ in range(3):
            screen.type(b"\x03")
        screen.until(b"ended 0")


def test_two_at_once_leave_the_terminal_cooked() -> None:
    """As when nextest lists the tests of two executables: the last one to go had seen it raw."""
    script = (
        "from burst_wrapper.runner_terminal import Terminal\n"
        "first = Terminal()\nfirst.take()\nsecond = Terminal()\nsecond.take()\n"
        "print('raw')\ninput()\nfirst.leave()\nsecond.leave()\nprint('left')\ninput()\n"
    )
    with Screen.open([sys.executable, "-c", script], environ()) as screen:
        screen.until(b"raw")
        assert not screen.cooked()
        screen.type(b"\n")
        screen.until(b"left")
        assert screen.cooked()


def test_ctrl_z_and_fg(runner: str, programs: FakePrograms) -> None:
    """The program stops there and the job here; in the foreground again both go on."""

    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"ready"))
        assert peer.hear_input(1) == b"\x1a"
        peer.tell(w.frame(b"Z", bytes([signal.SIGTSTP])))
        assert peer.hear_a(b"S") == bytes([signal.SIGCONT])
        peer.tell(w.frame(b"T", b"again"))
        assert peer.hear_input(1) == b"q"
        peer.tell(exit_frame(0))

    programs.play = play
    with Screen.open(["bash", "--norc", "-i"], {**environ(), "PS1": "prompt> "}) as screen:
        screen.until(b"prompt> ")
        screen.type(f"{runner} /t/app\r".encode())
        screen.until(b"ready")
        screen.type(b"\x1a")
        screen.until(b"Stopped")
        screen.until(b"prompt> ")
        screen.type(b"echo $((40+2))\r")
        screen.until(b"42")
        screen.type(b"fg\r")
        screen.until(b"again")
        screen.type(b"q")
        screen.until(b"prompt> ")
        screen.type(b"echo status $?\r")
        screen.until(b"status 0")


def test_in_the_background_the_terminal_is_left_alone(runner: str, programs: FakePrograms) -> None:
    def play(peer: Runner) -> None:
        peer.tell(BEGUN, w.frame(b"C", (100).to_bytes(4, "little")), w.frame(b"T", b"runs"))
        peer.hear_a(b"S")
        peer.tell(exit_frame(0))

    programs.play = play
    with Screen.open(["bash", "--norc", "-i"], {**environ(), "PS1": "prompt> "}) as screen:
        screen.until(b"prompt> ")
        screen.type(f"{runner} /t/app &\r".encode())
        screen.until(b"runs")
        screen.type(b"echo $((40+2))\r")
        screen.until(b"42")
        screen.type(b"kill -USR1 %1; wait %1; echo status $?\r")
        screen.until(b"status 0")


# --- rustdoc ---


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["--test", "src/lib.rs"], ["--test", "src/lib.rs"]),
        (["--test", "--test-runtool", "/b/burst-runner", "x"], ["--test", "x"]),
        (["--test-runtool=/b/burst-runner", "x"], ["x"]),
        (
            [
                "--runtool",
                "burst-runner",
                "--test-runtool-arg",
                "qemu",
                "--test-runtool-arg=-L",
                "x",
            ],
            ["x", "--test-runtool", "qemu", "--test-runtool-arg", "-L"],
        ),
        (["--test-runtool", "qemu", "x"], ["x", "--test-runtool", "qemu"]),
    ],
)
def test_rustdoc_loses_only_our_run_tool(given: list[str], kept: list[str]) -> None:
    assert without_runner([os.fsencode(w) for w in given], b"burst-runner") == [
        os.fsencode(word) for word in kept
    ]


def test_rustdoc_is_the_users(tmp_path: Path, home: object) -> None:
    launcher = tmp_path / "burst-rustdoc"
    text = launcher_text(os.fsencode(sys.executable), bytes(MODULE), "burst-rustdoc")
    launcher.write_bytes(text)
    launcher.chmod(0o755)
    own = tmp_path / "bin" / "rustdoc"
    own.parent.mkdir()
    own.write_text('#!/bin/sh\necho "documented $*"\n')
    own.chmod(0o755)
    arguments = ["--test-runtool", "burst-runner", "--crate-name", "x"]
    done = call(launcher, *arguments, PATH=f"{own.parent}:{os.environ['PATH']}")
    assert done.stdout == b"documented --crate-name x\n"
    assert call(launcher, *arguments, BURST_RUSTDOC=str(own)).stdout == done.stdout


@pytest.mark.parametrize("answer", [b"K", b"L"])
def test_rustdoc_keeps_the_run_tool_where_it_is_needed(
    tmp_path: Path, programs: FakePrograms, answer: bytes
) -> None:
    """A session with services says so; and only tests are asked about."""
    launcher = tmp_path / "burst-rustdoc"
    text = launcher_text(os.fsencode(sys.executable), bytes(MODULE), "burst-rustdoc")
    launcher.write_bytes(text)
    launcher.chmod(0o755)
    own = tmp_path / "rustdoc"
    own.write_text('#!/bin/sh\necho "$*"\n')
    own.chmod(0o755)
    programs.play = lambda peer: peer.tell(w.frame(b"H"), w.frame(answer))
    arguments = ["--test", "--test-runtool", "burst-runner"]
    done = call(launcher, *arguments, BURST_RUSTDOC=str(own), **IN)
    kept = arguments if answer == b"K" else ["--test"]
    assert done.stdout.decode() == " ".join(kept) + "\n"
    assert programs.seen[0].fields == [b"rustdoc", b"2", IN["BURST_SESSION"].encode()]
    call(launcher, "src/lib.rs", BURST_RUSTDOC=str(own), **IN)
    assert len(programs.seen) == 1


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
