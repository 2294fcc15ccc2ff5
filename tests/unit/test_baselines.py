"""On which processor a baseline was measured, and what is said when it is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from burst_wrapper.verbs import baselines

X86 = "processor\t: 0\nmodel name\t: Some  Processor 9\nprocessor\t: 1\nmodel name\t: Other\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


def measure(target: Path, name: str, at_s: int) -> None:
    path = target / "criterion" / "group" / "case" / name / "estimates.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    os.utime(path, (at_s, at_s))


def test_what_was_measured_is_written_down_and_compared(tmp_path: Path) -> None:
    """Only what changed meanwhile is from this machine."""
    target = str(tmp_path)
    measure(tmp_path, "old", 10)
    before = baselines.stamps(target)
    for name in ("m", "new", "change", "base"):
        measure(tmp_path, name, 20)
    assert baselines.changed(before, baselines.stamps(target)) == ["base", "m"]
    baselines.record(target, ["base", "m"], "one")
    assert baselines.read(target) == {"base": "one", "m": "one"}
    baselines.record(target, ["base"], "two")
    known = baselines.read(target)
    assert known == {"base": "two", "m": "one"}
    assert baselines.foreign(known, ["m", "base", "old"], "two") == [
        (
            "baseline `m` was measured on another processor (one; now two): differences say "
            "nothing about the code"
        )
    ]
    assert baselines.foreign(known, ["m"], "") == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ("base",)),
        ("--baseline m", ("m",)),
        ("-b m --verbose", ("m",)),
        ("--baseline-lenient=m", ("m",)),
        ("--load-baseline a --baseline b", ("a", "b")),
        ("--save-baseline m", ("m",)),
    ],
)
def test_which_baselines_are_compared_with(words: str, names: tuple[str, ...]) -> None:
    """As criterion's `--help` has it."""
    assert baselines.compared(words.split()) == names


def test_the_processors_name() -> None:
    """One line on x86, two numbers on ARM."""
    assert baselines.model(X86) == "Some Processor 9"
    assert baselines.model(ARM) == "CPU implementer 0x41 CPU part 0xd0c"
    assert baselines.model("") == ""
    assert baselines.here()


def test_a_damaged_file_is_none(tmp_path: Path) -> None:
    """It is about comfort."""
    (tmp_path / "criterion").mkdir()
    (tmp_path / "criterion" / baselines.FILE).write_text("[]")
    assert baselines.read(str(tmp_path)) == {}
