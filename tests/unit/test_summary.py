"""The last words of a verb: what they say, and how."""

from __future__ import annotations

import threading

import pytest

from burst_wrapper.home_wire import Progress, Summary
from burst_wrapper.verbs import summary
from burst_wrapper.verbs.summary import Voice, seconds, sentence, size


@pytest.mark.parametrize(
    ("told", "executor", "words"),
    [
        (Summary(Progress(), 10, 0), "home", ""),
        (Summary(Progress(hits=1), 10, 900), "home", "1 hit"),
        (
            Summary(Progress(hits=12, local=4), 10, 24_400),
            "home",
            "12 hits, 4 compiled here; about 24 s saved",
        ),
        (
            Summary(
                Progress(hits=2, units_remote=1, local=4, bytes_up=1_500_000, bytes_down=10),
                10,
                190_000,
                cost_eur="0.0123",
                programs=2,
            ),
            "build.example",
            (
                "2 hits, 1 compiled on build.example, 4 here; 2 programs run on build.example; "
                "1.5 MB sent, 10 B received; about 3 min 10 s saved; €0.0123"
            ),
        ),
        (Summary(Progress(local=2), 10, 0, cost_eur="0.0000"), "host", "2 compiled here"),
    ],
)
def test_sentence(told: Summary, executor: str, words: str) -> None:
    """Only what there is."""
    assert sentence(told, executor) == words


def test_numbers() -> None:
    """For people."""
    assert [size(n) for n in (999, 1000, 2_500_000, 3_000_000_000)] == [
        *("999 B", "1.0 kB", "2.5 MB", "3.0 GB"),
    ]
    assert [seconds(n) for n in (1499, 60_000, 3_725_000)] == ["1 s", "1 min 0 s", "1 h 2 min"]


def test_colours_are_cargos(capfd: pytest.CaptureFixture[str]) -> None:
    """`--color`, CARGO_TERM_COLOR, then the terminal; nothing on stdout; quiet keeps warnings."""
    Voice({}, color="always").status("Burst", "1 hit")
    Voice({b"CARGO_TERM_COLOR": b"always"}, color="never").status("Burst", "1 hit")
    Voice({}).note("a")
    quiet = Voice({}, quiet=True)
    quiet.status("Burst", "1 hit")
    quiet.note("a")
    quiet.warning("b")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "\x1b[1;32m       Burst\x1b[0m 1 hit\n       Burst 1 hit\nnote: a\nwarning: b\n"
    )


def test_files_at_most_some(capfd: pytest.CaptureFixture[str]) -> None:
    """Relative to the project, whatever they are called."""
    Voice({}).files("Fetched", [b"/p/a\nb", *[b"/p/%d" % n for n in range(9)]], b"/p")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "     Fetched a\\nb"
    assert lines[-1] == "     Fetched and 2 more"
    assert len(lines) == 9


def test_waiting_is_said_only_if_it_lasts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is over at once is nobody's business."""
    with Voice({}).waiting() as note:
        note("for the host")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(summary, "WAIT_S", 0.0)
    said: list[str] = []
    come = threading.Event()

    def status(_: Voice, word: str, text: str) -> None:
        said.append(f"{word} {text}")
        come.set()

    monkeypatch.setattr(Voice, "status", status)
    with Voice({}).waiting() as note:
        assert come.wait(60)
        note("for the host")
        note("for its agent")
    assert said == ["Waiting ", "Waiting for the host", "Waiting for its agent"]
