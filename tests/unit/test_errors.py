"""burst_protocol.errors: facts live on the classes, so the classes can be checked as a table."""

from __future__ import annotations

import string

import pytest

from burst_protocol import errors
from burst_protocol.errors import BurstError

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, BurstError)
]
# By what stands in the module: others add subclasses of their own.
KINDS = [cls for cls in CLASSES if any(cls in other.__bases__ for other in CLASSES)]
CONCRETE = [cls for cls in CLASSES if cls not in KINDS]
# Nobody is told of these two: one is counted only, one is the end that somebody asked for.
UNSEEN = {errors.Cancelled}


def template(cls: type[BurstError]) -> str:
    return (cls.__doc__ or "").split("\n", 1)[0]


def fields(cls: type[BurstError]) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template(cls)) if name}


def test_exit_codes_and_codes_name_one_class_each() -> None:
    """Append-only numbers from 1 to 99 without 70, and one stable word for each."""
    numbers = [cls.exit_code for cls in CONCRETE]
    codes = [cls.code for cls in CONCRETE]
    assert sorted(set(numbers)) == sorted(numbers)
    assert sorted(set(codes)) == sorted(codes)
    assert all(1 < number < 100 and number != 70 for number in numbers)
    assert all(code == code.lower() and " " not in code for code in codes)


def test_exit_codes_are_append_only() -> None:
    """Scripts know these numbers: they never change their meaning."""
    assert {cls.exit_code: cls.code for cls in CONCRETE} == {
        2: "usage",
        10: "config",
        11: "remote-required",
        12: "unreachable",
        13: "host-key",
        14: "authentication",
        15: "remote-python",
        16: "link-lost",
        17: "agent-gone",
        18: "disk-full",
        19: "no-sandbox",
        20: "toolchain",
        21: "platform",
        22: "daemon",
        23: "draining",
        26: "service",
        27: "nobody-listens",
        28: "source-unreadable",
        29: "too-much",
        30: "digest-mismatch",
        31: "blob-missing",
        32: "protocol-local",
        33: "protocol-remote",
        34: "version",
        35: "rustc-killed",
        36: "limit",
        37: "cancelled",
        38: "agent-bug",
        39: "program",
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_every_message_template_can_be_filled(cls: type[BurstError]) -> None:
    """`detail` and the facts the docstring names are all it takes; style as for all messages."""
    facts = dict.fromkeys(fields(cls) - {"detail"}, "X")
    text = str(cls("what happened", **facts))
    assert "what happened" in text
    assert "{" not in text
    assert not text.endswith(".")
    assert fields(cls) <= {"detail", "host", "path"}


@pytest.mark.parametrize("cls", CLASSES)
def test_a_missing_fact_never_hides_the_cause(cls: type[BurstError]) -> None:
    """A call site that forgot a fact still shows the detail, and braces in it are text."""
    assert "disk {0} {gone}" in str(cls("disk {0} {gone}"))
    assert str(cls("disk {0} {gone}", host="{h}", path="{p}")).endswith("disk {0} {gone}")


@pytest.mark.parametrize("cls", [cls for cls in CONCRETE if cls not in UNSEEN])
def test_what_users_see_has_a_hint(cls: type[BurstError]) -> None:
    """One sentence that says what to do; no full stop, as everywhere."""
    assert cls.hint
    assert not cls.hint.endswith(".")


@pytest.mark.parametrize("cls", CLASSES)
def test_only_what_the_user_asked_for_prevents_the_local_run(cls: type[BurstError]) -> None:
    """Network, disk, peers and protocol never become the user's failure."""
    assert cls.fallback == (not issubclass(cls, errors.UserError))


def test_kinds_have_no_numbers_of_their_own() -> None:
    """The four kinds exist to be caught, not to be raised."""
    assert {cls.__name__ for cls in KINDS} == {
        "BurstError",
        "UserError",
        "EnvironmentProblem",
        "DataProblem",
        "ExecutionProblem",
    }
    assert all(cls.exit_code == 1 and cls.code == "error" for cls in KINDS)


def test_the_picture_in_the_module_shows_every_class() -> None:
    """The drawn tree at the top of the file is the real one, exit codes included."""
    picture = errors.__doc__ or ""
    for cls in CLASSES:
        (line,) = [line for line in picture.splitlines() if f" {cls.__name__} " in f" {line} "]
        if cls in CONCRETE:
            assert line.rstrip().endswith(f"({cls.exit_code})")
