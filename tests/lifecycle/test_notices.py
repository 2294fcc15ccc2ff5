"""burst_lifecycle.notices: told once, to whoever comes by next."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import attrs
import pytest

from burst_lifecycle.errors import NoCapacity
from burst_lifecycle.notices import KEEP_S, Level, Notice, Notices


@attrs.define
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def notices(tmp_path: Path, clock: Clock) -> Notices:
    return Notices(str(tmp_path / "cloud"), clock=clock)


def texts(notices: Notices) -> list[str]:
    return [notice.text for notice in notices.pending()]


def test_shown_once(notices: Notices) -> None:
    """By whichever command is first; another process sees the same."""
    assert notices.post(Notice("one", "a"))
    assert notices.post(Notice("two", "b", Level.MONEY, "do this"))
    other = Notices(notices.folder, clock=notices.clock)
    assert texts(other) == ["one", "two"]
    other.shown(other.pending()[:1])
    assert texts(notices) == ["two"]
    (two,) = notices.pending()
    assert (two.level, two.hint, two.at_s) == (Level.MONEY, "do this", 1000.0)


def test_one_per_key(notices: Notices) -> None:
    """The latest; the same text again is no news, until it was shown."""
    assert notices.post(Notice("full in hel1", "no-capacity"))
    assert not notices.post(Notice("full in hel1", "no-capacity"))
    assert notices.post(Notice("full everywhere", "no-capacity"))
    assert texts(notices) == ["full everywhere"]
    notices.shown(notices.pending())
    assert notices.post(Notice("full everywhere", "no-capacity"))


def test_of_an_error(notices: Notices) -> None:
    """Its message, its hint, and its code as the key."""
    notices.post(Notice.of(NoCapacity("sold out", what="ccx63")))
    (notice,) = notices.pending()
    assert notice.key == "no-capacity"
    assert notice.text == "ccx63 cannot be had now: sold out"
    assert "more chances" in notice.hint


def test_old_ones_are_dropped(notices: Notices, clock: Clock) -> None:
    """After a month nobody wants to know."""
    notices.post(Notice("old", "a"))
    clock.now += KEEP_S + 1
    assert texts(notices) == []


def test_the_file_stays_small(notices: Notices) -> None:
    """A daemon that says something each minute for a year; what waits survives."""
    notices.post(Notice("waits", "first"))
    for number in range(400):
        notices.post(Notice("x" * 1500 + str(number), "flood"))
    assert os.stat(notices.path).st_size < 300_000
    assert [text[:5] for text in texts(notices)] == ["waits", "xxxxx"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Never stops what the notice is about."""
    (tmp_path / "file").write_text("")
    notices = Notices(str(tmp_path / "file"))
    notices.post(Notice("one", "a"))
    assert notices.pending() == ()
    notices.shown([Notice("one", "a", id="x")])


def test_damaged_lines_are_skipped(notices: Notices) -> None:
    """And the rest is shown."""
    notices.post(Notice("one", "a"))
    with open(notices.path, "ab") as file:
        file.write(b'{"text": 5}\nnonsense\n{"shown": ["x"]}\n{"text": "t", "key"')
    notices.post(Notice("two", "b"))
    assert texts(notices) == ["one", "two"]


def test_the_notify_program(notices: Notices, tmp_path: Path) -> None:
    """Gets level and text as arguments, once, and no shell sees them."""
    out = tmp_path / "out"
    code = "import sys; open(sys.argv[1], 'a').write(repr(sys.argv[2:]))"
    notices.notify = (sys.executable, "-c", code, str(out))
    notice = Notice("it costs $(reboot) `x`", "a", Level.MONEY, "stop it")
    asyncio.run(notices.tell(notice))
    asyncio.run(notices.tell(notice))
    assert out.read_text() == repr(["money", "it costs $(reboot) `x`; stop it"])


@pytest.mark.parametrize("argv", [("/no/such/program",), (sys.executable, "-c", "exit(5)"), ("",)])
def test_a_notify_program_that_fails(notices: Notices, argv: tuple[str, ...]) -> None:
    """Is nobody's problem: the notice is stored all the same."""
    notices.notify = argv
    asyncio.run(notices.tell(Notice("one", "a")))
    assert texts(notices) == ["one"]
