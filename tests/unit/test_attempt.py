"""burst_wrapper.daemon.attempt: what a failed run's words mean."""

from __future__ import annotations

import json

import pytest

from burst_protocol import messages as m
from burst_protocol.errors import AgentGone, DiskFull, LimitExceeded
from burst_wrapper.daemon.attempt import error_of, is_about_kernel, machine_trouble

FOLDERS = (b"/p/target/debug/deps", b"/p/target/debug/incremental")


def line(message: str, level: str = "error") -> bytes:
    fields = {"$message_type": "diagnostic", "message": message, "code": None, "level": level}
    return json.dumps({**fields, "spans": [], "children": [], "rendered": message}).encode()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("failed to write x: No space left on device (os error 28)", DiskFull),
        ("failed to map x: Cannot allocate memory (os error 12)", LimitExceeded),
        (
            "could not write output to /p/target/debug/deps/a.o: No such file or directory",
            AgentGone,
        ),
        (
            "could not create /p/target/debug/incremental/a: No such file or directory",
            AgentGone,
        ),
        ("couldn't read `src/x.rs`: No such file or directory (os error 2)", None),
        (
            "linking with `cc` failed: cc /p/target/debug/deps/a.o: x: No such file or directory",
            None,
        ),
        ("mismatched types", None),
    ],
)
def test_errors_that_are_the_machines(message: str, expected: type[Exception] | None) -> None:
    """A disk that is full, memory, a store that was deleted under a run; not a user's own error."""
    trouble = machine_trouble([line("unused", "warning"), line(message)], FOLDERS)
    assert trouble is None if expected is None else isinstance(trouble, expected)
    assert machine_trouble([line(message, "warning")], FOLDERS) is None


def test_whose_disk_is_full() -> None:
    """Of two machines that have one."""
    failed = m.Failed(1, DiskFull.code, "storing a blob: No space left on device")
    assert str(error_of(failed, "embedded")) == f"no space left: {failed.detail}"
    assert str(error_of(failed, "me@there")) == f"no space left: on me@there: {failed.detail}"
    full = [line("failed to write x: No space left on device (os error 28)")]
    assert str(machine_trouble(full)) == "no space left: No space left on device"
    there = machine_trouble(full, (), "me@there")
    assert str(there) == "no space left: on me@there: No space left on device"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("couldn't read `/sys/kernel/x`: No such file or directory (os error 2)", True),
        ("proc macro panicked: cannot open /proc/cpuinfo", True),
        ("couldn't read `src/sys/x.rs`: No such file or directory (os error 2)", False),
        ("couldn't read `/home/me/proc/x`: No such file or directory (os error 2)", False),
        ("mismatched types", False),
    ],
)
def test_errors_about_files_of_the_kernel(message: str, expected: bool) -> None:
    """`include_str!` of what home's kernel has and a sandbox has not; never a warning."""
    assert is_about_kernel([line("unused", "warning"), line(message)]) is expected
    assert not is_about_kernel([line(message, "warning")])
