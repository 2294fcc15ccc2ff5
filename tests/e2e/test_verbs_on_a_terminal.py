"""`cargo burst` on a real terminal, with a real cargo that draws its bar there."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

import pictures
from pictures import COLUMNS, ROWS
from space import CARGO_BURST, Space

pytest_plugins = ("verbs_machine",)

SLOW = """\
#![allow(long_running_const_eval)]
pub const LONG: u64 = { let mut i = 0; while i < 1_500_000 { i += 1 } i };
"""
BUSY = {
    "busy/Cargo.toml": """\
[package]
name = "busy"
version = "0.1.0"
edition = "2021"
[workspace]
""",
    "busy/src/lib.rs": SLOW,
    "busy/src/main.rs": "fn main() { println!(); }\n",
}
TERMINAL = {"TERM": "xterm-256color", "CARGO_TERM_COLOR": "auto", "CI": ""}


def test_the_row_comes_and_goes(desk: Space) -> None:
    """While rustc works it stands below cargo's bar; then nothing of it is left, and cargo's lines
    are those of plain cargo."""
    desk.write(BUSY)
    folder = desk.project / "busy"
    env = {**desk.env, **TERMINAL}
    del env["CI"]
    rows: list[str] = []
    bars: list[str] = []

    def look(screen: pictures.Screen, master: int) -> None:
        if screen.last.startswith("burst: "):
            rows.append(screen.last)
            bars.extend(line for line in screen.lines[:-1] if "Building [" in line)

    code, ours = pictures.run([str(CARGO_BURST), "burst", "build"], folder, env, look)
    assert code == 0, ours.text
    assert rows, ours.written
    assert "1 at work" in rows[0]
    assert bars, "cargo's bar was not drawn above the row"
    assert not any(line.startswith("burst: ") for line in ours.text)
    desk.run("rm", "-rf", "target", cwd=folder)
    code, plain = pictures.run(["/usr/bin/env", "cargo", "build"], folder, env)
    assert code == 0
    kept = [line for line in ours.text if not line.lstrip().startswith("Burst")]
    assert [line.split(" in ")[0] for line in kept] == [
        line.split(" in ")[0] for line in plain.text
    ]


def test_ctrl_c_while_the_row_stands(desk: Space) -> None:
    """The terminal scrolls as before, and the end is cargo's."""
    desk.write({**BUSY, "busy/src/lib.rs": SLOW.replace("1_500_000", "900_000_000")})
    env = {**desk.env, **TERMINAL}
    del env["CI"]
    pressed: list[bool] = []

    def press(screen: pictures.Screen, master: int) -> None:
        if screen.last.startswith("burst: ") and not pressed:
            pressed.append(True)
            os.write(master, b"\x03")

    command = [str(CARGO_BURST), "burst", "build"]
    code, screen = pictures.run(command, desk.project / "busy", env, press)
    assert pressed, screen.written
    assert code == -signal.SIGINT
    assert screen.screen.margins is None
    assert not any(line.startswith("burst: ") for line in screen.lines)


def test_ctrl_z_where_no_shell_could_continue_us(desk: Space) -> None:
    """As in a container: it passes cargo by, and so it does us."""
    desk.write(BUSY)
    desk.run("rm", "-rf", "busy/target").check()
    tag = f'\n// {os.urandom(8).hex()}\npub const TAG: &str = "{os.urandom(8).hex()}";\n'
    desk.write({"busy/src/lib.rs": SLOW + tag})
    env = {**desk.env, **TERMINAL}
    del env["CI"]
    pressed: list[bool] = []

    def press(screen: pictures.Screen, master: int) -> None:
        if screen.last.startswith("burst: ") and not pressed:
            pressed.append(True)
            os.write(master, b"\x1a")

    command = [str(CARGO_BURST), "burst", "build"]
    code, screen = pictures.run(command, desk.project / "busy", env, press)
    assert pressed, screen.written
    assert code == 0, screen.text
    assert not any(line.startswith("burst: ") for line in screen.lines)


def test_a_program_has_the_terminal_to_itself(desk: Space) -> None:
    """`run` draws no row; the program sees a terminal of the right size and its changes."""
    source = """\
import fcntl, signal, struct, sys, termios
def size(*_):
    print("size", struct.unpack("4H", fcntl.ioctl(1, termios.TIOCGWINSZ, b" " * 8))[:2], flush=True)
signal.signal(signal.SIGWINCH, lambda *_: (size(), sys.exit(7)))
size()
while True: signal.pause()
"""
    script = desk.project / "sizes.py"
    script.write_text(source)
    main = (
        "use std::os::unix::process::CommandExt;\n"
        "fn main() { "
        f'panic!("{{}}", std::process::Command::new("python3").arg("{script}").exec()) }}'
    )
    desk.write({**BUSY, "busy/src/lib.rs": "", "busy/src/main.rs": main})
    env = {**desk.env, **TERMINAL}
    resized: list[bool] = []

    def resize(screen: pictures.Screen, master: int) -> None:
        if b"80)\r\n" in screen.written and not resized:
            resized.append(True)
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 20, 60, 0, 0))

    command = [str(CARGO_BURST), "burst", "run", "-q"]
    code, screen = pictures.run(command, desk.project / "busy", env, resize)
    assert code == 7, screen.text
    assert f"size ({ROWS}, {COLUMNS})" in screen.text
    assert "size (20, 60)" in screen.text
    assert b"burst:" not in screen.written


def test_a_heavy_folder_is_asked_about_once(desk: Space) -> None:
    """Before a project is copied to another machine for the first time; nothing in its sources
    tells of it."""
    desk.write(BUSY)
    folder = desk.project / "busy"
    (folder / "dist").mkdir()
    os.truncate(os.open(folder / "dist/bundle.js", os.O_RDWR | os.O_CREAT), 60 << 20)
    env = {**desk.env, **TERMINAL, "BURST_HOST": "nobody@127.0.0.1:1"}
    ours = {"Cargo.lock", "target"}
    before = sorted(set(os.listdir(folder)) - ours)

    def answer(screen: pictures.Screen, master: int) -> None:
        if b"[Y/n]" in screen.written and not answered:
            answered.append("asked")
            os.write(master, b"\n")

    for turn in range(2):
        answered: list[str] = []
        code, screen = pictures.run([str(CARGO_BURST), "burst", "run"], folder, env, answer)
        assert code == 0, screen.text
        assert len(answered) == (turn == 0), screen.text
    assert sorted(set(os.listdir(folder)) - ours) == before
    (kept,) = (desk.home / ".local/state/burst/mirrors").iterdir()
    assert '"/dist/"' in kept.read_text()
