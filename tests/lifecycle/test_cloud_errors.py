"""burst_lifecycle.errors: a branch of the one tree, held to its rules."""

from __future__ import annotations

import string

import pytest

from burst_lifecycle import errors
from burst_protocol import errors as protocol_errors
from burst_protocol.errors import BurstError, UserError

OURS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type)
    and issubclass(value, BurstError)
    and value.__module__ == errors.__name__
]
ALL = [
    value
    for module in (errors, protocol_errors)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, BurstError) and value.exit_code != 1
]


def test_numbers_and_words_are_unique_in_the_whole_tree() -> None:
    """Exit codes and reason codes of both modules; ours are 40 to 69."""
    classes = set(ALL)
    assert len({cls.exit_code for cls in classes}) == len(classes)
    assert len({cls.code for cls in classes}) == len(classes)
    assert all(40 <= cls.exit_code < 70 for cls in OURS)


def test_exit_codes_are_append_only() -> None:
    """Scripts know these numbers."""
    known = "not-configured token not-trusted budget cloud cloud-token cloud-not-found no-capacity"
    known += " quota cloud-busy cloud-name-taken cloud-ambiguous cloud-action cloud-deadline"
    known += " cloud-unreachable still-billing not-ours server"
    by_number = {cls.exit_code: cls.code for cls in OURS}
    assert [by_number[number] for number in range(40, 58)] == known.split()


@pytest.mark.parametrize("cls", OURS)
def test_each_says_what_happened_to_what_and_what_to_do(cls: type[BurstError]) -> None:
    """Message, hint, the picture at the top of the module, and whether home may go on."""
    template = (cls.__doc__ or "").split("\n", 1)[0]
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name}
    assert names <= {"detail", "what", "path"}
    text = str(cls("so it is", **dict.fromkeys(names - {"detail"}, "X")))
    assert "{" not in text
    assert cls.hint
    assert not cls.hint.endswith(".")
    assert cls.fallback == (not issubclass(cls, UserError))
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if f" {cls.__name__} " in line]
    assert f"({cls.exit_code})" in line
