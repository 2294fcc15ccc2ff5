"""Command lines that the kernel would refuse reach rustc in a file."""

from __future__ import annotations

import os
from pathlib import Path

from burst_agent.execute import MAX_ARGUMENT_BYTES, is_too_long, with_argument_file

LONG = b"x" * MAX_ARGUMENT_BYTES


def test_what_is_too_long() -> None:
    """One argument of 128 KiB with its NUL, or a megabyte in all."""
    assert not is_too_long((b"/rustc", LONG[:-1]))
    assert is_too_long((b"/rustc", LONG))
    assert is_too_long((b"/rustc", *[b"--cfg", b"a"] * 60_000))


def test_one_argument_in_a_line(tmp_path: Path) -> None:
    """rustc's own form; the programs themselves stay where they are."""
    path = os.fsencode(tmp_path / "arguments")
    for drivers in ((b"/bin/rustc",), (b"/bin/clippy-driver", b"/bin/rustc")):
        argv = with_argument_file((*drivers, b"--cfg", LONG, b"a b", b""), path, b"/seen")
        assert argv == (*drivers, b"@/seen")
        assert Path(os.fsdecode(path)).read_bytes() == b"--cfg\n" + LONG + b"\na b\n\n"


def test_what_no_file_can_say(tmp_path: Path) -> None:
    """A line feed in an argument: nothing is written, the kernel will say what is wrong."""
    path = os.fsencode(tmp_path / "arguments")
    argv = (b"/bin/rustc", LONG, b"a\nb")
    assert with_argument_file(argv, path, b"/seen") == argv
    assert not os.path.exists(path)
