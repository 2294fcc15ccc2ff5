"""The row at the bottom of a terminal: what it says, and that nothing else moves for it."""

from __future__ import annotations

import os
import pty

import pytest

from burst_wrapper.home_wire import Progress
from burst_wrapper.verbs.progress import QUIET_AFTER, Row, text, wanted
from burst_wrapper.verbs.progress import Screen as Size
from pictures import Screen

BUSY = Progress(hits=3, units_remote=1, running=2)


class Watched(Row):
    """One whose terminal is an emulator of some size."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(Progress, "build.example")
        self._emulator = screen

    def _size(self) -> Size:
        return Size(self._emulator.screen.lines, self._emulator.screen.columns)

    def _write(self, data: bytes) -> None:
        self._emulator.feed(data)


def cargo(screen: Screen, count: int) -> None:
    """As cargo writes: its bar is cleared, a line comes, the bar is drawn anew."""
    for number in range(count):
        screen.feed(b"\r\x1b[K   Compiling crate%d\r\n" % number)
        screen.feed(b"    Building [==>   ] %d/%d\r" % (number, count))


@pytest.mark.parametrize("begun_with", [0, 3, 15, 40])
def test_cargos_lines_are_where_they_were(begun_with: int) -> None:
    """Whether the terminal is full or not when the row comes, goes, and comes again."""
    with_row, without = Screen(), Screen()
    row = Watched(with_row)
    for screen in (with_row, without):
        cargo(screen, begun_with)
    for _ in range(2):
        row.look(BUSY)
        assert with_row.last.startswith("burst: 3 hits, 1 compiled on build.example · 2 at work")
        assert with_row.screen.cursor.x == without.screen.cursor.x
        for screen in (with_row, without):
            cargo(screen, 30)
        row.look(BUSY)
        for _ in range(QUIET_AFTER):
            row.look(Progress(hits=3))
        assert with_row.last == ""
    for screen in (with_row, without):
        screen.feed(b"\r\x1b[K    Finished\r\n")
    assert with_row.text == without.text
    assert not any("burst:" in line for line in with_row.text)


def test_a_line_that_is_begun_stays_begun() -> None:
    """The cursor keeps its column: `test a ... ` waits for its `ok`."""
    screen = Screen()
    row = Watched(screen)
    cargo(screen, 40)
    screen.feed(b"\r\x1b[Ktest a ... ")
    row.look(BUSY)
    screen.feed(b"ok\r\n")
    assert "test a ... ok" in screen.lines


def test_a_terminal_that_changes_its_size() -> None:
    """The row is on the last line of the new one; too small, and there is none."""
    screen = Screen()
    row = Watched(screen)
    cargo(screen, 40)
    row.look(BUSY)
    screen.screen.resize(10, 60)
    row.look(BUSY)
    assert screen.last.startswith("burst: ")
    cargo(screen, 40)
    assert screen.last.startswith("burst: ")
    screen.screen.resize(4, 60)
    row.look(BUSY)
    cargo(screen, 20)
    assert "burst:" not in "\n".join(screen.lines)


def test_what_it_says() -> None:
    """At home nothing travels; a server's state is told until it is ready."""
    assert text(Progress(hits=1, local=2, running=1), "home") == (
        "burst: 1 hit, 2 compiled here · 1 at work"
    )
    away = Progress(local=2, bytes_up=1500, bytes_down=2_500_000, server="boots")
    assert text(away, "hetzner") == "burst: 2 compiled here · ↑ 1.5 kB ↓ 2.5 MB · server boots"


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where cargo draws no bar, where a program has the terminal, and where there is none."""
    good = {b"TERM": b"xterm"}

    def shown(environ: dict[bytes, bytes], **more: object) -> bool:
        options = {"quiet": False, "json": False, "verb": "build", **more}
        return wanted(environ, **options)  # type: ignore[arg-type]

    assert not shown(good)  # stderr is captured
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    assert shown(good)
    for environ in ({}, {b"TERM": b"dumb"}, {**good, b"CI": b"true"}):
        assert not shown(environ)
    assert not shown({**good, b"CARGO_TERM_PROGRESS_WHEN": b"never"})
    assert not shown(good, quiet=True)
    assert not shown(good, json=True)
    assert not shown(good, verb="run")
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    assert not shown(good)


def test_a_daemon_that_goes_takes_the_row_along() -> None:
    """Cargo compiles on by itself; nothing of ours stays on the terminal."""
    from burst_protocol.errors import DaemonUnavailable

    answers = [BUSY, BUSY]

    def ask() -> Progress:
        if not answers:
            raise DaemonUnavailable("it is gone")
        return answers.pop()

    master, terminal = pty.openpty()
    try:
        os.set_blocking(master, False)
        row = Row(ask, "home", terminal)
        row.start()
        row._thread.join()
        row.stop()
    finally:
        os.close(terminal)
        os.close(master)
    assert row._screen is None
